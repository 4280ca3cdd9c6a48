//! How an outcome gets to the broker: recorded, published until the PUBACK, and again for whoever asks again.
//!
//! What is no task of ours (bytes that cannot be read, another task's id) is answered here too, without a record.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::{debug, error, info, warn};

use crate::envelope::decode::Undecodable;
use crate::envelope::{Message, answer, encode};
use crate::journal::record::{Content, Ended, Kept, Key, Stored};
use crate::mqtt::{AckToken, PublishError};
use crate::runner::Shared;
use crate::runner::active::Held;
use crate::runner::flow::InHand;
use crate::task::outcome::{ErrorCode, Outcome, TaskError};
use crate::task::tenant::TenantId;
use crate::task::{Task, TaskId};

/// The first and the longest wait before an outcome that the broker refused is published again.
const REFUSED: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Records an outcome and publishes it until the broker has it; `None` when the connection was closed first: then
/// the next process publishes what is recorded.
pub(super) async fn settle(
    shared: &Shared,
    outcome: &mut Outcome,
    in_hand: &InHand,
) -> Option<Arc<Ended>> {
    strip_reply(shared, outcome);
    log(outcome);
    let topics = &shared.topics;
    let mut messages = encode::outcome(topics, outcome);
    // What is recorded is what can be published.
    if let (Some(record), Some(limits)) = (
        messages.first(),
        shared.lanes.publisher(&outcome.tenant).limits(),
    ) && record.packet_bytes() > limits.max_packet_bytes
    {
        let why = PublishError::TooLarge {
            topic: record.topic.clone(),
            bytes: record.packet_bytes(),
            limit: limits.max_packet_bytes,
        };
        *outcome = too_large(outcome, &why);
        messages = encode::outcome(topics, outcome);
    }
    let letter = in_hand.given_up.then_some(messages.len() as u8);
    if in_hand.given_up {
        messages.push(encode::dead_letter(topics, outcome, &in_hand.original));
    }
    end(
        shared,
        in_hand.key,
        in_hand.content,
        outcome,
        messages,
        letter,
    )
    .await
}

/// Ends a kept task that cannot be read any more: it was a task once, but the configuration has changed since.
pub(super) async fn end_unreadable(shared: Arc<Shared>, kept: Kept, why: Undecodable) {
    let mut outcome = why.into_outcome(&shared.name, SystemTime::now());
    if let Ok(id) = TaskId::parse(&kept.id) {
        outcome.id = id;
    }
    strip_reply(&shared, &mut outcome);
    log(&outcome);
    let messages = encode::outcome(&shared.topics, &outcome);
    end(
        &shared,
        kept.key,
        Content::unknown(),
        &outcome,
        messages,
        None,
    )
    .await;
}

/// Records, then publishes.
async fn end(
    shared: &Shared,
    key: Key,
    content: Content,
    outcome: &Outcome,
    messages: Vec<Message>,
    dead_letter: Option<u8>,
) -> Option<Arc<Ended>> {
    let ended = Arc::new(Ended {
        key,
        tenant: outcome.tenant.to_string(),
        id: outcome.id.to_string(),
        content,
        messages: messages.iter().map(Stored::from).collect(),
        dead_letter,
    });
    shared.journal.ended(ended.clone()).await;
    shared.active.ending(key);
    if !publish(shared, outcome, messages).await {
        return None;
    }
    published(shared, key);
    Some(ended)
}

fn published(shared: &Shared, key: Key) {
    shared.journal.published(key);
    if let Some(peers) = &shared.peers {
        peers.tell(key);
    }
}

