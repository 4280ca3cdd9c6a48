//! What a guest can call: log, progress, is-cancelled, fuel-remaining; and the state behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use wasmtime::component::{Linker, ResourceTable};
use wasmtime::{StoreContextMut, Trap};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::sandbox::limiter::Limiter;
use crate::sandbox::stdio::{LineLog, OutputBuffer};
use crate::sandbox::{Job, wasi};

#[expect(
    missing_docs,
    reason = "generated from wit/, which documents every item"
)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "task",
        exports: { default: async },
    });
}

pub use bindings::wasmqtt::task::types;

pub(super) use bindings::TaskPre;
use bindings::wasmqtt::task::host::Level;

/// A host call burns this much fuel: 24 to 35 times what a plain instruction costs in time, and the
/// bookkeeping behind it.
const CALL_FUEL: u64 = 500;
/// The log that one task may write, in bytes.
pub const LOG_BYTES: usize = 64 << 10;
/// Progress is passed on at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

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

/// The store's data: all that belongs to one guest.
pub struct Guest {
    pub(super) limiter: Limiter,
    wasi: WasiCtx,
    table: ResourceTable,
    events: Option<Arc<dyn GuestEvents>>,
    log: Arc<LogSink>,
    stdout: OutputBuffer,
    streams: [LineLog; 2],
    last_progress: Option<Instant>,
}

impl Guest {
    pub(super) fn new(job: &Job, events: Option<Arc<dyn GuestEvents>>, command: bool) -> Guest {
        let log = Arc::new(LogSink {
            events: events.clone(),
            left: AtomicUsize::new(LOG_BYTES),
            cut: AtomicBool::new(false),
        });
        let stdout = OutputBuffer::new(job.limits.output_bytes.value);
        let streams = [
            LineLog::new(log.clone(), "stdout"),
            LineLog::new(log.clone(), "stderr"),
        ];
        let wasi = if command {
            wasi::context(job, true, stdout.clone(), streams[1].clone())
        } else {
            wasi::context(job, false, streams[0].clone(), streams[1].clone())
        };
        Guest {
            limiter: Limiter::new(job.limits.memory_bytes.value),
            wasi,
            table: ResourceTable::new(),
            events,
            log,
            stdout,
            streams,
            last_progress: None,
        }
    }

    /// What a command's output will be in.
    pub(super) fn take_stdout(&mut self) -> OutputBuffer {
        self.stdout.clone()
    }

    /// The run is over: pass on what is left of the standard streams.
    pub(super) fn finish(&mut self) {
        for stream in &self.streams {
            stream.finish();
        }
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

/// A task's log, up to its bound.
pub(super) struct LogSink {
    events: Option<Arc<dyn GuestEvents>>,
    left: AtomicUsize,
    cut: AtomicBool,
}

impl LogSink {
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
        if message.len() > left {
            self.cut.store(true, Ordering::Relaxed);
            let note = format!("the log ends here: a task may write {LOG_BYTES} bytes of it");
            return events.log("warn", "log", &note);
        }
        self.left.store(left - message.len(), Ordering::Relaxed);
        events.log(level, source, message);
    }
}

/// Links `wasmqtt:task`. The functions are written by hand because they charge fuel to the store.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    // Only types, but a component that uses them names the instance.
    linker.instance("wasmqtt:task/types@0.1.0")?;
    let mut host = linker.instance("wasmqtt:task/host@0.1.0")?;
    host.func_wrap(
        "log",
        |mut store: StoreContextMut<'_, Guest>, (level, message): (Level, String)| {
            charge(&mut store, message.len())?;
            store.data().log.line(word(level), "log", &message);
            Ok(())
        },
    )?;
    host.func_wrap(
        "progress",
        |mut store: StoreContextMut<'_, Guest>, (done, total, message): (u64, u64, String)| {
            charge(&mut store, message.len())?;
            let guest = store.data_mut();
            let due = guest
                .last_progress
                .is_none_or(|last| last.elapsed() >= PROGRESS_EVERY);
            if let Some(events) = guest.events.as_ref().filter(|_| due) {
                let message: String = message.chars().take(256).collect();
                events.progress(done, total, &message);
                guest.last_progress = Some(Instant::now());
            }
            Ok(())
        },
    )?;
    host.func_wrap(
        "is-cancelled",
        |mut store: StoreContextMut<'_, Guest>, (): ()| {
            charge(&mut store, 0)?;
            Ok((store
                .data()
                .events
                .as_ref()
                .is_some_and(|events| events.is_cancelled()),))
        },
    )?;
    host.func_wrap(
        "fuel-remaining",
        |mut store: StoreContextMut<'_, Guest>, (): ()| {
            charge(&mut store, 0)?;
            Ok((store.get_fuel()?,))
        },
    )?;
    Ok(())
}

/// Burns the fuel of a host call; out of it, the guest ends as it would in its own code.
fn charge(store: &mut StoreContextMut<'_, Guest>, bytes: usize) -> wasmtime::Result<()> {
    let cost = CALL_FUEL.saturating_add(bytes as u64);
    match store.get_fuel()?.checked_sub(cost) {
        Some(left) => store.set_fuel(left),
        None => {
            store.set_fuel(0)?;
            Err(Trap::OutOfFuel.into())
        }
    }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Trace => "trace",
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    }
}
