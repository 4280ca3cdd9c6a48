//! A task as the rest of the runner sees it: parsed, named, typed.
//!
//! Pure data. This module knows neither how a task travels (`envelope`) nor whether it may run
//! (`admission`).

pub mod limits;
pub mod outcome;
pub mod remote;
pub mod retry;
pub mod tenant;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::task::limits::RequestedLimits;
use crate::task::remote::{HttpsRef, OciRef};
use crate::task::tenant::TenantId;

/// One task: which module to run, on what, for whom, and where the outcome goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// The idempotency key.
    pub id: TaskId,
    /// Read from the topic, never from the payload.
    pub tenant: TenantId,
    /// The module to run.
    pub module: ModuleRef,
    /// The guest's input, not copied where the wire format allows.
    pub input: Bytes,
    /// The media type of the input.
    pub content_type: Option<String>,
    /// The limits that the task asks for.
    pub limits: RequestedLimits,
    /// The retry policy that the task asks for.
    pub retry: Option<RetryPolicy>,
    /// Not to be started after this instant.
    pub expires_at: Option<SystemTime>,
    /// Not to be started before this instant.
    pub not_before: Option<SystemTime>,
    /// 0 to 9; higher runs first, within one tenant.
    pub priority: u8,
    /// Where the outcome goes besides `task_completed`.
    pub reply: Reply,
    /// Publish the lifecycle on `task_status/{id}`.
    pub events: bool,
    /// Publish the guest's log on `task_log/{id}`.
    pub logs: bool,
    /// Echoed in the outcome.
    pub labels: BTreeMap<String, String>,
    /// How the task travelled, which is how its outcome travels.
    pub shape: Shape,
}

/// Where an outcome goes besides `task_completed`, and what is echoed there unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// The reply topic.
    pub topic: Option<String>,
    /// MQTT 5 Correlation Data.
    pub correlation_data: Option<Bytes>,
    /// The `correlation` field of a JSON task.
    pub correlation: Option<String>,
}

/// How a task travelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A JSON object.
    Json,
    /// MQTT 5 user properties and a raw payload.
    Properties,
    /// A raw payload for the tenant's default module.
    Plain,
}

/// What a task asks of retries. Only the shape of it: when to retry is decided elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, at least 1.
    pub max_attempts: Option<u32>,
    /// Milliseconds before the second attempt.
    pub initial_delay_ms: Option<u64>,
    /// What each further delay is multiplied by, at least 1.
    pub factor: Option<f64>,
    /// The longest delay in milliseconds.
    pub max_delay_ms: Option<u64>,
}

/// A task's id: 1 to 64 characters of `[A-Za-z0-9_-]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(Arc<str>);

impl TaskId {
    /// The longest id, in characters.
    pub const MAX_LEN: usize = 64;

    /// Checks an id that a producer chose.
    pub fn parse(text: &str) -> Result<TaskId, String> {
        let fits = (1..=Self::MAX_LEN).contains(&text.len());
        if fits
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        {
            return Ok(TaskId(text.into()));
        }
        Err(format!(
            "`id` must be 1 to {} characters of [A-Za-z0-9_-], got {}",
            Self::MAX_LEN,
            quoted(text)
        ))
    }

