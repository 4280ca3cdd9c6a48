//! The configuration: defaults ← file ← environment ← flags → one validated `Config`.
//!
//! Every key is documented in `examples/wasmqtt.toml`.

pub mod access;
pub mod capabilities;
mod layers;
pub mod sections;
pub mod tenants;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

pub use crate::config::layers::load;
use crate::config::sections::{
    Ceilings, DefaultLimits, EmbeddedBroker, Journal, Modules, Mqtt, Runner,
};
use crate::config::tenants::Tenant;
use crate::envelope::topics::Topics;
use crate::mqtt::settings::{Address, Tls};
use crate::recurring::Recurring;
use crate::sandbox::engine::MAX_GUESTS;
use crate::task::ModuleRef;
use crate::task::limits::LimitValues;
use crate::task::retry;
use crate::task::tenant::TenantId;

/// Everything that can be configured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The connection to the broker.
    pub mqtt: Mqtt,
    /// The broker inside this process.
    pub broker: EmbeddedBroker,
    /// How much runs at one time.
    pub runner: Runner,
    /// What survives the process.
    pub journal: Journal,
    /// How often a task is tried that names nothing else.
    pub retry: retry::Defaults,
    /// Where modules come from.
    pub modules: Modules,
    /// The limits of a task that names none.
    pub limits: DefaultLimits,
    /// The most that a task may ask for.
    pub ceilings: Ceilings,
    /// What is particular to a tenant, by its name.
    pub tenants: BTreeMap<String, Tenant>,
    /// Tasks that recur, by their names.
    pub recurring: BTreeMap<String, sections::Recurring>,
}

impl Config {
    /// Refuses what cannot work, naming the key, the bound and the value.
    pub fn validate(&self) -> Result<()> {
        self.address()?;
        self.topics()?;
        ensure!(
            (1..=MAX_GUESTS).contains(&self.runner.concurrency),
            "`runner.concurrency` must be from 1 to {MAX_GUESTS}, got {}",
            self.runner.concurrency
        );
        ensure!(
            !self.mqtt.group.is_empty() && !self.mqtt.group.contains(['/', '+', '#', '\0']),
            "`mqtt.group` must be a name without `/`, `+` and `#`, got {:?}",
            self.mqtt.group
        );
        let prefix = &self.mqtt.client_id_prefix;
        ensure!(
            (1..=128).contains(&prefix.len()) && !prefix.contains(['/', '+', '#', '\0']),
            "`mqtt.client_id_prefix` must be 1 to 128 bytes without `/`, `+` and `#`, got {prefix:?}"
        );
        let name = &self.runner.name;
        ensure!(
            (1..=128).contains(&name.len()) && !name.contains(['/', '+', '#', '\0']),
            "`runner.name` must be 1 to 128 bytes without `/`, `+` and `#`, got {name:?}"
        );
        ensure!(
            (5..=65_535).contains(&self.mqtt.keep_alive_s),
            "`mqtt.keep_alive_s` must be from 5 to 65535, got {}",
            self.mqtt.keep_alive_s
        );
        ensure!(
            self.mqtt.max_packet_bytes >= 1024,
            "`mqtt.max_packet_bytes` must be at least 1024, got {}",
            self.mqtt.max_packet_bytes
        );
        ensure!(
            self.mqtt.cert_file.is_some() == self.mqtt.key_file.is_some(),
            "`mqtt.cert_file` and `mqtt.key_file` go together"
        );
        ensure!(
            self.mqtt.password.is_none() || self.mqtt.password_file.is_none(),
            "`mqtt.password` and `mqtt.password_file` exclude each other"
        );
        for (key, value) in [
            ("cache_bytes", self.modules.cache_bytes),
            ("cached", self.modules.cached),
            ("lookup_ms", self.modules.lookup_ms),
            ("max_bytes", self.modules.max_bytes),
        ] {
            ensure!(value >= 1, "`modules.{key}` must be at least 1, got 0");
        }
        self.slot()?;
        self.warm_up()?;
        self.recurring()?;
        ensure!(
            self.retry.max_attempts >= 1 && self.runner.max_deaths >= 1,
            "`retry.max_attempts` and `runner.max_deaths` must be at least 1"
        );
        ensure!(
            (1.0..=100.0).contains(&self.retry.factor),
            "`retry.factor` must be from 1 to 100, got {}",
            self.retry.factor
        );
        self.validate_limits()?;
        self.validate_users()?;
        self.check_tenants()?;
        Ok(())
    }

    fn validate_limits(&self) -> Result<()> {
        let (limits, ceilings) = (self.limits(), self.ceilings());
        for (name, limit, ceiling) in [
            ("fuel", limits.fuel, ceilings.fuel),
            ("memory_bytes", limits.memory_bytes, ceilings.memory_bytes),
            ("timeout_ms", limits.timeout_ms, ceilings.timeout_ms),
            ("output_bytes", limits.output_bytes, ceilings.output_bytes),
        ] {
            ensure!(
                (1..=ceiling).contains(&limit),
                "`limits.{name}` must be from 1 to `ceilings.{name}` ({ceiling}), got {limit}"
            );
        }
        // A guest's memory is 32-bit.
        ensure!(
            ceilings.memory_bytes <= 4 << 30,
            "`ceilings.memory_bytes` must be at most 4 GiB, got {}",
            ceilings.memory_bytes
        );
        ensure!(
            self.runner.memory_budget_bytes >= ceilings.memory_bytes,
            "`runner.memory_budget_bytes` ({}) must hold one task of `ceilings.memory_bytes` ({})",
            self.runner.memory_budget_bytes,
            ceilings.memory_bytes
        );
        Ok(())
    }

