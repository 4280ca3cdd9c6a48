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
    pub(super) left: u64,
    pub(super) most: u64,
}

impl Body for Question {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        let most = self.most;
        Poll::Ready(frame.map(|frame| {
            let frame = frame?;
            spend(&mut self.left, &frame, || {
                Error::HttpRequestBodySize(Some(most))
            })?;
            Ok(frame)
        }))
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
    pub(super) left: u64,
    pub(super) most: u64,
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
        let most = self.most;
        Poll::Ready(frame.map(|frame| {
            let frame = frame.map_err(Error::from)?;
            spend(&mut self.left, &frame, || {
                Error::HttpResponseBodySize(Some(most))
            })?;
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn spend(left: &mut u64, frame: &Frame<Bytes>, over: impl FnOnce() -> Error) -> Result<(), Error> {
    let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
    *left = left.checked_sub(bytes).ok_or_else(over)?;
    Ok(())
}
