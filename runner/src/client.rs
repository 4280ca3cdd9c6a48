//! The submitter's side of the contract: submit a task, hear of it, get its outcome.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, anyhow};
use serde::Deserialize;
use tokio::sync::mpsc;
use tracing::warn;

use crate::envelope::answer::{self, Request};
use crate::envelope::topics::Topics;
use crate::envelope::{Inbound, Message};
use crate::mqtt::settings::Settings;
use crate::mqtt::{self, BrokerLimits, Deliveries, Published, Publisher};
use crate::task::TaskId;
use crate::task::outcome::Outcome;
use crate::task::tenant::TenantId;

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
    /// How it ended: the last update.
    Ended(Box<Outcome>),
}

/// A connection for submitting one tenant's tasks. Clones share it.
#[derive(Clone)]
pub struct Client {
    publisher: Publisher,
    topics: Topics,
    tenant: TenantId,
    reply_topic: String,
    waiting: Arc<Waiting>,
}

type Waiting = Mutex<HashMap<TaskId, mpsc::UnboundedSender<Update>>>;

impl Client {
    /// Connects; the outcomes of what this client submits come on a reply topic of its own.
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
        let waiting: Arc<Waiting> = Arc::default();
        tokio::spawn(receive(
            deliveries,
            publisher.clone(),
            tenant.clone(),
            waiting.clone(),
        ));
        Ok(Client {
            publisher,
            topics,
            tenant,
            reply_topic,
            waiting,
        })
    }

    /// Publishes a task; returns when the broker has it. What is heard of the task comes on the receiver;
    /// dropping that stops the listening, not the task.
    pub async fn submit(
        &self,
        request: &Request,
    ) -> Result<(Published, mpsc::UnboundedReceiver<Update>)> {
        let (updates, receiver) = mpsc::unbounded_channel();
        lock(&self.waiting).insert(request.id.clone(), updates);
        let mut listened = Vec::new();
        if request.events {
            listened.push(self.topics.status(&self.tenant, &request.id));
        }
        if request.logs {
            listened.push(self.topics.log(&self.tenant, &request.id));
        }
        for topic in &listened {
            self.publisher
                .subscribe(topic)
                .await
                .map_err(|why| anyhow!(why))?;
        }
        let message = request.message(&self.topics, &self.tenant, Some(&self.reply_topic));
        let published = self.publisher.publish(message).await;
        if published.is_err() {
            lock(&self.waiting).remove(&request.id);
        }
        Ok((published?, receiver))
    }

    /// Publishes a task and waits for nothing but the broker's acknowledgement.
    pub async fn post(&self, request: &Request) -> Result<Published> {
        Ok(self
            .publisher
            .publish(request.message(&self.topics, &self.tenant, None))
            .await?)
    }

    /// Publishes anything else, such as a module.
    pub async fn publish(&self, message: Message) -> Result<Published> {
        Ok(self.publisher.publish(message).await?)
    }

    /// The names of the topics.
    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    /// What the broker allows, while connected.
    pub fn limits(&self) -> Option<BrokerLimits> {
        self.publisher.limits()
    }

    /// Disconnects.
    pub async fn close(&self) {
        self.publisher.close().await;
    }
}

async fn receive(
    mut deliveries: Deliveries,
    publisher: Publisher,
    tenant: TenantId,
    waiting: Arc<Waiting>,
) {
    while let Some(delivery) = deliveries.recv().await {
        let inbound = &delivery.inbound;
        match update(&tenant, inbound) {
            Ok((id, update)) => {
                let ended = matches!(update, Update::Ended(_));
                let mut waiting = lock(&waiting);
                let heard = waiting
                    .get(&id)
                    .is_some_and(|updates| updates.send(update).is_ok());
                if ended || !heard {
                    waiting.remove(&id);
                }
            }
            Err(why) => warn!(topic = inbound.topic, error = why, "message not understood"),
        }
        if let Some(token) = delivery.token {
            publisher.ack(token);
        }
    }
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

fn lock(waiting: &Waiting) -> MutexGuard<'_, HashMap<TaskId, mpsc::UnboundedSender<Update>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
