//! The dead letters in the journals of a state folder: read beside a running runner, or when there is none.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::journal;

/// A task that was given up.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// The task's tenant.
    pub tenant: String,
    /// The task's id.
    pub id: String,
    /// What was published on `task_dead_letter`.
    pub letter: Value,
}

/// Every dead letter in a state folder, oldest first within each slot.
pub fn list(state: &Path) -> Result<Vec<DeadLetter>> {
    let mut letters = Vec::new();
    for file in journal::files(state)? {
        let context = || format!("failed to read {}", file.display());
        let connection = open(&file).with_context(context)?;
        letters.extend(read(&connection).with_context(context)?);
    }
    Ok(letters)
}

/// Forgets a task's dead letter, or all of them; how many there were.
pub fn remove(state: &Path, task: Option<(&str, &str)>) -> Result<usize> {
    let mut removed = 0;
    for file in journal::files(state)? {
        let connection = open(&file)?;
        let gone = match task {
            None => connection.execute("DELETE FROM dead_letter", []),
            Some((tenant, id)) => connection.execute(
                "DELETE FROM dead_letter WHERE tenant = ? AND id = ?",
                [tenant, id],
            ),
        };
        removed += gone.with_context(|| format!("failed to change {}", file.display()))?;
    }
    Ok(removed)
}

fn read(connection: &Connection) -> Result<Vec<DeadLetter>> {
    let mut select =
        connection.prepare("SELECT tenant, id, letter FROM dead_letter ORDER BY number")?;
    let rows = select.query_map([], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get::<_, Vec<u8>>(2)?))
    })?;
    let letter = |row: rusqlite::Result<(String, String, Vec<u8>)>| {
        let (tenant, id, letter) = row?;
        let letter = serde_json::from_slice(&letter)
            .with_context(|| format!("the dead letter of {id} is damaged"))?;
        Ok(DeadLetter { tenant, id, letter })
    };
    rows.map(letter).collect()
}

/// A runner may be writing: it is waited for.
fn open(file: &Path) -> Result<Connection> {
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(connection)
}
