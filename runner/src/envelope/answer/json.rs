//! The outcome of a task that was sent as JSON, or as plain text.

use std::collections::BTreeMap;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{cache_hit, code, digest, retry, status, time};
use crate::envelope::Inbound;
use crate::task::outcome::{Outcome, Output, TaskError, Usage};
use crate::task::tenant::TenantId;
use crate::task::{Reply, Shape, TaskId};

/// What `encode::as_json` writes. Fields that are not known here may come to it.
#[derive(Deserialize)]
struct Wire<'a> {
    id: String,
    status: String,
    #[serde(default)]
    module: Option<String>,
    #[serde(default)]
    module_digest: Option<String>,
    #[serde(default)]
    attempt: u32,
    #[serde(default, borrow, deserialize_with = "present")]
    output: Option<&'a RawValue>,
    #[serde(default)]
    output_base64: Option<String>,
    #[serde(default)]
    content_type: Option<String>,
    #[serde(default)]
    error: Option<ErrorWire>,
    #[serde(default)]
    usage: UsageWire,
    #[serde(default)]
    runner: String,
    #[serde(default)]
    started_at: Option<String>,
    #[serde(default)]
    finished_at: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    correlation: Option<String>,
}

#[derive(Deserialize)]
struct ErrorWire {
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    backtrace: Vec<String>,
    #[serde(default)]
    retry: Option<String>,
    #[serde(default)]
    retry_after_ms: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct UsageWire {
    fuel: u64,
    peak_memory_bytes: u64,
    queued_ms: f64,
    run_ms: f64,
    cpu_ms: f64,
    module_cache: Option<String>,
}

/// The value itself, so that an output of `null` is not none.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(value: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

pub(super) fn outcome(tenant: &TenantId, inbound: &Inbound) -> Result<Outcome, String> {
    let wire: Wire<'_> = serde_json::from_slice(&inbound.payload).map_err(|error| {
        format!("the outcome has no user property `status`, and is no JSON outcome: {error}")
    })?;
    let output = output(&wire)?;
    let error = match wire.error {
        None => None,
        Some(error) => Some(TaskError {
            code: code(&error.code)?,
            message: error.message,
            backtrace: error.backtrace,
            retry: retry(error.retry.as_deref(), error.retry_after_ms),
        }),
    };
    let usage = wire.usage;
    Ok(Outcome {
        id: TaskId::parse(&wire.id)?,
        tenant: tenant.clone(),
        status: status(&wire.status)?,
        module: wire.module,
        module_digest: wire.module_digest.as_deref().and_then(digest),
        attempt: wire.attempt,
        attempts: Vec::new(),
        output,
        error,
        usage: Usage {
            fuel: usage.fuel,
            peak_memory_bytes: usage.peak_memory_bytes,
            queued_ms: usage.queued_ms,
            run_ms: usage.run_ms,
            cpu_ms: usage.cpu_ms,
            module_cache: usage.module_cache.as_deref().and_then(cache_hit),
        },
        runner: wire.runner,
        started_at: wire.started_at.as_deref().and_then(time),
        finished_at: wire
            .finished_at
            .as_deref()
            .and_then(time)
            .unwrap_or(SystemTime::UNIX_EPOCH),
        labels: wire.labels,
        reply: Reply {
            topic: None,
            correlation_data: inbound.properties.correlation_data.clone(),
            correlation: wire.correlation,
        },
        shape: Shape::Json,
    })
}

/// The output's bytes. Of a guest that said `application/json` they are the value's JSON text, else a string's
/// UTF-8. (A guest that said so and returned text that is no JSON reads as a JSON string: the wire does not tell
/// the two apart.)
fn output(wire: &Wire<'_>) -> Result<Option<Output>, String> {
    let data = match (wire.output, &wire.output_base64) {
        (None, None) => return Ok(None),
        (None, Some(text)) => STANDARD
            .decode(text)
            .map_err(|why| format!("`output_base64` of the outcome: {why}"))?
            .into(),
        (Some(value), _) => {
            let essence = wire
                .content_type
                .as_deref()
                .and_then(|t| t.split(';').next());
            let is_json =
                essence.is_some_and(|e| e.trim().eq_ignore_ascii_case("application/json"));
            match serde_json::from_str::<String>(value.get()) {
                Ok(text) if !is_json => Bytes::from(text),
                _ => Bytes::copy_from_slice(value.get().as_bytes()),
            }
        }
    };
    Ok(Some(Output {
        data,
        content_type: wire.content_type.clone(),
    }))
}
