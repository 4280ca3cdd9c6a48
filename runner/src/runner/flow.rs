//! One task from its decoded envelope to its acknowledgement.
//!
//! Every exit of a task falls into [`settle::settle`]: record, publish, resolve on PUBACK, acknowledge. What is no task of ours is
//! answered without a record. The one other way out is to hand a task back when the runner stops: unacknowledged to the broker, or kept in the journal.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;
use tracing::{debug, info, warn};

use crate::admission::{self, Rejection};
use crate::envelope::Inbound;
use crate::envelope::encode::{self, Event};
use crate::journal::record::{Attempted, Content, Kept, Key, Stored};
use crate::modules::Module;
use crate::mqtt;
use crate::runner::active::Active;
use crate::runner::messages::Messages;
use crate::runner::voice::Voice;
use crate::runner::{Shared, settle};
use crate::sandbox::host::types;
use crate::sandbox::log::GuestEvents;
use crate::sandbox::publish::GuestMessages;
use crate::sandbox::{Job, Ran};
use crate::task::Task;
use crate::task::limits::Limits;
use crate::task::outcome::{Attempt, CacheHit, ErrorCode, Outcome, Status, TaskError, Usage};
use crate::task::retry::{self, Next};
use crate::tenants::TenantPolicy;

/// A long wait looks at the clock this often: it may be set.
const LOOK: Duration = Duration::from_secs(30);

/// Why a task has no outcome here: the runner stops, and the broker or the journal has the task still.
struct HandedBack;

/// A task in hand.
pub(super) struct InHand {
    pub(super) task: Task,
    pub(super) key: Key,
    pub(super) content: Content,
    /// As it came.
    pub(super) original: Inbound,
    pub(super) received: Instant,
    pub(super) received_at: SystemTime,
    /// The attempts before the next one.
    pub(super) attempts: Vec<Attempt>,
    /// How many of them the process died of.
    pub(super) deaths: u32,
    /// Not to be tried before.
    pub(super) due: Option<SystemTime>,
    /// The journal answers for it.
    pub(super) kept: bool,
    /// It was tried as often as it may be.
    pub(super) given_up: bool,
}

impl InHand {
    /// Boxed, as outcomes are: what a flow holds is moved with it.
    pub(super) fn new(task: Task, original: Inbound, received_at: SystemTime) -> Box<InHand> {
        Box::new(InHand {
            key: Key::of(&task.tenant, &task.id),
            content: Content::of(&task),
            due: task.not_before.filter(|at| *at > received_at),
            task,
            original,
            received: Instant::now(),
            received_at,
            attempts: Vec::new(),
            deaths: 0,
            kept: false,
            given_up: false,
        })
    }

    /// An earlier process began an attempt and never told of its end.
    pub(super) fn died(&mut self, died: &Attempted) {
        if died.content == self.content {
            self.deaths = died.deaths + 1;
            // The journal has only the last of them; those before it ended the same way.
            for attempt in self.attempt()..=died.attempt.max(self.attempt()) {
                self.attempts.push(Attempt {
                    attempt,
                    failed_at: SystemTime::now(),
                    code: ErrorCode::Internal.as_str().to_owned(),
                    message: "the runner's process ended while the task ran".to_owned(),
                });
            }
        }
    }

    /// The number of the next attempt.
    fn attempt(&self) -> u32 {
        self.attempts.last().map_or(1, |last| last.attempt + 1)
    }

    fn kept(&self, due: SystemTime) -> Kept {
        Kept {
            key: self.key,
            id: self.task.id.to_string(),
            message: Stored::from(&self.original),
            received_at: self.received_at,
            due,
            attempts: self.attempts.clone(),
            deaths: self.deaths,
        }
    }
}

