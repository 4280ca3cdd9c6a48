//! Answers of other threads to the tasks of one runtime.
//!
//! A task that another thread wakes costs a system call, also when its own thread is awake. A relay is woken instead: once
//! for all answers that come before it is its turn.

use tokio::sync::{mpsc, oneshot};

/// Where other threads leave their answers. Clones share it; it ends with the last one.
pub struct Relay<T>(mpsc::UnboundedSender<(oneshot::Sender<T>, T)>);

impl<T> Clone for Relay<T> {
    fn clone(&self) -> Relay<T> {
        Relay(self.0.clone())
    }
}

impl<T: Send + 'static> Relay<T> {
    /// Starts one on the current runtime, for tasks of that.
    ///
    /// # Panics
    ///
    /// When called outside of a tokio runtime.
    pub fn start() -> Relay<T> {
        let (answers, mut queue) = mpsc::unbounded_channel::<(oneshot::Sender<T>, T)>();
        tokio::spawn(async move {
            while let Some((waiter, answer)) = queue.recv().await {
                // Nobody waits any more: then nobody wants to know.
                let _ = waiter.send(answer);
            }
        });
        Relay(answers)
    }

    /// Answers whoever waits.
    pub fn answer(&self, waiter: oneshot::Sender<T>, answer: T) {
        // A runtime that is gone has taken those who waited with it.
        let _ = self.0.send((waiter, answer));
    }
}
