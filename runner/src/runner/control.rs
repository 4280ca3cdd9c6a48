//! `task_control/{id}`: cancel a task, or ask for the outcome of one that ended. And what other runners say.
//!
//! On a connection of its own: with the task window full of long tasks, a cancel would wait behind them.

use std::sync::Arc;

use serde::Deserialize;
use tracing::{debug, info, warn};

use crate::envelope::Inbound;
use crate::journal::index::Seen;
use crate::journal::record::Key;
use crate::mqtt::{Deliveries, Publisher};
use crate::runner::{Shared, flow};
use crate::task::quoted;

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
pub(super) async fn run(shared: Arc<Shared>, mut deliveries: Deliveries, publisher: Publisher) {
    while let Some(delivery) = deliveries.recv().await {
        let inbound = &delivery.inbound;
        match &shared.peers {
            Some(peers) if inbound.topic == peers.topic() => peers.hear(&inbound.payload),
            _ if shared.board.hear(&inbound.topic, &inbound.payload) => {}
            _ => act(&shared, inbound).await,
        }
        if let Some(token) = delivery.token {
            publisher.ack(token);
        }
    }
}

async fn act(shared: &Shared, inbound: &Inbound) {
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
            if let Some(recorded) = shared.journal.outcome(key).await {
                let correlation = inbound.properties.correlation_data.clone();
                flow::answer_again(shared, &tenant, &recorded, Some(topic), correlation).await;
            }
        }
    }
}
