//! What must survive the process: attempts, outcomes, kept tasks, dead letters.
//!
//! One thread owns the store and commits in groups: whatever was asked for while the last group was on its way to
//! the disk is the next one. Whoever asked waits for its commit. A commit that fails (a full disk) is tried again until
//! it succeeds; meanwhile nothing is acknowledged, so the broker keeps what comes. Must not know of flows.

pub mod dead_letters;
pub mod index;
pub mod record;

mod attempts;
mod checkpoints;
mod store;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tracing::error;

use crate::hardening;
use crate::journal::attempts::Attempts;
use crate::journal::index::{Index, Seen};
use crate::journal::record::{Attempted, Ended, Entry, Kept, Key};
use crate::journal::writer::{Command, Writer};
use crate::relay::Relay;

/// The file in a slot's folder.
pub const FILE: &str = "journal.sqlite";

/// What a record survives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// A killed process. A power cut may cost what the kernel had not written yet (on Linux up to 30 s of records), never
    /// the file.
    #[default]
    Process,
    /// A power cut too: every group waits for the disk.
    Power,
}

/// How much is kept, where, and how safely.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The slot's folder; in memory when there is none.
    pub folder: Option<PathBuf>,
    /// What a record survives.
    pub durability: Durability,
    /// How long an outcome is remembered.
    pub window: Duration,
    /// The most outcomes remembered; the oldest go first. About 100 bytes of memory each.
    pub max_outcomes: usize,
    /// The most bytes of recorded outcomes; the oldest go first.
    pub max_bytes: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            folder: None,
            durability: Durability::Process,
            window: Duration::from_secs(24 * 3600),
            max_outcomes: 1_000_000,
            max_bytes: 1 << 30,
        }
    }
}

/// What an earlier process left to be done.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Outcomes that the broker may not have.
    pub outbox: Vec<Ended>,
    /// Tasks that wait for their time or their next attempt.
    pub kept: Vec<Kept>,
}

/// Records, and remembers what ended. Clones share it.
#[derive(Clone)]
pub struct Journal {
    commands: mpsc::Sender<Command>,
    index: Arc<Mutex<Index>>,
    attempts: Arc<Attempts>,
    durable: bool,
}

/// Ends the journal's thread.
pub struct Closer(JoinHandle<()>);

impl Journal {
    /// Opens the store and reads it back. A file that cannot be read is set aside, and reported, never in the way of
    /// starting. What waits for a commit is told on the runtime that this is called on.
    ///
    /// # Errors
    ///
    /// When the file is of another format, or there is no room for one.
    ///
    /// # Panics
    ///
    /// When called outside of a tokio runtime.
    pub fn open(settings: Settings) -> Result<(Journal, Closer, Recovered)> {
        let index = Arc::new(Mutex::new(Index::default()));
        let durable = settings.folder.is_some();
        let attempts = Attempts::open(settings.folder.as_deref()).map(Arc::new)?;
        let answers = Relay::start();
        let (writer, recovered) = Writer::open(settings, index.clone(), attempts.clone(), answers)?;
        let (commands, queue) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || {
                hardening::step_back();
                writer.run(&queue);
            })
            .context("failed to start the journal's thread")?;
        let journal = Journal {
            commands,
            index,
            attempts,
            durable,
        };
        Ok((journal, Closer(thread), recovered))
    }

    /// Whether records survive the process at all.
    pub fn is_durable(&self) -> bool {
        self.durable
    }

    /// Records that an attempt begins; it is over when its task has ended, or is kept.
    pub async fn attempt(&self, attempted: Attempted) {
        let begun = millis(SystemTime::now());
        let mut reported = false;
        while let Err(why) = self.attempts.begin(attempted, begun) {
            if !std::mem::replace(&mut reported, true) {
                error!(error = format!("{why:#}"), "a task waits until it can");
            }
            tokio::time::sleep(writer::RETRY).await;
        }
    }

    /// Records that an attempt was broken off by this runner: it does not count.
    pub fn broken_off(&self, key: Key) {
        self.attempts.broken_off(key);
    }

    /// Keeps a whole task; resolves when that is committed, and its delivery may be acknowledged.
    pub fn keep(&self, kept: Kept) -> impl Future<Output = ()> + Send + use<> {
        self.write(Entry::Kept(Box::new(kept)))
    }

    /// Records how a task ended; resolves when that is committed, and may be published.
    pub fn ended(&self, ended: Arc<Ended>) -> impl Future<Output = ()> + Send + use<> {
        self.write(Entry::Ended(ended))
    }

    /// Records that the broker has a task's outcome. Nobody waits for that: lost, the outcome is published again.
    pub fn published(&self, key: Key) {
        self.note(Entry::Published(key));
    }

    /// What is known of a task that is not in hand.
    pub fn seen(&self, key: Key) -> Option<Seen> {
        let ended = lock(&self.index).seen(key);
        ended.or_else(|| self.attempts.died(key).map(Seen::Died))
    }

    /// The recorded outcome of a task.
    pub async fn outcome(&self, key: Key) -> Option<Ended> {
        let (answer, outcome) = oneshot::channel();
        self.commands.send(Command::Outcome(key, answer)).ok()?;
        outcome.await.ok().flatten()
    }

    /// Nobody waits for the commit.
    fn note(&self, entry: Entry) {
        let _ = self.commands.send(Command::Write(entry, None));
    }

    fn write(&self, entry: Entry) -> impl Future<Output = ()> + Send + use<> {
        let (done, committed) = oneshot::channel();
        let sent = self
            .commands
            .send(Command::Write(entry, Some(done)))
            .is_ok();
        async move {
            // A journal that is closed, or whose runtime is gone, answers nobody: whoever waits is about to be dropped, and
            // must not go on.
            if !sent || committed.await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Closer {
    /// Waits until everything asked for is committed. Every [`Journal`] must have been dropped.
    pub fn close(self) {
        let _ = self.0.join();
    }
}

/// The journals in a state folder, one for each slot of each group.
pub fn files(state: &Path) -> Result<Vec<PathBuf>> {
    let groups = std::fs::read_dir(state)
        .with_context(|| format!("failed to read the state folder {}", state.display()))?;
    let slots = groups.filter_map(|group| std::fs::read_dir(group.ok()?.path()).ok());
    let mut files: Vec<PathBuf> = slots
        .flatten()
        .filter_map(|slot| Some(slot.ok()?.path().join(FILE)))
        .filter(|file| file.exists())
        .collect();
    files.sort();
    Ok(files)
}

fn lock(index: &Mutex<Index>) -> MutexGuard<'_, Index> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Milliseconds since 1970.
fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests;
