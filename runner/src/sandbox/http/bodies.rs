//! What goes out and what comes back, up to its bound.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Sleep;
use wasmtime_wasi_http::{Error, WasiBody};

/// A request's body, up to its bound.
pub(super) struct Question {
    pub(super) body: WasiBody,
    pub(super) bytes: Bound,
}

impl Body for Question {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| self.bytes.take(frame, Error::HttpRequestBodySize)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response's body, up to its bound and its deadline; it keeps what is held for it: the connection, its place
/// among the guest's.
pub(super) struct Answer<Held> {
    pub(super) body: Incoming,
    pub(super) bytes: Bound,
    pub(super) deadline: Pin<Box<Sleep>>,
    pub(super) _held: Held,
}

impl<Held: Unpin> Body for Answer<Held> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(Error::HttpResponseTimeout)));
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| self.bytes.take(frame, Error::HttpResponseBodySize)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How many bytes a body may have.
pub(super) struct Bound {
    left: u64,
    most: u64,
}

impl Bound {
    pub(super) fn new(most: u64) -> Bound {
        Bound { left: most, most }
    }

    fn take<E>(
        &mut self,
        frame: Result<Frame<Bytes>, E>,
        over: fn(Option<u64>) -> Error,
    ) -> Result<Frame<Bytes>, Error>
    where
        Error: From<E>,
    {
        let frame = frame?;
        let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or_else(|| over(Some(self.most)))?;
        Ok(frame)
    }
}
