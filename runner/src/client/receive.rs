//! What comes for a submitter: outcomes on its reply topic, the events and logs that it asked for.

use std::sync::Arc;

use serde::Deserialize;
use tracing::warn;

use crate::client::Update;
use crate::client::waiting::Waiting;
use crate::envelope::Inbound;
use crate::envelope::answer;
use crate::mqtt::Deliveries;
use crate::task::TaskId;
use crate::task::tenant::TenantId;

/// Tells whoever waits, until the connection is over.
pub(super) async fn receive(mut deliveries: Deliveries, tenant: TenantId, waiting: Arc<Waiting>) {
    while let Some(delivery) = deliveries.recv().await {
        let inbound = &delivery.inbound;
        match update(&tenant, inbound) {
            Ok((id, update)) => waiting.tell(&id, &update),
            Err(why) => warn!(topic = inbound.topic, error = why, "message not understood"),
        }
        if let Some(token) = delivery.token {
            token.ack();
        }
    }
    waiting.close();
}

fn update(tenant: &TenantId, inbound: &Inbound) -> Result<(TaskId, Update), String> {
    #[derive(Deserialize)]
    #[serde(default)]
    #[derive(Default)]
    struct Wire {
        id: String,
        status: String,
        done: u64,
        total: u64,
        level: String,
        message: String,
    }
    let about = |name: &str| inbound.topic.rsplit('/').nth(1) == Some(name);
    if !about("task_status") && !about("task_log") {
        let outcome = answer::outcome(tenant, inbound)?;
        return Ok((outcome.id.clone(), Update::Ended(Box::new(outcome))));
    }
    let wire: Wire = serde_json::from_slice(&inbound.payload).map_err(|error| error.to_string())?;
    let id = TaskId::parse(&wire.id)?;
    let Wire {
        status,
        done,
        total,
        level,
        message,
        ..
    } = wire;
    Ok((
        id,
        match status.as_str() {
            "progress" => Update::Progress {
                done,
                total,
                message,
            },
            "" => Update::Log { level, message },
            _ => Update::Status(status),
        },
    ))
}
