//! Moves what is committed from SQLite's write-ahead log to its place, beside the commits instead of in them: a checkpoint
//! waits for the disk, 20 to 40 ms here.

use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use tracing::debug;

use crate::hardening;
use crate::journal::store;

/// So many bytes of records are worth a checkpoint: more often, its waits for the disk are everybody's who writes. The
/// writer makes one itself at [`store::CHECKPOINT_PAGES`].
const WORTH: usize = 32 << 20;

/// Ends with its thread when dropped.
pub(super) struct Checkpoints {
    due: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Bytes of records since the last one.
    bytes: usize,
}

impl Checkpoints {
    pub(super) fn start(file: PathBuf) -> Result<Checkpoints> {
        let (due, wanted) = channel();
        let run = move || {
            hardening::step_back();
            while wanted.recv().is_ok() {
                if let Err(why) = store::checkpoint(&file) {
                    debug!(error = format!("{why:#}"), "no checkpoint of the journal");
                }
            }
        };
        let thread = std::thread::Builder::new().name("checkpoints".to_owned());
        let thread = thread.spawn(run).context("failed to start a thread")?;
        Ok(Checkpoints {
            due: Some(due),
            thread: Some(thread),
            bytes: 0,
        })
    }

    /// So many bytes of records were committed.
    pub(super) fn committed(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes > WORTH
            && let Some(due) = &self.due
        {
            self.bytes = 0;
            let _ = due.send(());
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.due.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
