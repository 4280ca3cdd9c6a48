//! Which waiting task runs next: a data structure, no clock, no I/O.
//!
//! Tenants take turns, one task each; within a tenant the higher priority goes first, and among equals the
//! one that came first. Priority is a head start, of [`HEAD_START`] arrivals a step: so a steady stream of urgent tasks
//! does not starve the others.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use crate::task::tenant::TenantId;

/// The waiting tasks, each with whatever the caller needs to run it.
#[derive(Debug)]
pub struct Schedule<T> {
    tenants: BTreeMap<TenantId, BinaryHeap<Waiting<T>>>,
    /// Tenants with waiting tasks, the next one first.
    turns: VecDeque<TenantId>,
    arrivals: u64,
    len: usize,
}

/// How many later arrivals a task of priority 0 waits behind for each step of theirs, at most.
pub const HEAD_START: u64 = 1000;

#[derive(Debug)]
struct Waiting<T> {
    /// When it would have come without a head start; then the priority, then the arrival.
    rank: (Reverse<i64>, u8, Reverse<u64>),
    memory_bytes: u64,
    item: T,
}

impl<T> PartialEq for Waiting<T> {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
    }
}
impl<T> Eq for Waiting<T> {}
impl<T> PartialOrd for Waiting<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Waiting<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank.cmp(&other.rank)
    }
}

impl<T> Default for Schedule<T> {
    fn default() -> Self {
        Schedule {
            tenants: BTreeMap::new(),
            turns: VecDeque::new(),
            arrivals: 0,
            len: 0,
        }
    }
}

impl<T> Schedule<T> {
    /// Adds a task that wants `memory_bytes` while it runs.
    pub fn push(&mut self, tenant: &TenantId, priority: u8, memory_bytes: u64, item: T) {
        let start = self.arrivals as i64 - (u64::from(priority) * HEAD_START) as i64;
        let rank = (Reverse(start), priority, Reverse(self.arrivals));
        self.arrivals += 1;
        self.len += 1;
        let waiting = self.tenants.entry(tenant.clone()).or_default();
        if waiting.is_empty() {
            self.turns.push_back(tenant.clone());
        }
        waiting.push(Waiting {
            rank,
            memory_bytes,
            item,
        });
    }

    /// The memory that the next task wants; `None` when nobody waits.
    ///
    /// A large task at the head is waited for rather than overtaken, else small ones would starve it.
    pub fn next_memory(&self) -> Option<u64> {
        let tenant = self.turns.front()?;
        Some(self.tenants.get(tenant)?.peek()?.memory_bytes)
    }

    /// Takes the next task.
    pub fn pop(&mut self) -> Option<T> {
        let tenant = self.turns.pop_front()?;
        let waiting = self.tenants.get_mut(&tenant)?;
        let next = waiting.pop()?;
        if waiting.is_empty() {
            self.tenants.remove(&tenant);
        } else {
            self.turns.push_back(tenant);
        }
        self.len -= 1;
        Some(next.item)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests;
