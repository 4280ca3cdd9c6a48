//! What comes in: a delivery, or what an earlier process left → a flow, an attachment, or an answer at once.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::envelope::decode::{self, Rules};
use crate::envelope::{Inbound, answer};
use crate::journal::Recovered;
use crate::journal::index::Seen;
use crate::journal::record::Kept;
use crate::mqtt::{AckToken, Delivery};
use crate::runner::active::Arrival;
use crate::runner::flow::{self, InHand};
use crate::runner::{Runner, Shared, settle};
use crate::task::tenant::TenantId;
use crate::task::{Reply, Task, TaskId};

/// How often dropped QoS 0 messages are reported.
const REPORT_EVERY: Duration = Duration::from_secs(5);

impl Runner {
    /// Goes on with what an earlier process left.
    pub(super) fn resume(&mut self, flows: &mut JoinSet<()>) {
        let shared = &self.shared;
        let Recovered { outbox, kept } = std::mem::take(&mut self.recovered);
        if !(outbox.is_empty() && kept.is_empty()) {
            let (outcomes, tasks) = (outbox.len(), kept.len());
            info!(
                outcomes,
                tasks, "going on with what an earlier process left"
            );
        }
        for ended in outbox {
            let nobody = Reply::default();
            let arrival = shared
                .active
                .arrive(ended.key, ended.content, &nobody, None, false);
            if matches!(arrival, Arrival::New { .. }) {
                flows.spawn(settle::replay(shared.clone(), ended));
            }
        }
        for kept in kept {
            self.resume_kept(kept, flows);
        }
    }

    fn resume_kept(&self, kept: Kept, flows: &mut JoinSet<()>) {
        let shared = &self.shared;
        let inbound = kept.message.inbound();
        let mut task = match self.decode(&inbound, kept.received_at) {
            Ok(task) => task,
            Err(undecodable) => {
                flows.spawn(settle::end_unreadable(shared.clone(), kept, *undecodable));
                return;
            }
        };
        if let Ok(id) = TaskId::parse(&kept.id) {
            task.id = id;
        }
        let mut in_hand = InHand::new(task, inbound, kept.received_at);
        in_hand.due = Some(kept.due);
        in_hand.attempts = kept.attempts;
        in_hand.deaths = kept.deaths;
        in_hand.kept = true;
        shared.kept.add(&in_hand.task.tenant);
        if let Some(Seen::Died(died)) = shared.journal.seen(in_hand.key) {
            in_hand.died(&died);
        }
        let reply = in_hand.task.reply.clone();
        let arrival = shared
            .active
            .arrive(in_hand.key, in_hand.content, &reply, None, true);
        if let Arrival::New { cancel, .. } = arrival {
            flows.spawn(flow::run(shared.clone(), in_hand, cancel, None));
        }
    }

    fn decode(
        &self,
        inbound: &Inbound,
        received_at: SystemTime,
    ) -> Result<Task, Box<decode::Undecodable>> {
        let shared = &self.shared;
        let rules = |tenant: &TenantId| match shared.tenants.policy(tenant) {
            Some(policy) => Rules {
                default_module: policy.default_module.clone(),
                max_bytes: policy.envelope_bytes,
            },
            None => Rules::default(),
        };
        decode::decode(&shared.topics, inbound, rules, received_at)
    }

