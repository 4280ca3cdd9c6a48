//! Whose turn it is, by a key: one at a time for each, in the order of asking.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// So many keys are kept before those that nobody waits for are dropped.
const PRUNED_AT: usize = 64;

pub(super) struct Turns<K>(Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>);

/// A turn, until it is dropped.
pub(super) type Turn = OwnedMutexGuard<()>;

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Turns(Mutex::default())
    }
}

impl<K: Hash + Eq> Turns<K> {
    pub(super) async fn take(&self, key: K) -> Turn {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if turns.len() >= PRUNED_AT {
                turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            }
            turns.entry(key).or_default().clone()
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_for_each_key() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        let _other = turns.take("b").await;
        let second = tokio::time::timeout(Duration::from_millis(10), turns.take("a")).await;
        assert!(second.is_err(), "two turns of one key");
        drop(first);
        turns.take("a").await;
    }

    #[tokio::test]
    async fn keys_that_nobody_waits_for_are_dropped() {
        let turns = Turns::default();
        let held = turns.take(0).await;
        for key in 1..10 * PRUNED_AT {
            turns.take(key).await;
        }
        let kept = turns.0.lock().expect("not poisoned").len();
        assert!(kept <= PRUNED_AT, "{kept}");
        let again = tokio::time::timeout(Duration::from_millis(10), turns.take(0)).await;
        assert!(again.is_err(), "a held turn was dropped");
        drop(held);
    }
}
