//! `Outcome` → the messages that carry it: `task_completed`, the record, and the reply topic.

use std::collections::BTreeMap;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::envelope::topics::Topics;
use crate::envelope::{Inbound, Message, Properties, Quality, is_refused};
use crate::task::outcome::{Attempt, GuestRetry, Outcome, TaskError};
use crate::task::tenant::TenantId;
use crate::task::{Shape, Task, TaskId};

/// The longest user property's value, in bytes; MQTT's own limit is 65,535.
const PROPERTY_BYTES: usize = 4096;
/// The longest media type, in bytes.
const CONTENT_TYPE_BYTES: usize = 256;

/// The messages of an outcome: the record first, then the reply if one is wanted.
///
/// The reply topic must have been checked: it is used as it is.
pub fn outcome(topics: &Topics, outcome: &Outcome) -> Vec<Message> {
    let (payload, mut properties) = match outcome.shape {
        Shape::Properties => (
            outcome
                .output
                .as_ref()
                .map_or_else(Bytes::new, |o| o.data.clone()),
            as_properties(outcome),
        ),
        Shape::Json | Shape::Plain => (
            as_json(outcome),
            Properties {
                content_type: Some("application/json".to_owned()),
                ..Properties::default()
            },
        ),
    };
    properties.correlation_data = outcome.reply.correlation_data.clone();
    let record = Message {
        topic: topics.completed(&outcome.tenant),
        payload,
        properties,
        quality: Quality::AtLeastOnce,
        retain: false,
    };
    let reply = outcome.reply.topic.clone().map(|topic| Message {
        topic,
        ..record.clone()
    });
    std::iter::once(record).chain(reply).collect()
}

/// A lifecycle event of a task.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Event {
    /// A runner has it; it waits for its module or a permit.
    Queued,
    /// The guest runs.
    Started {
        /// Counted from 1.
        attempt: u32,
    },
    /// The attempt failed; another follows.
    Retrying {
        /// The attempt that failed, counted from 1.
        attempt: u32,
        /// Milliseconds until the next one.
        delay_ms: u64,
        /// The error's code.
        code: &'static str,
        /// The error's message.
        message: String,
    },
    /// The guest says how far it is.
    Progress {
        /// Steps done.
        done: u64,
        /// Steps in all, 0 when unknown.
        total: u64,
        /// What it is doing.
        message: String,
    },
}

/// The message of a lifecycle event.
pub fn event(
    topics: &Topics,
    task: &Task,
    runner: &str,
    event: &Event,
    now: SystemTime,
) -> Message {
    #[derive(Serialize)]
    struct Wire<'a> {
        id: &'a str,
        #[serde(flatten)]
        event: &'a Event,
        runner: &'a str,
        at: String,
    }
    let wire = Wire {
        id: task.id.as_str(),
        event,
        runner,
        at: rfc3339(now),
    };
    let mut message = Message::new(topics.status(&task.tenant, &task.id), json(&wire));
    if matches!(event, Event::Progress { .. }) {
        message.quality = Quality::AtMostOnce;
    }
    message
}

/// A line of a guest's log.
#[derive(Debug, Clone, Serialize)]
pub struct LogLine {
    /// `trace`, `debug`, `info`, `warn` or `error`.
    pub level: &'static str,
    /// `log` (the host function), `stdout` or `stderr`.
    pub source: &'static str,
    /// The line.
    pub message: String,
}

/// The message of a log line.
pub fn log(
    topics: &Topics,
    tenant: &TenantId,
    id: &TaskId,
    line: &LogLine,
    now: SystemTime,
) -> Message {
    #[derive(Serialize)]
    struct Wire<'a> {
        id: &'a str,
        #[serde(flatten)]
        line: &'a LogLine,
        at: String,
    }
    let mut message = Message::new(
        topics.log(tenant, id),
        json(&Wire {
            id: id.as_str(),
            line,
            at: rfc3339(now),
        }),
    );
    message.quality = Quality::AtMostOnce;
    message
}

