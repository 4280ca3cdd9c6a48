//! The state of one guest: the data of its store.

use std::sync::Arc;
use std::time::Instant;

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::sandbox::limiter::Limiter;
use crate::sandbox::log::{GuestEvents, LogSink};
use crate::sandbox::stdio::{LineLog, OutputBuffer};
use crate::sandbox::{Job, wasi};

/// The store's data: all that belongs to one guest.
pub(super) struct Guest {
    pub(super) limiter: Limiter,
    wasi: WasiCtx,
    table: ResourceTable,
    pub(super) events: Option<Arc<dyn GuestEvents>>,
    pub(super) log: Arc<LogSink>,
    stdout: OutputBuffer,
    streams: [LineLog; 2],
    pub(super) last_progress: Option<Instant>,
}

impl Guest {
    pub(super) fn new(job: &Job, events: Option<Arc<dyn GuestEvents>>, command: bool) -> Guest {
        let log = LogSink::new(events.clone());
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
    pub(super) fn stdout(&self) -> OutputBuffer {
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
