//! Why a task did not succeed, and whether another attempt makes sense.

use std::fmt;
use std::time::Duration;

use crate::bindings;

/// Why a task did not succeed.
///
/// The outcome's status is `failed` and its code `guest_error` in all three cases; what differs is whether
/// the runner tries again. A message longer than 4,096 bytes is cut.
///
/// `?` works on any [`std::error::Error`] and makes it [`Error::Failed`], with the chain of its sources in
/// the message:
///
/// ```
/// use wasmqtt_guest::Error;
///
/// fn port(text: &str) -> Result<u16, Error> {
///     Ok(text.parse()?)
/// }
///
/// assert_eq!(port("http"), Err(Error::failed("invalid digit found in string")));
/// ```
///
/// An error that is the input's fault says so:
///
/// ```
/// # use wasmqtt_guest::Error;
/// fn port(text: &str) -> Result<u16, Error> {
///     text.parse().map_err(Error::reject)
/// }
/// ```
///
/// It is no [`std::error::Error`] itself: that is the price of the conversion, as with `anyhow::Error`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The input is wrong and always will be: never retried.
    Reject(String),
    /// It failed for now: worth another attempt.
    RetryAfter {
        /// What happened.
        message: String,
        /// The least delay before the next attempt, in whole milliseconds.
        delay: Duration,
    },
    /// It failed: retried if the task's own retry policy allows another attempt.
    Failed(String),
}

impl Error {
    /// The input is wrong and always will be: never retried.
    pub fn reject(message: impl fmt::Display) -> Self {
        Self::Reject(message.to_string())
    }

    /// It failed: retried if the task's own retry policy allows another attempt.
    pub fn failed(message: impl fmt::Display) -> Self {
        Self::Failed(message.to_string())
    }

    /// It failed for now: worth another attempt, not before `delay` has passed.
    ///
    /// ```
    /// # use wasmqtt_guest::Error;
    /// # use std::time::Duration;
    /// let busy = Error::retry_after("the table is locked", Duration::from_secs(5));
    /// assert_eq!(busy.to_string(), "the table is locked (retry after 5s)");
    /// ```
    pub fn retry_after(message: impl fmt::Display, delay: Duration) -> Self {
        Self::RetryAfter {
            message: message.to_string(),
            delay,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reject(message) | Self::Failed(message) => f.write_str(message),
            Self::RetryAfter { message, delay } => write!(f, "{message} (retry after {delay:?})"),
        }
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            message = format!("{message}: {error}");
            source = error.source();
        }
        Self::Failed(message)
    }
}

// Not `From<Error>`: the conversion from every `std::error::Error` above leaves no room for it.
pub(crate) fn into_wit(error: Error) -> bindings::Error {
    match error {
        Error::Reject(message) => bindings::Error::Reject(message),
        Error::RetryAfter { message, delay } => {
            bindings::Error::RetryAfter(bindings::wasmqtt::task::types::RetryAfter {
                message,
                delay_ms: delay.as_millis().try_into().unwrap_or(u64::MAX),
            })
        }
        Error::Failed(message) => bindings::Error::Failed(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_its_sources() {
        #[derive(Debug)]
        struct Outer(std::num::ParseIntError);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("failed to read the port")
            }
        }
        impl std::error::Error for Outer {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.0)
            }
        }

        let cause = "x".parse::<u16>().expect_err("x is no number");
        let expected = Error::failed("failed to read the port: invalid digit found in string");
        assert_eq!(Error::from(Outer(cause)), expected);
    }

    #[test]
    fn a_delay_is_in_milliseconds() {
        let wit = into_wit(Error::retry_after(
            "later",
            Duration::from_micros(2_500_999),
        ));
        let bindings::Error::RetryAfter(retry) = wit else {
            panic!("{wit:?}")
        };
        assert_eq!((retry.message.as_str(), retry.delay_ms), ("later", 2_500));
    }
}
