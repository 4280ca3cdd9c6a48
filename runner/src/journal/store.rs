//! The journal's SQLite file: groups of the log, kept tasks, dead letters.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rusqlite::{Connection, OpenFlags, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use crate::journal::Durability;
use crate::journal::record::{Entry, FORMAT, Kept, Key};

/// The dead letters remembered; the oldest go first.
const MAX_DEAD_LETTERS: i64 = 10_000;
/// Pages of the write-ahead log before a commit writes them to their places: 128 MiB. Long before, a thread of its own
/// does.
pub(super) const CHECKPOINT_PAGES: i64 = 32768;
/// What is left of the log's file when all of it is in its place, in bytes.
const LOG_LIMIT: i64 = 16 << 20;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS log (number INTEGER PRIMARY KEY, at INTEGER NOT NULL, entries BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS kept (key BLOB PRIMARY KEY, task BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS dead_letter (number INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL,
        tenant TEXT NOT NULL, id TEXT NOT NULL, letter BLOB NOT NULL);
";

pub(super) struct Store {
    connection: Connection,
    /// The keys of the kept tasks, so that an outcome of another one costs no look at their table.
    kept: HashSet<Key>,
}

/// A group of the log as it is stored.
pub(super) struct Group {
    pub(super) number: i64,
    pub(super) at: i64,
    pub(super) entries: Vec<u8>,
}

impl Store {
    /// Opens or makes the file, and checks it.
    pub(super) fn open(file: Option<&Path>, durability: Durability) -> Result<Store> {
        let connection = match file {
            Some(file) => Connection::open(file),
            None => Connection::open_in_memory(),
        };
        let connection = connection.context("failed to open the file")?;
        let synchronous = match durability {
            Durability::Process => "NORMAL",
            Durability::Power => "FULL",
        };
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        connection.pragma_update(None, "journal_size_limit", LOG_LIMIT)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        let sound: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if sound != "ok" {
            return Err(Damaged(format!("the file is damaged: {sound}")).into());
        }
        let format: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        // Not damage: whoever wrote it can read it, and it may hold tasks that nobody else has.
        ensure!(
            format == 0 || format == FORMAT,
            "the file's format is {format}, this version reads {FORMAT}: end its tasks with the version that wrote it, \
             or move it away"
        );
        // A file that is complete is not written to: the disk may be full.
        if format == 0 {
            connection.execute_batch(TABLES)?;
            connection.pragma_update(None, "user_version", FORMAT)?;
        }
        let mut select = connection.prepare("SELECT key FROM kept")?;
        let keys = select.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        let kept = keys.iter().filter_map(|key| Key::from_bytes(key)).collect();
        drop(select);
        Ok(Store { connection, kept })
    }

    /// Every group of the log, in order.
    pub(super) fn groups(&self, mut each: impl FnMut(Group)) -> Result<()> {
        let mut select = self
            .connection
            .prepare("SELECT number, at, entries FROM log ORDER BY number")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            each(Group {
                number: row.get(0)?,
                at: row.get(1)?,
                entries: row.get(2)?,
            });
        }
        Ok(())
    }

    /// One group's entries.
    pub(super) fn group(&self, number: i64) -> Result<Vec<Entry>> {
        let mut select = self
            .connection
            .prepare_cached("SELECT entries FROM log WHERE number = ?")?;
        let entries: Vec<u8> = select.query_row([number], |row| row.get(0))?;
        decode(&entries)
    }

    /// The kept tasks; those that cannot be read are counted.
    pub(super) fn kept(&self) -> Result<(Vec<Kept>, usize)> {
        let mut select = self.connection.prepare("SELECT task FROM kept")?;
        let rows = select.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
        let (mut kept, mut unreadable) = (Vec::new(), 0);
        for row in rows {
            match decode(&row?) {
                Ok(task) => kept.push(task),
                Err(why) => {
                    tracing::debug!(error = format!("{why:#}"), "a kept task cannot be read");
                    unreadable += 1;
                }
            }
        }
        Ok((kept, unreadable))
    }

    /// Commits a group, and forgets the groups up to `forget`.
    pub(super) fn commit(
        &mut self,
        number: i64,
        at: i64,
        entries: &[Entry],
        encoded: &[u8],
        forget: Option<i64>,
    ) -> Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT OR REPLACE INTO log (number, at, entries) VALUES (?, ?, ?)",
            )?;
            insert.execute(params![number, at, encoded])?;
            for entry in entries {
                match entry {
                    Entry::Kept(kept) => {
                        let mut keep = transaction.prepare_cached(
                            "INSERT OR REPLACE INTO kept (key, task) VALUES (?, ?)",
                        )?;
                        let task = encode(kept)?;
                        self.kept.insert(kept.key);
                        keep.execute(params![kept.key.bytes(), task])?;
                    }
                    Entry::Ended(ended) => {
                        if self.kept.contains(&ended.key) {
                            let mut drop =
                                transaction.prepare_cached("DELETE FROM kept WHERE key = ?")?;
                            drop.execute([ended.key.bytes()])?;
                        }
                        let letter = ended.dead_letter.map(usize::from);
                        if let Some(letter) = letter.and_then(|at| ended.messages.get(at)) {
                            let mut bury = transaction.prepare_cached(
                                "INSERT INTO dead_letter (at, tenant, id, letter) VALUES (?, ?, ?, ?)",
                            )?;
                            bury.execute(params![at, ended.tenant, ended.id, &letter.payload[..]])?;
                            let mut bound = transaction.prepare_cached(
                                "DELETE FROM dead_letter WHERE number <= (SELECT max(number) FROM dead_letter) - ?",
                            )?;
                            bound.execute([MAX_DEAD_LETTERS])?;
                        }
                    }
                    Entry::IsKept(_) | Entry::Published(_) => {}
                }
            }
            if let Some(last) = forget {
                let mut delete = transaction.prepare_cached("DELETE FROM log WHERE number <= ?")?;
                delete.execute([last])?;
            }
        }
        transaction.commit()?;
        // In order: a group may end a task and keep another of the same id.
        for entry in entries {
            match entry {
                Entry::Kept(kept) => drop(self.kept.insert(kept.key)),
                Entry::Ended(ended) => drop(self.kept.remove(&ended.key)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Moves what is committed to its place, as far as that goes without making the writer wait.
pub(super) fn checkpoint(file: &Path) -> Result<()> {
    // Not made anew, should it have been set aside just now.
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
    Ok(())
}

/// SQLite has no checksums: a bit that flips on the disk would be read as it is. So each blob bears its own, the
/// first bytes of its SHA-256.
const SUM: usize = 8;

pub(super) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    encode_about(value, 256)
}

/// Grown from nothing, a record of some words would be moved six times: so it begins with room for `about` so many bytes.
pub(super) fn encode_about<T: Serialize + ?Sized>(value: &T, about: usize) -> Result<Vec<u8>> {
    let room = Vec::with_capacity(about);
    let mut bytes = postcard::to_extend(value, room).context("failed to encode a record")?;
    let sum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&sum[..SUM]);
    Ok(bytes)
}

pub(super) fn decode<T: DeserializeOwned>(stored: &[u8]) -> Result<T> {
    let at = stored
        .len()
        .checked_sub(SUM)
        .context("a record is cut off")?;
    let (bytes, sum) = stored.split_at(at);
    ensure!(Sha256::digest(bytes)[..SUM] == *sum, "a record is damaged");
    postcard::from_bytes(bytes).context("failed to decode a record")
}

/// A file that is no use.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Damaged(String);

/// Whether an error says that the file itself is of no use.
pub(super) fn is_damage(error: &anyhow::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    if error.is::<Damaged>() {
        return true;
    }
    let code = error
        .downcast_ref::<rusqlite::Error>()
        .and_then(rusqlite::Error::sqlite_error_code);
    matches!(code, Some(DatabaseCorrupt | NotADatabase))
}

/// The recorded outcome among a group's entries.
pub(super) fn outcome_of(entries: Vec<Entry>, key: Key) -> Option<crate::journal::record::Ended> {
    entries.into_iter().rev().find_map(|entry| match entry {
        Entry::Ended(ended) if ended.key == key => Some(std::sync::Arc::unwrap_or_clone(ended)),
        _ => None,
    })
}
