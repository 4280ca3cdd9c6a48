//! A task that is waited for is kept alive: published again, under the same id, whenever it may have been lost.
//!
//! That is safe: a runner that has the task in hand attaches the copy to it, one that has its outcome answers with
//! that, and there is one outcome by id. And it is the only cover for what was lost with a broker, be it the task or
//! its outcome.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use crate::client::Update;
use crate::client::waiting::Listener;
use crate::envelope::Message;
use crate::mqtt::{PublishError, Published, Publisher, State};

/// How soon a task is published again that the broker had nobody to give to.
const UNHEARD: Duration = Duration::from_secs(2);

/// One task that is waited for.
pub(super) struct Keep {
    pub(super) publisher: Publisher,
    pub(super) message: Arc<Message>,
    pub(super) listener: Listener,
    /// Where what is heard goes on; when its receiver is dropped, nobody waits any more.
    pub(super) updates: mpsc::UnboundedSender<Update>,
    /// How long it may be silent before it is published again.
    pub(super) patience: Duration,
    /// Nothing need be heard of it before.
    pub(super) starts: Instant,
    /// What became of the last publish.
    pub(super) published: Published,
}

type Puback = Pin<Box<dyn Future<Output = Result<Published, PublishError>> + Send>>;

impl Keep {
    /// Ends with the task, with whoever waits for it, or with the connection.
    pub(super) async fn run(mut self) {
        let mut link = Link::new(self.publisher.state());
        let mut due = match self.published {
            Published::Accepted => self.silence(),
            Published::NoSubscribers => Instant::now() + UNHEARD,
        };
        // The publish that is under way. The session brings it over a lost connection by itself.
        let mut puback: Option<Puback> = None;
        loop {
            tokio::select! {
                () = self.updates.closed() => return,
                update = self.listener.hear() => {
                    let Some(update) = update else { return };
                    let ended = matches!(update, Update::Ended(_));
                    if self.updates.send(update).is_err() || ended {
                        return;
                    }
                    due = self.silence();
                }
                answer = answered(&mut puback), if puback.is_some() => {
                    puback = None;
                    link.seen();
                    match self.answered(answer) {
                        Some(at) => due = at,
                        None => return,
                    }
                }
                () = sleep_until(due), if puback.is_none() => puback = Some(self.publish()),
                back = link.back(), if puback.is_none() => {
                    if !back {
                        return;
                    }
                    puback = Some(self.publish());
                }
            }
        }
    }

    fn publish(&self) -> Puback {
        Box::pin(self.publisher.publish(self.message.clone()))
    }

    /// When to publish again after this answer; never, when the connection is over.
    fn answered(&mut self, answer: Result<Published, PublishError>) -> Option<Instant> {
        match answer {
            Ok(Published::Accepted) => {
                self.published = Published::Accepted;
                Some(self.silence())
            }
            Ok(Published::NoSubscribers) => {
                if self.published == Published::Accepted {
                    self.published = Published::NoSubscribers;
                    let _ = self.updates.send(Update::Unheard);
                }
                Some(Instant::now() + UNHEARD)
            }
            Err(PublishError::Closed) => None,
            Err(error) => {
                warn!(task_id = %self.listener.id(), %error, "task not published again");
                Some(self.silence())
            }
        }
    }

    /// When the silence becomes too long, if nothing is heard from now on.
    fn silence(&self) -> Instant {
        Instant::now().max(self.starts) + self.patience
    }
}

async fn answered(puback: &mut Option<Puback>) -> Result<Published, PublishError> {
    match puback {
        Some(puback) => puback.await,
        None => std::future::pending().await,
    }
}

/// Watches the connection for its return.
struct Link {
    state: watch::Receiver<State>,
    lost: bool,
}

impl Link {
    fn new(state: watch::Receiver<State>) -> Link {
        let mut link = Link { state, lost: false };
        link.seen();
        link
    }

    /// What happened until now does not count.
    fn seen(&mut self) {
        self.lost = matches!(*self.state.borrow_and_update(), State::Connecting { .. });
    }

    /// Waits until the connection has come back; false when it never will. Cancel-safe.
    async fn back(&mut self) -> bool {
        loop {
            match &*self.state.borrow_and_update() {
                State::Connecting { .. } => self.lost = true,
                State::Online(_) if self.lost => {
                    self.lost = false;
                    return true;
                }
                State::Online(_) => {}
                State::Failed(_) | State::Closed => return false,
            }
            if self.state.changed().await.is_err() {
                return false;
            }
        }
    }
}