    /// Starts the flow of one delivery, unless its task is already in hand, or ended.
    pub(super) fn accept(
        &self,
        delivery: Delivery,
        flows: &mut JoinSet<()>,
        dropped: &mut Dropped,
    ) {
        let received_at = SystemTime::now();
        let shared = &self.shared;
        // QoS 0 has no window: what cannot be answered in time must not fill the memory either.
        let volatile = delivery.token.is_none();
        let kept = shared.kept.count();
        if volatile && flows.len().saturating_sub(kept) >= self.backlog.saturating_mul(2) {
            return dropped.count();
        }
        let Delivery {
            inbound,
            redelivered,
            token,
            mark,
        } = delivery;
        if shared.lanes.is_copy(mark, &inbound.topic) {
            return token.into_iter().for_each(AckToken::ack);
        }
        let task = match self.decode(&inbound, received_at) {
            Ok(task) => task,
            Err(undecodable) => {
                debug!(task_id = %undecodable.id, error = %undecodable.error, "message is no task");
                flows.spawn(settle::answer_undecodable(
                    shared.clone(),
                    *undecodable,
                    token,
                ));
                return;
            }
        };
        let mut in_hand = InHand::new(task, inbound, received_at);
        let (key, content) = (in_hand.key, in_hand.content);
        let seen = shared.journal.seen(key);
        if matches!(seen, Some(Seen::Ended { content: ended, .. }) if ended != content) {
            flows.spawn(settle::answer_conflict(shared.clone(), in_hand.task, token));
            return;
        }
        match shared
            .active
            .arrive(key, content, &in_hand.task.reply, token, false)
        {
            Arrival::New { cancel, canceled } => {
                let full = volatile && shared.permits.waiting() >= self.backlog;
                let verdict = match seen {
                    Some(Seen::Ended { .. }) => {
                        flows.spawn(ended_before(shared.clone(), in_hand, cancel));
                        return;
                    }
                    _ if shared.peers.as_ref().is_some_and(|peers| peers.ended(key)) => {
                        return self.ended_elsewhere(&in_hand);
                    }
                    _ if canceled => Some(flow::canceled(shared, &in_hand)),
                    _ if full => Some(flow::no_room(shared, &in_hand)),
                    Some(Seen::Died(died)) => {
                        in_hand.died(&died);
                        None
                    }
                    None => None,
                };
                // A kilobyte, which is moved once so, and not with every layer of the spawning.
                flows.spawn(Box::pin(flow::run(
                    shared.clone(),
                    in_hand,
                    cancel,
                    verdict,
                )));
            }
            Arrival::Attached(token) => {
                debug!(task_id = %in_hand.task.id, tenant = %in_hand.task.tenant, redelivered, "task is already in hand");
                if let Some(token) = token {
                    token.ack();
                }
            }
            Arrival::Conflict(token) => {
                flows.spawn(settle::answer_conflict(shared.clone(), in_hand.task, token));
            }
        }
    }

    /// Acknowledges a task that another runner has ended. Whoever sent it again and wants an answer gets it from there.
    fn ended_elsewhere(&self, in_hand: &InHand) {
        let (shared, task) = (&self.shared, &in_hand.task);
        debug!(task_id = %task.id, tenant = %task.tenant, "task ended on another runner");
        if task.reply.topic.is_some() {
            let mut ask = answer::ask(&shared.topics, &task.tenant, &task.id, "");
            ask.properties.response_topic = task.reply.topic.clone();
            ask.properties.correlation_data = task.reply.correlation_data.clone();
            drop(shared.lanes.publisher(&task.tenant).publish(ask));
        }
        for token in shared.active.leave(in_hand.key).tokens {
            token.ack();
        }
    }
}

/// A delivery of a task that ended before.
async fn ended_before(shared: Arc<Shared>, in_hand: Box<InHand>, cancel: oneshot::Receiver<()>) {
    let key = in_hand.key;
    if settle::answer_ended(&shared, &in_hand.task, key).await {
        for token in shared.active.leave(key).tokens {
            token.ack();
        }
    } else {
        // The record is gone: there is nothing better than to run it.
        flow::run(shared, in_hand, cancel, None).await;
    }
}

/// Counts QoS 0 messages that had no room, and says so now and then.
#[derive(Default)]
pub(super) struct Dropped {
    count: u64,
    reported: Option<Instant>,
}

impl Dropped {
    fn count(&mut self) {
        self.count += 1;
        if self.reported.is_none_or(|at| at.elapsed() >= REPORT_EVERY) {
            warn!(
                dropped = self.count,
                "QoS 0 messages dropped: the backlog is full"
            );
            self.count = 0;
            self.reported = Some(Instant::now());
        }
    }
}
