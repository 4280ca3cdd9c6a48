//! Keys and values that outlive tasks, each tenant's apart: one SQLite file in the state folder.
//!
//! Owns the file and the quotas. It must not know who asks: the sandbox does, with the tenant it runs for. The runners of
//! one machine share the file; without a state folder it is in memory, and each process has its own.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use tracing::error;

use crate::grants;

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 1024;
/// Keys in one page of a list.
const PAGE: usize = 100;
/// Keys, and bytes of values, in one batch.
const MAX_BATCH: usize = 100;
const MAX_BATCH_BYTES: usize = 1 << 20;
/// How long another process may hold the file.
const BUSY: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS entry (
        tenant TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (tenant, key)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS usage (
        tenant TEXT PRIMARY KEY NOT NULL, keys INTEGER NOT NULL, bytes INTEGER NOT NULL
    ) WITHOUT ROWID;";

/// All tenants' keys and values. Clones share it; the file is opened by the first who asks.
#[derive(Clone, Default)]
pub struct Store(Arc<Shared>);

#[derive(Default)]
struct Shared {
    file: Option<PathBuf>,
    connection: Mutex<Option<Connection>>,
}

/// Why nothing was done, in words for the guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// A key and its value, if it is there.
pub type Found = Option<(String, Vec<u8>)>;

/// A page of keys, and where the next one begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In the order of their bytes.
    pub keys: Vec<String>,
    /// None behind the last page.
    pub next: Option<u64>,
}

impl Store {
    /// A store in a file, or in memory.
    pub fn new(file: Option<PathBuf>) -> Store {
        Store(Arc::new(Shared {
            file,
            connection: Mutex::default(),
        }))
    }

    /// Does something with a tenant's keys: all of it, or, with an error, nothing. On a thread that may block.
    pub async fn act<T: Send + 'static>(
        &self,
        tenant: String,
        quota: grants::KeyValue,
        work: impl FnOnce(&Space<'_>) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Refused> {
        let shared = self.0.clone();
        let done = tokio::task::spawn_blocking(move || shared.act(&tenant, quota, work)).await;
        done.unwrap_or_else(|died| Err(broken(&died)))
    }
}

impl Shared {
    fn act<T>(
        &self,
        tenant: &str,
        quota: grants::KeyValue,
        work: impl FnOnce(&Space<'_>) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let mut held = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut connection = match held.take() {
            Some(connection) => connection,
            None => open(self.file.as_deref()).map_err(|error| broken(&error))?,
        };
        let done = (|| {
            let transaction = connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(|error| broken(&error))?;
            let space = Space {
                transaction,
                tenant,
                quota,
            };
            let done = work(&space)?;
            space.transaction.commit().map_err(|error| broken(&error))?;
            Ok(done)
        })();
        *held = Some(connection);
        done
    }
}

fn open(file: Option<&Path>) -> rusqlite::Result<Connection> {
    let connection = match file {
        Some(file) => {
            // Tenants' values are nobody else's to read; what SQLite puts beside the file has its mode. That it cannot be
            // made, the next line says.
            let _ = OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(file);
            Connection::open(file)?
        }
        None => Connection::open_in_memory()?,
    };
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.execute_batch(SCHEMA)?;
    Ok(connection)
}

/// The operator is told what happened, the guest that something did.
fn broken(error: &dyn std::fmt::Display) -> Refused {
    error!(%error, "the key-value store failed");
    Refused("the store failed".to_owned())
}

/// One tenant's keys, in a transaction.
pub struct Space<'a> {
    transaction: Transaction<'a>,
    tenant: &'a str,
    quota: grants::KeyValue,
}

