//! What the journal's records say. The stored form is [`FORMAT`]: a change of any of these types is a new one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::envelope::{Inbound, Message, Properties};
use crate::task::outcome::Attempt;
use crate::task::tenant::TenantId;
use crate::task::{Task, TaskId};

/// The version of the stored form.
pub const FORMAT: i64 = 2;

/// A task's tenant and id, hashed: what the journal knows a task by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key([u8; 16]);

impl Key {
    /// The key of a tenant's task.
    pub fn of(tenant: &TenantId, id: &TaskId) -> Key {
        Key(hash(&[tenant.as_str().as_bytes(), id.as_str().as_bytes()]))
    }

    /// As bytes: 16 of them.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// From bytes; `None` unless there are 16.
    pub fn from_bytes(bytes: &[u8]) -> Option<Key> {
        bytes.try_into().ok().map(Key)
    }
}

/// What a task is to do, hashed: two tasks of one id must agree in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content([u8; 16]);

impl Content {
    /// Module and input.
    pub fn of(task: &Task) -> Content {
        Content(hash(&[task.module.to_string().as_bytes(), &task.input]))
    }

    /// Of a task that cannot be read any more: no task agrees with it.
    pub fn unknown() -> Content {
        Content([0; 16])
    }
}

/// Half of SHA-256 over the parts, each with its length in front.
fn hash(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut half = [0; 16];
    half.copy_from_slice(&hash.finalize()[..16]);
    half
}

/// An attempt that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempted {
    /// Whose.
    pub key: Key,
    /// What it runs.
    pub content: Content,
    /// Counted from 1.
    pub attempt: u32,
    /// How many attempts before it the process died of.
    pub deaths: u32,
}

/// How a task ended: the messages that say so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Whose.
    pub key: Key,
    /// The tenant's name.
    pub tenant: String,
    /// The task's id.
    pub id: String,
    /// What it was to do.
    pub content: Content,
    /// On `task_completed` first, then on the reply topic if one was wanted, then the dead letter if it is one.
    pub messages: Vec<Stored>,
    /// The dead letter is also kept for `wasmqtt dead-letter`: its place in `messages`.
    pub dead_letter: Option<u8>,
}

/// A message as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The topic.
    pub topic: String,
    /// The payload.
    #[serde(with = "stored_bytes")]
    pub payload: Bytes,
    /// The media type of the payload.
    pub content_type: Option<String>,
    /// Where an answer is wanted.
    pub response_topic: Option<String>,
    /// Echoed with the answer.
    pub correlation_data: Option<Vec<u8>>,
    /// Seconds after which the message is of no use, counted from its coming.
    pub message_expiry_s: Option<u32>,
    /// User properties.
    pub user: Vec<(String, String)>,
}

impl Stored {
    fn new(topic: &str, payload: &Bytes, properties: &Properties) -> Stored {
        Stored {
            topic: topic.to_owned(),
            payload: payload.clone(),
            content_type: properties.content_type.clone(),
            response_topic: properties.response_topic.clone(),
            correlation_data: properties
                .correlation_data
                .as_ref()
                .map(|data| data.to_vec()),
            message_expiry_s: properties.message_expiry_s,
            user: properties.user.clone(),
        }
    }

    /// To be published.
    pub fn message(&self) -> Message {
        let inbound = self.inbound();
        Message {
            properties: inbound.properties,
            ..Message::new(inbound.topic, inbound.payload)
        }
    }

    /// As it came.
    pub fn inbound(&self) -> Inbound {
        Inbound {
            topic: self.topic.clone(),
            payload: self.payload.clone(),
            properties: Properties {
                content_type: self.content_type.clone(),
                response_topic: self.response_topic.clone(),
                correlation_data: self.correlation_data.clone().map(Bytes::from),
                message_expiry_s: self.message_expiry_s,
                user: self.user.clone(),
            },
        }
    }
}

impl From<&Message> for Stored {
    fn from(message: &Message) -> Stored {
        Stored::new(&message.topic, &message.payload, &message.properties)
    }
}

impl From<&Inbound> for Stored {
    fn from(inbound: &Inbound) -> Stored {
        Stored::new(&inbound.topic, &inbound.payload, &inbound.properties)
    }
}

/// A task that this runner answers for: its delivery is acknowledged, nobody will send it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Whose.
    pub key: Key,
    /// The id, which may be one that the runner made.
    pub id: String,
    /// The task as it came.
    pub message: Stored,
    /// When it came: its Message Expiry counts from there.
    pub received_at: SystemTime,
    /// Not to be tried before.
    pub due: SystemTime,
    /// The attempts so far.
    pub attempts: Vec<Attempt>,
    /// How many the process died of.
    pub deaths: u32,
}

impl Kept {
    /// How long until it is due.
    pub fn wait(&self, now: SystemTime) -> Duration {
        self.due.duration_since(now).unwrap_or_default()
    }
}

/// One thing that happened, in the order of the log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Entry {
    /// The runner answers for the task from now on.
    Kept(Box<Kept>),
    /// The same in the log, which needs not hold the task too.
    IsKept(Key),
    /// The task ended.
    Ended(#[serde(with = "stored_arc")] Arc<Ended>),
    /// The broker has the outcome.
    Published(Key),
}

impl Entry {
    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        let stored = |m: &Stored| m.payload.len() + m.topic.len() + 40 * m.user.len() + 64;
        match self {
            Entry::IsKept(_) | Entry::Published(_) => 48,
            Entry::Kept(kept) => stored(&kept.message) + 128 * (kept.attempts.len() + 1),
            Entry::Ended(ended) => ended.messages.iter().map(stored).sum::<usize>() + 96,
        }
    }
}

mod stored_bytes {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        Vec::deserialize(from).map(Bytes::from)
    }
}

mod stored_arc {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(ended: &Arc<Ended>, to: S) -> Result<S::Ok, S::Error> {
        ended.as_ref().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Ended>, D::Error> {
        Ended::deserialize(from).map(Arc::new)
    }
}
