//! Bytes and properties → `Task`, or a precise error.
//!
//! Three shapes, told apart without guessing: the user property `module` is present (properties); the
//! payload is a JSON object with `module` (JSON); anything else is raw input for the tenant's default
//! module (plain).

mod fields;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::envelope::Inbound;
use crate::envelope::decode::fields::{Object, Value, short, unknown};
use crate::envelope::topics::Topics;
use crate::task::limits::RequestedLimits;
use crate::task::outcome::{ErrorCode, Outcome, TaskError, Usage};
use crate::task::tenant::TenantId;
use crate::task::{ModuleRef, Reply, RetryPolicy, Shape, Task, TaskId, quoted};

/// The most labels on one task.
pub const MAX_LABELS: usize = 64;
/// The longest label name or value, in bytes.
pub const MAX_LABEL_BYTES: usize = 1024;

/// The fields of a task that is JSON.
pub const JSON_FIELDS: &[&str] = &[
    "id",
    "module",
    "input",
    "input_base64",
    "content_type",
    "limits",
    "retry",
    "expires_at",
    "not_before",
    "priority",
    "reply_to",
    "correlation",
    "events",
    "logs",
    "labels",
];
/// The fields of its `limits`.
pub const LIMIT_FIELDS: &[&str] = &["fuel", "memory_bytes", "timeout_ms", "output_bytes"];
/// The fields of its `retry`.
pub const RETRY_FIELDS: &[&str] = &["max_attempts", "initial_delay_ms", "factor", "max_delay_ms"];
/// The user properties of a task that travels as properties.
pub const PROPERTY_FIELDS: &[&str] = &[
    "id",
    "module",
    "content_type",
    "fuel",
    "memory_bytes",
    "timeout_ms",
    "output_bytes",
    "max_attempts",
    "initial_delay_ms",
    "factor",
    "max_delay_ms",
    "expires_at",
    "not_before",
    "priority",
    "reply_to",
    "correlation",
    "events",
    "logs",
    "labels.NAME",
];

/// A message that is no task, with what could be read of it: enough to answer whoever sent it.
#[derive(Debug, Clone, PartialEq)]
pub struct Undecodable {
    /// Whose queue it came on.
    pub tenant: TenantId,
    /// The id, when that at least was in order; else a new one.
    pub id: TaskId,
    /// The module reference as written.
    pub module: Option<String>,
    /// Where the answer is wanted.
    pub reply: Reply,
    /// The labels that could be read.
    pub labels: BTreeMap<String, String>,
    /// How the message travelled.
    pub shape: Shape,
    /// What is wrong.
    pub error: TaskError,
}

impl Undecodable {
    /// The answer: `rejected`, with what is wrong.
    pub fn into_outcome(self, runner: &str, now: SystemTime) -> Outcome {
        Outcome {
            id: self.id,
            tenant: self.tenant,
            status: self.error.status(),
            module: self.module,
            module_digest: None,
            attempt: 0,
            attempts: Vec::new(),
            output: None,
            error: Some(self.error),
            usage: Usage::default(),
            runner: runner.to_owned(),
            started_at: None,
            finished_at: now,
            labels: self.labels,
            reply: self.reply,
            shape: self.shape,
        }
    }
}

/// What decoding must know of a tenant.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The module of plain messages.
    pub default_module: Option<ModuleRef>,
    /// The largest payload of a task, in bytes: a larger one is not even looked into.
    pub max_bytes: u64,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            default_module: None,
            max_bytes: u64::MAX,
        }
    }
}

/// Reads a task off a queue's topic.
///
/// `rules` says what is the tenant's; `now` is when the message came, from which its expiry counts. Never panics,
/// whatever the bytes.
pub fn decode(
    topics: &Topics,
    inbound: &Inbound,
    rules: impl FnOnce(&TenantId) -> Rules,
    now: SystemTime,
) -> Result<Task, Box<Undecodable>> {
    let mut draft = Draft::new(inbound, now);
    let read = topics.tenant_of_queue(&inbound.topic).map_err(|why| {
        // Nobody's queue: nobody's rights to a reply topic either.
        draft.reply = Reply::default();
        TaskError::new(ErrorCode::TenantDenied, why)
    });
    let read = read.and_then(|tenant| {
        draft.tenant = tenant;
        let rules = rules(&draft.tenant);
        let bytes = inbound.payload.len() as u64;
        if bytes > rules.max_bytes {
            let why = format!("the task has {bytes} bytes, of at most {}", rules.max_bytes);
            return Err(TaskError::new(ErrorCode::LimitDenied, why));
        }
        draft
            .read(inbound, rules.default_module)
            .map_err(|why| TaskError::new(ErrorCode::InvalidTask, why))
    });
    match (read, draft.module) {
        (Ok(()), Some(module)) => Ok(Task {
            id: draft.id.unwrap_or_else(TaskId::generate),
            tenant: draft.tenant,
            module,
            input: draft.input,
            content_type: draft.content_type,
            limits: draft.limits,
            retry: draft.retry,
            expires_at: draft.expires_at,
            not_before: draft.not_before,
            priority: draft.priority,
            reply: draft.reply,
            events: draft.events,
            logs: draft.logs,
            labels: draft.labels,
            shape: draft.shape,
        }),
        (read, _) => Err(Box::new(Undecodable {
            error: read
                .err()
                .unwrap_or_else(|| TaskError::new(ErrorCode::InvalidTask, "`module` is missing")),
            tenant: draft.tenant,
            id: draft.id.unwrap_or_else(TaskId::generate),
            module: draft.module_text,
            reply: draft.reply,
            labels: draft.labels,
            shape: draft.shape,
        })),
    }
}

