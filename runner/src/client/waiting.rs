//! Who waits to hear of which task, and what is subscribed for that alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::client::Update;
use crate::mqtt::Publisher;
use crate::task::TaskId;

/// Those who wait, by task.
pub(super) struct Waiting {
    publisher: Publisher,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    next: u64,
    /// The connection is over: nobody will hear anything any more.
    closed: bool,
    by_task: HashMap<TaskId, Entry>,
}

#[derive(Default)]
struct Entry {
    listeners: Vec<(u64, mpsc::UnboundedSender<Update>)>,
    /// Subscribed until the last listener leaves.
    topics: Vec<String>,
}

impl Waiting {
    pub(super) fn new(publisher: Publisher) -> Waiting {
        Waiting {
            publisher,
            entries: Mutex::default(),
        }
    }

    /// Hears of a task until dropped or until the task has ended. The topics, which the caller subscribes, are
    /// unsubscribed then.
    pub(super) fn listen(self: &Arc<Waiting>, id: &TaskId, topics: &[String]) -> Listener {
        let (sender, heard) = mpsc::unbounded_channel();
        let mut entries = self.lock();
        let number = entries.next;
        entries.next += 1;
        if !entries.closed {
            let entry = entries.by_task.entry(id.clone()).or_default();
            entry.listeners.push((number, sender));
            for topic in topics {
                if !entry.topics.contains(topic) {
                    entry.topics.push(topic.clone());
                }
            }
        }
        Listener {
            id: id.clone(),
            number,
            heard,
            waiting: self.clone(),
        }
    }

    /// Tells whoever waits; an outcome is the last that they hear. Of tasks that nobody waits for, or not any more,
    /// nothing is wanted: an outcome may come more than once.
    pub(super) fn tell(&self, id: &TaskId, update: &Update) {
        let mut entries = self.lock();
        let Some(entry) = entries.by_task.get(id) else {
            return;
        };
        for (_, listener) in &entry.listeners {
            // One that is just leaving.
            let _ = listener.send(update.clone());
        }
        if matches!(update, Update::Ended(_))
            && let Some(entry) = entries.by_task.remove(id)
        {
            self.unsubscribe(&entry);
        }
    }

    /// The connection is over.
    pub(super) fn close(&self) {
        let mut entries = self.lock();
        entries.closed = true;
        entries.by_task.clear();
    }

    fn leave(&self, id: &TaskId, number: u64) {
        let mut entries = self.lock();
        let Some(entry) = entries.by_task.get_mut(id) else {
            return;
        };
        entry.listeners.retain(|(other, _)| *other != number);
        if entry.listeners.is_empty()
            && let Some(entry) = entries.by_task.remove(id)
        {
            self.unsubscribe(&entry);
        }
    }

    /// Under the lock, so that it cannot overtake the subscription of whoever listens next.
    fn unsubscribe(&self, entry: &Entry) {
        for topic in &entry.topics {
            self.publisher.unsubscribe(topic);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears of one task.
pub(super) struct Listener {
    id: TaskId,
    number: u64,
    heard: mpsc::UnboundedReceiver<Update>,
    waiting: Arc<Waiting>,
}

impl Listener {
    pub(super) fn id(&self) -> &TaskId {
        &self.id
    }

    /// `None` after the outcome, or when the connection is over.
    pub(super) async fn hear(&mut self) -> Option<Update> {
        self.heard.recv().await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.waiting.leave(&self.id, self.number);
    }
}