/// Runs a task to its outcome and publishes that. `verdict` is the outcome of one that is not to be run at all.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut in_hand: Box<InHand>,
    cancel: oneshot::Receiver<()>,
    verdict: Option<Box<Outcome>>,
) {
    let _if_it_panics = Leave(&shared.active, in_hand.key);
    let ended = match verdict {
        Some(outcome) => Ok(outcome),
        // Dropping a life in the middle gives back its permit and stops its guest, wherever that waits.
        None => tokio::select! {
            biased;
            Ok(()) = cancel => Ok(canceled(&shared, &in_hand)),
            ended = live(&shared, &mut in_hand) => ended,
        },
    };
    let mut outcome = match ended {
        Ok(outcome) => outcome,
        Err(HandedBack) => match Box::pin(hand_back(&shared, &in_hand)).await {
            Some(outcome) => outcome,
            None => return,
        },
    };
    if in_hand.kept {
        shared.kept.remove(&in_hand.task.tenant);
    }
    let settled = settle::settle(&shared, &mut outcome, &in_hand).await;
    // Also when it is not settled: a delivery that comes again must not attach to a task that nobody runs.
    let held = shared.active.leave(in_hand.key);
    if let Some(ended) = settled {
        settle::finish(&shared, &in_hand.task.tenant, &ended, held).await;
    }
}

/// A flow that panics takes its task out of hand, else what is delivered again would attach to nobody.
struct Leave<'a>(&'a Active, Key);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.leave(self.1);
        }
    }
}

/// The runner stops before the task could end. QoS 1 deliveries stay unacknowledged, so the broker delivers them again;
/// what came at QoS 0 is kept in the journal, or answered when that does not outlive the process.
async fn hand_back(shared: &Shared, in_hand: &InHand) -> Option<Box<Outcome>> {
    let (task, key) = (&in_hand.task, in_hand.key);
    // Asked now, not on arrival: a QoS 1 delivery of the same task may have come since.
    let nobodys = !in_hand.kept && shared.active.is_volatile(key);
    if nobodys && !shared.journal.is_durable() {
        let why = "the runner stopped before the task could finish";
        let error = TaskError::new(ErrorCode::RunnerShutdown, why);
        return Some(shared.rejected(in_hand, error.into()));
    }
    if nobodys {
        let due = in_hand.due.unwrap_or(in_hand.received_at);
        shared.journal.keep(in_hand.kept(due)).await;
    }
    debug!(task_id = %task.id, tenant = %task.tenant, "task handed back");
    shared.active.leave(key);
    None
}

/// From admission to the last attempt.
async fn live(shared: &Shared, in_hand: &mut InHand) -> Result<Box<Outcome>, HandedBack> {
    if in_hand.deaths >= shared.max_deaths {
        in_hand.given_up = true;
        let why = format!(
            "given up: the runner's process ended {} times while the task ran (limit of `runner.max_deaths`)",
            in_hand.deaths
        );
        let error = TaskError::new(ErrorCode::Internal, why);
        let mut outcome = shared.rejected(in_hand, error.into());
        outcome.attempt = in_hand.attempt() - 1;
        return Ok(outcome);
    }
    let tenant = in_hand.task.tenant.clone();
    let policy = shared
        .tenants
        .policy(&tenant)
        .ok_or_else(|| admission::unserved(&tenant));
    let now = SystemTime::now();
    let admitted = policy.and_then(|policy| {
        let limits = admission::admit(&in_hand.task, &policy, &shared.topics, now)?;
        Ok((policy, limits))
    });
    let (policy, limits) = match admitted {
        Ok(admitted) => admitted,
        Err(rejection) => return Ok(shared.rejected(in_hand, rejection)),
    };
    // What was let in, and is kept or was begun, is not turned away after a restart.
    let is_new = !in_hand.kept && in_hand.attempts.is_empty();
    if is_new && let Err(wait) = shared.permits.enter(&tenant, &policy) {
        return Ok(shared.rejected(in_hand, admission::over_quota(&tenant, wait)));
    }
    shared.event(&in_hand.task, &Event::Queued);
    // One that runs as it came is content with a module that was looked for since; one that waited may be much later.
    let mut since = in_hand.received;
    loop {
        if let Some(due) = in_hand.due.take() {
            Box::pin(wait(shared, in_hand, policy.max_kept, due)).await?;
            since = Instant::now();
        }
        let mut outcome = attempt(shared, in_hand, &policy, limits, since).await?;
        let number = in_hand.attempt();
        let Some(error) = outcome
            .error
            .as_ref()
            .filter(|_| outcome.status != Status::Expired)
        else {
            return Ok(outcome);
        };
        let asked = in_hand.task.retry.as_ref();
        match retry::next(error, asked, &shared.retry, number, mqtt::random()) {
            Next::End => return Ok(outcome),
            Next::GiveUp => {
                in_hand.given_up = true;
                if !outcome.attempts.is_empty() {
                    (outcome.status, outcome.attempt) = (Status::Failed, number);
                }
                return Ok(outcome);
            }
            Next::Retry(delay) => {
                info!(task_id = %outcome.id, tenant = %outcome.tenant, attempt = number, %error, ?delay, "attempt failed, another follows");
                let event = Event::Retrying {
                    attempt: number,
                    delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
                    code: error.code.as_str(),
                    message: error.message.clone(),
                };
                shared.event(&in_hand.task, &event);
                in_hand.attempts.push(Attempt {
                    attempt: number,
                    failed_at: outcome.finished_at,
                    code: error.code.as_str().to_owned(),
                    message: error.message.clone(),
                });
                in_hand.due = Some(outcome.finished_at + delay);
            }
        }
    }
}

