//! Retained messages, in memory: rmqtt has the tree, but its own storage keeps nothing.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rmqtt::retain::{DefaultRetainStorage, RetainStorage};
use rmqtt::types::{Retain, TopicFilter, TopicName};
use rmqtt::utils::timestamp_millis;
use tracing::warn;

use super::held::matches;

/// Expired messages are not handed out; this often, in milliseconds, they are also freed.
const PURGE_MILLIS: i64 = 60_000;

pub(super) struct Retained {
    tree: DefaultRetainStorage,
    /// Topic filters of which nothing is retained.
    never: Vec<String>,
    purged: AtomicI64,
}

impl Retained {
    pub(super) fn new(never: Vec<String>) -> Retained {
        Retained {
            tree: DefaultRetainStorage::new(),
            never,
            purged: AtomicI64::new(timestamp_millis()),
        }
    }
}

#[async_trait]
impl RetainStorage for Retained {
    fn enable(&self) -> bool {
        true
    }

    /// An empty payload clears the topic.
    async fn set(
        &self,
        topic: &TopicName,
        retain: Retain,
        expiry: Option<Duration>,
    ) -> rmqtt::Result<()> {
        if self.never.iter().any(|filter| matches(filter, topic)) {
            warn!(%topic, "not retained: every new subscriber would run it again");
            return Ok(());
        }
        let now = timestamp_millis();
        if now - self.purged.load(Ordering::Relaxed) > PURGE_MILLIS {
            self.purged.store(now, Ordering::Relaxed);
            self.tree.remove_expired_messages().await;
        }
        // No expiry arrives as zero, which the tree would take for "at once".
        self.tree
            .set_with_timeout(topic, retain, expiry.filter(|e| !e.is_zero()))
            .await
    }

    async fn get(&self, filter: &TopicFilter) -> rmqtt::Result<Vec<(TopicName, Retain)>> {
        self.tree.get_message(filter).await
    }

    async fn count(&self) -> isize {
        self.tree.count().await
    }

    async fn max(&self) -> isize {
        self.tree.max().await
    }
}
