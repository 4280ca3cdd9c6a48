//! Moves what is committed from SQLite's write-ahead log to its place, beside the commits instead of in them: a checkpoint
//! waits for the disk, 20 to 40 ms here.

use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tracing::debug;

use crate::hardening;
use crate::journal::store;

/// How often the log's size is looked at.
const EVERY: Duration = Duration::from_millis(200);
/// How long after a checkpoint. While more is committed the log stays large, and whoever writes waits for the disk too.
const REST: Duration = Duration::from_secs(1);
/// A log of so many bytes is worth a checkpoint. The writer makes one itself at [`store::CHECKPOINT_PAGES`].
const WORTH: u64 = 32 << 20;

/// Ends with its thread when dropped.
pub(super) struct Checkpoints {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    pub(super) fn start(file: PathBuf) -> Result<Checkpoints> {
        let (stop, stopped) = channel();
        let mut log = file.clone().into_os_string();
        log.push("-wal");
        let run = move || {
            hardening::step_back();
            let mut wait = EVERY;
            while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                let is_large = std::fs::metadata(&log).is_ok_and(|log| log.len() > WORTH);
                if is_large && let Err(why) = store::checkpoint(&file) {
                    debug!(error = format!("{why:#}"), "no checkpoint of the journal");
                }
                wait = if is_large { REST } else { EVERY };
            }
        };
        let thread = std::thread::Builder::new().name("checkpoints".to_owned());
        let thread = thread.spawn(run).context("failed to start a thread")?;
        Ok(Checkpoints {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