/// Waits until a task is due, holding no permit; kept in the journal, so that the broker need not hold it either.
async fn wait(
    shared: &Shared,
    in_hand: &mut InHand,
    max_kept: usize,
    due: SystemTime,
) -> Result<(), HandedBack> {
    let until = in_hand
        .task
        .expires_at
        .map_or(due, |expiry| expiry.min(due));
    in_hand.kept = in_hand.kept || shared.kept.try_add(&in_hand.task.tenant, max_kept);
    if in_hand.kept {
        shared.journal.keep(in_hand.kept(due)).await;
        for token in shared.active.kept(in_hand.key) {
            token.ack();
        }
    } else {
        warn!(task_id = %in_hand.task.id, tenant = %in_hand.task.tenant, max_kept, "no more tasks can be kept: this one waits in the broker's window");
    }
    let mut draining = shared.draining.subscribe();
    loop {
        let left = until.duration_since(SystemTime::now()).unwrap_or_default();
        if left.is_zero() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(left.min(LOOK)) => {}
            _ = draining.wait_for(|draining| *draining) => {
                in_hand.due = Some(due);
                return Err(HandedBack);
            }
        }
    }
}

/// Module → permit → sandbox → outcome.
async fn attempt(
    shared: &Shared,
    in_hand: &InHand,
    policy: &Arc<TenantPolicy>,
    limits: Limits,
    since: Instant,
) -> Result<Box<Outcome>, HandedBack> {
    let task = &in_hand.task;
    let number = in_hand.attempt();
    if let Err(rejection) = admission::check_expiry(task, SystemTime::now()) {
        return Ok(shared.rejected(in_hand, rejection));
    }
    let (tenant, reference) = (&task.tenant, &task.module);
    let resolved = shared.modules.resolve(tenant, policy, reference, since);
    let (module, hit) = match resolved.await {
        Ok(resolved) => resolved,
        Err(error) => return Ok(shared.rejected(in_hand, error.into())),
    };
    // A task that the process may have died of runs while no other such task does: else it would take them with it.
    // Once may be bad company; the second time it has a turn of its own.
    let _suspect = match in_hand.deaths {
        0 | 1 => None,
        _ => Some(shared.suspects.lock().await),
    };
    let memory = limits.memory_bytes.value;
    let permit = shared
        .permits
        .acquire(&task.tenant, policy, task.priority, memory)
        .await;
    let mut permit = permit.ok_or(HandedBack)?;
    if let Err(rejection) = admission::check_expiry(task, SystemTime::now()) {
        return Ok(shared.rejected(in_hand, rejection));
    }
    let attempted = Attempted {
        key: in_hand.key,
        content: in_hand.content,
        attempt: number,
        deaths: in_hand.deaths,
    };
    shared.journal.attempt(attempted).await;
    shared.event(task, &Event::Started { attempt: number });
    let queued = in_hand.received.elapsed();
    let job = shared.job(task, policy, limits, number);
    let events = Voice::of(task, shared).map(|voice| voice as Arc<dyn GuestEvents>);
    let mut stopped = shared.stopped.subscribe();
    let ran = tokio::select! {
        ran = shared.sandbox.run(module.prepared.clone(), job, events, &shared.answers) => ran,
        _ = stopped.wait_for(|stopped| *stopped) => {
            shared.journal.broken_off(in_hand.key);
            return Err(HandedBack);
        }
    };
    permit.burnt(ran.usage.fuel);
    drop(permit);
    Ok(shared.ended(in_hand, number, &module, hit, queued, ran))
}

