//! The submitter's side of the contract: submit a task, hear of it, cancel it, get its outcome.
//!
//! What a submitter can rely on: a task that is waited for is published again, under its id, when the connection
//! came back, when nothing was heard of it for too long, and while the broker has nobody to give it to. So its
//! outcome comes over a broker's restart, and over the loss of what a broker held.

mod keep;
mod receive;
mod waiting;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Result, anyhow, bail};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use self::keep::Keep;
use self::receive::receive;
use self::waiting::{Listener, Waiting};
use crate::envelope::Message;
use crate::envelope::answer::{self, Request};
use crate::envelope::topics::Topics;
use crate::mqtt::settings::Settings;
use crate::mqtt::{self, BrokerLimits, Published, Publisher};
use crate::task::TaskId;
use crate::task::outcome::Outcome;
use crate::task::tenant::TenantId;

/// How long a task may be silent before it is published again, unless the client is told otherwise.
pub const RESEND_AFTER: Duration = Duration::from_secs(30);
/// How often an outcome is asked for: often enough for somebody who looks on.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// More than anybody waits; clocks add it without overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What is heard of a task.
#[derive(Debug, Clone)]
pub enum Update {
    /// `queued` or `started`.
    Status(String),
    /// How far the guest is.
    Progress {
        /// Steps done.
        done: u64,
        /// Steps in all, 0 when unknown.
        total: u64,
        /// What it is doing.
        message: String,
    },
    /// A line of its log.
    Log {
        /// `trace` to `error`.
        level: String,
        /// The line.
        message: String,
    },
    /// It was published again, and the broker has nobody to give it to: there is no runner, for now. It is
    /// published until there is one.
    Unheard,
    /// How it ended: the last update.
    Ended(Box<Outcome>),
}

/// A connection for submitting one tenant's tasks. Clones share it; it ends with the last of them.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    resend_after: Duration,
}

struct Shared {
    publisher: Publisher,
    topics: Topics,
    tenant: TenantId,
    reply_topic: String,
    waiting: Arc<Waiting>,
    /// What receives, and what keeps each task that is waited for: aborted with the last clone.
    tasks: Mutex<JoinSet<()>>,
}

impl Client {
    /// Connects; the outcomes of what this client submits come on a reply topic of its own.
    ///
    /// # Errors
    /// When the broker can never serve this client. One that is away is waited for.
    pub async fn connect(
        mut settings: Settings,
        topics: Topics,
        tenant: TenantId,
    ) -> Result<Client> {
        let reply_topic = topics.reply(&tenant, &settings.client_id);
        settings.filters.push(reply_topic.clone());
        let (deliveries, publisher) = mqtt::connect(settings);
        publisher
            .ready()
            .await
            .map_err(|why| anyhow!(why).context("failed to connect"))?;
        let waiting = Arc::new(Waiting::new(publisher.clone()));
        let mut tasks = JoinSet::new();
        tasks.spawn(receive(deliveries, tenant.clone(), waiting.clone()));
        let shared = Shared {
            publisher,
            topics,
            tenant,
            reply_topic,
            waiting,
            tasks: Mutex::new(tasks),
        };
        Ok(Client {
            shared: Arc::new(shared),
            resend_after: RESEND_AFTER,
        })
    }

    /// The same client; what it submits is published again after so long without a word of it
    /// ([`RESEND_AFTER`] by default). The task's own `timeout_ms`, where it has one, is added.
    #[must_use]
    pub fn with_resend_after(mut self, silence: Duration) -> Client {
        self.resend_after = silence;
        self
    }

