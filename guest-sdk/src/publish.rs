//! Messages of a task's own, for tenants that were granted `publish`.

use std::fmt;

#[cfg(target_family = "wasm")]
use crate::bindings::wasmqtt::task::publish as wit;

/// Why a message was not published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishError {
    /// It may not be: the topic is not the tenant's to publish on, or the task has published as much as it may.
    Denied(String),
    /// The broker does not have it, or did not say so.
    Failed(String),
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(why) => write!(f, "not published, denied: {why}"),
            Self::Failed(why) => write!(f, "not published: {why}"),
        }
    }
}

impl std::error::Error for PublishError {}

/// Publishes a message (QoS 1, not retained) and waits until the broker has it.
///
/// The topic is below the tenant's own prefix: `alerts/1` is `tenants/{tenant}/alerts/1`, and for the default tenant
/// `alerts/1` as it is. A task that is tried again publishes again: make the task's id a part of what you publish.
///
/// A module that calls this runs only for tenants that were granted `publish`. On the host, where there is no broker,
/// the message goes to stderr.
///
/// ```
/// use wasmqtt_guest::{Context, Error, publish, task};
///
/// task!(run);
///
/// fn run(ctx: &Context, reading: String) -> Result<(), Error> {
///     publish(&format!("alerts/{}", ctx.id), reading.as_bytes(), Some("text/plain"))?;
///     Ok(())
/// }
/// ```
///
/// # Errors
///
/// [`PublishError`] when the message may not be published, or the broker does not have it.
pub fn publish(
    topic: &str,
    payload: &[u8],
    content_type: Option<&str>,
) -> Result<(), PublishError> {
    #[cfg(target_family = "wasm")]
    return wit::publish(topic, payload, content_type).map_err(|error| match error {
        wit::PublishError::Denied(why) => PublishError::Denied(why),
        wit::PublishError::Failed(why) => PublishError::Failed(why),
    });
    #[cfg(not(target_family = "wasm"))]
    {
        let content_type = content_type.unwrap_or("no media type");
        eprintln!(
            "publish on {topic}: {} bytes, {content_type}",
            payload.len()
        );
        Ok(())
    }
}
