//! The right to run: so many guests at one time, so much memory in all, in the order of the schedule.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::schedule::Schedule;
use crate::task::tenant::TenantId;

/// Hands out permits.
#[derive(Clone)]
pub(super) struct Permits(Arc<Mutex<State>>);

struct State {
    free_slots: usize,
    free_memory: u64,
    schedule: Schedule<(u64, oneshot::Sender<Permit>)>,
    closed: bool,
}

/// The right to run one guest; dropping it lets the next one run.
pub(super) struct Permit {
    permits: Permits,
    memory_bytes: u64,
}

impl Permits {
    pub(super) fn new(slots: usize, memory_bytes: u64) -> Permits {
        Permits(Arc::new(Mutex::new(State {
            free_slots: slots,
            free_memory: memory_bytes,
            schedule: Schedule::default(),
            closed: false,
        })))
    }

    /// Waits for a permit; `None` when no more are given.
    pub(super) async fn acquire(
        &self,
        tenant: &TenantId,
        priority: u8,
        memory_bytes: u64,
    ) -> Option<Permit> {
        let (give, permit) = oneshot::channel();
        {
            let mut state = self.lock();
            if state.closed {
                return None;
            }
            state
                .schedule
                .push(tenant, priority, memory_bytes, (memory_bytes, give));
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
        loop {
            let mut state = self.lock();
            let fits = state
                .schedule
                .next_memory()
                .is_some_and(|memory| memory <= state.free_memory);
            if state.free_slots == 0 || !fits {
                return;
            }
            let Some((memory_bytes, give)) = state.schedule.pop() else {
                return;
            };
            state.free_slots -= 1;
            state.free_memory -= memory_bytes;
            drop(state);
            // If nobody waits any more the permit comes back and is dropped here, which gives it back: so the
            // lock must be free.
            let _ = give.send(Permit {
                permits: self.clone(),
                memory_bytes,
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        {
            let mut state = self.permits.lock();
            state.free_slots += 1;
            state.free_memory += self.memory_bytes;
        }
        self.permits.dispatch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slots_and_memory_bound_what_runs() {
        let permits = Permits::new(2, 100);
        let tenant = TenantId::default();
        let first = permits.acquire(&tenant, 0, 60).await.expect("a permit");
        let waiting = permits.acquire(&tenant, 0, 60);
        tokio::pin!(waiting);
        assert!(
            futures_poll(&mut waiting).await.is_none(),
            "60 more do not fit"
        );
        assert_eq!(permits.waiting(), 1);
        drop(first);
        let second = waiting.await.expect("a permit");
        let third = permits.acquire(&tenant, 0, 40).await.expect("a permit");
        assert_eq!(permits.lock().free_slots, 0);
        drop((second, third));
        let state = permits.lock();
        assert_eq!((state.free_slots, state.free_memory), (2, 100));
    }

    #[tokio::test]
    async fn closing_tells_whoever_waits() {
        let permits = Permits::new(1, 100);
        let tenant = TenantId::default();
        let held = permits.acquire(&tenant, 0, 1).await.expect("a permit");
        let waiting = permits.acquire(&tenant, 0, 1);
        tokio::pin!(waiting);
        assert!(futures_poll(&mut waiting).await.is_none());
        permits.close();
        assert!(waiting.await.is_none());
        drop(held);
        assert!(permits.acquire(&tenant, 0, 1).await.is_none());
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
