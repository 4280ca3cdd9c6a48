//! The tasks in hand, by tenant and id: a delivery of one that is already in hand attaches to it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::mqtt::AckToken;
use crate::task::tenant::TenantId;
use crate::task::{ModuleRef, Task, TaskId};

#[derive(Default)]
pub(super) struct Active(Mutex<HashMap<(TenantId, TaskId), InHand>>);

struct InHand {
    module: ModuleRef,
    input: Bytes,
    /// Of every delivery that asks for this task.
    tokens: Vec<AckToken>,
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
                    tokens: token.into_iter().collect(),
                };
                active.insert((task.tenant.clone(), task.id.clone()), in_hand);
                Arrival::New
            }
            Some(in_hand) if in_hand.module == task.module && in_hand.input == task.input => {
                in_hand.tokens.extend(token);
                Arrival::Attached
            }
            Some(_) => Arrival::Conflict(token),
        }
    }

    /// A task is out of hand: the tokens of all its deliveries.
    pub(super) fn leave(&self, tenant: &TenantId, id: &TaskId) -> Vec<AckToken> {
        self.lock()
            .remove(&(tenant.clone(), id.clone()))
            .map(|in_hand| in_hand.tokens)
            .unwrap_or_default()
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(TenantId, TaskId), InHand>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
