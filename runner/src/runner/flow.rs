//! One task from its decoded envelope to its acknowledgement.
//!
//! Every exit falls into [`settle`]: publish, resolve on PUBACK, acknowledge. The one other way out is to
//! hand a task back unacknowledged when the runner stops.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tracing::{debug, error, info, warn};

use crate::admission::{self, Rejection};
use crate::envelope::decode::Undecodable;
use crate::envelope::encode::{self, Event};
use crate::envelope::{Message, topics::Topics};
use crate::modules::Module;
use crate::mqtt::{AckToken, PublishError};
use crate::runner::Shared;
use crate::runner::voice::Voice;
use crate::sandbox::host::types;
use crate::sandbox::log::GuestEvents;
use crate::sandbox::{Job, Ran};
use crate::task::limits::Limits;
use crate::task::outcome::{CacheHit, ErrorCode, Outcome, Status, TaskError, Usage};
use crate::task::tenant::TenantId;
use crate::task::{Task, TaskId};

/// The first and the longest wait before an outcome that the broker refused is published again.
const REFUSED: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Why a task has no outcome here: the runner stops, and the broker has the task still.
struct HandedBack;

/// Runs a task to its outcome and publishes that. Tasks that came at QoS 0 are answered even when the runner
/// stops, because nobody delivers them again. `full` says that there was no room for one more.
pub(super) async fn run(shared: Arc<Shared>, task: Task, received: Instant, full: bool) {
    let ended = if full {
        let error = TaskError::new(
            ErrorCode::QuotaExceeded,
            "too many tasks wait that were published at QoS 0; use QoS 1 to wait in the broker",
        );
        Ok(shared.rejected(&task, error.into()))
    } else {
        attempt(&shared, &task, received).await
    };
    let mut outcome = match ended {
        Ok(outcome) => outcome,
        // Asked now, not on arrival: a QoS 1 delivery of the same task may have come since.
        Err(HandedBack) if shared.active.is_volatile(&task.tenant, &task.id) => {
            let error = TaskError::new(
                ErrorCode::RunnerShutdown,
                "the runner stopped before the task could finish",
            );
            shared.rejected(&task, error.into())
        }
        Err(HandedBack) => {
            debug!(task_id = %task.id, tenant = %task.tenant, "task handed back");
            shared.active.leave(&task.tenant, &task.id);
            return;
        }
    };
    drop(task);
    let settled = settle(&shared, &mut outcome).await;
    // Also when it is not settled: a delivery that comes again must not attach to a task that nobody runs.
    let held = shared.active.leave(&outcome.tenant, &outcome.id);
    if !settled {
        return;
    }
    for reply in held.replies {
        outcome.reply = reply;
        answer_again(&shared, &outcome).await;
    }
    for token in held.tokens {
        shared.publisher.ack(token);
    }
}

/// Answers one more who asked for a task that was in hand; the record is at the broker already.
async fn answer_again(shared: &Shared, outcome: &Outcome) {
    let topic = outcome.reply.topic.as_ref();
    let allowed =
        topic.is_some_and(|topic| shared.topics.check_reply(&outcome.tenant, topic).is_ok());
    if let Some(message) = encode::outcome(&shared.topics, outcome)
        .into_iter()
        .nth(1)
        .filter(|_| allowed)
    {
        publish_reply(shared, message, &outcome.tenant, &outcome.id).await;
    }
}

/// Answers bytes that are no task.
pub(super) async fn answer_undecodable(
    shared: Arc<Shared>,
    bytes: Undecodable,
    token: Option<AckToken>,
) {
    let outcome = bytes.into_outcome(&shared.name, SystemTime::now());
    settle_and_ack(&shared, outcome, token).await;
}

/// Answers a task whose id belongs to another one that is in hand: under an id of its own, because the other
/// task will have its one outcome under that.
pub(super) async fn answer_conflict(shared: Arc<Shared>, mut task: Task, token: Option<AckToken>) {
    let why = format!(
        "`id` {} belongs to a task in hand with another module or input",
        task.id
    );
    task.id = TaskId::generate();
    let outcome = shared.rejected(&task, TaskError::new(ErrorCode::InvalidTask, why).into());
    settle_and_ack(&shared, outcome, token).await;
}

async fn settle_and_ack(shared: &Shared, mut outcome: Outcome, token: Option<AckToken>) {
    if settle(shared, &mut outcome).await
        && let Some(token) = token
    {
        shared.publisher.ack(token);
    }
}

