//! A guest's log and progress, on their way out; the log has a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::grants::Grants;

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
    /// For the secrets in it, which are not to be in a log.
    grants: Arc<Grants>,
    left: AtomicUsize,
    cut: AtomicBool,
}

impl LogSink {
    pub(super) fn new(events: Option<Arc<dyn GuestEvents>>, grants: Arc<Grants>) -> Arc<LogSink> {
        Arc::new(LogSink {
            events,
            grants,
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
        let redacted = self.grants.redact(message);
        let message = redacted.as_deref().unwrap_or(message);
        let cost = message.len() + LINE_BYTES;
        // The guest is not the only writer: a request that fails is logged when it does.
        let spend = |left: usize| left.checked_sub(cost);
        let relaxed = Ordering::Relaxed;
        if self.left.fetch_update(relaxed, relaxed, spend).is_err() {
            if !self.cut.swap(true, Ordering::Relaxed) {
                let note = format!("the log ends here: a task may write {LOG_BYTES} bytes of it");
                events.log("warn", "log", &note);
            }
            return;
        }
        events.log(level, source, message);
    }
}
