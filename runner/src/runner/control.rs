//! `task_control/{id}`: cancel a task, or ask for the outcome of one that ended. And what other runners say.
//!
//! On a connection of its own: with the task window full of long tasks, a cancel would wait behind them.

use std::sync::Arc;

use serde::Deserialize;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::envelope::Inbound;
use crate::journal::index::Seen;
use crate::journal::record::Key;
use crate::mqtt::Deliveries;
use crate::runner::{Shared, settle};
use crate::task::quoted;

/// Outcomes being answered at one time; who asks, asks again.
const MAX_ANSWERS: usize = 64;

/// What a control message may say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    action: Action,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Cancel,
    Outcome,
}

/// Acts on what comes, until the connection ends.
pub(super) async fn run(shared: Arc<Shared>, mut deliveries: Deliveries) {
    let mut answers = JoinSet::new();
    while let Some(delivery) = deliveries.recv().await {
        let inbound = &delivery.inbound;
        match &shared.peers {
            Some(peers) if inbound.topic == peers.topic() => peers.hear(&inbound.payload),
            _ if shared.board.hear(&inbound.topic, &inbound.payload) => {}
            _ => act(&shared, inbound, &mut answers),
        }
        if let Some(token) = delivery.token {
            token.ack();
        }
    }
}

fn act(shared: &Arc<Shared>, inbound: &Inbound, answers: &mut JoinSet<()>) {
    while answers.try_join_next().is_some() {}
    let (tenant, id) = match shared.topics.task_of_control(&inbound.topic) {
        Ok(task) => task,
        Err(why) => return warn!(why, "control message is for no task"),
    };
    let request: Request = match serde_json::from_slice(&inbound.payload) {
        Ok(request) => request,
        Err(error) => {
            let text = String::from_utf8_lossy(&inbound.payload);
            let message = quoted(&text);
            return warn!(task_id = %id, %tenant, message, %error, "control message not understood: {{\"action\":\"cancel\"}} or \"outcome\"");
        }
    };
    let key = Key::of(&tenant, &id);
    let ended = matches!(shared.journal.seen(key), Some(Seen::Ended { .. }));
    match request.action {
        Action::Cancel => {
            // Every runner hears it: one that has not got the task may get it yet.
            let here = shared.active.cancel(key, !ended);
            info!(task_id = %id, %tenant, here, ended, "cancel");
        }
        Action::Outcome if !ended => {
            debug!(task_id = %id, %tenant, "asked for an outcome that is not here")
        }
        Action::Outcome => {
            let Some(topic) = inbound.properties.response_topic.clone() else {
                return warn!(task_id = %id, %tenant, "asked for an outcome without a Response Topic");
            };
            if answers.len() >= MAX_ANSWERS {
                return debug!(task_id = %id, %tenant, "too many ask at one time: ask again");
            }
            let (shared, correlation) =
                (shared.clone(), inbound.properties.correlation_data.clone());
            // Apart, so that a broker that is slow to take answers delays no cancel.
            answers.spawn(async move {
                if let Some(recorded) = shared.journal.outcome(key).await {
                    settle::answer_again(&shared, &tenant, &recorded, Some(topic), correlation)
                        .await;
                }
            });
        }
    }
}
