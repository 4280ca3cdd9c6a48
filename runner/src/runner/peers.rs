//! Which tasks ended on other runners of the group: `dedupe = "group"`.
//!
//! A runner tells the others each task whose outcome the broker has, about when it acknowledges the delivery: 16 bytes a
//! task, up to [`BATCH`] of them or [`EVERY`] in one message. A task that another has ended is acknowledged and not run.
//! What is left open: a runner that dies within [`EVERY`] of an outcome's PUBACK has not told.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::envelope::Message;
use crate::journal::record::Key;
use crate::mqtt::Publisher;

const BATCH: usize = 512;
const EVERY: Duration = Duration::from_millis(10);
/// Bytes of a key.
const KEY: usize = 16;

/// What is heard from the others, and the way to tell them.
pub(super) struct Peers {
    topic: String,
    tell: mpsc::UnboundedSender<Key>,
    ended: Mutex<Ended>,
    max: usize,
    window: Duration,
}

#[derive(Default)]
struct Ended {
    keys: HashSet<Key>,
    order: VecDeque<(Key, Instant)>,
}

impl Peers {
    /// Remembers `max` tasks at most, and none longer than `window`; what is told goes out on `publisher`.
    pub(super) fn new(topic: String, publisher: Publisher, max: usize, window: Duration) -> Peers {
        let (tell, told) = mpsc::unbounded_channel();
        tokio::spawn(publish(told, publisher, topic.clone()));
        Peers {
            topic,
            tell,
            ended: Mutex::default(),
            max,
            window,
        }
    }

    /// Where runners tell each other.
    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// A task ended here.
    pub(super) fn tell(&self, key: Key) {
        let _ = self.tell.send(key);
    }

    /// Tasks ended elsewhere (or here: what a runner tells it hears too, and knows already).
    pub(super) fn hear(&self, payload: &[u8]) {
        let (mut ended, now) = (self.lock(), Instant::now());
        for key in payload.chunks_exact(KEY).filter_map(Key::from_bytes) {
            if ended.keys.insert(key) {
                ended.order.push_back((key, now));
            }
        }
        self.forget(&mut ended);
    }

    fn forget(&self, ended: &mut Ended) {
        while let Some((oldest, at)) = ended.order.front().copied() {
            if ended.order.len() <= self.max && at.elapsed() < self.window {
                break;
            }
            ended.order.pop_front();
            ended.keys.remove(&oldest);
        }
    }

    /// Whether a task ended on any runner that was heard.
    pub(super) fn ended(&self, key: Key) -> bool {
        let mut ended = self.lock();
        self.forget(&mut ended);
        ended.keys.contains(&key)
    }

    fn lock(&self) -> MutexGuard<'_, Ended> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Collects and publishes until nobody can tell any more.
async fn publish(mut told: mpsc::UnboundedReceiver<Key>, publisher: Publisher, topic: String) {
    while let Some(first) = told.recv().await {
        let mut batch = first.bytes().to_vec();
        let end = Instant::now() + EVERY;
        while batch.len() < BATCH * KEY {
            match timeout_at(end, told.recv()).await {
                Ok(Some(key)) => batch.extend_from_slice(key.bytes()),
                _ => break,
            }
        }
        // Queued, and sent again until it is acknowledged; the next batch need not wait for that.
        drop(publisher.publish(Message::new(topic.clone(), batch)));
    }
}