fn context(task: &Task, limits: Limits, attempt: u32) -> types::Context {
    let deadline = SystemTime::now() + Duration::from_millis(limits.timeout_ms.value);
    types::Context {
        id: task.id.to_string(),
        tenant: task.tenant.to_string(),
        module: task.module.to_string(),
        attempt,
        content_type: task.content_type.clone(),
        deadline_ms: deadline
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |d| d.as_millis() as u64),
        labels: task
            .labels
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    }
}

/// The outcome of a task that was canceled.
pub(super) fn canceled(shared: &Shared, in_hand: &InHand) -> Box<Outcome> {
    Box::new(Outcome {
        attempts: in_hand.attempts.clone(),
        ..Outcome::of(
            &in_hand.task,
            Status::Canceled,
            None,
            &shared.name,
            SystemTime::now(),
        )
    })
}

/// The outcome of a task that there was no room for.
pub(super) fn no_room(shared: &Shared, in_hand: &InHand) -> Box<Outcome> {
    let why = "too many tasks wait that were published at QoS 0; use QoS 1 to wait in the broker";
    let error = TaskError::new(ErrorCode::QuotaExceeded, why);
    shared.rejected(in_hand, error.into())
}

impl Shared {
    fn job(&self, task: &Task, policy: &TenantPolicy, limits: Limits, attempt: u32) -> Job {
        let grants = policy.grants.clone();
        let messages = grants.publish.map(|_| Messages {
            topics: self.topics.clone(),
            publisher: self.lanes.publisher(&task.tenant),
            tenant: task.tenant.clone(),
        });
        Job {
            context: context(task, limits, attempt),
            input: task.input.clone(),
            limits,
            tenant: task.tenant.clone(),
            weight: policy.weight,
            grants,
            messages: messages.map(|messages| Arc::new(messages) as Arc<dyn GuestMessages>),
        }
    }

    fn rejected(&self, in_hand: &InHand, rejection: Rejection) -> Box<Outcome> {
        Box::new(Outcome {
            attempts: in_hand.attempts.clone(),
            ..self.refused(&in_hand.task, rejection)
        })
    }

    pub(super) fn refused(&self, task: &Task, rejection: Rejection) -> Outcome {
        let (status, error) = (rejection.status, Some(rejection.error));
        Outcome::of(task, status, error, &self.name, SystemTime::now())
    }

    fn ended(
        &self,
        in_hand: &InHand,
        attempt: u32,
        module: &Module,
        hit: CacheHit,
        queued: Duration,
        ran: Ran,
    ) -> Box<Outcome> {
        let (output, error) = match ran.result {
            Ok(output) => (Some(output), None),
            Err(error) => (None, Some(error)),
        };
        let status = error.as_ref().map_or(Status::Succeeded, TaskError::status);
        Box::new(Outcome {
            module_digest: Some(module.digest),
            attempt,
            attempts: in_hand.attempts.clone(),
            output,
            usage: Usage {
                queued_ms: queued.as_secs_f64() * 1e3,
                module_cache: Some(hit),
                ..ran.usage
            },
            started_at: Some(ran.started_at),
            ..Outcome::of(&in_hand.task, status, error, &self.name, SystemTime::now())
        })
    }

    /// Publishes a lifecycle event if the task asked for them; nobody waits for it.
    fn event(&self, task: &Task, event: &Event) {
        if task.events {
            let message = encode::event(&self.topics, task, &self.name, event, SystemTime::now());
            drop(self.lanes.publisher(&task.tenant).publish(message));
        }
    }
}
