//! The tasks in hand, by tenant and id: a delivery of one that is already in hand attaches to it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::mqtt::AckToken;
use crate::task::tenant::TenantId;
use crate::task::{ModuleRef, Reply, Task, TaskId};

/// The most answers of one task besides the first.
const MAX_REPLIES: usize = 16;

#[derive(Default)]
pub(super) struct Active(Mutex<HashMap<(TenantId, TaskId), InHand>>);

struct InHand {
    module: ModuleRef,
    input: Bytes,
    /// Where the first delivery wants its answer.
    reply: Reply,
    held: Held,
}

/// What the deliveries of a task want when it ends.
#[derive(Default)]
pub(super) struct Held {
    /// To be acknowledged.
    pub(super) tokens: Vec<AckToken>,
    /// To be answered besides the first: whoever sent the task again from elsewhere.
    pub(super) replies: Vec<Reply>,
}

/// What a delivery is.
pub(super) enum Arrival {
    /// The first of its task.
    New,
    /// Another one of a task in hand: it is acknowledged with it.
    Attached,
    /// Another task under an id that is in hand.
    Conflict(Option<AckToken>),
}

impl Active {
    pub(super) fn arrive(&self, task: &Task, token: Option<AckToken>) -> Arrival {
        let mut active = self.lock();
        match active.get_mut(&(task.tenant.clone(), task.id.clone())) {
            None => {
                let in_hand = InHand {
                    module: task.module.clone(),
                    input: task.input.clone(),
                    reply: task.reply.clone(),
                    held: Held {
                        tokens: token.into_iter().collect(),
                        replies: Vec::new(),
                    },
                };
                active.insert((task.tenant.clone(), task.id.clone()), in_hand);
                Arrival::New
            }
            Some(in_hand) if in_hand.module == task.module && in_hand.input == task.input => {
                let held = &mut in_hand.held;
                held.tokens.extend(token);
                let new = in_hand.reply != task.reply && !held.replies.contains(&task.reply);
                if new && held.replies.len() < MAX_REPLIES {
                    held.replies.push(task.reply.clone());
                }
                Arrival::Attached
            }
            Some(_) => Arrival::Conflict(token),
        }
    }

    /// A task is out of hand: what all its deliveries want.
    pub(super) fn leave(&self, tenant: &TenantId, id: &TaskId) -> Held {
        self.lock()
            .remove(&(tenant.clone(), id.clone()))
            .map(|in_hand| in_hand.held)
            .unwrap_or_default()
    }

    /// Whether every delivery of a task came at QoS 0, so that nobody will deliver it again.
    pub(super) fn is_volatile(&self, tenant: &TenantId, id: &TaskId) -> bool {
        let active = self.lock();
        let in_hand = active.get(&(tenant.clone(), id.clone()));
        in_hand.is_some_and(|in_hand| in_hand.held.tokens.is_empty())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(TenantId, TaskId), InHand>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