/// An outcome as a JSON object.
pub fn as_json(outcome: &Outcome) -> Bytes {
    #[derive(Serialize)]
    struct Wire<'a> {
        id: &'a str,
        status: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        module: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        module_digest: Option<String>,
        attempt: u32,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        attempts: Vec<AttemptWire<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        output: Option<Text<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        output_base64: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        content_type: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<ErrorWire<'a>>,
        usage: UsageWire,
        runner: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        started_at: Option<String>,
        finished_at: String,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        labels: &'a BTreeMap<String, String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        correlation: Option<&'a str>,
    }
    let data = outcome.output.as_ref().map(|o| &o.data[..]);
    let content_type = outcome
        .output
        .as_ref()
        .and_then(|o| o.content_type.as_deref());
    let text = data.and_then(|data| Text::of(data, content_type));
    json(&Wire {
        id: outcome.id.as_str(),
        status: outcome.status.as_str(),
        module: outcome.module.as_deref(),
        module_digest: outcome.module_digest.map(|d| d.to_string()),
        attempt: outcome.attempt,
        attempts: outcome.attempts.iter().map(AttemptWire::of).collect(),
        output_base64: data
            .filter(|_| text.is_none())
            .map(|data| STANDARD.encode(data)),
        output: text,
        content_type,
        error: outcome.error.as_ref().map(ErrorWire::of),
        usage: UsageWire::of(outcome),
        runner: &outcome.runner,
        started_at: outcome.started_at.map(rfc3339),
        finished_at: rfc3339(outcome.finished_at),
        labels: &outcome.labels,
        correlation: outcome.reply.correlation.as_deref(),
    })
}

