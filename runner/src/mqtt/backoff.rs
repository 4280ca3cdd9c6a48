//! How long to wait before the next attempt to connect. Computes; never sleeps.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(15);

/// Exponential backoff with full jitter below half of each step, so that a fleet does not come back at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next delay; `random` is uniform in 0..1.
    pub(super) fn next(&mut self, random: f64) -> Duration {
        let step = FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST);
        self.failures += 1;
        step.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// A connection that held: start over.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Uniform in 0..1, from the standard library's randomly keyed hasher: enough to spread reconnects.
pub(crate) fn random() -> f64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    let random = std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish();
    random as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_a_bound_and_resets() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(1.0), FIRST);
        assert_eq!(backoff.next(0.0), FIRST);
        let longest = (0..100).map(|_| backoff.next(1.0)).max();
        assert_eq!(longest, Some(LONGEST));
        backoff.reset();
        assert_eq!(backoff.next(0.0), FIRST / 2);
    }
}
