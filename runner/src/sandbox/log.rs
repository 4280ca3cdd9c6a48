//! A guest's log and progress, on their way out; the log has a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The log that one task may write, in bytes.
pub const LOG_BYTES: usize = 64 << 10;
/// What a line costs of that besides its own bytes: else empty lines would be free, and each is a message.
const LINE_BYTES: usize = 64;

/// Hears what a guest says while it runs. Called on the guest's thread: must not block.
pub trait GuestEvents: Send + Sync {
    /// A line of its log; `source` is `log`, `stdout` or `stderr`.
    fn log(&self, level: &'static str, source: &'static str, message: &str);
    /// How far it is.
    fn progress(&self, done: u64, total: u64, message: &str);
    /// Whether somebody asked for the task to be canceled.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// A task's log, up to its bound.
pub(super) struct LogSink {
    events: Option<Arc<dyn GuestEvents>>,
    left: AtomicUsize,
    cut: AtomicBool,
}

impl LogSink {
    pub(super) fn new(events: Option<Arc<dyn GuestEvents>>) -> Arc<LogSink> {
        Arc::new(LogSink {
            events,
            left: AtomicUsize::new(LOG_BYTES),
            cut: AtomicBool::new(false),
        })
    }

    /// Whether anything more would be dropped anyway.
    pub(super) fn is_full(&self) -> bool {
        self.events.is_none() || self.cut.load(Ordering::Relaxed)
    }

    pub(super) fn line(&self, level: &'static str, source: &'static str, message: &str) {
        let Some(events) = self.events.as_ref().filter(|_| !self.is_full()) else {
            return;
        };
        // One guest runs on one thread at a time: no other writer comes between.
        let left = self.left.load(Ordering::Relaxed);
        let cost = message.len() + LINE_BYTES;
        if cost > left {
            self.cut.store(true, Ordering::Relaxed);
            let note = format!("the log ends here: a task may write {LOG_BYTES} bytes of it");
            return events.log("warn", "log", &note);
        }
        self.left.store(left - cost, Ordering::Relaxed);
        events.log(level, source, message);
    }
}