/// Output that JSON can hold as it is.
#[derive(Serialize)]
#[serde(untagged)]
enum Text<'a> {
    Json(&'a RawValue),
    Utf8(&'a str),
}

impl<'a> Text<'a> {
    fn of(data: &'a [u8], content_type: Option<&str>) -> Option<Text<'a>> {
        let essence = content_type
            .and_then(|t| t.split(';').next())
            .map(str::trim);
        if essence.is_some_and(|e| e.eq_ignore_ascii_case("application/json"))
            && let Ok(value) = serde_json::from_slice(data)
        {
            return Some(Text::Json(value));
        }
        std::str::from_utf8(data).ok().map(Text::Utf8)
    }
}

#[derive(Serialize)]
struct ErrorWire<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    backtrace: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

impl<'a> ErrorWire<'a> {
    fn of(error: &'a TaskError) -> ErrorWire<'a> {
        let (retry, retry_after_ms) = match error.retry {
            None => (None, None),
            Some(GuestRetry::Never) => (Some("never"), None),
            Some(GuestRetry::After(delay)) => (Some("after"), Some(delay)),
            Some(GuestRetry::ByPolicy) => (Some("by_policy"), None),
        };
        ErrorWire {
            code: error.code.as_str(),
            message: &error.message,
            backtrace: &error.backtrace,
            retry,
            retry_after_ms,
        }
    }
}

/// An attempt before the last.
#[derive(Serialize)]
struct AttemptWire<'a> {
    attempt: u32,
    failed_at: String,
    code: &'a str,
    message: &'a str,
}

impl<'a> AttemptWire<'a> {
    fn of(attempt: &'a Attempt) -> AttemptWire<'a> {
        AttemptWire {
            attempt: attempt.attempt,
            failed_at: rfc3339(attempt.failed_at),
            code: &attempt.code,
            message: &attempt.message,
        }
    }
}

/// The message on `task_dead_letter`: the task as it came, and why it was given up.
pub fn dead_letter(topics: &Topics, outcome: &Outcome, original: &Inbound) -> Message {
    #[derive(Serialize)]
    struct Wire<'a> {
        id: &'a str,
        tenant: &'a str,
        status: &'a str,
        error: Option<ErrorWire<'a>>,
        attempt: u32,
        attempts: Vec<AttemptWire<'a>>,
        runner: &'a str,
        at: String,
        task: OriginalWire<'a>,
    }
    let payload = json(&Wire {
        id: outcome.id.as_str(),
        tenant: outcome.tenant.as_str(),
        status: outcome.status.as_str(),
        error: outcome.error.as_ref().map(ErrorWire::of),
        attempt: outcome.attempt,
        attempts: outcome.attempts.iter().map(AttemptWire::of).collect(),
        runner: &outcome.runner,
        at: rfc3339(outcome.finished_at),
        task: OriginalWire::of(original),
    });
    let mut message = Message::new(topics.dead_letter(&outcome.tenant), payload);
    message.properties.content_type = Some("application/json".to_owned());
    message
}

/// A message as it came.
#[derive(Serialize)]
struct OriginalWire<'a> {
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_data_base64: Option<String>,
    /// Pairs, because a name may occur more than once.
    #[serde(skip_serializing_if = "<[(String, String)]>::is_empty")]
    user_properties: &'a [(String, String)],
}

impl<'a> OriginalWire<'a> {
    fn of(original: &'a Inbound) -> OriginalWire<'a> {
        let text = std::str::from_utf8(&original.payload).ok();
        let properties = &original.properties;
        OriginalWire {
            topic: &original.topic,
            payload: text,
            payload_base64: text.is_none().then(|| STANDARD.encode(&original.payload)),
            content_type: properties.content_type.as_deref(),
            response_topic: properties.response_topic.as_deref(),
            correlation_data_base64: properties
                .correlation_data
                .as_ref()
                .map(|data| STANDARD.encode(data)),
            user_properties: &properties.user,
        }
    }
}

#[derive(Serialize)]
struct UsageWire {
    fuel: u64,
    peak_memory_bytes: u64,
    queued_ms: f64,
    run_ms: f64,
    cpu_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    module_cache: Option<&'static str>,
}

impl UsageWire {
    fn of(outcome: &Outcome) -> UsageWire {
        let usage = &outcome.usage;
        UsageWire {
            fuel: usage.fuel,
            peak_memory_bytes: usage.peak_memory_bytes,
            queued_ms: microseconds(usage.queued_ms),
            run_ms: microseconds(usage.run_ms),
            cpu_ms: microseconds(usage.cpu_ms),
            module_cache: usage.module_cache.map(|hit| hit.as_str()),
        }
    }
}

/// Milliseconds to three places: more is noise on the wire.
fn microseconds(ms: f64) -> f64 {
    (ms * 1000.0).round() / 1000.0
}

fn as_properties(outcome: &Outcome) -> Properties {
    let mut user: Vec<(String, String)> = Vec::with_capacity(16);
    let mut put =
        |name: &str, value: String| user.push((name.to_owned(), fit(value, PROPERTY_BYTES)));
    put("id", outcome.id.to_string());
    put("status", outcome.status.to_string());
    if let Some(module) = &outcome.module {
        put("module", module.clone());
    }
    if let Some(digest) = outcome.module_digest {
        put("module_digest", digest.to_string());
    }
    put("attempt", outcome.attempt.to_string());
    if !outcome.attempts.is_empty() {
        let attempts: Vec<AttemptWire<'_>> = outcome.attempts.iter().map(AttemptWire::of).collect();
        put(
            "attempts",
            serde_json::to_string(&attempts).unwrap_or_default(),
        );
    }
    if let Some(error) = outcome.error.as_ref().map(ErrorWire::of) {
        put("error_code", error.code.to_owned());
        put("error_message", error.message.to_owned());
        for frame in error.backtrace {
            put("error_backtrace", frame.clone());
        }
        if let Some(retry) = error.retry {
            put("error_retry", retry.to_owned());
        }
        if let Some(delay) = error.retry_after_ms {
            put("error_retry_after_ms", delay.to_string());
        }
    }
    let usage = UsageWire::of(outcome);
    put("fuel", usage.fuel.to_string());
    put("peak_memory_bytes", usage.peak_memory_bytes.to_string());
    put("queued_ms", usage.queued_ms.to_string());
    put("run_ms", usage.run_ms.to_string());
    put("cpu_ms", usage.cpu_ms.to_string());
    if let Some(hit) = usage.module_cache {
        put("module_cache", hit.to_owned());
    }
    put("runner", outcome.runner.clone());
    if let Some(started) = outcome.started_at {
        put("started_at", rfc3339(started));
    }
    put("finished_at", rfc3339(outcome.finished_at));
    for (name, value) in &outcome.labels {
        put(&format!("labels.{name}"), value.clone());
    }
    if let Some(correlation) = &outcome.reply.correlation {
        put("correlation", correlation.clone());
    }
    Properties {
        content_type: outcome
            .output
            .as_ref()
            .and_then(|o| o.content_type.clone())
            .map(|text| fit(text, CONTENT_TYPE_BYTES)),
        user,
        ..Properties::default()
    }
}

/// A text that any broker takes as a property: what MQTT refuses escaped, what is too long cut. A guest may have
/// written it, and one that is refused would cost the connection, again and again.
fn fit(text: String, bytes: usize) -> String {
    if text.len() <= bytes && !text.contains(is_refused) {
        return text;
    }
    let mut fitting = String::with_capacity(text.len().min(bytes));
    for c in text.chars() {
        let before = fitting.len();
        if is_refused(c) {
            fitting.extend(c.escape_default());
        } else {
            fitting.push(c);
        }
        if fitting.len() > bytes {
            fitting.truncate(before);
            break;
        }
    }
    fitting
}

/// An instant on the wire: RFC 3339 in UTC, with milliseconds.
pub fn rfc3339(time: SystemTime) -> String {
    match jiff::Timestamp::try_from(time) {
        Ok(time) => format!("{time:.3}"),
        // Beyond the year 9999: no clock says so.
        Err(_) => "9999-12-31T23:59:59.999Z".to_owned(),
    }
}

fn json(value: &impl Serialize) -> Bytes {
    // What most outcomes have room in.
    let mut bytes = Vec::with_capacity(1 << 10);
    // Serialising plain structs with string keys into memory cannot fail.
    match serde_json::to_writer(&mut bytes, value) {
        Ok(()) => bytes.into(),
        Err(_) => Bytes::new(),
    }
}

#[cfg(test)]
mod tests;
