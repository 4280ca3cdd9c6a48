//! The submitter's side: a task as an MQTT 5 message, what is said to the runners of it, and the outcome.

mod json;

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;

use crate::envelope::encode::rfc3339;
use crate::envelope::topics::Topics;
use crate::envelope::{Inbound, Message, Properties};
use crate::task::limits::RequestedLimits;
use crate::task::outcome::{
    CacheHit, ErrorCode, GuestRetry, Outcome, Output, Status, TaskError, Usage,
};
use crate::task::tenant::TenantId;
use crate::task::{Digest, ModuleRef, Reply, RetryPolicy, Shape, TaskId, quoted};

/// What a submitter asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The task's id.
    pub id: TaskId,
    /// The module to run.
    pub module: ModuleRef,
    /// Its input.
    pub input: Bytes,
    /// The media type of the input.
    pub content_type: Option<String>,
    /// Limits other than the runner's defaults.
    pub limits: RequestedLimits,
    /// A retry policy other than the runner's.
    pub retry: Option<RetryPolicy>,
    /// 0 to 9; higher runs first, within one tenant.
    pub priority: u8,
    /// Not to be started before this instant; sent to the millisecond.
    pub not_before: Option<SystemTime>,
    /// Not to be started after this instant; sent to the millisecond.
    pub expires_at: Option<SystemTime>,
    /// Echoed in the outcome.
    pub labels: BTreeMap<String, String>,
    /// Whether the lifecycle is wanted.
    pub events: bool,
    /// Whether the guest's log is wanted.
    pub logs: bool,
}

impl Request {
    /// A task with a new id and nothing out of the ordinary.
    pub fn new(module: ModuleRef, input: impl Into<Bytes>) -> Request {
        Request {
            id: TaskId::generate(),
            module,
            input: input.into(),
            content_type: None,
            limits: RequestedLimits::default(),
            retry: None,
            priority: 0,
            not_before: None,
            expires_at: None,
            labels: BTreeMap::new(),
            events: false,
            logs: false,
        }
    }

    /// The message that asks for it: properties and raw input, so that no byte is encoded.
    pub fn message(
        &self,
        topics: &Topics,
        tenant: &TenantId,
        reply_topic: Option<&str>,
    ) -> Message {
        let mut user = vec![
            ("module".to_owned(), self.module.to_string()),
            ("id".to_owned(), self.id.to_string()),
        ];
        let limits = &self.limits;
        let retry = self.retry.unwrap_or_default();
        let priority = (self.priority > 0).then_some(self.priority);
        for (name, value) in [
            ("fuel", limits.fuel),
            ("memory_bytes", limits.memory_bytes),
            ("timeout_ms", limits.timeout_ms),
            ("output_bytes", limits.output_bytes),
            ("max_attempts", retry.max_attempts.map(u64::from)),
            ("initial_delay_ms", retry.initial_delay_ms),
            ("max_delay_ms", retry.max_delay_ms),
            ("priority", priority.map(u64::from)),
        ] {
            user.extend(value.map(|value| (name.to_owned(), value.to_string())));
        }
        user.extend(
            retry
                .factor
                .map(|factor| ("factor".to_owned(), factor.to_string())),
        );
        for (name, time) in [
            ("not_before", self.not_before),
            ("expires_at", self.expires_at),
        ] {
            user.extend(time.map(|time| (name.to_owned(), rfc3339(time))));
        }
        for (name, wanted) in [("events", self.events), ("logs", self.logs)] {
            user.extend(wanted.then(|| (name.to_owned(), "true".to_owned())));
        }
        user.extend(
            self.labels
                .iter()
                .map(|(name, value)| (format!("labels.{name}"), value.clone())),
        );
        Message {
            properties: Properties {
                content_type: self.content_type.clone(),
                response_topic: reply_topic.map(str::to_owned),
                correlation_data: reply_topic
                    .map(|_| Bytes::copy_from_slice(self.id.as_str().as_bytes())),
                message_expiry_s: None,
                user,
            },
            ..Message::new(topics.queue(tenant), self.input.clone())
        }
    }
}

