//! The submitter's side: a task as an MQTT 5 message, and the outcome that answers it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;

use crate::envelope::topics::Topics;
use crate::envelope::{Inbound, Message, Properties};
use crate::task::limits::RequestedLimits;
use crate::task::outcome::{
    CacheHit, ErrorCode, GuestRetry, Outcome, Output, Status, TaskError, Usage,
};
use crate::task::tenant::TenantId;
use crate::task::{Digest, ModuleRef, Reply, Shape, TaskId};

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
        for (name, value) in [
            ("fuel", limits.fuel),
            ("memory_bytes", limits.memory_bytes),
            ("timeout_ms", limits.timeout_ms),
            ("output_bytes", limits.output_bytes),
        ] {
            user.extend(value.map(|value| (name.to_owned(), value.to_string())));
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

/// Reads the outcome of a task that was sent as properties; an error names what is wrong with it.
pub fn outcome(tenant: &TenantId, inbound: &Inbound) -> Result<Outcome, String> {
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
    let time = |name: &str| {
        field(name)
            .and_then(|text| text.parse::<jiff::Timestamp>().ok())
            .map(SystemTime::from)
    };

    let status = need("status")?;
    let status = *Status::ALL
        .iter()
        .find(|s| s.as_str() == status)
        .ok_or_else(|| format!("unknown status {status:?}"))?;
    let error = match field("error_code") {
        None => None,
        Some(code) => {
            let code = *ErrorCode::ALL
                .iter()
                .find(|c| c.as_str() == code)
                .ok_or_else(|| format!("unknown error code {code:?}"))?;
            let mut error = TaskError::new(code, field("error_message").unwrap_or_default());
            error.backtrace = all("error_backtrace");
            error.retry = match field("error_retry") {
                Some("never") => Some(GuestRetry::Never),
                Some("after") => Some(GuestRetry::After(number("error_retry_after_ms"))),
                Some(_) => Some(GuestRetry::ByPolicy),
                None => None,
            };
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
        module_digest: field("module_digest")
            .and_then(|d| Digest::parse_hex(d.strip_prefix("sha256:")?).ok()),
        attempt: number("attempt") as u32,
        attempts: Vec::new(),
        output: error.is_none().then(|| Output {
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
            module_cache: field("module_cache")
                .and_then(|hit| CacheHit::ALL.iter().copied().find(|h| h.as_str() == hit)),
        },
        runner: field("runner").unwrap_or_default().to_owned(),
        started_at: time("started_at"),
        finished_at: time("finished_at").unwrap_or(SystemTime::UNIX_EPOCH),
        labels: properties.user.iter().filter_map(label).collect(),
        reply: Reply {
            topic: None,
            correlation_data: properties.correlation_data.clone(),
            correlation: field("correlation").map(str::to_owned),
        },
        shape: Shape::Properties,
    })
}
