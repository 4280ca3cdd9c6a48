//! The attempts that have begun and not ended, in a file of slots: to record one costs one write into the file's cache,
//! no commit and nobody's wait. It survives a killed process; a power cut may cost what the kernel had not written yet,
//! so deaths that nobody counts, and never a task.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::journal::record::{Attempted, Key};
use crate::journal::store;

/// The file in a slot's folder.
const FILE: &str = "attempts";
/// Bytes of a slot: how many are used (0: it is free), then a [`Record`].
const SLOT: usize = 64;
/// Slots that the file grows by: a page, so that a full disk is met here and not at a record.
const GROWTH: usize = 4096 / SLOT;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    attempted: Attempted,
    /// Milliseconds since 1970.
    at: i64,
}

/// The attempts of one journal.
pub(super) struct Attempts {
    /// None when nothing outlives the process.
    file: Option<File>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    begun: HashMap<Key, (Record, usize)>,
    /// The next to be used first: what has ended stands in its slot until that is used again, and must not do so for long.
    free: VecDeque<usize>,
    slots: usize,
}

impl Attempts {
    /// Reads back what an earlier process left; what is no record is left out, and its slot free.
    pub(super) fn open(folder: Option<&Path>) -> Result<Attempts> {
        let Some(folder) = folder else {
            return Ok(Attempts {
                file: None,
                state: Mutex::default(),
            });
        };
        let path = folder.join(FILE);
        let context = || format!("failed to open {}", path.display());
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).with_context(context)?;
        let bytes = std::fs::read(&path).with_context(context)?;
        let mut state = State {
            slots: bytes.len() / SLOT,
            ..State::default()
        };
        for (slot, bytes) in bytes.chunks_exact(SLOT).enumerate() {
            let used = bytes.get(1..1 + usize::from(bytes[0]));
            let record = used.and_then(|used| store::decode::<Record>(used).ok());
            let unused = match record {
                None => Some(slot),
                Some(record) => match state.begun.get(&record.attempted.key) {
                    // What stands there from before.
                    Some((later, _)) if later.at > record.at => Some(slot),
                    _ => {
                        let before = state.begun.insert(record.attempted.key, (record, slot));
                        before.map(|(_, slot)| slot)
                    }
                },
            };
            state.free.extend(unused);
        }
        Ok(Attempts {
            file: Some(file),
            state: Mutex::new(state),
        })
    }

    /// An attempt begins. An error means that the file cannot grow.
    pub(super) fn begin(&self, attempted: Attempted, at: i64) -> Result<()> {
        let record = Record { attempted, at };
        let slot = {
            let mut state = self.lock();
            let before = state.begun.get(&attempted.key).map(|(_, slot)| *slot);
            match before.or_else(|| state.free.pop_front()) {
                Some(slot) => slot,
                None => self.grow(&mut state)?,
            }
        };
        let written = self.write(slot, &record);
        let mut state = self.lock();
        match written {
            Ok(()) => drop(state.begun.insert(attempted.key, (record, slot))),
            Err(_) if state.begun.contains_key(&attempted.key) => {}
            Err(_) => state.free.push_back(slot),
        }
        written
    }

    /// An attempt was broken off: it does not count, those before it do.
    pub(super) fn broken_off(&self, key: Key) {
        let before = self.lock().begun.get(&key).copied();
        match before {
            Some((mut record, slot)) if record.attempted.deaths > 0 => {
                record.attempted.deaths -= 1;
                record.attempted.attempt -= 1;
                if self.write(slot, &record).is_ok() {
                    self.lock().begun.insert(key, (record, slot));
                }
            }
            _ => self.forget(key),
        }
    }

    /// The task has ended, which is recorded and tells whoever reads the slot back that the attempt is over: its slot
    /// need not be written to.
    pub(super) fn ended(&self, key: Key) {
        let mut state = self.lock();
        if let Some((_, slot)) = state.begun.remove(&key) {
            state.free.push_back(slot);
        }
    }

    /// The task's attempt is over, and what is kept of it tells how often it was tried.
    pub(super) fn forget(&self, key: Key) {
        let Some((_, slot)) = self.lock().begun.remove(&key) else {
            return;
        };
        self.free(slot);
    }

    /// Forgets those that `keep` says no to, given when they began.
    pub(super) fn retain(&self, mut keep: impl FnMut(&Attempted, i64) -> bool) {
        let gone: Vec<usize> = {
            let mut state = self.lock();
            let begun = &mut state.begun;
            let gone = begun.extract_if(|_, (record, _)| !keep(&record.attempted, record.at));
            gone.map(|(_, (_, slot))| slot).collect()
        };
        for slot in gone {
            self.free(slot);
        }
    }

    /// The attempt of a task that is not in hand: its process died of it.
    pub(super) fn died(&self, key: Key) -> Option<Attempted> {
        let state = self.lock();
        state.begun.get(&key).map(|(record, _)| record.attempted)
    }

    /// A slot that cannot be written to is not used again by this process.
    fn free(&self, slot: usize) {
        let cleared = match &self.file {
            Some(file) => file.write_all_at(&[0], offset(slot)),
            None => Ok(()),
        };
        if cleared.is_ok() {
            self.lock().free.push_back(slot);
        }
    }

    fn grow(&self, state: &mut State) -> Result<usize> {
        if let Some(file) = &self.file {
            file.write_all_at(&[0; GROWTH * SLOT], offset(state.slots))
                .context("failed to make room for an attempt's record")?;
        }
        let first = state.slots;
        state.slots += GROWTH;
        state.free.extend(first + 1..state.slots);
        Ok(first)
    }

    fn write(&self, slot: usize, record: &Record) -> Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let encoded = store::encode(record)?;
        ensure!(
            encoded.len() < SLOT,
            "an attempt's record takes {} bytes, a slot has {SLOT}",
            encoded.len()
        );
        let mut bytes = [0; SLOT];
        bytes[0] = encoded.len() as u8;
        bytes[1..1 + encoded.len()].copy_from_slice(&encoded);
        file.write_all_at(&bytes, offset(slot))
            .context("failed to record an attempt")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn offset(slot: usize) -> u64 {
    (slot * SLOT) as u64
}