/// Publishes an outcome of an earlier process until the broker has it.
pub(super) async fn replay(shared: Arc<Shared>, ended: Ended) {
    let messages: Vec<Message> = ended.messages.iter().map(Stored::message).collect();
    let outcome = ended.messages.first().and_then(|record| {
        let tenant = TenantId::parse(&ended.tenant).ok()?;
        answer::outcome(&tenant, &record.inbound()).ok()
    });
    let done = match outcome {
        Some(outcome) => publish(&shared, &outcome, messages).await,
        None => {
            error!(
                task_id = ended.id,
                "a recorded outcome cannot be read, and is left out"
            );
            true
        }
    };
    let held = shared.active.leave(ended.key);
    if done {
        published(&shared, ended.key);
        if let Ok(tenant) = TenantId::parse(&ended.tenant) {
            finish(&shared, &tenant, &ended, held).await;
        }
    }
}

/// The reply topic is the producer's wish; the runner's rights are not the producer's.
fn strip_reply(shared: &Shared, outcome: &mut Outcome) {
    let tenant = &outcome.tenant;
    let refused = |topic: &mut String| !may_answer(shared, tenant, topic);
    outcome.reply.topic.take_if(refused);
}

fn may_answer(shared: &Shared, tenant: &TenantId, topic: &str) -> bool {
    let policy = shared.tenants.policy(tenant);
    let allowed = policy
        .as_ref()
        .map_or(&[][..], |policy| &policy.reply_topics);
    shared.topics.check_reply(tenant, topic, allowed).is_ok()
}

/// Answers whoever asked besides the first, and acknowledges every delivery.
pub(super) async fn finish(shared: &Shared, tenant: &TenantId, ended: &Ended, held: Held) {
    for reply in held.replies {
        let (topic, correlation) = (reply.topic, reply.correlation_data);
        answer_again(shared, tenant, ended, topic, correlation).await;
    }
    if held.again {
        publish_again(shared, tenant, ended).await;
    }
    for token in held.tokens {
        token.ack();
    }
}

/// Answers a task that ended before with its recorded outcome: on its reply topic if it names one, else on
/// `task_completed`. False when the outcome cannot be found any more.
pub(super) async fn answer_ended(shared: &Shared, task: &Task, key: Key) -> bool {
    let Some(ended) = shared.journal.outcome(key).await else {
        return false;
    };
    debug!(task_id = %task.id, tenant = %task.tenant, "task ended before, its outcome again");
    if task.reply.topic.is_some() {
        let (topic, correlation) = (
            task.reply.topic.clone(),
            task.reply.correlation_data.clone(),
        );
        answer_again(shared, &task.tenant, &ended, topic, correlation).await;
    } else {
        publish_again(shared, &task.tenant, &ended).await;
    }
    true
}

/// Publishes a record once more. It stands on `task_completed` already: if the broker refuses it now, that is that.
async fn publish_again(shared: &Shared, tenant: &TenantId, ended: &Ended) {
    if let Some(record) = ended.messages.first()
        && let Err(why) = shared
            .lanes
            .publisher(tenant)
            .publish(record.message())
            .await
    {
        warn!(task_id = ended.id, error = %why, "recorded outcome not published again");
    }
}

/// Answers one more who asked for a task; the record is at the broker already.
pub(super) async fn answer_again(
    shared: &Shared,
    tenant: &TenantId,
    ended: &Ended,
    topic: Option<String>,
    correlation: Option<bytes::Bytes>,
) {
    let allowed = topic.filter(|topic| may_answer(shared, tenant, topic));
    let (Some(topic), Some(record)) = (allowed, ended.messages.first()) else {
        return;
    };
    let mut message = record.message();
    message.topic = topic;
    message.properties.correlation_data = correlation;
    publish_reply(shared, message, tenant, &ended.id).await;
}

/// Answers bytes that are no task.
pub(super) async fn answer_undecodable(
    shared: Arc<Shared>,
    bytes: Undecodable,
    token: Option<AckToken>,
) {
    let mut outcome = bytes.into_outcome(&shared.name, SystemTime::now());
    // Under an id of its own when a task has that id: it has, or will have, its one outcome.
    let key = Key::of(&outcome.tenant, &outcome.id);
    if shared.active.has(key) || shared.journal.seen(key).is_some() {
        outcome.id = TaskId::generate();
    }
    answer_and_ack(&shared, outcome, token).await;
}