/// Admission → module → permit → sandbox → outcome.
async fn attempt(shared: &Shared, task: &Task, received: Instant) -> Result<Outcome, HandedBack> {
    let limits = match admission::admit(task, &shared.policy, SystemTime::now()) {
        Ok(limits) => limits,
        Err(rejection) => return Ok(shared.rejected(task, rejection)),
    };
    shared.event(task, &Event::Queued);
    let (module, hit) = match shared.modules.resolve(&task.tenant, &task.module).await {
        Ok(resolved) => resolved,
        Err(error) => return Ok(shared.rejected(task, error.into())),
    };
    let permit = shared
        .permits
        .acquire(&task.tenant, task.priority, limits.memory_bytes.value)
        .await;
    let permit = permit.ok_or(HandedBack)?;
    if let Err(rejection) = admission::check_expiry(task, SystemTime::now()) {
        return Ok(shared.rejected(task, rejection));
    }
    shared.event(task, &Event::Started { attempt: 1 });
    let queued = received.elapsed();
    let job = job(task, limits);
    let events = Voice::of(task, shared).map(|voice| voice as Arc<dyn GuestEvents>);
    let mut stopped = shared.stopped.subscribe();
    let ran = tokio::select! {
        ran = shared.sandbox.run(module.prepared.clone(), job, events) => ran,
        _ = stopped.wait_for(|stopped| *stopped) => return Err(HandedBack),
    };
    drop(permit);
    Ok(shared.ended(task, &module, hit, queued, ran))
}

fn job(task: &Task, limits: Limits) -> Job {
    let deadline = SystemTime::now() + Duration::from_millis(limits.timeout_ms.value);
    let context = types::Context {
        id: task.id.to_string(),
        tenant: task.tenant.to_string(),
        module: task.module.to_string(),
        attempt: 1,
        content_type: task.content_type.clone(),
        deadline_ms: deadline
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |d| d.as_millis() as u64),
        labels: task
            .labels
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    };
    Job {
        context,
        input: task.input.clone(),
        limits,
    }
}

impl Shared {
    fn rejected(&self, task: &Task, rejection: Rejection) -> Outcome {
        Outcome::of(
            task,
            rejection.status,
            Some(rejection.error),
            &self.name,
            SystemTime::now(),
        )
    }

    fn ended(
        &self,
        task: &Task,
        module: &Module,
        hit: CacheHit,
        queued: Duration,
        ran: Ran,
    ) -> Outcome {
        let (output, error) = match ran.result {
            Ok(output) => (Some(output), None),
            Err(error) => (None, Some(error)),
        };
        let status = error.as_ref().map_or(Status::Succeeded, TaskError::status);
        Outcome {
            module_digest: Some(module.digest),
            attempt: 1,
            output,
            usage: Usage {
                queued_ms: queued.as_secs_f64() * 1e3,
                module_cache: Some(hit),
                ..ran.usage
            },
            started_at: Some(ran.started_at),
            ..Outcome::of(task, status, error, &self.name, SystemTime::now())
        }
    }

    /// Publishes a lifecycle event if the task asked for them; nobody waits for it.
    fn event(&self, task: &Task, event: &Event) {
        if task.events {
            let message = encode::event(&self.topics, task, &self.name, event, SystemTime::now());
            drop(self.publisher.publish(message));
        }
    }
}

/// Publishes an outcome until the broker has it; false when the connection was closed first.
async fn settle(shared: &Shared, outcome: &mut Outcome) -> bool {
    // The reply topic is the producer's wish; the runner's rights are not the producer's.
    let topics: &Topics = &shared.topics;
    let tenant = &outcome.tenant;
    outcome
        .reply
        .topic
        .take_if(|topic| topics.check_reply(tenant, topic).is_err());
    log(outcome);
    let mut messages = encode::outcome(topics, outcome).into_iter();
    let Some(record) = messages.next() else {
        return false;
    };
    let reply = messages
        .next()
        .map(|message| publish_reply(shared, message, &outcome.tenant, &outcome.id));
    let record = publish_record(shared, record, outcome);
    match reply {
        None => record.await,
        Some(reply) => tokio::join!(record, reply).0,
    }
}

async fn publish_record(shared: &Shared, message: Message, outcome: &Outcome) -> bool {
    let mut message = Arc::new(message);
    let mut wait = REFUSED.0;
    loop {
        match shared.publisher.publish(message.clone()).await {
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
                    error!(task_id = %outcome.id, error = %why, "outcome does not fit the broker");
                    return false;
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

async fn publish_reply(shared: &Shared, message: Message, tenant: &TenantId, id: &TaskId) {
    if let Err(why) = shared.publisher.publish(message).await {
        warn!(task_id = %id, %tenant, error = %why, "reply not published; the outcome is on task_completed");
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
