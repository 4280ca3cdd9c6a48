//! Answers of other threads to the tasks of one runtime.
//!
//! A task that another thread wakes costs a system call, also when its own thread is awake. A relay is woken instead: once
//! for all answers that come before its turn.

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
        // Its runtime is gone: who still waits sees the sender dropped.
        let _ = self.0.send((waiter, answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_gets_its_own_answer() {
        let relay = Relay::start();
        let (waiters, answers): (Vec<_>, Vec<_>) = (0..100).map(|_| oneshot::channel()).unzip();
        let other = {
            let relay = relay.clone();
            std::thread::spawn(move || {
                for (number, waiter) in waiters.into_iter().enumerate() {
                    relay.answer(waiter, number);
                }
            })
        };
        for (number, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.await, Ok(number));
        }
        other.join().expect("no panic");
    }

    #[test]
    fn a_runtime_that_is_gone_leaves_nobody_waiting() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.expect("a runtime");
        let relay = runtime.block_on(async { Relay::start() });
        drop(runtime);
        let (waiter, answer) = oneshot::channel();
        relay.answer(waiter, ());
        assert!(answer.blocking_recv().is_err());
    }
}
