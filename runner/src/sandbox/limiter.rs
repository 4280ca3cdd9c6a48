//! The limits that wasmtime asks about while a guest runs: memory, summed over all of them, and tables.

use wasmtime::ResourceLimiter;

/// Elements of one table: 20,000 is the pool's own default, and 20 times what Rust or C guests use.
pub(super) const MAX_TABLE_ELEMENTS: usize = 20_000;

/// A limit that a guest ran into; ends the run as a trap of our own type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum LimitHit {
    #[error("memory: {wanted} bytes wanted")]
    Memory { wanted: u64 },
    #[error("table: {wanted} elements wanted")]
    Table { wanted: u64 },
    #[error("output")]
    Output,
}

/// Counts what a guest holds.
#[derive(Debug)]
pub(super) struct Limiter {
    memory_limit: u64,
    memory: u64,
    peak: u64,
    /// Both before the last growth, which wasmtime may yet refuse: it asks here before it looks at the memory's
    /// own maximum.
    before: (u64, u64),
}

impl Limiter {
    pub(super) fn new(memory_limit: u64) -> Limiter {
        Limiter {
            memory_limit,
            memory: 0,
            peak: 0,
            before: (0, 0),
        }
    }

    /// The most bytes of linear memory at one time, summed over memories.
    pub(super) fn peak_bytes(&self) -> u64 {
        self.peak
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let wanted = self
            .memory
            .saturating_sub(current as u64)
            .saturating_add(desired as u64);
        if wanted > self.memory_limit {
            // Not `Ok(false)`, with which the guest would decide what becomes of it: the task ends here, by
            // the name of what it ran into.
            return Err(LimitHit::Memory { wanted }.into());
        }
        self.before = (self.memory, self.peak);
        self.memory = wanted;
        self.peak = self.peak.max(wanted);
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        (self.memory, self.peak) = self.before;
        Ok(())
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > MAX_TABLE_ELEMENTS {
            return Err(LimitHit::Table {
                wanted: desired as u64,
            }
            .into());
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_summed_over_memories() {
        let mut limiter = Limiter::new(100);
        assert!(
            limiter.memory_growing(0, 60, None).is_ok(),
            "the first memory"
        );
        assert!(limiter.memory_growing(0, 30, None).is_ok(), "a second one");
        assert!(
            limiter.memory_growing(60, 80, None).is_err(),
            "the first grows to 110 in all"
        );
        assert!(
            limiter.memory_growing(30, 40, None).is_ok(),
            "the second to 100 in all"
        );
        assert_eq!(limiter.peak_bytes(), 100);
    }

    #[test]
    fn a_growth_that_failed_does_not_count() {
        let mut limiter = Limiter::new(100);
        assert!(limiter.memory_growing(0, 60, Some(60)).is_ok());
        assert!(
            limiter.memory_growing(60, 100, Some(60)).is_ok(),
            "not ours to refuse"
        );
        let refused = wasmtime::Error::msg("over the memory's own maximum");
        assert!(limiter.memory_grow_failed(refused).is_ok());
        assert_eq!(limiter.peak_bytes(), 60);
        assert!(limiter.memory_growing(0, 40, None).is_ok(), "40 are left");
    }
}
