//! The right to run: so many guests at one time, so much memory in all, in the order of the schedule, within the quotas.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::quota::Quota;
use crate::schedule::{Room, Schedule, Share};
use crate::task::tenant::TenantId;
use crate::tenants::{OverQuota, TenantPolicy};

/// One of so many slots is for tenants of which nothing runs: who comes late finds one.
const RESERVED: usize = 8;
/// Quotas kept before those that are as good as new are forgotten: tenants that are not listed have a name each.
const FORGET_ABOVE: usize = 1024;

/// Hands out permits.
#[derive(Clone)]
pub(super) struct Permits(Arc<Mutex<State>>);

struct State {
    free_slots: usize,
    reserved: usize,
    free_memory: u64,
    schedule: Schedule<oneshot::Sender<Permit>>,
    /// Of tenants that have any.
    quotas: HashMap<TenantId, Quotas>,
    /// So many quotas, and those that can be are forgotten.
    forget_above: usize,
    /// When the next quota has room, and is looked at.
    alarm: Option<Instant>,
    closed: bool,
}

struct Quotas {
    quota: Quota,
    /// Tasks over it wait here; else they were rejected at the door, and wait only for fuel that was there then.
    waits: bool,
}

/// The right to run one guest; dropping it lets the next one run.
pub(super) struct Permit {
    permits: Permits,
    tenant: TenantId,
    memory_bytes: u64,
    charged: u64,
    fuel: Option<u64>,
}

impl Permit {
    /// What the guest has burnt.
    pub(super) fn burnt(&mut self, fuel: u64) {
        self.fuel = Some(fuel);
    }
}

impl Permits {
    pub(super) fn new(slots: usize, memory_bytes: u64) -> Permits {
        Permits(Arc::new(Mutex::new(State {
            free_slots: slots,
            reserved: slots / RESERVED,
            free_memory: memory_bytes,
            schedule: Schedule::default(),
            quotas: HashMap::new(),
            forget_above: FORGET_ABOVE,
            alarm: None,
            closed: false,
        })))
    }

    /// Lets a task in at the door, or says after which time it may come again. Where those over a quota wait, everybody
    /// comes in.
    pub(super) fn enter(&self, tenant: &TenantId, policy: &TenantPolicy) -> Result<(), Duration> {
        let now = Instant::now();
        let mut state = self.lock();
        match state.quota(tenant, policy, now) {
            Some(quotas) if !quotas.waits => match quotas.quota.wait(now) {
                Some(wait) => Err(wait),
                None => {
                    quotas.quota.start();
                    Ok(())
                }
            },
            _ => Ok(()),
        }
    }

    /// Waits for a permit; `None` when no more are given.
    pub(super) async fn acquire(
        &self,
        tenant: &TenantId,
        policy: &TenantPolicy,
        priority: u8,
        memory_bytes: u64,
    ) -> Option<Permit> {
        let (give, permit) = oneshot::channel();
        {
            let mut state = self.lock();
            if state.closed {
                return None;
            }
            state.quota(tenant, policy, Instant::now());
            let share = Share {
                weight: policy.weight,
                slots: policy.concurrency,
            };
            let priority = priority.min(policy.max_priority);
            state
                .schedule
                .push(tenant, share, priority, memory_bytes, give);
        }
        self.dispatch();
        permit.await.ok()
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().schedule.len()
    }