    /// A new UUIDv7, for a task that came without an id.
    pub fn generate() -> TaskId {
        TaskId(uuid::Uuid::now_v7().to_string().into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The SHA-256 of a module's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Wraps a hash that was computed elsewhere.
    pub fn new(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    /// Parses 64 hexadecimal digits.
    pub fn parse_hex(hex: &str) -> Result<Digest, String> {
        let wrong = || {
            format!(
                "a sha256 digest is 64 hexadecimal digits, got {}",
                quoted(hex)
            )
        };
        // `from_str_radix` would take a sign.
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Digest(bytes))
    }

    /// The digest as 64 lowercase hexadecimal digits.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |four: u8| char::from(DIGITS[usize::from(four)]);
        let pairs = self
            .0
            .iter()
            .map(|byte| [digit(byte >> 4), digit(byte & 15)]);
        pairs.flatten().collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A module's name: `[a-z0-9][a-z0-9._-]{0,127}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleName(String);

impl ModuleName {
    /// Checks a name.
    pub fn parse(text: &str) -> Result<ModuleName, String> {
        let head = text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let tail = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        if head && text.len() <= 128 && text.bytes().all(tail) {
            return Ok(ModuleName(text.to_owned()));
        }
        Err(format!(
            "a module name is [a-z0-9][a-z0-9._-]{{0,127}}, got {}",
            quoted(text)
        ))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A reference to a module, as a producer writes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModuleRef {
    /// `name`
    Name(ModuleName),
    /// `name@sha256:HEX`
    Pinned(ModuleName, Digest),
    /// `sha256:HEX`
    Digest(Digest),
    /// `https://…`
    Https(HttpsRef),
    /// `oci://…`
    Oci(OciRef),
}

impl ModuleRef {
    /// Parses any of the five forms.
    pub fn parse(text: &str) -> Result<ModuleRef, String> {
        if let Some(rest) = text.strip_prefix("https://") {
            return Ok(ModuleRef::Https(HttpsRef::parse(rest)?));
        }
        if let Some(rest) = text.strip_prefix("oci://") {
            return Ok(ModuleRef::Oci(OciRef::parse(rest)?));
        }
        if let Some(hex) = text.strip_prefix("sha256:") {
            return Ok(ModuleRef::Digest(Digest::parse_hex(hex)?));
        }
        match text.split_once('@') {
            None => Ok(ModuleRef::Name(ModuleName::parse(text)?)),
            Some((name, pin)) => {
                let hex = pin.strip_prefix("sha256:").ok_or_else(|| {
                    format!(
                        "a module's pin is `sha256:` and 64 hexadecimal digits, got {}",
                        quoted(pin)
                    )
                })?;
                Ok(ModuleRef::Pinned(
                    ModuleName::parse(name)?,
                    Digest::parse_hex(hex)?,
                ))
            }
        }
    }
}

impl fmt::Display for ModuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModuleRef::Name(name) => write!(f, "{name}"),
            ModuleRef::Pinned(name, digest) => write!(f, "{name}@{digest}"),
            ModuleRef::Digest(digest) => write!(f, "{digest}"),
            ModuleRef::Https(reference) => write!(f, "{reference}"),
            ModuleRef::Oci(reference) => write!(f, "{reference}"),
        }
    }
}

/// A producer's text in an error message: escaped, and cut where it is long.
pub fn quoted(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        None => format!("{text:?}"),
        Some((cut, _)) => format!("{:?}… ({} bytes)", &text[..cut], text.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        for good in ["1", "a_B-9", &"x".repeat(64)] {
            assert_eq!(
                TaskId::parse(good).map(|id| id.to_string()),
                Ok(good.to_owned())
            );
        }
        for bad in ["", "a b", "é", "a/b", &"x".repeat(65)] {
            assert!(TaskId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(TaskId::parse(TaskId::generate().as_str()).is_ok());
    }

    #[test]
    fn module_references() {
        let hex = "ab".repeat(32);
        for good in [
            "upper".to_owned(),
            "0a.b_c-d".to_owned(),
            format!("upper@sha256:{hex}"),
            format!("sha256:{hex}"),
            "oci://ghcr.io/a/b:1".to_owned(),
            "https://example.com/a.wasm".to_owned(),
        ] {
            assert_eq!(ModuleRef::parse(&good).map(|r| r.to_string()), Ok(good));
        }
        for bad in [
            "",
            "Upper",
            "-a",
            "a/b",
            "../etc",
            "a@1",
            "sha256:zz",
            "a@sha256:",
            &format!("sha256:{}", "+f".repeat(32)),
            "oci://a b",
            "http://x",
        ] {
            assert!(ModuleRef::parse(bad).is_err(), "{bad:?}");
        }
    }
}
