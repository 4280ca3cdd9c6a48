//! `[tenants.NAME.capabilities]` → what that tenant was granted.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::grants::addresses::AddressPattern;
use crate::grants::hosts::HostPattern;
use crate::grants::{self, Grants, Secret, Values};

/// The largest value that a guest can be handed at once, in bytes.
const MAX_VALUE_BYTES: u64 = 1 << 20;

/// `[tenants.NAME.capabilities]`: what is absent is not granted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Capabilities {
    /// Outgoing HTTP requests.
    pub http: Option<Http>,
    /// Values of `wasi:config`.
    pub config: BTreeMap<String, String>,
    /// More of them, by where they are read: `@FILE` or `env:NAME`.
    pub secrets: BTreeMap<String, String>,
    /// `wasi:keyvalue`.
    pub keyvalue: Option<KeyValue>,
    /// `wasmqtt:task/publish`.
    pub publish: Option<Publish>,
    /// A folder for the time of a task, in which files may grow by so many bytes in all; 0 is none.
    pub scratch_bytes: u64,
    /// The real clocks.
    pub clock: bool,
    /// The operating system's random bytes.
    pub entropy: bool,
}

/// `[tenants.NAME.capabilities.http]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// `HOST[:PORT]` or `*.DOMAIN[:PORT]`.
    pub hosts: Vec<String>,
    /// Addresses that are allowed though they are not public.
    pub private_addresses: Vec<String>,
    /// Names and their addresses, instead of the resolver's.
    pub resolve: BTreeMap<String, Vec<IpAddr>>,
    /// Requests of one task.
    pub max_requests: u32,
    /// Bytes of a request's body.
    pub max_request_bytes: u64,
    /// Bytes of a response's body.
    pub max_response_bytes: u64,
    /// Milliseconds from a request to the last byte of its response.
    pub timeout_ms: u64,
}

impl Default for Http {
    fn default() -> Self {
        Http {
            hosts: Vec::new(),
            private_addresses: Vec::new(),
            resolve: BTreeMap::new(),
            max_requests: 10,
            max_request_bytes: 1 << 20,
            max_response_bytes: 10 << 20,
            timeout_ms: 10_000,
        }
    }
}

/// `[tenants.NAME.capabilities.keyvalue]`
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyValue {
    /// Bytes of all keys and values.
    pub max_bytes: u64,
    /// Keys.
    pub max_keys: u64,
    /// Bytes of one value.
    pub max_value_bytes: u64,
}

impl Default for KeyValue {
    fn default() -> Self {
        KeyValue {
            max_bytes: 10 << 20,
            max_keys: 10_000,
            max_value_bytes: 64 << 10,
        }
    }
}

/// `[tenants.NAME.capabilities.publish]`
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Publish {
    /// Messages of one task.
    pub max_messages: u32,
    /// Bytes of all their payloads.
    pub max_bytes: u64,
}

impl Default for Publish {
    fn default() -> Self {
        Publish {
            max_messages: 100,
            max_bytes: 1 << 20,
        }
    }
}

/// Whether secrets are read: only who runs guests needs them, and may be able to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrets {
    Read,
    Leave,
}

impl Capabilities {
    pub(super) fn grants(&self, secrets: Secrets) -> Result<Grants> {
        let keyvalue = self.keyvalue.as_ref().map(KeyValue::grant).transpose();
        let publish = self.publish.as_ref().map(Publish::grant).transpose();
        Ok(Grants {
            http: self
                .http
                .as_ref()
                .map(|http| http.grant().context("`http`"))
                .transpose()?,
            config: self.values(secrets)?,
            keyvalue: keyvalue.context("`keyvalue`")?,
            publish: publish.context("`publish`")?,
            scratch_bytes: (self.scratch_bytes > 0).then_some(self.scratch_bytes),
            clock: self.clock,
            entropy: self.entropy,
        })
    }

    fn values(&self, wanted: Secrets) -> Result<Option<Values>> {
        if self.config.is_empty() && self.secrets.is_empty() {
            return Ok(None);
        }
        let mut secrets = BTreeMap::new();
        for (key, source) in &self.secrets {
            ensure!(
                !self.config.contains_key(key),
                "`{key}` is in `config` and in `secrets`"
            );
            let source = SecretSource::parse(source).with_context(|| format!("`secrets.{key}`"))?;
            if wanted == Secrets::Read {
                let secret = source.read().with_context(|| format!("`secrets.{key}`"))?;
                secrets.insert(key.clone(), secret);
            }
        }
        Ok(Some(Values {
            values: self.config.clone(),
            secrets,
        }))
    }

