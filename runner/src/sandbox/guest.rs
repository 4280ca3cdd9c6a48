//! The state of one guest: the data of its store.

use std::sync::Arc;
use std::time::Instant;

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

use crate::grants::Grants;
use crate::sandbox::http::Outgoing;
use crate::sandbox::limiter::Limiter;
use crate::sandbox::log::{GuestEvents, LogSink};
use crate::sandbox::publish::GuestMessages;
use crate::sandbox::scratch::Scratch;
use crate::sandbox::services::Services;
use crate::sandbox::stdio::{LineLog, OutputBuffer};
use crate::sandbox::{Job, wasi};

/// The store's data: all that belongs to one guest.
pub(super) struct Guest {
    pub(super) limiter: Limiter,
    wasi: WasiCtx,
    http: Outgoing,
    pub(super) table: ResourceTable,
    pub(super) grants: Arc<Grants>,
    pub(super) services: Arc<Services>,
    pub(super) tenant: String,
    pub(super) scratch: Option<Scratch>,
    pub(super) messages: Option<Arc<dyn GuestMessages>>,
    /// Messages, and bytes of them.
    pub(super) published: (u32, u64),
    pub(super) events: Option<Arc<dyn GuestEvents>>,
    pub(super) log: Arc<LogSink>,
    stdout: OutputBuffer,
    streams: [LineLog; 2],
    pub(super) last_progress: Option<Instant>,
}

impl Guest {
    pub(super) fn new(
        job: &Job,
        services: &Arc<Services>,
        scratch: Option<Scratch>,
        events: Option<Arc<dyn GuestEvents>>,
        command: bool,
    ) -> wasmtime::Result<Guest> {
        let log = LogSink::new(events.clone(), job.grants.clone());
        let stdout = OutputBuffer::new(job.limits.output_bytes.value);
        let streams = [
            LineLog::new(log.clone(), "stdout"),
            LineLog::new(log.clone(), "stderr"),
        ];
        let folder = scratch.as_ref().and_then(Scratch::path);
        let wasi = if command {
            wasi::context(job, true, folder, stdout.clone(), streams[1].clone())
        } else {
            wasi::context(job, false, folder, streams[0].clone(), streams[1].clone())
        };
        Ok(Guest {
            limiter: Limiter::new(job.limits.memory_bytes.value),
            wasi: wasi?,
            http: Outgoing::new(job, &services.http, &log),
            table: ResourceTable::new(),
            grants: job.grants.clone(),
            services: services.clone(),
            tenant: job.context.tenant.clone(),
            scratch,
            messages: job.messages.clone(),
            published: (0, 0),
            events,
            log,
            stdout,
            streams,
            last_progress: None,
        })
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

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.http.view(&mut self.table)
    }
}