impl Space<'_> {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Refused> {
        let sql = "SELECT value FROM entry WHERE tenant = ?1 AND key = ?2";
        self.one(sql, key, |row| row.get(0))
    }

    /// Whether there is such a key.
    pub fn exists(&self, key: &str) -> Result<bool, Refused> {
        Ok(self.size(key)?.is_some())
    }

    /// Sets a key, within the quota.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), Refused> {
        let quota = self.quota;
        let refused = |what: &str, most: u64, got: u64| {
            Err(Refused(format!("{what}: at most {most}, got {got}")))
        };
        if key.len() > MAX_KEY_BYTES {
            return refused("bytes of a key", MAX_KEY_BYTES as u64, key.len() as u64);
        }
        let bytes = value.len() as u64;
        if bytes > quota.max_value_bytes {
            return refused("bytes of a value", quota.max_value_bytes, bytes);
        }
        let (held_keys, held_bytes) = self.usage()?;
        let before = self.size(key)?;
        let keys = held_keys + u64::from(before.is_none());
        let bytes = held_bytes - before.unwrap_or(0) + key.len() as u64 + bytes;
        if keys > quota.max_keys && before.is_none() {
            return refused("keys of the tenant", quota.max_keys, keys);
        }
        // What shrinks is let through also when the quota was lowered since.
        if bytes > quota.max_bytes && bytes > held_bytes {
            return refused("bytes of the tenant", quota.max_bytes, bytes);
        }
        self.write(
            "INSERT INTO entry (tenant, key, value) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET value = ?3",
            params![self.tenant, key, value],
        )?;
        self.set_usage(keys, bytes)
    }

    /// Removes a key, if it is there.
    pub fn delete(&self, key: &str) -> Result<(), Refused> {
        let Some(size) = self.size(key)? else {
            return Ok(());
        };
        let (keys, bytes) = self.usage()?;
        let sql = "DELETE FROM entry WHERE tenant = ?1 AND key = ?2";
        self.write(sql, params![self.tenant, key])?;
        self.set_usage(keys.saturating_sub(1), bytes.saturating_sub(size))
    }

    /// A page of keys, from the `cursor`th on.
    pub fn keys(&self, cursor: Option<u64>) -> Result<Page, Refused> {
        let from = i64::try_from(cursor.unwrap_or(0)).unwrap_or(i64::MAX);
        let sql = "SELECT key FROM entry WHERE tenant = ?1 ORDER BY key LIMIT ?2 OFFSET ?3";
        let keys = (|| {
            let mut found = self.transaction.prepare_cached(sql)?;
            let keys =
                found.query_map(params![self.tenant, PAGE as i64, from], |row| row.get(0))?;
            keys.collect::<rusqlite::Result<Vec<String>>>()
        })();
        let keys = keys.map_err(|error| broken(&error))?;
        let next = (keys.len() == PAGE).then_some(from as u64 + PAGE as u64);
        Ok(Page { keys, next })
    }

    /// Adds to a decimal number, which is 0 when there is none; what it is then.
    pub fn increment(&self, key: &str, delta: u64) -> Result<u64, Refused> {
        let number = match self.get(key)? {
            None => 0,
            Some(value) => std::str::from_utf8(&value)
                .ok()
                .and_then(|text| text.parse::<u64>().ok())
                .ok_or_else(|| Refused("the value is no decimal number".to_owned()))?,
        };
        let sum = number
            .checked_add(delta)
            .ok_or_else(|| Refused("the sum does not fit 64 bits".to_owned()))?;
        self.set(key, sum.to_string().as_bytes())?;
        Ok(sum)
    }

    /// The keys that are there, with their values.
    pub fn get_many(&self, keys: &[String]) -> Result<Vec<Found>, Refused> {
        batch(keys.len())?;
        let mut bytes = 0;
        let mut found = Vec::new();
        for key in keys {
            let value = self.get(key)?;
            bytes += value.as_ref().map_or(0, Vec::len);
            if bytes > MAX_BATCH_BYTES {
                return Err(Refused(format!(
                    "a batch has at most {MAX_BATCH_BYTES} bytes"
                )));
            }
            found.push(value.map(|value| (key.clone(), value)));
        }
        Ok(found)
    }

    /// Sets all of them, or, with an error, none.
    pub fn set_many(&self, pairs: &[(String, Vec<u8>)]) -> Result<(), Refused> {
        batch(pairs.len())?;
        pairs
            .iter()
            .try_for_each(|(key, value)| self.set(key, value))
    }

    /// Removes all of them.
    pub fn delete_many(&self, keys: &[String]) -> Result<(), Refused> {
        batch(keys.len())?;
        keys.iter().try_for_each(|key| self.delete(key))
    }

    fn size(&self, key: &str) -> Result<Option<u64>, Refused> {
        let sql = "SELECT length(CAST(key AS BLOB)) + length(value) FROM entry WHERE tenant = ?1 AND key = ?2";
        let size: Option<i64> = self.one(sql, key, |row| row.get(0))?;
        Ok(size.map(|size| size as u64))
    }

    fn usage(&self) -> Result<(u64, u64), Refused> {
        let sql = "SELECT keys, bytes FROM usage WHERE tenant = ?1";
        let usage = (|| {
            let mut found = self.transaction.prepare_cached(sql)?;
            let pair = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
            found.query_row(params![self.tenant], pair).optional()
        })();
        let (keys, bytes) = usage.map_err(|error| broken(&error))?.unwrap_or((0, 0));
        Ok((keys as u64, bytes as u64))
    }

    fn set_usage(&self, keys: u64, bytes: u64) -> Result<(), Refused> {
        self.write(
            "INSERT INTO usage (tenant, keys, bytes) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET keys = ?2, bytes = ?3",
            params![self.tenant, keys as i64, bytes as i64],
        )
    }

    fn one<T>(
        &self,
        sql: &str,
        key: &str,
        read: impl FnOnce(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, Refused> {
        let found = (|| {
            let mut found = self.transaction.prepare_cached(sql)?;
            found.query_row(params![self.tenant, key], read).optional()
        })();
        found.map_err(|error| broken(&error))
    }

    fn write(&self, sql: &str, values: impl rusqlite::Params) -> Result<(), Refused> {
        let written = self
            .transaction
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(values));
        written.map(drop).map_err(|error| broken(&error))
    }
}

fn batch(keys: usize) -> Result<(), Refused> {
    if keys > MAX_BATCH {
        return Err(Refused(format!(
            "a batch has at most {MAX_BATCH} keys, got {keys}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