    /// The broker's address.
    pub fn address(&self) -> Result<Address> {
        Address::parse(&self.mqtt.url)
            .map_err(anyhow::Error::msg)
            .context("failed to read `mqtt.url`")
    }

    /// The names of the topics.
    pub fn topics(&self) -> Result<Topics> {
        Topics::new(&self.mqtt.topic_root)
            .map_err(anyhow::Error::msg)
            .context("failed to read `mqtt.topic_root`")
    }

    /// The tasks that recur.
    pub fn recurring(&self) -> Result<Vec<Recurring>> {
        let read = |(name, section): (&String, &sections::Recurring)| {
            let read = || {
                Recurring::new(
                    name,
                    &section.cron,
                    &section.timezone,
                    TenantId::parse(&section.tenant)?,
                    ModuleRef::parse(&section.module)?,
                    section.input.clone(),
                    section.missed,
                )
            };
            read()
                .map_err(anyhow::Error::msg)
                .with_context(|| format!("failed to read `recurring.{name}`"))
        };
        self.recurring.iter().map(read).collect()
    }

    /// The modules to compile before anything else, and whose they are.
    pub fn warm_up(&self) -> Result<Vec<(TenantId, ModuleRef)>> {
        let ours = [(TenantId::DEFAULT, &self.modules.warm_up)].into_iter();
        let theirs = self
            .tenants
            .iter()
            .map(|(name, it)| (name.as_str(), &it.warm_up));
        let mut all = Vec::new();
        for (tenant, modules) in ours.chain(theirs) {
            for module in modules {
                let read = || Ok((TenantId::parse(tenant)?, ModuleRef::parse(module)?));
                let read: Result<_, String> = read();
                let read = read.map_err(anyhow::Error::msg);
                all.push(
                    read.with_context(|| format!("failed to read `warm_up` of tenant {tenant}"))?,
                );
            }
        }
        all.dedup();
        Ok(all)
    }

    /// Username and password, the latter read from its file where it is in one.
    pub fn credentials(&self) -> Result<Option<(String, String)>> {
        let password = match (&self.mqtt.password, &self.mqtt.password_file) {
            (Some(password), _) => Some(password.clone()),
            (None, Some(file)) => {
                let text = std::fs::read_to_string(file).with_context(|| {
                    format!("failed to read `mqtt.password_file` {}", file.display())
                })?;
                Some(text.lines().next().unwrap_or_default().to_owned())
            }
            (None, None) => None,
        };
        match (&self.mqtt.username, password) {
            (Some(username), password) => {
                Ok(Some((username.clone(), password.unwrap_or_default())))
            }
            (None, None) => Ok(None),
            (None, Some(_)) => bail!("`mqtt.password` without `mqtt.username`"),
        }
    }

    /// The files for `mqtts://`.
    pub fn tls(&self) -> Tls {
        Tls {
            ca_file: self.mqtt.ca_file.clone(),
            cert_file: self.mqtt.cert_file.clone(),
            key_file: self.mqtt.key_file.clone(),
        }
    }

    /// How many unanswered tasks the broker may have sent.
    pub fn prefetch(&self) -> u16 {
        match self.runner.prefetch {
            // A window of 20 nearly saturates a broker; a larger one only queues, but every permit wants a task.
            0 => u16::try_from(self.runner.concurrency.max(20)).unwrap_or(u16::MAX),
            prefetch => prefetch,
        }
    }

    /// The slot to take; `None` for the first that is free.
    pub fn slot(&self) -> Result<Option<u16>> {
        if self.runner.slot == "auto" {
            return Ok(None);
        }
        let number = self.runner.slot.parse();
        number.map(Some).with_context(|| {
            let slot = &self.runner.slot;
            format!("`runner.slot` must be \"auto\" or a number from 0 to 65535, got {slot:?}")
        })
    }

    /// How long running tasks may take to finish after SIGTERM.
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.runner.drain_s)
    }

    /// The limits of a task that names none.
    pub fn limits(&self) -> LimitValues {
        let DefaultLimits {
            fuel,
            memory_bytes,
            timeout_ms,
            output_bytes,
        } = self.limits;
        LimitValues {
            fuel,
            memory_bytes,
            timeout_ms,
            output_bytes,
        }
    }

    /// The most that a task may ask for.
    pub fn ceilings(&self) -> LimitValues {
        let Ceilings {
            fuel,
            memory_bytes,
            timeout_ms,
            output_bytes,
        } = self.ceilings;
        LimitValues {
            fuel,
            memory_bytes,
            timeout_ms,
            output_bytes,
        }
    }

    /// A copy that may be shown to anybody.
    pub fn without_secrets(&self) -> Config {
        let mut shown = self.clone();
        if shown.mqtt.password.is_some() {
            shown.mqtt.password = Some("(hidden)".to_owned());
        }
        if shown.mqtt.client_id_prefix != sections::DEFAULT_CLIENT_ID_PREFIX {
            shown.mqtt.client_id_prefix = "(hidden)".to_owned();
        }
        for user in shown.broker.users.values_mut() {
            user.password_hash = "(hidden)".to_owned();
        }
        for tenant in shown.tenants.values_mut() {
            tenant.capabilities = tenant.capabilities.without_secrets();
        }
        shown
    }
}

#[cfg(test)]
mod tests;