    /// A copy that may be shown to anybody, also when what should name a secret is one.
    pub(super) fn without_secrets(&self) -> Capabilities {
        let mut shown = self.clone();
        for source in shown.secrets.values_mut() {
            if SecretSource::parse(source).is_err() {
                *source = "(hidden)".to_owned();
            }
        }
        shown
    }
}

/// Where a secret is.
enum SecretSource<'a> {
    File(&'a str),
    Variable(&'a str),
}

impl SecretSource<'_> {
    fn parse(text: &str) -> Result<SecretSource<'_>> {
        if let Some(file) = text.strip_prefix('@') {
            Ok(SecretSource::File(file))
        } else if let Some(name) = text.strip_prefix("env:") {
            Ok(SecretSource::Variable(name))
        } else {
            // Not what is there: it may be the secret.
            bail!(
                "names where a secret is, \"@FILE\" or \"env:NAME\", and is not the secret itself"
            )
        }
    }

    fn read(&self) -> Result<Secret> {
        let text = match self {
            SecretSource::File(file) => {
                std::fs::read_to_string(file).with_context(|| format!("failed to read {file}"))?
            }
            SecretSource::Variable(name) => std::env::var(name)
                .with_context(|| format!("failed to read the variable {name}"))?,
        };
        // An editor leaves an end of line behind it.
        let text = text.trim_end_matches(['\n', '\r']);
        Secret::new(text.to_owned()).map_err(anyhow::Error::msg)
    }
}

impl Http {
    fn grant(&self) -> Result<grants::Http> {
        ensure!(!self.hosts.is_empty(), "`hosts` must name at least one");
        let hosts = self.hosts.iter().map(|text| HostPattern::parse(text));
        let addresses = self.private_addresses.iter();
        let addresses = addresses.map(|text| AddressPattern::parse(text));
        for (name, value, most) in [
            ("max_requests", u64::from(self.max_requests), 10_000),
            ("max_request_bytes", self.max_request_bytes, u64::MAX),
            ("max_response_bytes", self.max_response_bytes, u64::MAX),
            ("timeout_ms", self.timeout_ms, 3_600_000),
        ] {
            within(name, value, 1..=most)?;
        }
        let names = self.resolve.iter();
        Ok(grants::Http {
            hosts: hosts
                .collect::<Result<_, _>>()
                .map_err(anyhow::Error::msg)
                .context("`hosts`")?,
            private_addresses: addresses
                .collect::<Result<_, _>>()
                .map_err(anyhow::Error::msg)
                .context("`private_addresses`")?,
            resolve: names
                .map(|(name, addresses)| (name.to_ascii_lowercase(), addresses.clone()))
                .collect(),
            max_requests: self.max_requests,
            max_request_bytes: self.max_request_bytes,
            max_response_bytes: self.max_response_bytes,
            timeout: Duration::from_millis(self.timeout_ms),
        })
    }
}

impl KeyValue {
    fn grant(&self) -> Result<grants::KeyValue> {
        within("max_bytes", self.max_bytes, 1..=u64::MAX >> 1)?;
        within("max_keys", self.max_keys, 1..=10_000_000)?;
        within("max_value_bytes", self.max_value_bytes, 1..=MAX_VALUE_BYTES)?;
        Ok(grants::KeyValue {
            max_bytes: self.max_bytes,
            max_keys: self.max_keys,
            max_value_bytes: self.max_value_bytes,
        })
    }
}

impl Publish {
    fn grant(&self) -> Result<grants::Publish> {
        within("max_messages", self.max_messages.into(), 1..=1_000_000)?;
        within("max_bytes", self.max_bytes, 1..=u64::MAX)?;
        Ok(grants::Publish {
            max_messages: self.max_messages,
            max_bytes: self.max_bytes,
        })
    }
}

fn within(name: &str, value: u64, range: std::ops::RangeInclusive<u64>) -> Result<()> {
    let (least, most) = (range.start(), range.end());
    ensure!(
        range.contains(&value),
        "`{name}` must be from {least} to {most}, got {value}"
    );
    Ok(())
}

#[cfg(test)]
mod tests;
