//! Whose guest computes next: turns of a million units of fuel, between tenants by weight ([`Fair`]).
//!
//! There are as many turns as guests' threads. A guest computes only while it has one, and gives it up when it has burnt
//! its quantum, when the epochs stop it in a turn that is long, when it waits in a host call and when it ends. So a tenant
//! that comes late is served within a turn, however many guests of others compute.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::fair::Fair;
use crate::sandbox::YIELD_EVERY;
use crate::sandbox::cpu::CpuTimed;
use crate::task::tenant::TenantId;

/// Tenants remembered before those that are idle are forgotten.
const FORGET_ABOVE: usize = 256;

/// The turns of one sandbox.
pub(super) struct Turns(Mutex<State>);

struct State {
    free: usize,
    fair: Fair,
    tenants: HashMap<TenantId, Tenant>,
}

#[derive(Default)]
struct Tenant {
    waiting: VecDeque<Ticket>,
    computing: usize,
}

struct Ticket {
    given: Arc<AtomicBool>,
    waker: Waker,
}

impl Turns {
    pub(super) fn new(turns: usize) -> Turns {
        Turns(Mutex::new(State {
            free: turns,
            fair: Fair::default(),
            tenants: HashMap::new(),
        }))
    }

    /// A guest's future that computes only in its tenant's turns.
    pub(super) fn gate<F>(
        turns: Arc<Turns>,
        tenant: TenantId,
        weight: u32,
        fresh: Fresh,
        future: F,
    ) -> Gate<F> {
        Gate {
            turns,
            tenant,
            weight,
            yields: 0,
            charged: 0,
            fresh,
            place: Place::Away,
            future: CpuTimed::new(future),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A guest wants to compute: now, or when its ticket is called.
    fn take(&mut self, tenant: &TenantId, waker: &Waker) -> Place {
        let entry = self.tenants.entry(tenant.clone()).or_default();
        if entry.computing == 0 && entry.waiting.is_empty() {
            self.fair.enter(tenant);
        }
        if self.free > 0 {
            self.free -= 1;
            entry.computing += 1;
            self.fair.serve(tenant);
            return Place::Computing;
        }
        let given = Arc::new(AtomicBool::new(false));
        entry.waiting.push_back(Ticket {
            given: given.clone(),
            waker: waker.clone(),
        });
        Place::Waiting(given)
    }

    /// A guest gives up its turn: the next one has it.
    fn leave(&mut self, tenant: &TenantId) {
        if let Some(entry) = self.tenants.get_mut(tenant) {
            entry.computing -= 1;
            if entry.computing == 0 && entry.waiting.is_empty() {
                self.tenants.remove(tenant);
            }
        }
        if let Some(next) = self.next() {
            self.call(&next);
        } else {
            self.free += 1;
        }
        if self.fair.len() > FORGET_ABOVE {
            let tenants = &self.tenants;
            self.fair.forget(|tenant| !tenants.contains_key(tenant));
        }
    }

    /// The tenant whose turn it is among those that wait.
    fn next(&self) -> Option<TenantId> {
        let waiting = self.tenants.iter().filter(|(_, t)| !t.waiting.is_empty());
        let next = waiting.min_by_key(|(tenant, _)| self.fair.tag(tenant));
        next.map(|(tenant, _)| tenant.clone())
    }

    fn call(&mut self, tenant: &TenantId) {
        let Some(entry) = self.tenants.get_mut(tenant) else {
            return;
        };
        if let Some(ticket) = entry.waiting.pop_front() {
            entry.computing += 1;
            self.fair.serve(tenant);
            ticket.given.store(true, Ordering::Release);
            ticket.waker.wake();
        }
    }
}

/// Whether a turn has just begun: the epochs tick over guests that wait in line too, and the tick that such a guest finds
/// when its turn comes must not end that.
#[derive(Clone, Default)]
pub(super) struct Fresh(Arc<AtomicBool>);

impl Fresh {
    /// A tick; true when the turn has seen one before, and is to end. So wasm computes for two ticks at most.
    pub(super) fn tick(&self) -> bool {
        !self.0.swap(false, Ordering::Relaxed)
    }

    fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// See [`Turns::gate`].
pub(super) struct Gate<F> {
    turns: Arc<Turns>,
    tenant: TenantId,
    weight: u32,
    yields: u64,
    /// What the tenant was charged for this guest so far.
    charged: u64,
    fresh: Fresh,
    place: Place,
    future: CpuTimed<F>,
}

enum Place {
    /// Not begun, or in a host call.
    Away,
    /// Called when the flag is set.
    Waiting(Arc<AtomicBool>),
    Computing,
}

/// What a tenant was charged for one guest.
pub(super) struct Bill {
    turns: Arc<Turns>,
    tenant: TenantId,
    weight: u32,
    charged: u64,
}

impl Bill {
    /// The guest has ended, and burnt so much in all.
    pub(super) fn settle(self, fuel: u64) {
        let signed = |fuel| i64::try_from(fuel).unwrap_or(i64::MAX);
        let difference = signed(fuel) - signed(self.charged);
        let mut state = self.turns.lock();
        state.fair.charge(&self.tenant, self.weight, difference);
    }
}

impl<F> Gate<F> {
    /// What the guest was charged so far.
    pub(super) fn bill(&self) -> Bill {
        Bill {
            turns: self.turns.clone(),
            tenant: self.tenant.clone(),
            weight: self.weight,
            charged: self.charged,
        }
    }

    /// The processor's time that the guest had so far.
    pub(super) fn spent(&self) -> Duration {
        self.future.spent()
    }

    /// Charges what the guest has had and was not charged for: a quantum for each yield, and a unit for each nanosecond at
    /// least, as host calls take time and next to no fuel. [`Bill::settle`] gives back what was less than a quantum.
    fn charge(&mut self, state: &mut State) {
        let by_time = u64::try_from(self.spent().as_nanos()).unwrap_or(u64::MAX);
        let due = self.yields.saturating_mul(YIELD_EVERY).max(by_time);
        let more = due.saturating_sub(self.charged);
        self.charged += more;
        let more = i64::try_from(more).unwrap_or(i64::MAX);
        state.fair.charge(&self.tenant, self.weight, more);
    }
}

impl<F: Future> Future for Gate<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        match &self.place {
            Place::Computing => {}
            Place::Waiting(given) if given.load(Ordering::Acquire) => {
                self.place = Place::Computing;
            }
            Place::Waiting(_) => return Poll::Pending,
            Place::Away => {
                let place = self.turns.lock().take(&self.tenant, context.waker());
                self.place = place;
                if matches!(self.place, Place::Waiting(_)) {
                    return Poll::Pending;
                }
            }
        }
        let watched = Arc::new(Watched {
            woken: AtomicBool::new(false),
            waker: context.waker().clone(),
        });
        let waker = Waker::from(watched.clone());
        self.fresh.begin();
        let polled = Pin::new(&mut self.future).poll(&mut Context::from_waker(&waker));
        let turns = self.turns.clone();
        let mut state = turns.lock();
        if polled.is_pending() && watched.woken.load(Ordering::Relaxed) {
            // It goes on at once: it has burnt its quantum, or had its time.
            self.yields += 1;
            self.charge(&mut state);
            self.yielded(&mut state, context.waker());
        } else {
            self.charge(&mut state);
            self.place = Place::Away;
            state.leave(&self.tenant);
        }
        polled
    }
}

impl<F> Gate<F> {
    /// Stands in line again; if its tenant is still the one to be served, the turn stays.
    fn yielded(&mut self, state: &mut State, waker: &Waker) {
        let Some(next) = state.next() else { return };
        let ours = state.fair.tag(&self.tenant);
        // As far as the others it goes on: to change hands would only cost it half a turn of waiting.
        if next != self.tenant && ours <= state.fair.tag(&next) {
            return;
        }
        let given = Arc::new(AtomicBool::new(false));
        if let Some(entry) = state.tenants.get_mut(&self.tenant) {
            entry.waiting.push_back(Ticket {
                given: given.clone(),
                waker: waker.clone(),
            });
        }
        self.place = Place::Waiting(given);
        state.leave(&self.tenant);
    }
}

impl<F> Drop for Gate<F> {
    fn drop(&mut self) {
        let Place::Waiting(given) = &self.place else {
            if matches!(self.place, Place::Computing) {
                self.turns.lock().leave(&self.tenant);
            }
            return;
        };
        let mut state = self.turns.lock();
        if given.load(Ordering::Acquire) {
            return state.leave(&self.tenant);
        }
        if let Some(entry) = state.tenants.get_mut(&self.tenant) {
            entry
                .waiting
                .retain(|ticket| !Arc::ptr_eq(&ticket.given, given));
            if entry.computing == 0 && entry.waiting.is_empty() {
                state.tenants.remove(&self.tenant);
            }
        }
    }
}

/// A waker that tells whether it was used while the guest was polled: so it is when the guest yields.
struct Watched {
    woken: AtomicBool,
    waker: Waker,
}

impl Wake for Watched {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Relaxed);
        self.waker.wake_by_ref();
    }
}

#[cfg(test)]
mod tests;