    /// Publishes a task; returns when the broker has it. What is heard of the task comes on the receiver, which
    /// ends after the outcome, or when the connection is over for good.
    ///
    /// The task is published again when it may have been lost, with the same id, so that it has one outcome all the
    /// same. Dropping the receiver stops that and the listening, not the task.
    ///
    /// # Errors
    /// When the broker refuses the task or a subscription to its events.
    pub async fn submit(
        &self,
        request: &Request,
    ) -> Result<(Published, mpsc::UnboundedReceiver<Update>)> {
        let shared = &self.shared;
        let mut listened = Vec::new();
        if request.events {
            listened.push(shared.topics.status(&shared.tenant, &request.id));
        }
        if request.logs {
            listened.push(shared.topics.log(&shared.tenant, &request.id));
        }
        let listener = shared.waiting.listen(&request.id, &listened);
        for topic in &listened {
            shared
                .publisher
                .subscribe(topic)
                .await
                .map_err(|why| anyhow!(why))?;
        }
        let message = request.message(&shared.topics, &shared.tenant, Some(&shared.reply_topic));
        let message = Arc::new(message);
        let published = shared.publisher.publish(message.clone()).await?;
        let (updates, receiver) = mpsc::unbounded_channel();
        let runs = Duration::from_millis(request.limits.timeout_ms.unwrap_or(0));
        let waits = request
            .not_before
            .and_then(|at| at.duration_since(SystemTime::now()).ok())
            .unwrap_or_default();
        shared.spawn(Keep {
            publisher: shared.publisher.clone(),
            message,
            listener,
            updates,
            patience: self.resend_after.saturating_add(runs).min(LONGEST),
            starts: Instant::now() + waits.min(LONGEST),
            published,
        });
        Ok((published, receiver))
    }

    /// Publishes a task and waits for nothing but the broker's acknowledgement.
    ///
    /// # Errors
    /// When the broker refuses it.
    pub async fn post(&self, request: &Request) -> Result<Published> {
        let shared = &self.shared;
        self.publish(request.message(&shared.topics, &shared.tenant, None))
            .await
    }

    /// Asks the runners to cancel a task; returns when the broker has that. Whatever became of the task, it has its
    /// one outcome: wait for it, or ask with [`Client::outcome`].
    ///
    /// # Errors
    /// When the broker refuses it.
    pub async fn cancel(&self, id: &TaskId) -> Result<Published> {
        self.publish(answer::cancel(&self.shared.topics, &self.shared.tenant, id))
            .await
    }

    /// Asks the runners for the outcome of a task, every 500 ms, until one that has recorded it answers. `None` when
    /// none did in time: the task has not ended yet, or nobody knows it.
    ///
    /// # Errors
    /// When the broker refuses the question, or the connection is over for good.
    pub async fn outcome(&self, id: &TaskId, patience: Duration) -> Result<Option<Outcome>> {
        let shared = &self.shared;
        let listener = shared.waiting.listen(id, &[]);
        let question = answer::ask(&shared.topics, &shared.tenant, id, &shared.reply_topic);
        let question = Arc::new(question);
        let asking = async {
            loop {
                if let Err(refused) = shared.publisher.publish(question.clone()).await {
                    return refused;
                }
                sleep(ASK_EVERY).await;
            }
        };
        let answered = async {
            tokio::select! {
                outcome = ended(listener) => match outcome {
                    Some(outcome) => Ok(outcome),
                    None => bail!("the connection was closed before the outcome of {id} came"),
                },
                refused = asking => Err(refused.into()),
            }
        };
        match timeout(patience, answered).await {
            Ok(outcome) => outcome.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Publishes anything else, such as a module.
    ///
    /// # Errors
    /// When the broker refuses it.
    pub async fn publish(&self, message: Message) -> Result<Published> {
        Ok(self.shared.publisher.publish(message).await?)
    }

    /// The names of the topics.
    pub fn topics(&self) -> &Topics {
        &self.shared.topics
    }

    /// What the broker allows, while connected.
    pub fn limits(&self) -> Option<BrokerLimits> {
        self.shared.publisher.limits()
    }

    /// Disconnects. Nobody hears of any task any more.
    pub async fn close(&self) {
        self.shared.publisher.close().await;
    }
}

impl Shared {
    fn spawn(&self, keep: Keep) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that have ended.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(keep.run());
    }
}

/// Waits for the outcome; `None` when it cannot come any more.
async fn ended(mut listener: Listener) -> Option<Outcome> {
    loop {
        if let Update::Ended(outcome) = listener.hear().await? {
            return Some(*outcome);
        }
    }
}