    /// Gives no more permits: whoever waits is told at once.
    pub(super) fn close(&self) {
        let waiting = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.schedule)
        };
        drop(waiting);
    }

    fn dispatch(&self) {
        let now = Instant::now();
        let mut next: Option<Duration> = None;
        loop {
            let mut state = self.lock();
            let Some((permit, give)) = state.next(self, now, &mut next) else {
                break;
            };
            drop(state);
            // If nobody waits any more the permit comes back and is dropped here, which gives it back: so the
            // lock must be free.
            let _ = give.send(permit);
        }
        if let Some(wait) = next {
            self.look_again(now + wait);
        }
    }

    /// Dispatches again when a quota has room.
    fn look_again(&self, at: Instant) {
        let mut state = self.lock();
        if state.alarm.is_some_and(|alarm| alarm <= at) {
            return;
        }
        state.alarm = Some(at);
        let permits = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            tokio::time::sleep_until(at.into()).await;
            if let Some(permits) = permits.upgrade().map(Permits) {
                permits.lock().alarm.take_if(|alarm| *alarm == at);
                permits.dispatch();
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The quotas of a tenant, as its policy has them now.
    fn quota(
        &mut self,
        tenant: &TenantId,
        policy: &TenantPolicy,
        now: Instant,
    ) -> Option<&mut Quotas> {
        if policy.rate.is_none() && policy.budget.is_none() {
            self.quotas.remove(tenant);
            return None;
        }
        if self.quotas.len() > self.forget_above {
            self.quotas.retain(|_, quotas| !quotas.quota.is_full(now));
            // Else each task would look at all of them, when none can be.
            self.forget_above = FORGET_ABOVE.max(2 * self.quotas.len());
        }
        let entry = self.quotas.entry(tenant.clone());
        let quotas = entry.or_insert_with(|| Quotas {
            quota: Quota::default(),
            waits: true,
        });
        quotas.quota.follow(policy.rate, policy.budget, now);
        quotas.waits = policy.over_quota == OverQuota::Wait;
        Some(quotas)
    }

    /// The next task and its permit; `wait` is the shortest time after which one that is over its quota may go.
    fn next(
        &mut self,
        permits: &Permits,
        now: Instant,
        wait: &mut Option<Duration>,
    ) -> Option<(Permit, oneshot::Sender<Permit>)> {
        let room = Room {
            slots: self.free_slots,
            reserved: self.reserved,
            memory_bytes: self.free_memory,
        };
        let quotas = &mut self.quotas;
        let turn = self.schedule.pop(room, |tenant| {
            let over = match quotas.get_mut(tenant) {
                Some(quotas) if quotas.waits => quotas.quota.wait(now),
                Some(quotas) => quotas.quota.wait_for_fuel(now),
                None => None,
            };
            if let Some(over) = over {
                *wait = Some(wait.map_or(over, |wait| wait.min(over)));
            }
            over.is_none()
        })?;
        if let Some(quotas) = self.quotas.get_mut(&turn.tenant).filter(|q| q.waits) {
            quotas.quota.start();
        }
        self.free_slots -= 1;
        self.free_memory -= turn.memory_bytes;
        let permit = Permit {
            permits: permits.clone(),
            tenant: turn.tenant,
            memory_bytes: turn.memory_bytes,
            charged: turn.charged,
            fuel: None,
        };
        Some((permit, turn.item))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        {
            let mut state = self.permits.lock();
            state.free_slots += 1;
            state.free_memory += self.memory_bytes;
            state.schedule.done(&self.tenant, self.charged, self.fuel);
            if let (Some(quotas), Some(fuel)) = (state.quotas.get_mut(&self.tenant), self.fuel) {
                quotas.quota.burn(fuel);
            }
        }
        self.permits.dispatch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> TenantPolicy {
        let table = crate::config::Config::default().tenant_table();
        let table = table.expect("a table");
        (*table.listed[&TenantId::default()]).clone()
    }

    #[tokio::test]
    async fn over_the_rate_tasks_wait_or_are_turned_away() {
        let permits = Permits::new(8, 100);
        let tenant = TenantId::default();
        let mut policy = policy();
        policy.rate = Some(crate::tenants::Rate {
            per_second: 20.0,
            burst: 1.0,
        });
        let begun = Instant::now();
        for _ in 0..3 {
            drop(
                permits
                    .acquire(&tenant, &policy, 0, 1)
                    .await
                    .expect("a permit"),
            );
        }
        assert!(begun.elapsed() >= Duration::from_millis(95));
        policy.over_quota = OverQuota::Reject;
        let turned_away = (0..3).filter(|_| permits.enter(&tenant, &policy).is_err());
        assert!(turned_away.count() >= 2);
        // Who is in has paid.
        drop(
            permits
                .acquire(&tenant, &policy, 0, 1)
                .await
                .expect("a permit"),
        );
    }

    /// Tasks that were let in together do not all run on the fuel that was there when they came.
    #[tokio::test]
    async fn the_budget_holds_for_those_that_are_in() {
        let permits = Permits::new(1, 100);
        let tenant = TenantId::default();
        let mut policy = policy();
        policy.over_quota = OverQuota::Reject;
        policy.budget = Some(crate::tenants::Budget {
            fuel: 1_000,
            window: Duration::from_secs(1),
        });
        for _ in 0..2 {
            assert_eq!(permits.enter(&tenant, &policy), Ok(()));
        }
        let mut first = permits
            .acquire(&tenant, &policy, 0, 1)
            .await
            .expect("a permit");
        first.burnt(1_200);
        drop(first);
        let begun = Instant::now();
        let second = permits.acquire(&tenant, &policy, 0, 1).await;
        assert!(second.is_some());
        assert!(begun.elapsed() >= Duration::from_millis(150));
    }

    #[tokio::test]
    async fn quotas_of_made_up_tenants_are_forgotten() {
        let permits = Permits::new(1, 100);
        let mut policy = policy();
        policy.rate = Some(crate::tenants::Rate {
            per_second: 1e6,
            burst: 1.0,
        });
        policy.over_quota = OverQuota::Reject;
        for number in 0..4 * FORGET_ABOVE {
            let tenant = TenantId::parse(&format!("t{number}")).expect("a tenant");
            let _ = permits.enter(&tenant, &policy);
        }
        let kept = permits.lock().quotas.len();
        assert!(kept <= 2 * FORGET_ABOVE, "{kept}");
    }

    #[tokio::test]
    async fn slots_and_memory_bound_what_runs() {
        let permits = Permits::new(2, 100);
        let (tenant, policy) = (TenantId::default(), policy());
        let first = permits
            .acquire(&tenant, &policy, 0, 60)
            .await
            .expect("a permit");
        let waiting = permits.acquire(&tenant, &policy, 0, 60);
        tokio::pin!(waiting);
        assert!(
            futures_poll(&mut waiting).await.is_none(),
            "60 more do not fit"
        );
        assert_eq!(permits.waiting(), 1);
        drop(first);
        let second = waiting.await.expect("a permit");
        let third = permits
            .acquire(&tenant, &policy, 0, 40)
            .await
            .expect("a permit");
        assert_eq!(permits.lock().free_slots, 0);
        drop((second, third));
        let state = permits.lock();
        assert_eq!((state.free_slots, state.free_memory), (2, 100));
    }

    #[tokio::test]
    async fn closing_tells_whoever_waits() {
        let permits = Permits::new(1, 100);
        let (tenant, policy) = (TenantId::default(), policy());
        let held = permits
            .acquire(&tenant, &policy, 0, 1)
            .await
            .expect("a permit");
        let waiting = permits.acquire(&tenant, &policy, 0, 1);
        tokio::pin!(waiting);
        assert!(futures_poll(&mut waiting).await.is_none());
        permits.close();
        assert!(waiting.await.is_none());
        drop(held);
        assert!(permits.acquire(&tenant, &policy, 0, 1).await.is_none());
    }

    /// What a future has now, without waiting.
    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
