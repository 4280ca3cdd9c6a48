//! What a task is given and what it gives back, and the call that [`task!`](crate::task!) expands to.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings;
pub use crate::bindings::{Context, Output};
use crate::convert::{FromInput, IntoOutput, Json};
use crate::error::{Error, into_wit};

impl Context {
    /// The value of a label of the task.
    ///
    /// ```
    /// use wasmqtt_guest::Context;
    ///
    /// let ctx = Context { labels: vec![("size".into(), "64".into())], ..Context::default() };
    /// assert_eq!(ctx.label("size"), Some("64"));
    /// assert_eq!(ctx.label("colour"), None);
    /// ```
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The instant at which the runner will stop the guest.
    #[must_use]
    pub fn deadline(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.deadline_ms)
    }

    /// How long the guest may still run; zero when the deadline has passed. The clock is coarse.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.deadline()
            .duration_since(SystemTime::now())
            .unwrap_or_default()
    }
}

/// For tests of a task's logic on the host: a first attempt of the default tenant, with an hour to go.
impl Default for Context {
    fn default() -> Self {
        let deadline = SystemTime::now() + Duration::from_secs(3600);
        let deadline = deadline.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            id: "test".to_owned(),
            tenant: "default".to_owned(),
            module: "test".to_owned(),
            attempt: 1,
            content_type: None,
            deadline_ms: deadline.as_millis().try_into().unwrap_or(u64::MAX),
            labels: Vec::new(),
        }
    }
}

impl Output {
    /// Bytes or text with their media type, such as `image/png`.
    pub fn new(data: impl Into<Vec<u8>>, content_type: impl Into<String>) -> Self {
        Self {
            data: data.into(),
            content_type: Some(content_type.into()),
        }
    }
}

/// `task!(run)`.
#[doc(hidden)]
pub fn call<I, O, E>(
    run: impl FnOnce(&Context, I) -> Result<O, E>,
    ctx: &Context,
    input: Vec<u8>,
) -> Result<Output, bindings::Error>
where
    I: FromInput,
    O: IntoOutput,
    E: Into<Error>,
{
    I::from_input(input)
        .and_then(|input| run(ctx, input).map_err(Into::into))
        .and_then(IntoOutput::into_output)
        .map_err(into_wit)
}

/// `task!(json run)`.
#[doc(hidden)]
pub fn call_json<T, U, E>(
    run: impl FnOnce(&Context, T) -> Result<U, E>,
    ctx: &Context,
    input: Vec<u8>,
) -> Result<Output, bindings::Error>
where
    T: DeserializeOwned,
    U: Serialize,
    E: Into<Error>,
{
    call(
        |ctx: &Context, Json(input): Json<T>| run(ctx, input).map(Json),
        ctx,
        input,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn double(_ctx: &Context, input: u32) -> Result<u32, Error> {
        input
            .checked_mul(2)
            .ok_or_else(|| Error::failed("it does not fit"))
    }

    #[test]
    fn typed_tasks_speak_json() {
        let run = |input: &str| call_json(double, &Context::default(), input.into());
        assert_eq!(run("21"), Ok(Output::new("42", "application/json")));
        assert_eq!(
            run("4000000000"),
            Err(bindings::Error::Failed("it does not fit".to_owned()))
        );
        let Err(bindings::Error::Reject(message)) = run("\"x\"") else {
            panic!("x is no number")
        };
        assert!(
            message.contains("invalid type: string \"x\", expected u32"),
            "{message}"
        );
    }

    #[test]
    fn the_default_context_has_time_left() {
        let left = Context::default().time_left();
        assert!(
            left > Duration::from_secs(3590) && left <= Duration::from_secs(3600),
            "{left:?}"
        );
    }
}
