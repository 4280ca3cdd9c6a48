//! How much a tenant may still do: token buckets, of tasks and of fuel. Time is a value.

use std::time::{Duration, Instant};

use crate::tenants::{Budget, Rate};

/// The quotas of one tenant.
#[derive(Debug, Default)]
pub struct Quota {
    rate: Option<Bucket>,
    budget: Option<Bucket>,
}

/// Fills at a steady rate up to a bound, and may be overdrawn.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bucket {
    level: f64,
    per_second: f64,
    most: f64,
    at: Instant,
}

impl Bucket {
    /// A bucket like `old` with other bounds: what was in it stays, as far as there is room.
    fn with(old: Option<Bucket>, per_second: f64, most: f64, now: Instant) -> Bucket {
        let level = old.map_or(most, |mut old| old.filled(now));
        Bucket {
            level: level.min(most),
            per_second,
            most,
            at: now,
        }
    }

    fn filled(&mut self, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now.max(self.at);
        self.level = (self.level + seconds * self.per_second).min(self.most);
        self.level
    }

    /// How long until it holds so much.
    fn until(&mut self, level: f64, now: Instant) -> Option<Duration> {
        let missing = level - self.filled(now);
        let seconds = missing / self.per_second;
        // A year is long enough for whoever configures such a rate; and never so short that nothing has come.
        (missing > 0.0).then(|| Duration::from_secs_f64(seconds.clamp(0.001, 3.2e7)))
    }
}

impl Quota {
    /// Goes by these bounds from now on.
    pub fn follow(&mut self, rate: Option<Rate>, budget: Option<Budget>, now: Instant) {
        let rate = rate.map(|rate| (rate.per_second, rate.burst));
        // A window's fuel at once, and as much again over a window.
        let budget = budget.map(|budget| {
            let fuel = budget.fuel as f64;
            (fuel / budget.window.as_secs_f64().max(1e-3), fuel)
        });
        for (bucket, bounds) in [(&mut self.rate, rate), (&mut self.budget, budget)] {
            let same = |bucket: &Bucket| bounds == Some((bucket.per_second, bucket.most));
            if !bucket.as_ref().is_some_and(same) {
                let old = bucket.take();
                *bucket = bounds.map(|(per_second, most)| Bucket::with(old, per_second, most, now));
            }
        }
    }

    /// How long until a task may start; `None` when it may now.
    pub fn wait(&mut self, now: Instant) -> Option<Duration> {
        let rate = self.rate.as_mut().and_then(|rate| rate.until(1.0, now));
        rate.max(self.wait_for_fuel(now))
    }

    /// The same of one that the rate has let in before.
    pub fn wait_for_fuel(&mut self, now: Instant) -> Option<Duration> {
        let budget = self.budget.as_mut();
        // Fuel is known only when it is burnt: a task starts as long as there is any.
        budget.and_then(|budget| budget.until(1.0, now))
    }

    /// Whether it is as one that was made just now: nothing is lost with it.
    pub fn is_full(&mut self, now: Instant) -> bool {
        let buckets = [&mut self.rate, &mut self.budget];
        let mut buckets = buckets.into_iter().flatten();
        buckets.all(|bucket| bucket.filled(now) >= bucket.most)
    }

    /// A task starts.
    pub fn start(&mut self) {
        if let Some(rate) = &mut self.rate {
            rate.level -= 1.0;
        }
    }

    /// A task has burnt so much.
    pub fn burn(&mut self, fuel: u64) {
        if let Some(budget) = &mut self.budget {
            budget.level -= fuel as f64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(rate: Option<(f64, f64)>, budget: Option<(u64, u64)>, now: Instant) -> Quota {
        let mut quota = Quota::default();
        let rate = rate.map(|(per_second, burst)| Rate { per_second, burst });
        let budget = budget.map(|(fuel, seconds)| Budget {
            fuel,
            window: Duration::from_secs(seconds),
        });
        quota.follow(rate, budget, now);
        quota
    }

    #[test]
    fn tasks_at_once_then_at_the_rate() {
        let mut now = Instant::now();
        let mut quota = quota(Some((2.0, 3.0)), None, now);
        let mut started = 0;
        while quota.wait(now).is_none() {
            quota.start();
            started += 1;
        }
        assert_eq!(started, 3);
        for _ in 0..10 {
            let wait = quota.wait(now).expect("over the rate");
            assert!(wait <= Duration::from_millis(501), "{wait:?}");
            now += wait;
            assert_eq!(quota.wait(now), None);
            quota.start();
            started += 1;
        }
        assert_eq!(started, 13);
    }

    #[test]
    fn fuel_is_paid_back() {
        let mut now = Instant::now();
        let mut quota = quota(None, Some((1_000, 10)), now);
        assert_eq!(quota.wait(now), None);
        quota.burn(3_000);
        let wait = quota.wait(now).expect("over the budget");
        assert!((19.9..20.2).contains(&wait.as_secs_f64()), "{wait:?}");
        now += wait;
        assert_eq!(quota.wait(now), None);
    }

    #[test]
    fn full_when_nothing_is_owed() {
        let mut now = Instant::now();
        let mut quota = quota(Some((1.0, 1.0)), Some((1_000, 10)), now);
        assert!(quota.is_full(now));
        quota.start();
        quota.burn(2_000);
        now += Duration::from_secs(2);
        assert_eq!(quota.wait_for_fuel(now), quota.wait(now));
        assert!(!quota.is_full(now));
        now += Duration::from_secs(20);
        assert!(quota.is_full(now));
    }

    #[test]
    fn other_bounds_keep_the_debt() {
        let now = Instant::now();
        let mut quota = quota(None, Some((1_000, 10)), now);
        quota.burn(2_000);
        let budget = Budget {
            fuel: 2_000,
            window: Duration::from_secs(10),
        };
        quota.follow(None, Some(budget), now);
        let wait = quota.wait(now).expect("still over");
        assert!((4.9..5.2).contains(&wait.as_secs_f64()), "{wait:?}");
        quota.follow(None, None, now);
        assert_eq!(quota.wait(now), None);
    }
}