/// Answers a task whose id belongs to another one: under an id of its own, because the other task has its one outcome
/// under that.
pub(super) async fn answer_conflict(shared: Arc<Shared>, mut task: Task, token: Option<AckToken>) {
    let why = format!(
        "`id` {} belongs to a task with another module or input",
        task.id
    );
    task.id = TaskId::generate();
    let outcome = shared.refused(&task, TaskError::new(ErrorCode::InvalidTask, why).into());
    answer_and_ack(&shared, outcome, token).await;
}

/// Without a record: what is no task of ours is answered again when it comes again.
async fn answer_and_ack(shared: &Shared, mut outcome: Outcome, token: Option<AckToken>) {
    strip_reply(shared, &mut outcome);
    log(&outcome);
    let messages = encode::outcome(&shared.topics, &outcome);
    if publish(shared, &outcome, messages).await
        && let Some(token) = token
    {
        token.ack();
    }
}

/// Publishes the record, and whatever goes with it, until the broker has it.
async fn publish(shared: &Shared, outcome: &Outcome, messages: Vec<Message>) -> bool {
    let mut messages = messages.into_iter();
    let Some(record) = messages.next() else {
        return false;
    };
    // Queued before the record is waited for.
    let others: Vec<_> = messages
        .map(|message| publish_reply(shared, message, &outcome.tenant, outcome.id.as_str()))
        .collect();
    let at_broker = publish_record(shared, record, outcome).await;
    for other in others {
        other.await;
    }
    at_broker
}

async fn publish_record(shared: &Shared, message: Message, outcome: &Outcome) -> bool {
    let mut message = Arc::new(message);
    let mut wait = REFUSED.0;
    let publisher = shared.lanes.publisher(&outcome.tenant);
    loop {
        match publisher.publish(message.clone()).await {
            Ok(_) => return true,
            Err(PublishError::Closed) => return false,
            Err(why @ PublishError::TooLarge { .. }) => {
                let smaller = too_large(outcome, &why);
                let Some(record) = encode::outcome(&shared.topics, &smaller).into_iter().next()
                else {
                    return false;
                };
                if record.packet_bytes() >= message.packet_bytes() {
                    // Even the bare error does not fit: a broker that takes next to nothing.
                    // It is recorded, and can be asked for.
                    error!(task_id = %outcome.id, error = %why, "outcome does not fit the broker");
                    return true;
                }
                message = Arc::new(record);
            }
            Err(PublishError::Refused { reason, topic }) => {
                // Acknowledged now, the task would end without an outcome.
                error!(task_id = %outcome.id, topic, reason, ?wait, "outcome refused by the broker, trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(REFUSED.1);
            }
        }
    }
}

/// The message is queued before this is awaited.
fn publish_reply<'a>(
    shared: &Shared,
    message: Message,
    tenant: &'a TenantId,
    id: &'a str,
) -> impl Future<Output = ()> + use<'a> {
    let published = shared.lanes.publisher(tenant).publish(message);
    async move {
        if let Err(why) = published.await {
            warn!(task_id = id, %tenant, error = %why, "message not published; the outcome is on task_completed");
        }
    }
}

/// What is said instead of an outcome that the broker cannot carry.
fn too_large(outcome: &Outcome, why: &PublishError) -> Outcome {
    let error = TaskError::new(
        ErrorCode::OutputTooLarge,
        format!("the outcome does not fit the broker: {why}"),
    );
    Outcome {
        status: error.status(),
        output: None,
        error: Some(error),
        labels: Default::default(),
        ..outcome.clone()
    }
}

fn log(outcome: &Outcome) {
    let (task_id, tenant, status) = (&outcome.id, &outcome.tenant, outcome.status);
    let (fuel, run_ms) = (outcome.usage.fuel, outcome.usage.run_ms);
    match &outcome.error {
        None => debug!(%task_id, %tenant, %status, fuel, run_ms, "task ended"),
        Some(error) => info!(%task_id, %tenant, %status, fuel, run_ms, %error, "task ended"),
    }
}