/// A task as far as it has been read.
struct Draft {
    tenant: TenantId,
    shape: Shape,
    id: Option<TaskId>,
    module: Option<ModuleRef>,
    module_text: Option<String>,
    input: Bytes,
    content_type: Option<String>,
    limits: RequestedLimits,
    retry: Option<RetryPolicy>,
    expires_at: Option<SystemTime>,
    not_before: Option<SystemTime>,
    priority: u8,
    reply: Reply,
    events: bool,
    logs: bool,
    labels: BTreeMap<String, String>,
}

impl Draft {
    fn new(inbound: &Inbound, now: SystemTime) -> Draft {
        let properties = &inbound.properties;
        let expiry = |s: u32| now.checked_add(Duration::from_secs(s.into()));
        Draft {
            tenant: TenantId::default(),
            shape: Shape::Plain,
            id: None,
            module: None,
            module_text: None,
            input: Bytes::new(),
            content_type: properties.content_type.clone(),
            limits: RequestedLimits::default(),
            retry: None,
            expires_at: properties.message_expiry_s.and_then(expiry),
            not_before: None,
            priority: 0,
            reply: Reply {
                topic: properties.response_topic.clone(),
                correlation_data: properties.correlation_data.clone(),
                correlation: None,
            },
            events: false,
            logs: false,
            labels: BTreeMap::new(),
        }
    }

    fn read(&mut self, inbound: &Inbound, default_module: Option<ModuleRef>) -> Result<(), String> {
        if inbound
            .properties
            .user
            .iter()
            .any(|(name, _)| name == "module")
        {
            self.shape = Shape::Properties;
            self.input = inbound.payload.clone();
            return self.read_properties(&inbound.properties.user);
        }
        if let Some(object) = Object::parse(&inbound.payload).filter(|o| o.has("module")) {
            self.shape = Shape::Json;
            return self.read_json(&object);
        }
        self.shape = Shape::Plain;
        self.input = inbound.payload.clone();
        self.module = default_module;
        match &self.module {
            Some(module) => {
                self.module_text = Some(module.to_string());
                Ok(())
            }
            None => Err(format!(
                "neither a JSON object with `module`, nor a message with the user property `module`, and tenant {} has no default module",
                self.tenant
            )),
        }
    }

    fn read_properties(&mut self, user: &[(String, String)]) -> Result<(), String> {
        // The id and the reply first, so that a task that is wrong elsewhere is answered under its own id.
        let mut first_error = Ok(());
        let first = |name: &str| matches!(name, "id" | "reply_to" | "correlation" | "module");
        let (head, tail): (Vec<_>, Vec<_>) = user.iter().partition(|(name, _)| first(name));
        let mut seen: Vec<&str> = Vec::with_capacity(user.len());
        for (name, text) in head.into_iter().chain(tail) {
            let read = if seen.contains(&name.as_str()) {
                Err(format!("user property `{}` appears twice", short(name)))
            } else {
                self.set_property(name, &Value::Text(text))
            };
            seen.push(name);
            first_error = first_error.and(read);
        }
        first_error
    }

    fn set_property(&mut self, name: &str, value: &Value<'_>) -> Result<(), String> {
        if let Some(label) = name.strip_prefix("labels.") {
            return self.set_label(label, value.string(name)?);
        }
        if LIMIT_FIELDS.contains(&name) {
            return self.set_limit(name, value);
        }
        if RETRY_FIELDS.contains(&name) {
            return self.set_retry(name, value);
        }
        self.set_common(name, value)
            .unwrap_or_else(|| Err(unknown("user property", name, PROPERTY_FIELDS)))
    }

    fn read_json(&mut self, object: &Object<'_>) -> Result<(), String> {
        let mut first_error = object.duplicate().map_or(Ok(()), |name| {
            Err(format!("field `{}` appears twice", short(name)))
        });
        let first = |name: &str| matches!(name, "id" | "reply_to" | "correlation" | "module");
        let (head, tail): (Vec<_>, Vec<_>) = object.fields().partition(|(name, _)| first(name));
        for (name, value) in head.into_iter().chain(tail) {
            let read = self.set_json(name, &value);
            first_error = first_error.and(read);
        }
        if object.has("input") && object.has("input_base64") {
            first_error =
                first_error.and(Err("both `input` and `input_base64` are present".to_owned()));
        }
        first_error
    }

