//! The tasks in hand, by key: a delivery of one that is already in hand attaches to it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::journal::record::{Content, Key};
use crate::mqtt::AckToken;
use crate::task::Reply;

/// The most answers of one task besides the first.
const MAX_REPLIES: usize = 16;
/// Cancels of tasks that are not here yet: the oldest go first.
const MAX_CANCELED: usize = 10_000;
/// How long one waits for its task: another runner may have had it.
const CANCEL_HOLDS: Duration = Duration::from_secs(600);

#[derive(Default)]
pub(super) struct Active(Mutex<State>);

#[derive(Default)]
struct State {
    tasks: HashMap<Key, InHand>,
    /// Canceled before they came, with the times, and in which order.
    canceled: HashMap<Key, Instant>,
    cancels: VecDeque<Key>,
}

struct InHand {
    content: Content,
    /// Where the first delivery wants its answer.
    reply: Reply,
    held: Held,
    /// The journal answers for it: deliveries are acknowledged as they come.
    kept: bool,
    /// Its outcome is being published.
    ending: bool,
    cancel: Option<oneshot::Sender<()>>,
}

/// What the deliveries of a task want when it ends.
#[derive(Default)]
pub(super) struct Held {
    /// To be acknowledged.
    pub(super) tokens: Vec<AckToken>,
    /// To be answered besides the first: whoever sent the task again from elsewhere.
    pub(super) replies: Vec<Reply>,
    /// Sent again when its outcome was published already: it is wanted once more.
    pub(super) again: bool,
}

/// What a delivery is.
pub(super) enum Arrival {
    /// The first of its task. The receiver hears of a cancel; `canceled` says that it was canceled before it came.
    New {
        cancel: oneshot::Receiver<()>,
        canceled: bool,
    },
    /// Another one of a task in hand: it is acknowledged with it, or now.
    Attached(Option<AckToken>),
    /// Another task under an id that is in hand.
    Conflict(Option<AckToken>),
}

impl Active {
    pub(super) fn arrive(
        &self,
        key: Key,
        content: Content,
        reply: &Reply,
        token: Option<AckToken>,
        kept: bool,
    ) -> Arrival {
        let mut state = self.lock();
        match state.tasks.get_mut(&key) {
            None => {
                let (cancel, canceled) = oneshot::channel();
                let in_hand = InHand {
                    content,
                    reply: reply.clone(),
                    held: Held {
                        tokens: token.into_iter().collect(),
                        replies: Vec::new(),
                        again: false,
                    },
                    kept,
                    ending: false,
                    cancel: Some(cancel),
                };
                state.tasks.insert(key, in_hand);
                Arrival::New {
                    cancel: canceled,
                    canceled: state
                        .canceled
                        .remove(&key)
                        .is_some_and(|at| at.elapsed() < CANCEL_HOLDS),
                }
            }
            Some(in_hand) if in_hand.content == content => {
                let held = &mut in_hand.held;
                let new = in_hand.reply != *reply && !held.replies.contains(reply);
                if new && held.replies.len() < MAX_REPLIES {
                    held.replies.push(reply.clone());
                }
                held.again |= in_hand.ending && reply.topic.is_none();
                // One unacknowledged delivery is enough; more would only take up the window.
                let enough = |token: &AckToken| {
                    let last = held.tokens.last();
                    last.is_some_and(|last| last.same_connection(token))
                };
                if in_hand.kept || token.as_ref().is_some_and(enough) {
                    return Arrival::Attached(token);
                }
                held.tokens.extend(token);
                Arrival::Attached(None)
            }
            Some(_) => Arrival::Conflict(token),
        }
    }

    /// The journal answers for the task: its deliveries so far, to be acknowledged.
    pub(super) fn kept(&self, key: Key) -> Vec<AckToken> {
        let mut state = self.lock();
        let Some(in_hand) = state.tasks.get_mut(&key) else {
            return Vec::new();
        };
        in_hand.kept = true;
        std::mem::take(&mut in_hand.held.tokens)
    }

    /// A task's outcome is about to be published.
    pub(super) fn ending(&self, key: Key) {
        if let Some(in_hand) = self.lock().tasks.get_mut(&key) {
            in_hand.ending = true;
        }
    }

    /// Stops a task in hand. One that is not here yet is remembered if `remember` says so. Returns whether it was here.
    pub(super) fn cancel(&self, key: Key, remember: bool) -> bool {
        let mut state = self.lock();
        if let Some(in_hand) = state.tasks.get_mut(&key) {
            if let Some(cancel) = in_hand.cancel.take() {
                let _ = cancel.send(());
            }
            return true;
        }
        if remember && state.canceled.insert(key, Instant::now()).is_none() {
            state.cancels.push_back(key);
            if state.cancels.len() > MAX_CANCELED
                && let Some(oldest) = state.cancels.pop_front()
            {
                state.canceled.remove(&oldest);
            }
        }
        false
    }

    /// Whether a task is in hand.
    pub(super) fn has(&self, key: Key) -> bool {
        self.lock().tasks.contains_key(&key)
    }

    /// A task is out of hand: what all its deliveries want.
    pub(super) fn leave(&self, key: Key) -> Held {
        let in_hand = self.lock().tasks.remove(&key);
        in_hand.map(|in_hand| in_hand.held).unwrap_or_default()
    }

    /// Whether every delivery of a task came at QoS 0, so that nobody will deliver it again.
    pub(super) fn is_volatile(&self, key: Key) -> bool {
        let state = self.lock();
        let in_hand = state.tasks.get(&key);
        in_hand.is_some_and(|in_hand| in_hand.held.tokens.is_empty())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
