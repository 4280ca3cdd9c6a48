//! Lanes that nobody wants any more: they end what they have, and their sessions.
//!
//! The broker gives a session's tasks to nobody else. So a lane is not left before it has nothing, a tenant that comes
//! back in the meantime has the same one, and what a process leaves behind the next one ends.

use std::sync::{PoisonError, RwLock};

use anyhow::{Context as _, Result};
use tokio::task::AbortHandle;
use tracing::{info, warn};

use crate::mqtt;
use crate::runner::lanes::lane::Lane;
use crate::runner::lanes::{Lanes, OTHERS_NAME, Open};
use crate::task::tenant::TenantId;

/// A lane that takes no more, and ends what it has.
pub(super) struct Retired {
    pub(super) lane: Lane,
    /// Its session ends: from now on it cannot be had back.
    pub(super) is_ending: bool,
    end: AbortHandle,
}

impl Lanes {
    /// Takes no more, ends what it has, and its session.
    pub(super) fn retire(&self, lane: Lane) {
        let settings = self.settings(lane.client_id.clone());
        let (open, memory) = (self.open.clone(), self.memory.clone());
        let (ended, leaving) = (self.ended.clone(), lane.clone());
        let end = async move {
            if !leaving.drained().await || !begins_to_end(&open, &leaving) {
                return;
            }
            leaving.publisher.close().await;
            let done = match settings {
                Ok(settings) => mqtt::end_session(settings).await,
                Err(why) => Err(why),
            };
            let client_id = &leaving.client_id;
            match done {
                Ok(()) => memory.forget(&leaving.name),
                Err(why) => {
                    let error = format!("{why:#}");
                    warn!(client_id, error, "session of a closed lane not ended");
                }
            }
            let mut open = open.write().unwrap_or_else(PoisonError::into_inner);
            open.retired.retain(|it| it.lane.client_id != *client_id);
            ended.send_replace(());
        };
        // It looks for itself in the list when it has waited.
        let mut open = self.write();
        let end = tokio::spawn(end).abort_handle();
        open.retired.push(Retired {
            lane,
            is_ending: false,
            end,
        });
    }

    /// Whether a lane of this session is on its way out; waits for one that cannot be had back any more: two connections
    /// of one client id would take each other's place.
    pub(super) async fn take_back(&self, client_id: &str) -> Option<Lane> {
        let mut ended = self.ended.subscribe();
        loop {
            {
                let mut open = self.write();
                let mut retired = open.retired.iter();
                let at = retired.position(|retired| retired.lane.client_id == client_id)?;
                if !open.retired[at].is_ending {
                    let retired = open.retired.swap_remove(at);
                    retired.end.abort();
                    return Some(retired.lane);
                }
            }
            ended.changed().await.ok()?;
        }
    }

    /// What an earlier process had lanes for and nobody wants any more: the broker may still have tasks for them, which it
    /// would give to nobody else.
    pub(super) async fn retire_forgotten(&self) -> Result<()> {
        for name in self.memory.names() {
            let wanted = match TenantId::parse(&name) {
                _ if name == OTHERS_NAME => match self.read().others {
                    Some(_) => continue,
                    None => self.others(),
                },
                Ok(tenant) if !self.read().own.contains_key(&tenant) => {
                    self.own(&tenant, self.config.prefetch())
                }
                _ => continue,
            };
            info!(
                lane = name,
                "a lane of before is not wanted any more, and closes"
            );
            // Not subscribed again, but for what the broker remembers.
            let lane = self.connect_with(wanted, Vec::new()).await;
            self.retire(lane.with_context(|| format!("failed to open the lane {name:?} again"))?);
        }
        Ok(())
    }
}

/// Whether a retired lane is still one, which it cannot stop to be after this.
fn begins_to_end(open: &RwLock<Open>, lane: &Lane) -> bool {
    let mut open = open.write().unwrap_or_else(PoisonError::into_inner);
    let mut retired = open.retired.iter_mut();
    let found = retired.find(|retired| retired.lane.client_id == lane.client_id);
    found.map(|retired| retired.is_ending = true).is_some()
}