    fn set_json(&mut self, name: &str, value: &Value<'_>) -> Result<(), String> {
        match name {
            "input" => self.input = value.input()?,
            "input_base64" => self.input = value.base64(name)?,
            "limits" => {
                for (field, value) in value.object(name)?.fields() {
                    if !LIMIT_FIELDS.contains(&field) {
                        return Err(unknown("field in `limits`", field, LIMIT_FIELDS));
                    }
                    self.set_limit(field, &value)?;
                }
            }
            "retry" => {
                self.retry.get_or_insert_default();
                for (field, value) in value.object(name)?.fields() {
                    if !RETRY_FIELDS.contains(&field) {
                        return Err(unknown("field in `retry`", field, RETRY_FIELDS));
                    }
                    self.set_retry(field, &value)?;
                }
            }
            "labels" => {
                for (label, value) in value.object(name)?.fields() {
                    self.set_label(label, value.string(&format!("labels.{}", short(label)))?)?;
                }
            }
            _ => {
                return self
                    .set_common(name, value)
                    .unwrap_or_else(|| Err(unknown("field", name, JSON_FIELDS)));
            }
        }
        Ok(())
    }

    /// Fields that both shapes have; `None` when there is no such field.
    fn set_common(&mut self, name: &str, value: &Value<'_>) -> Option<Result<(), String>> {
        let mut set = || {
            match name {
                "id" => self.id = Some(TaskId::parse(&value.string(name)?)?),
                "module" => {
                    let text = value.string(name)?;
                    self.module_text = Some(text.chars().take(256).collect());
                    self.module =
                        Some(ModuleRef::parse(&text).map_err(|why| format!("`module`: {why}"))?);
                }
                "content_type" => self.content_type = Some(value.string(name)?),
                "expires_at" => {
                    let at = value.time(name)?;
                    self.expires_at = Some(self.expires_at.map_or(at, |message| message.min(at)));
                }
                "not_before" => self.not_before = Some(value.time(name)?),
                "priority" => self.priority = value.integer(name, 0, 9)? as u8,
                "reply_to" => {
                    let topic = value.string(name)?;
                    if self
                        .reply
                        .topic
                        .as_ref()
                        .is_some_and(|property| *property != topic)
                    {
                        return Err(format!(
                            "`reply_to` {} differs from the message's Response Topic",
                            quoted(&topic)
                        ));
                    }
                    self.reply.topic = Some(topic);
                }
                "correlation" => self.reply.correlation = Some(value.string(name)?),
                "events" => self.events = value.boolean(name)?,
                "logs" => self.logs = value.boolean(name)?,
                _ => return Ok(false),
            }
            Ok(true)
        };
        match set() {
            Ok(true) => Some(Ok(())),
            Ok(false) => None,
            Err(why) => Some(Err(why)),
        }
    }

    fn set_limit(&mut self, name: &str, value: &Value<'_>) -> Result<(), String> {
        let number = value.integer(name, 1, u64::MAX)?;
        let limit = match name {
            "fuel" => &mut self.limits.fuel,
            "memory_bytes" => &mut self.limits.memory_bytes,
            "timeout_ms" => &mut self.limits.timeout_ms,
            _ => &mut self.limits.output_bytes,
        };
        *limit = Some(number);
        Ok(())
    }

    fn set_retry(&mut self, name: &str, value: &Value<'_>) -> Result<(), String> {
        let retry = self.retry.get_or_insert_default();
        match name {
            "max_attempts" => retry.max_attempts = Some(value.integer(name, 1, 1000)? as u32),
            "initial_delay_ms" => {
                retry.initial_delay_ms = Some(value.integer(name, 0, u64::MAX)?)
            }
            "factor" => retry.factor = Some(value.number(name, 1.0, 100.0)?),
            _ => retry.max_delay_ms = Some(value.integer(name, 0, u64::MAX)?),
        }
        Ok(())
    }

    fn set_label(&mut self, name: &str, text: String) -> Result<(), String> {
        if self.labels.len() == MAX_LABELS {
            return Err(format!("a task has at most {MAX_LABELS} labels"));
        }
        if name.is_empty() || name.len() > MAX_LABEL_BYTES || text.len() > MAX_LABEL_BYTES {
            return Err(format!(
                "a label has a name of 1 to {MAX_LABEL_BYTES} bytes and a value of at most as many, got {} and {} for {}",
                name.len(),
                text.len(),
                quoted(name)
            ));
        }
        self.labels.insert(name.to_owned(), text);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
