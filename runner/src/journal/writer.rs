//! The journal's thread: takes what waits, commits it as one group, tells whoever waited.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::journal::attempts::Attempts;
use crate::journal::checkpoints::Checkpoints;
use crate::journal::index::Index;
use crate::journal::record::{Ended, Entry, Kept, Key};
use crate::journal::store::{self, Store};
use crate::journal::{FILE, Recovered, Settings, lock, millis};
use crate::relay::Relay;

/// The most entries, and about the most bytes, of one group.
const GROUP: usize = 1024;
const GROUP_BYTES: usize = 4 << 20;
/// How long until a commit that failed is tried again.
pub(super) const RETRY: Duration = Duration::from_millis(500);
/// How often a commit that goes on failing is reported.
const REPORT: Duration = Duration::from_secs(10);
/// A group of at least so many entries says that more are about to come: then the next one waits for them, a pause at a
/// time, until a pause brings fewer, and no longer than this.
/// Measured: 12,000 tasks a second else make 4,000 commits, each 35 us of CPU, and wake everybody as often.
const BUSY: usize = 4;
const PAUSE: Duration = Duration::from_micros(400);
const LINGER: Duration = Duration::from_millis(2);
/// How often the oldest records are looked at.
const PRUNE: Duration = Duration::from_secs(1);

pub(super) enum Command {
    /// Whoever waits is told when it is committed.
    Write(Entry, Option<oneshot::Sender<()>>),
    Outcome(Key, oneshot::Sender<Option<Ended>>),
}

/// What is committed together.
#[derive(Default)]
struct Group {
    entries: Vec<Entry>,
    waiters: Vec<oneshot::Sender<()>>,
    bytes: usize,
}

pub(super) struct Writer {
    settings: Settings,
    store: Store,
    index: Arc<Mutex<Index>>,
    attempts: Arc<Attempts>,
    /// Tells who waits for a commit.
    answers: Relay<()>,
    pruned: Instant,
    _checkpoints: Option<Checkpoints>,
}

impl Writer {
    /// Opens the store, setting a damaged one aside, and reads it back.
    pub(super) fn open(
        settings: Settings,
        index: Arc<Mutex<Index>>,
        attempts: Arc<Attempts>,
        answers: Relay<()>,
    ) -> Result<(Writer, Recovered)> {
        let file = settings.folder.as_ref().map(|folder| folder.join(FILE));
        let opened = Store::open(file.as_deref(), settings.durability)
            .and_then(|store| Ok((recover(&store, &index)?, store)));
        let (recovered, store) = match (opened, &file) {
            (Ok(opened), _) => opened,
            (Err(why), None) => return Err(why.context("failed to open a journal in memory")),
            (Err(why), Some(file)) if !store::is_damage(&why) => {
                return Err(why.context(format!("failed to open the journal {}", file.display())));
            }
            (Err(why), Some(file)) => {
                set_aside(file, &why)?;
                *lock(&index) = Index::default();
                let store = Store::open(Some(file), settings.durability)
                    .with_context(|| format!("failed to open the journal {}", file.display()))?;
                (Recovered::default(), store)
            }
        };
        let before = begun_before(&settings, millis(SystemTime::now()));
        forget_ended(&attempts, &lock(&index), &recovered.kept, before);
        let checkpoints = file.map(Checkpoints::start).transpose()?;
        let writer = Writer {
            settings,
            store,
            index,
            attempts,
            answers,
            pruned: Instant::now(),
            _checkpoints: checkpoints,
        };
        Ok((writer, recovered))
    }

