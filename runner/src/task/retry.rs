//! Whether a task that ended badly is tried again, and when. Pure: chance is a value.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::task::RetryPolicy;
use crate::task::outcome::{ErrorCode, GuestRetry, TaskError};

/// No delay is longer, whatever a task or a guest asks for.
pub const LONGEST_DELAY: Duration = Duration::from_secs(30 * 24 * 3600);

/// `[retry]`: what a task that names nothing else gets.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// Attempts in all, at least 1.
    pub max_attempts: u32,
    /// Milliseconds before the second attempt, at most.
    pub initial_delay_ms: u64,
    /// What each further delay is multiplied by, at least 1.
    pub factor: f64,
    /// The longest delay in milliseconds.
    pub max_delay_ms: u64,
}

impl Default for Defaults {
    fn default() -> Self {
        Defaults {
            max_attempts: 3,
            initial_delay_ms: 1_000,
            factor: 2.0,
            max_delay_ms: 60_000,
        }
    }
}

/// What comes after an attempt that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another attempt, after this long.
    Retry(Duration),
    /// None: this kind of error is not tried again.
    End,
    /// None: it was tried as often as it may be. The task is a dead letter.
    GiveUp,
}

/// What comes after attempt number `attempt`, counted from 1. `random` is uniform in 0..1.
///
/// The delay is exponential with full jitter: anything up to `initial × factor^(attempt - 1)`, at most `max_delay`.
/// What the guest asks for is waited at least.
pub fn next(
    error: &TaskError,
    asked: Option<&RetryPolicy>,
    defaults: &Defaults,
    attempt: u32,
    random: f64,
) -> Next {
    if !is_retried(error, asked) {
        return Next::End;
    }
    let asked = asked.copied().unwrap_or_default();
    if attempt >= asked.max_attempts.unwrap_or(defaults.max_attempts) {
        return Next::GiveUp;
    }
    let initial = asked.initial_delay_ms.unwrap_or(defaults.initial_delay_ms);
    let factor = asked.factor.unwrap_or(defaults.factor).max(1.0);
    let longest = asked.max_delay_ms.unwrap_or(defaults.max_delay_ms);
    let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
    let ceiling = (initial as f64 * factor.powi(exponent)).min(longest as f64);
    let jittered = Duration::from_millis((ceiling * random.clamp(0.0, 1.0)) as u64);
    let least = match error.retry {
        Some(GuestRetry::After(ms)) => Duration::from_millis(ms),
        _ => Duration::ZERO,
    };
    Next::Retry(jittered.max(least).min(LONGEST_DELAY))
}

/// The contract's table.
fn is_retried(error: &TaskError, asked: Option<&RetryPolicy>) -> bool {
    match error.code {
        ErrorCode::QuotaExceeded
        | ErrorCode::ModuleUnavailable
        | ErrorCode::RunnerShutdown
        | ErrorCode::Internal => true,
        ErrorCode::DeadlineExceeded => asked.is_some(),
        ErrorCode::GuestError => match error.retry {
            Some(GuestRetry::Never) | None => false,
            Some(GuestRetry::After(_)) => true,
            Some(GuestRetry::ByPolicy) => asked.is_some(),
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: ErrorCode, retry: Option<GuestRetry>) -> TaskError {
        TaskError {
            retry,
            ..TaskError::new(code, "")
        }
    }

    const ASKED: RetryPolicy = RetryPolicy {
        max_attempts: Some(5),
        initial_delay_ms: Some(100),
        factor: Some(3.0),
        max_delay_ms: Some(500),
    };

    #[test]
    fn the_contracts_table() {
        let defaults = Defaults::default();
        for code in ErrorCode::ALL {
            let by_default = next(&error(*code, None), None, &defaults, 1, 0.0);
            let expected = match code.as_str() {
                "quota_exceeded" | "module_unavailable" | "runner_shutdown" | "internal" => {
                    Next::Retry(Duration::ZERO)
                }
                _ => Next::End,
            };
            assert_eq!(by_default, expected, "{code}");
        }
        let deadline = error(ErrorCode::DeadlineExceeded, None);
        let asked = next(&deadline, Some(&ASKED), &defaults, 1, 0.0);
        assert_eq!(asked, Next::Retry(Duration::ZERO));
        let fuel = error(ErrorCode::FuelExhausted, None);
        assert_eq!(next(&fuel, Some(&ASKED), &defaults, 1, 0.0), Next::End);
    }

    #[test]
    fn the_guest_says_so() {
        let defaults = Defaults::default();
        let guest = |retry| error(ErrorCode::GuestError, Some(retry));
        let never = guest(GuestRetry::Never);
        assert_eq!(next(&never, Some(&ASKED), &defaults, 1, 0.0), Next::End);
        let after = guest(GuestRetry::After(7_000));
        let delay = Duration::from_secs(7);
        assert_eq!(next(&after, None, &defaults, 1, 1.0), Next::Retry(delay));
        let policy = guest(GuestRetry::ByPolicy);
        assert_eq!(next(&policy, None, &defaults, 1, 0.0), Next::End);
        let asked = next(&policy, Some(&ASKED), &defaults, 1, 0.0);
        assert_eq!(asked, Next::Retry(Duration::ZERO));
    }

    #[test]
    fn delays_grow_to_a_bound_and_attempts_end() {
        let defaults = Defaults::default();
        let internal = error(ErrorCode::Internal, None);
        let after = |attempt, random| next(&internal, Some(&ASKED), &defaults, attempt, random);
        for (attempt, ms) in [(1, 100), (2, 300), (3, 500), (4, 500)] {
            let longest = Next::Retry(Duration::from_millis(ms));
            assert_eq!(after(attempt, 1.0), longest);
            assert_eq!(after(attempt, 0.0), Next::Retry(Duration::ZERO));
        }
        assert_eq!(after(5, 0.5), Next::GiveUp);
        let never_ending = RetryPolicy {
            max_delay_ms: Some(u64::MAX),
            initial_delay_ms: Some(u64::MAX),
            ..ASKED
        };
        let longest = next(&internal, Some(&never_ending), &defaults, 1, 1.0);
        assert_eq!(longest, Next::Retry(LONGEST_DELAY));
    }
}