/// The message that asks the runners to cancel a task.
pub fn cancel(topics: &Topics, tenant: &TenantId, id: &TaskId) -> Message {
    Message::new(topics.control(tenant, id), r#"{"action":"cancel"}"#)
}

/// The message that asks for a task's outcome: a runner that has recorded it answers on the reply topic, as it
/// answered the task.
pub fn ask(topics: &Topics, tenant: &TenantId, id: &TaskId, reply_topic: &str) -> Message {
    Message {
        properties: Properties {
            response_topic: Some(reply_topic.to_owned()),
            correlation_data: Some(Bytes::copy_from_slice(id.as_str().as_bytes())),
            ..Properties::default()
        },
        ..Message::new(topics.control(tenant, id), r#"{"action":"outcome"}"#)
    }
}

/// Reads an outcome, as properties or as JSON; an error names what is wrong with it.
pub fn outcome(tenant: &TenantId, inbound: &Inbound) -> Result<Outcome, String> {
    let user = &inbound.properties.user;
    if user.iter().any(|(name, _)| name == "status") {
        properties(tenant, inbound)
    } else {
        json::outcome(tenant, inbound)
    }
}

fn properties(tenant: &TenantId, inbound: &Inbound) -> Result<Outcome, String> {
    let properties = &inbound.properties;
    let field = |name: &str| {
        properties
            .user
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    };
    let all = |name: &str| {
        let values = properties.user.iter().filter(|(n, _)| n == name);
        values.map(|(_, value)| value.clone()).collect()
    };
    let need = |name: &str| field(name).ok_or_else(|| format!("the outcome has no `{name}`"));
    let number = |name: &str| {
        field(name)
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let millis = |name: &str| {
        field(name)
            .and_then(|text| text.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    let status = status(need("status")?)?;
    let error = match field("error_code") {
        None => None,
        Some(word) => {
            let mut error = TaskError::new(code(word)?, field("error_message").unwrap_or_default());
            error.backtrace = all("error_backtrace");
            error.retry = retry(field("error_retry"), number("error_retry_after_ms"));
            Some(error)
        }
    };
    let label = |(name, value): &(String, String)| {
        Some((name.strip_prefix("labels.")?.to_owned(), value.clone()))
    };
    Ok(Outcome {
        id: TaskId::parse(need("id")?)?,
        tenant: tenant.clone(),
        status,
        module: field("module").map(str::to_owned),
        module_digest: field("module_digest").and_then(digest),
        attempt: number("attempt") as u32,
        attempts: Vec::new(),
        // Of a task that did not succeed the payload is empty, and no output.
        output: (status == Status::Succeeded).then(|| Output {
            data: inbound.payload.clone(),
            content_type: properties.content_type.clone(),
        }),
        error,
        usage: Usage {
            fuel: number("fuel"),
            peak_memory_bytes: number("peak_memory_bytes"),
            queued_ms: millis("queued_ms"),
            run_ms: millis("run_ms"),
            cpu_ms: millis("cpu_ms"),
            module_cache: field("module_cache").and_then(cache_hit),
        },
        runner: field("runner").unwrap_or_default().to_owned(),
        started_at: field("started_at").and_then(time),
        finished_at: field("finished_at")
            .and_then(time)
            .unwrap_or(SystemTime::UNIX_EPOCH),
        labels: properties.user.iter().filter_map(label).collect(),
        reply: Reply {
            topic: None,
            correlation_data: properties.correlation_data.clone(),
            correlation: field("correlation").map(str::to_owned),
        },
        shape: Shape::Properties,
    })
}

fn status(word: &str) -> Result<Status, String> {
    let known = Status::ALL.iter().copied().find(|s| s.as_str() == word);
    known.ok_or_else(|| format!("unknown status {}", quoted(word)))
}

fn code(word: &str) -> Result<ErrorCode, String> {
    let known = ErrorCode::ALL.iter().copied().find(|c| c.as_str() == word);
    known.ok_or_else(|| format!("unknown error code {}", quoted(word)))
}

fn retry(word: Option<&str>, after_ms: u64) -> Option<GuestRetry> {
    Some(match word? {
        "never" => GuestRetry::Never,
        "after" => GuestRetry::After(after_ms),
        _ => GuestRetry::ByPolicy,
    })
}

fn digest(text: &str) -> Option<Digest> {
    Digest::parse_hex(text.strip_prefix("sha256:")?).ok()
}

fn cache_hit(word: &str) -> Option<CacheHit> {
    CacheHit::ALL.iter().copied().find(|h| h.as_str() == word)
}

fn time(text: &str) -> Option<SystemTime> {
    text.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests;