    /// Until every [`super::Journal`] is dropped.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        let mut busy = false;
        while let Ok(first) = commands.recv() {
            let mut group = Group::default();
            self.take(first, &mut group);
            self.take_waiting(commands, &mut group);
            let begun = Instant::now();
            while busy && begun.elapsed() < LINGER {
                let before = group.entries.len();
                std::thread::sleep(PAUSE);
                self.take_waiting(commands, &mut group);
                busy = group.entries.len() >= before + BUSY;
            }
            busy = group.entries.len() >= BUSY;
            if !group.entries.is_empty() {
                self.commit(&group.entries);
                for done in group.waiters {
                    self.answers.answer(done, ());
                }
            }
        }
    }

    fn take_waiting(&self, commands: &Receiver<Command>, group: &mut Group) {
        while group.entries.len() < GROUP && group.bytes < GROUP_BYTES {
            let Ok(command) = commands.try_recv() else {
                return;
            };
            self.take(command, group);
        }
    }

    fn take(&self, command: Command, group: &mut Group) {
        match command {
            Command::Write(entry, done) => {
                group.bytes += entry.bytes();
                group.entries.push(entry);
                group.waiters.extend(done);
            }
            Command::Outcome(key, answer) => {
                let _ = answer.send(self.outcome(key));
            }
        }
    }

    /// Commits, however long it takes: what is not recorded must not go on.
    fn commit(&mut self, entries: &[Entry]) {
        let (number, at) = (lock(&self.index).next_group(), millis(SystemTime::now()));
        let forget = self.prune(at);
        let mut reported: Option<Instant> = None;
        let bytes = loop {
            let committed = logged(entries).and_then(|encoded| {
                self.store.commit(number, at, entries, &encoded, forget)?;
                Ok(encoded.len() as u64)
            });
            let why = match committed {
                Ok(bytes) => break bytes,
                Err(why) => why,
            };
            if let Some(file) = self.file().filter(|_| store::is_damage(&why)) {
                self.replace(&file, &why);
            }
            if reported.is_none_or(|at| at.elapsed() > REPORT) {
                reported = Some(Instant::now());
                error!(
                    error = format!("{why:#}"),
                    waiting = entries.len(),
                    "the journal cannot be written: tasks wait until it can"
                );
            }
            std::thread::sleep(RETRY);
        };
        if reported.is_some() {
            info!("the journal can be written again");
        }
        lock(&self.index).add(number, at, bytes, entries);
        for entry in entries {
            match entry {
                Entry::Ended(ended) => self.attempts.ended(ended.key),
                // What is kept says how many attempts there were.
                Entry::Kept(kept) => self.attempts.forget(kept.key),
                Entry::IsKept(_) | Entry::Published(_) => {}
            }
        }
    }

    fn prune(&mut self, now: i64) -> Option<i64> {
        if self.pruned.elapsed() < PRUNE {
            return None;
        }
        self.pruned = Instant::now();
        let before = begun_before(&self.settings, now);
        self.attempts.retain(|_, at| at >= before);
        lock(&self.index).prune(before, self.settings.max_outcomes, self.settings.max_bytes)
    }

    /// The file was damaged under our feet: go on with a new one. What was recorded before is known until the end of
    /// this process, but its outcomes cannot be read again.
    fn replace(&mut self, file: &Path, why: &anyhow::Error) {
        let opened =
            set_aside(file, why).and_then(|()| Store::open(Some(file), self.settings.durability));
        match opened {
            Ok(store) => self.store = store,
            Err(why) => error!(error = format!("{why:#}"), "failed to replace the journal"),
        }
    }

    fn outcome(&self, key: Key) -> Option<Ended> {
        let group = lock(&self.index).place(key)?;
        match self.store.group(group) {
            Ok(entries) => store::outcome_of(entries, key),
            Err(why) => {
                warn!(
                    error = format!("{why:#}"),
                    group, "failed to read an outcome from the journal"
                );
                None
            }
        }
    }

    fn file(&self) -> Option<PathBuf> {
        self.settings
            .folder
            .as_ref()
            .map(|folder| folder.join(FILE))
    }
}

/// The log's form of a group. Kept tasks stand in a table of their own.
fn logged(entries: &[Entry]) -> Result<Vec<u8>> {
    if !entries.iter().any(|entry| matches!(entry, Entry::Kept(_))) {
        return store::encode_about(entries, entries.iter().map(Entry::bytes).sum());
    }
    let short = |entry: &Entry| match entry {
        Entry::Kept(kept) => Entry::IsKept(kept.key),
        entry => entry.clone(),
    };
    store::encode(&entries.iter().map(short).collect::<Vec<_>>())
}

/// Reads the log back into the index, and collects what is left to be done.
fn recover(store: &Store, index: &Mutex<Index>) -> Result<Recovered> {
    let mut index = lock(index);
    let mut unreadable = 0;
    store.groups(|group| match store::decode::<Vec<Entry>>(&group.entries) {
        Ok(entries) => index.add(group.number, group.at, group.entries.len() as u64, &entries),
        Err(_) => unreadable += 1,
    })?;
    let (kept, unreadable_tasks) = store.kept()?;
    if unreadable + unreadable_tasks > 0 {
        error!(
            groups = unreadable,
            tasks = unreadable_tasks,
            "records of the journal cannot be read, and are left out"
        );
    }
    let mut outbox = Vec::new();
    for key in index.unpublished() {
        if let Some(group) = index.place(key) {
            outbox.extend(store::outcome_of(store.group(group)?, key));
        }
    }
    Ok(Recovered { outbox, kept })
}

/// What is older is forgotten, in milliseconds since 1970.
fn begun_before(settings: &Settings, now: i64) -> i64 {
    let window = i64::try_from(settings.window.as_millis()).unwrap_or(i64::MAX);
    now.saturating_sub(window)
}

/// Forgets attempts that were over when the process died: those of tasks that have ended stand in their slots until
/// another attempt needs them, and are a few among the last.
fn forget_ended(attempts: &Attempts, index: &Index, kept: &[Kept], before: i64) {
    let last = |kept: &Kept| kept.attempts.last().map_or(0, |last| last.attempt);
    let kept: HashMap<Key, u32> = kept.iter().map(|kept| (kept.key, last(kept))).collect();
    attempts.retain(|attempted, at| {
        let over = kept.get(&attempted.key);
        at >= before
            && index.place(attempted.key).is_none()
            && over.is_none_or(|last| attempted.attempt > *last)
    });
}

/// Moves a file that cannot be used out of the way, with what belongs to it.
fn set_aside(file: &Path, why: &anyhow::Error) -> Result<()> {
    let now = millis(SystemTime::now());
    let mut aside = file.as_os_str().to_owned();
    aside.push(format!(".damaged-{now}"));
    let aside = PathBuf::from(aside);
    std::fs::rename(file, &aside)
        .with_context(|| format!("failed to set the journal {} aside", file.display()))?;
    for suffix in ["-wal", "-shm"] {
        let with = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        match std::fs::rename(with(file), with(&aside)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context("failed to set the journal aside");
            }
            _ => {}
        }
    }
    error!(error = format!("{why:#}"), aside = %aside.display(), "the journal cannot be read and was set aside: what it remembered and kept is lost, what the broker has is not");
    Ok(())
}
