//! How a run ended → an error code and a message that names the limit and the value. The one place where
//! traps are told apart.

use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};

use crate::sandbox::host::types;
use crate::sandbox::limiter::{LimitHit, Limiter, MAX_TABLE_ELEMENTS};
use crate::task::limits::Limits;
use crate::task::outcome::{ErrorCode, GuestRetry, TaskError};

/// The longest message taken from a guest, in bytes.
const GUEST_MESSAGE_BYTES: usize = 4096;
/// The most frames of a backtrace in an outcome.
const FRAMES: usize = 32;

/// How a run ended when it did not end well.
pub(super) enum Failure {
    /// wasmtime stopped it.
    Wasmtime(wasmtime::Error),
    /// The outer timeout passed.
    Deadline,
    /// A command's exit code.
    Exit(i32),
    /// The output is longer than the limit; its size when it is known.
    OutputTooLarge { bytes: Option<u64> },
    /// The guest returned an error of its own.
    Guest(types::Error),
}

impl From<wasmtime::Error> for Failure {
    fn from(error: wasmtime::Error) -> Failure {
        Failure::Wasmtime(error)
    }
}

pub(super) fn classify(failure: Failure, limits: &Limits, limiter: &Limiter) -> TaskError {
    match failure {
        Failure::Wasmtime(error) => stopped(&error, limits, limiter),
        Failure::Deadline => deadline(limits),
        Failure::Exit(code) => TaskError::new(
            ErrorCode::ExitNonzero,
            format!("the command ended with exit code {code}"),
        ),
        Failure::OutputTooLarge { bytes } => output_too_large(bytes, limits),
        Failure::Guest(error) => said(error),
    }
}

fn stopped(error: &wasmtime::Error, limits: &Limits, limiter: &Limiter) -> TaskError {
    let frames = backtrace(error);
    let place = frames
        .first()
        .map_or("an unnamed function", |frame| function(frame))
        .to_owned();
    let mut classified = if let Some(hit) = error.downcast_ref::<LimitHit>() {
        limit_hit(*hit, limits, limiter)
    } else if let Some(trap) = error.downcast_ref::<Trap>() {
        match trap {
            Trap::OutOfFuel => {
                let fuel = limits.fuel;
                TaskError::new(
                    ErrorCode::FuelExhausted,
                    format!(
                        "used all {} units in '{place}' ({})",
                        fuel.value, fuel.origin
                    ),
                )
            }
            Trap::StackOverflow => TaskError::new(
                ErrorCode::StackOverflow,
                format!("calls nest deeper than the stack of 512 KiB holds, in '{place}'"),
            ),
            Trap::Interrupt => deadline(limits),
            trap => TaskError::new(ErrorCode::Trap, format!("{} in '{place}'", plain(*trap))),
        }
    } else if let Some(failed) = error.downcast_ref::<std::io::Error>() {
        // The machine's doing (no memory image, no file descriptor left), not the guest's.
        TaskError::new(
            ErrorCode::Internal,
            format!("the machine refused what a sandbox needs: {failed}"),
        )
    } else if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        TaskError::new(
            ErrorCode::Internal,
            format!("the pool of sandboxes is exhausted: {error}"),
        )
    } else {
        unnamed(error, limits, &place)
    };
    classified.backtrace = frames;
    classified
}

/// Failures that wasmtime gives neither a `Trap` nor a public type: told apart by their words, which a test
/// per hostile guest holds in place.
fn unnamed(error: &wasmtime::Error, limits: &Limits, place: &str) -> TaskError {
    let text = format!("{error:#}");
    if text.contains("too much data is being copied") {
        return output_too_large(None, limits);
    }
    if text.contains("store handle limit exceeded")
        || text.contains("resource table has no free keys")
    {
        let held = super::MAX_HANDLES;
        return TaskError::new(
            ErrorCode::MemoryExceeded,
            format!("holds more than {held} resource handles, in '{place}'"),
        );
    }
    TaskError::new(
        ErrorCode::Trap,
        format!("{} in '{place}'", error.root_cause()),
    )
}

fn limit_hit(hit: LimitHit, limits: &Limits, limiter: &Limiter) -> TaskError {
    match hit {
        LimitHit::Memory { wanted } => {
            let limit = limits.memory_bytes;
            let held = limiter.peak_bytes();
            TaskError::new(
                ErrorCode::MemoryExceeded,
                format!(
                    "wanted {wanted} bytes of memory, holding {held}, of {} ({})",
                    limit.value, limit.origin
                ),
            )
        }
        LimitHit::Table { wanted } => TaskError::new(
            ErrorCode::MemoryExceeded,
            format!("wanted a table of {wanted} elements, of at most {MAX_TABLE_ELEMENTS}"),
        ),
        LimitHit::Output => output_too_large(None, limits),
    }
}

fn output_too_large(bytes: Option<u64>, limits: &Limits) -> TaskError {
    let limit = limits.output_bytes;
    let much = bytes.map_or_else(|| "more".to_owned(), |bytes| format!("{bytes} bytes"));
    TaskError::new(
        ErrorCode::OutputTooLarge,
        format!(
            "returned {much}, of at most {} bytes of output ({})",
            limit.value, limit.origin
        ),
    )
}

fn deadline(limits: &Limits) -> TaskError {
    let limit = limits.timeout_ms;
    TaskError::new(
        ErrorCode::DeadlineExceeded,
        format!("still running after {} ms ({})", limit.value, limit.origin),
    )
}

fn said(error: types::Error) -> TaskError {
    let (message, retry) = match error {
        types::Error::Reject(message) => (message, GuestRetry::Never),
        types::Error::RetryAfter(after) => (after.message, GuestRetry::After(after.delay_ms)),
        types::Error::Failed(message) => (message, GuestRetry::ByPolicy),
    };
    let cut = message.floor_char_boundary(GUEST_MESSAGE_BYTES);
    let mut error = TaskError::new(ErrorCode::GuestError, &message[..cut]);
    error.retry = Some(retry);
    error
}

/// Frames as `offset - module!function`, innermost first, the names demangled by wasmtime.
fn backtrace(error: &wasmtime::Error) -> Vec<String> {
    let Some(trace) = error.downcast_ref::<WasmBacktrace>() else {
        return Vec::new();
    };
    let text = trace.to_string();
    // Each line is `index: offset - module!function`; the first is a heading, notes have no index.
    let frame = |line: &str| {
        let (index, frame) = line.trim_start().split_once(": ")?;
        index.parse::<usize>().ok()?;
        let frame = frame.trim_start();
        Some(frame[..frame.floor_char_boundary(300)].to_owned())
    };
    text.lines().filter_map(frame).take(FRAMES).collect()
}

/// A trap in wasmtime's words, without "wasm trap:" in front: the code says that.
fn plain(trap: Trap) -> String {
    let text = trap.to_string();
    text.strip_prefix("wasm trap: ").unwrap_or(&text).to_owned()
}

/// The function of a frame.
fn function(frame: &str) -> &str {
    frame.split_once('!').map_or(frame, |(_, name)| name)
}
