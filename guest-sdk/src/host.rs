//! What the runner offers to a guest: a log, progress, cancellation and the fuel gauge.
//!
//! A call costs fuel: 500 units, and one for each byte of text. On the host, where there is no runner, text
//! goes to stderr.

#[cfg(target_family = "wasm")]
use crate::bindings::wasmqtt::task::host;

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Step by step detail.
    Trace,
    /// For whoever debugs the guest.
    Debug,
    /// What happened.
    Info,
    /// Something odd that did not stop the task.
    Warn,
    /// Something that went wrong.
    Error,
}

/// Writes a line to the task's log. The macros [`trace!`](crate::trace!) to [`error!`](crate::error!) format one.
///
/// A task may write 64 KiB of log in all, stdout and stderr included; what is beyond is dropped.
pub fn log(level: Level, message: &str) {
    #[cfg(target_family = "wasm")]
    host::log(
        match level {
            Level::Trace => host::Level::Trace,
            Level::Debug => host::Level::Debug,
            Level::Info => host::Level::Info,
            Level::Warn => host::Level::Warn,
            Level::Error => host::Level::Error,
        },
        message,
    );
    #[cfg(not(target_family = "wasm"))]
    eprintln!("{level:?}: {message}");
}

/// Says how far the task is: `done` of `total` steps of any unit (`total` 0 when it is not known), and in a
/// word what it is doing.
///
/// It is published when the task asks for `events`, at most once in 100 ms; the last one of a burst may be
/// left out.
///
/// ```
/// let rows = ["a", "b", "c"];
/// for (done, row) in rows.iter().enumerate() {
///     wasmqtt_guest::progress(done as u64, rows.len() as u64, row);
/// }
/// ```
pub fn progress(done: u64, total: u64, message: &str) {
    #[cfg(target_family = "wasm")]
    host::progress(done, total, message);
    #[cfg(not(target_family = "wasm"))]
    eprintln!("progress: {done} of {total}: {message}");
}

/// True when somebody asked for this task to be canceled. A guest that asks may tidy up and return; one that
/// does not is stopped.
#[must_use]
pub fn is_cancelled() -> bool {
    #[cfg(target_family = "wasm")]
    return host::is_cancelled();
    #[cfg(not(target_family = "wasm"))]
    false
}

/// The fuel that is left, in wasmtime's units: about one for each wasm instruction.
#[must_use]
pub fn fuel_remaining() -> u64 {
    #[cfg(target_family = "wasm")]
    return host::fuel_remaining();
    #[cfg(not(target_family = "wasm"))]
    u64::MAX
}

/// Logs a formatted line: step by step detail.
///
/// ```
/// wasmqtt_guest::trace!("row {} of {}", 1, 3);
/// ```
#[macro_export]
macro_rules! trace {
    ($($arg:tt)+) => { $crate::log($crate::Level::Trace, &::std::format!($($arg)+)) };
}

/// Logs a formatted line for whoever debugs the guest.
///
/// ```
/// let header = "a,b";
/// wasmqtt_guest::debug!("{header:?}");
/// ```
#[macro_export]
macro_rules! debug {
    ($($arg:tt)+) => { $crate::log($crate::Level::Debug, &::std::format!($($arg)+)) };
}

/// Logs a formatted line: what happened.
///
/// ```
/// wasmqtt_guest::info!("resized to {}x{}", 128, 96);
/// ```
#[macro_export]
macro_rules! info {
    ($($arg:tt)+) => { $crate::log($crate::Level::Info, &::std::format!($($arg)+)) };
}

/// Logs a formatted line: something odd that did not stop the task.
///
/// ```
/// wasmqtt_guest::warn!("{} rows have no price", 2);
/// ```
#[macro_export]
macro_rules! warn {
    ($($arg:tt)+) => { $crate::log($crate::Level::Warn, &::std::format!($($arg)+)) };
}

/// Logs a formatted line: something that went wrong.
///
/// ```
/// wasmqtt_guest::error!("gave up on row {}", 7);
/// ```
#[macro_export]
macro_rules! error {
    ($($arg:tt)+) => { $crate::log($crate::Level::Error, &::std::format!($($arg)+)) };
}
