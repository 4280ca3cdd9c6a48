//! What a tenant's guests may use beyond bytes in and bytes out: nothing, unless the operator granted it.
//!
//! Pure: values that the sandbox acts on. It must know neither where they are configured nor how they are used.

pub mod addresses;
pub mod hosts;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::grants::addresses::AddressPattern;
use crate::grants::hosts::HostPattern;

/// What can be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Outgoing HTTP requests to listed hosts.
    Http,
    /// Configuration values and secrets.
    Config,
    /// A store of keys and values of the tenant's own.
    KeyValue,
    /// Messages below the tenant's own topic prefix.
    Publish,
    /// An empty folder for the time of a task.
    Scratch,
    /// Clocks finer than a millisecond.
    Clock,
    /// Random bytes that nobody can predict.
    Entropy,
}

impl Capability {
    /// All of them.
    pub const ALL: [Capability; 7] = [
        Capability::Http,
        Capability::Config,
        Capability::KeyValue,
        Capability::Publish,
        Capability::Scratch,
        Capability::Clock,
        Capability::Entropy,
    ];

    /// Its name, as the configuration and error messages have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Capability::Http => "http",
            Capability::Config => "config",
            Capability::KeyValue => "keyvalue",
            Capability::Publish => "publish",
            Capability::Scratch => "scratch",
            Capability::Clock => "clock",
            Capability::Entropy => "entropy",
        }
    }
}

/// What one tenant was granted; the default is nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grants {
    /// Outgoing HTTP.
    pub http: Option<Http>,
    /// Values of `wasi:config`.
    pub config: Option<Values>,
    /// `wasi:keyvalue`.
    pub keyvalue: Option<KeyValue>,
    /// `wasmqtt:task/publish`.
    pub publish: Option<Publish>,
    /// A folder for the time of a task, in which files may grow by so many bytes in all.
    pub scratch_bytes: Option<u64>,
    /// The real clocks.
    pub clock: bool,
    /// The operating system's random bytes.
    pub entropy: bool,
}

impl Grants {
    /// Whether a capability was granted.
    pub fn has(&self, capability: Capability) -> bool {
        match capability {
            Capability::Http => self.http.is_some(),
            Capability::Config => self.config.is_some(),
            Capability::KeyValue => self.keyvalue.is_some(),
            Capability::Publish => self.publish.is_some(),
            Capability::Scratch => self.scratch_bytes.is_some(),
            Capability::Clock => self.clock,
            Capability::Entropy => self.entropy,
        }
    }

    /// A text with every secret in it replaced.
    pub fn redact(&self, text: &str) -> Option<String> {
        let secrets = self.config.as_ref()?.secrets.values();
        let mut redacted: Option<String> = None;
        for secret in secrets {
            let seen = redacted.as_deref().unwrap_or(text);
            if seen.contains(secret.expose()) {
                redacted = Some(seen.replace(secret.expose(), REDACTED));
            }
        }
        redacted
    }
}

/// What stands where a secret was.
pub const REDACTED: &str = "(secret)";
/// A shorter secret would be found, and replaced, in every other word.
pub const MIN_SECRET_BYTES: usize = 4;

/// Outgoing HTTP: where to and how much.
#[derive(Debug, Clone, PartialEq)]
pub struct Http {
    /// The hosts that requests may go to.
    pub hosts: Vec<HostPattern>,
    /// Addresses that are allowed though they are not public.
    pub private_addresses: Vec<AddressPattern>,
    /// Names whose addresses are these, instead of what the resolver says.
    pub resolve: BTreeMap<String, Vec<IpAddr>>,
    /// Requests of one task.
    pub max_requests: u32,
    /// Bytes of one request's body.
    pub max_request_bytes: u64,
    /// Bytes of one response's body.
    pub max_response_bytes: u64,
    /// From the request to the last byte of its response.
    pub timeout: Duration,
}

/// Values of `wasi:config`: a key is in one of the two.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Values {
    /// Shown to anybody.
    pub values: BTreeMap<String, String>,
    /// Shown to the guest only.
    pub secrets: BTreeMap<String, Secret>,
}

/// How much a tenant may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyValue {
    /// Bytes of all keys and values.
    pub max_bytes: u64,
    /// Keys.
    pub max_keys: u64,
    /// Bytes of one value.
    pub max_value_bytes: u64,
}

/// How much a task may publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish {
    /// Messages.
    pub max_messages: u32,
    /// Bytes of all their payloads.
    pub max_bytes: u64,
}

/// A value that is not to be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a value of at least [`MIN_SECRET_BYTES`].
    pub fn new(value: String) -> Result<Secret, String> {
        if value.len() < MIN_SECRET_BYTES {
            return Err(format!(
                "a secret has at least {MIN_SECRET_BYTES} bytes, this one {}",
                value.len()
            ));
        }
        Ok(Secret(value))
    }

    /// The value, for the guest.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let secret = Secret::new("hunter22".to_owned()).expect("long enough");
        let grants = Grants {
            config: Some(Values {
                values: BTreeMap::from([("a".to_owned(), "plain".to_owned())]),
                secrets: BTreeMap::from([("b".to_owned(), secret)]),
            }),
            ..Grants::default()
        };
        assert!(!format!("{grants:?}").contains("hunter22"), "{grants:?}");
        assert_eq!(
            grants.redact("key=hunter22&again=hunter22"),
            Some("key=(secret)&again=(secret)".to_owned())
        );
        assert_eq!(grants.redact("plain"), None);
        assert!(Secret::new("abc".to_owned()).is_err());
    }
}
