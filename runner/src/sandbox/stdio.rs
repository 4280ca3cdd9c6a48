//! Where a guest's standard streams end: bounded buffers, never the runner's own.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use crate::sandbox::limiter::LimitHit;
use crate::sandbox::log::LogSink;

/// What one write may carry.
const WRITE_BYTES: usize = 64 << 10;

/// A command's stdout, which is its output; one byte too many ends the run.
#[derive(Debug, Clone)]
pub(super) struct OutputBuffer {
    bytes: Arc<Mutex<BytesMut>>,
    limit: usize,
}

impl OutputBuffer {
    pub(super) fn new(limit: u64) -> OutputBuffer {
        OutputBuffer {
            bytes: Arc::default(),
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
        }
    }

    /// What was written.
    pub(super) fn take(&self) -> Bytes {
        std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner)).freeze()
    }
}

/// A stream that becomes log lines.
#[derive(Clone)]
pub(super) struct LineLog {
    pub(super) sink: Arc<LogSink>,
    pub(super) source: &'static str,
    pub(super) line: Arc<Mutex<Vec<u8>>>,
}

impl LineLog {
    pub(super) fn new(sink: Arc<LogSink>, source: &'static str) -> LineLog {
        LineLog {
            sink,
            source,
            line: Arc::default(),
        }
    }

    /// A last line that has no end.
    pub(super) fn finish(&self) {
        let rest = std::mem::take(&mut *self.line.lock().unwrap_or_else(PoisonError::into_inner));
        if !rest.is_empty() {
            self.sink
                .line("info", self.source, &String::from_utf8_lossy(&rest));
        }
    }
}

/// Where a stream's bytes go.
pub(super) trait Sink: Clone + Send + Sync + Unpin + 'static {
    fn accept(&self, bytes: &[u8]) -> Result<(), LimitHit>;
}

impl Sink for OutputBuffer {
    fn accept(&self, bytes: &[u8]) -> Result<(), LimitHit> {
        let mut held = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.len() > self.limit - held.len() {
            return Err(LimitHit::Output);
        }
        held.extend_from_slice(bytes);
        Ok(())
    }
}

impl Sink for LineLog {
    fn accept(&self, bytes: &[u8]) -> Result<(), LimitHit> {
        if self.sink.is_full() {
            return Ok(());
        }
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            line.extend_from_slice(piece);
            // A line without an end is cut, so that it cannot grow for ever.
            if line.ends_with(b"\n") || line.len() > WRITE_BYTES {
                let text = String::from_utf8_lossy(&line);
                self.sink
                    .line("info", self.source, text.trim_end_matches(['\n', '\r']));
                line.clear();
            }
        }
        Ok(())
    }
}

/// A sink as WASI's standard stream.
#[derive(Clone)]
pub(super) struct Stream<S>(pub(super) S);

impl<S> IsTerminal for Stream<S> {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl<S: Sink> StdoutStream for Stream<S> {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl<S: Sink> Pollable for Stream<S> {
    async fn ready(&mut self) {}
}

impl<S: Sink> OutputStream for Stream<S> {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0
            .accept(&bytes)
            .map_err(|hit| StreamError::Trap(hit.into()))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

impl<S: Sink> AsyncWrite for Stream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(
            self.0
                .accept(bytes)
                .map(|()| bytes.len())
                .map_err(io::Error::other),
        )
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
