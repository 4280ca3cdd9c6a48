//! The CPU time that polls of a future take on their threads.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A future and the CPU time spent on it so far.
pub(super) struct CpuTimed<F> {
    future: Pin<Box<F>>,
    spent: Duration,
}

impl<F> CpuTimed<F> {
    pub(super) fn new(future: F) -> CpuTimed<F> {
        CpuTimed {
            future: Box::pin(future),
            spent: Duration::ZERO,
        }
    }

    pub(super) fn spent(&self) -> Duration {
        self.spent
    }
}

impl<F: Future> Future for CpuTimed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let before = thread_time();
        let polled = self.future.as_mut().poll(context);
        self.spent += thread_time().saturating_sub(before);
        polled
    }
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
