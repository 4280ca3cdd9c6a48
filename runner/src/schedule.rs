//! Which waiting task runs next: a data structure, no clock, no I/O.
//!
//! Between tenants by weight and by the fuel that their tasks burn ([`Fair`]): a task is charged what the tenant's tasks
//! have burnt of late, and when it ends the difference. Within a tenant the higher priority goes first, and among equals
//! the one that came first. Priority is a head start, of [`HEAD_START`] arrivals a step: so a steady stream of urgent
//! tasks does not starve the others.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

use crate::fair::{Fair, Tag};
use crate::task::tenant::TenantId;

/// How many later arrivals a task of priority 0 waits behind for each step of theirs, at most.
pub const HEAD_START: u64 = 1000;
/// What a task costs besides its fuel, in fuel: receiving, recording and answering it take about as long.
pub const OVERHEAD: u64 = 50_000;
/// What a tenant's first task is taken to burn, before there is anything to go by.
const UNKNOWN: u64 = 1_000_000;
/// Tenants looked at for being forgotten: now and then.
const FORGET_ABOVE: usize = 256;

/// What a tenant's policy says to the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Its share of the fuel beside the others'.
    pub weight: u32,
    /// The most of its tasks that run at one time.
    pub slots: usize,
}

/// What there is to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Guests that may still start.
    pub slots: usize,
    /// How many of these are for tenants of which nothing runs.
    pub reserved: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

/// A task whose turn it is.
#[derive(Debug)]
pub struct Turn<T> {
    /// Whose.
    pub tenant: TenantId,
    /// What it wants.
    pub memory_bytes: u64,
    /// What it was charged; to be handed to [`Schedule::done`].
    pub charged: u64,
    /// What was pushed.
    pub item: T,
}

/// The waiting tasks, each with whatever the caller needs to run it.
#[derive(Debug)]
pub struct Schedule<T> {
    fair: Fair,
    tenants: HashMap<TenantId, Tenant<T>>,
    /// Tenants with waiting tasks and a free slot of their own, by their tags.
    ready: BTreeSet<(Tag, TenantId)>,
    arrivals: u64,
    len: usize,
}

#[derive(Debug)]
struct Tenant<T> {
    share: Share,
    waiting: BinaryHeap<Waiting<T>>,
    running: usize,
    /// What a task of this tenant burns, on the average of late.
    usual: u64,
    /// Its place in `ready`.
    ready: Option<Tag>,
}

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
            fair: Fair::default(),
            tenants: HashMap::new(),
            ready: BTreeSet::new(),
            arrivals: 0,
            len: 0,
        }
    }
}

impl<T> Schedule<T> {
    /// Adds a task that wants `memory_bytes` while it runs. The share is the tenant's from now on.
    pub fn push(
        &mut self,
        tenant: &TenantId,
        share: Share,
        priority: u8,
        memory_bytes: u64,
        item: T,
    ) {
        let start = self.arrivals as i64 - (u64::from(priority) * HEAD_START) as i64;
        let rank = (Reverse(start), priority, Reverse(self.arrivals));
        self.arrivals += 1;
        self.len += 1;
        let entry = self
            .tenants
            .entry(tenant.clone())
            .or_insert_with(|| Tenant {
                share,
                waiting: BinaryHeap::new(),
                running: 0,
                usual: UNKNOWN,
                ready: None,
            });
        entry.share = share;
        if entry.waiting.is_empty() {
            self.fair.enter(tenant);
        }
        entry.waiting.push(Waiting {
            rank,
            memory_bytes,
            item,
        });
        self.place(tenant);
    }

    /// Takes the task whose turn it is: of the tenant that is served next, of those that have something waiting, a slot left,
    /// and that `may` go at all.
    ///
    /// A large task at the head is waited for rather than overtaken, else small ones would starve it.
    pub fn pop(&mut self, room: Room, mut may: impl FnMut(&TenantId) -> bool) -> Option<Turn<T>> {
        if room.slots == 0 {
            return None;
        }
        let fits = |tenant: &TenantId| {
            let idle = self.tenants.get(tenant).is_some_and(|t| t.running == 0);
            room.slots > room.reserved || idle
        };
        let next = self.ready.iter().map(|(_, tenant)| tenant);
        let tenant = next.into_iter().find(|t| fits(t) && may(t))?.clone();
        let entry = self.tenants.get_mut(&tenant)?;
        if entry.waiting.peek()?.memory_bytes > room.memory_bytes {
            return None;
        }
        let next = entry.waiting.pop()?;
        self.len -= 1;
        entry.running += 1;
        let charged = entry.usual.saturating_add(OVERHEAD);
        let weight = entry.share.weight;
        self.fair.serve(&tenant);
        self.fair.charge(&tenant, weight, signed(charged));
        self.place(&tenant);
        Some(Turn {
            tenant,
            memory_bytes: next.memory_bytes,
            charged,
            item: next.item,
        })
    }

    /// A task has ended, and burnt `fuel`; `None` when it never started.
    pub fn done(&mut self, tenant: &TenantId, charged: u64, fuel: Option<u64>) {
        let Some(entry) = self.tenants.get_mut(tenant) else {
            return;
        };
        entry.running = entry.running.saturating_sub(1);
        let cost = match fuel {
            Some(fuel) => {
                entry.usual = entry.usual / 8 * 7 + fuel / 8;
                fuel.saturating_add(OVERHEAD)
            }
            None => 0,
        };
        let weight = entry.share.weight;
        self.fair
            .charge(tenant, weight, signed(cost) - signed(charged));
        self.place(tenant);
        let entry = self.tenants.get(tenant);
        let idle = entry.is_some_and(|t| t.running == 0 && t.waiting.is_empty());
        if idle && self.tenants.len() > FORGET_ABOVE {
            self.forget();
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts a tenant where it belongs in `ready`.
    fn place(&mut self, tenant: &TenantId) {
        let Some(entry) = self.tenants.get_mut(tenant) else {
            return;
        };
        if let Some(tag) = entry.ready.take() {
            self.ready.remove(&(tag, tenant.clone()));
        }
        if !entry.waiting.is_empty() && entry.running < entry.share.slots {
            let tag = self.fair.tag(tenant);
            entry.ready = Some(tag);
            self.ready.insert((tag, tenant.clone()));
        }
    }

    fn forget(&mut self) {
        self.tenants
            .retain(|_, t| t.running > 0 || !t.waiting.is_empty());
        let tenants = &self.tenants;
        self.fair.forget(|tenant| !tenants.contains_key(tenant));
    }
}

fn signed(cost: u64) -> i64 {
    i64::try_from(cost).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
