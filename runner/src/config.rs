//! The configuration: defaults ← file ← environment ← flags → one validated `Config`.
//!
//! Every key is documented in `examples/wasmqtt.toml`.

mod layers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

pub use crate::config::layers::load;
use crate::envelope::topics::Topics;
use crate::mqtt::settings::{AckOrder, Address, Tls};
use crate::sandbox::engine::MAX_GUESTS;
use crate::task::ModuleRef;
use crate::task::limits::LimitValues;
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
    /// Where modules come from.
    pub modules: Modules,
    /// The limits of a task that names none.
    pub limits: DefaultLimits,
    /// The most that a task may ask for.
    pub ceilings: Ceilings,
    /// What is particular to a tenant, by its name.
    pub tenants: BTreeMap<String, Tenant>,
}

/// `[mqtt]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mqtt {
    /// `mqtt://`, `mqtts://`, `ws://` or `unix://`.
    pub url: String,
    /// The group of runners that share the queue.
    pub group: String,
    /// In front of every topic name.
    pub topic_root: String,
    /// For the broker's authentication.
    pub username: Option<String>,
    /// For the broker's authentication.
    pub password: Option<String>,
    /// A file whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// PEM: the authorities to trust.
    pub ca_file: Option<PathBuf>,
    /// PEM: the client certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM: its key.
    pub key_file: Option<PathBuf>,
    /// Seconds.
    pub keep_alive_s: u64,
    /// Seconds for which the broker keeps this runner's session.
    pub session_expiry_s: u64,
    /// `completion` or `arrival`.
    pub ack_order: AckOrder,
    /// The largest packet to accept, modules included.
    pub max_packet_bytes: u32,
}

impl Default for Mqtt {
    fn default() -> Self {
        Mqtt {
            url: "mqtt://127.0.0.1:1883".to_owned(),
            group: "runners".to_owned(),
            topic_root: String::new(),
            username: None,
            password: None,
            password_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            keep_alive_s: 30,
            session_expiry_s: 4 * 3600,
            ack_order: AckOrder::Completion,
            max_packet_bytes: 64 << 20,
        }
    }
}

/// `[broker]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddedBroker {
    /// Whether to start it, instead of connecting to `mqtt.url`.
    pub embedded: bool,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Default for EmbeddedBroker {
    fn default() -> Self {
        EmbeddedBroker {
            embedded: false,
            address: SocketAddr::from(([127, 0, 0, 1], 1883)),
        }
    }
}

/// `[runner]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runner {
    /// This runner's name, stable over restarts.
    pub name: String,
    /// Guests at one time.
    pub concurrency: usize,
    /// The sum of the memory limits of guests at one time.
    pub memory_budget_bytes: u64,
    /// Tasks taken from the broker and not yet answered. 0: as many as `concurrency`, at least 20.
    pub prefetch: u16,
    /// Tasks that may wait inside the runner when they came at QoS 0, which no window holds back.
    pub backlog: usize,
    /// Seconds for running tasks to finish after SIGTERM.
    pub drain_s: u64,
}

impl Default for Runner {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        Runner {
            name: hostname(),
            concurrency: 16 * cores,
            memory_budget_bytes: half_of_memory(),
            prefetch: 0,
            backlog: 10_000,
            drain_s: 30,
        }
    }
}

/// `[modules]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Modules {
    /// A folder of `NAME.wasm`.
    pub directory: Option<PathBuf>,
    /// Whether modules may be published on `modules/{name}`.
    pub published: bool,
    /// How long to wait for a module that may not be there.
    pub lookup_ms: u64,
    /// Compiled modules on disk; none when absent.
    pub cache_directory: Option<PathBuf>,
    /// Compiled modules in memory.
    pub cached: u64,
}

impl Default for Modules {
    fn default() -> Self {
        Modules {
            directory: None,
            published: true,
            lookup_ms: 500,
            cache_directory: cache_directory(),
            cached: 1_000,
        }
    }
}

/// `[limits]`
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DefaultLimits {
    /// Units of wasmtime's fuel.
    pub fuel: u64,
    /// Bytes, summed over memories.
    pub memory_bytes: u64,
    /// Milliseconds.
    pub timeout_ms: u64,
    /// Bytes.
    pub output_bytes: u64,
}

impl Default for DefaultLimits {
    fn default() -> Self {
        DefaultLimits {
            fuel: 1_000_000_000,
            memory_bytes: 64 << 20,
            timeout_ms: 10_000,
            output_bytes: 1 << 20,
        }
    }
}

/// `[ceilings]`
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ceilings {
    /// Units of wasmtime's fuel.
    pub fuel: u64,
    /// Bytes, summed over memories.
    pub memory_bytes: u64,
    /// Milliseconds.
    pub timeout_ms: u64,
    /// Bytes.
    pub output_bytes: u64,
}

impl Default for Ceilings {
    fn default() -> Self {
        Ceilings {
            fuel: 100_000_000_000,
            memory_bytes: 256 << 20,
            timeout_ms: 300_000,
            output_bytes: 16 << 20,
        }
    }
}

/// `[tenants.NAME]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tenant {
    /// The module of plain messages.
    pub default_module: Option<String>,
}

impl Config {
    /// Refuses what cannot work, naming the key, the bound and the value.
    pub fn validate(&self) -> Result<()> {
        self.address()?;
        self.topics()?;
        self.default_modules()?;
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
        let name = &self.runner.name;
        ensure!(
            (1..=128).contains(&name.len()) && !name.contains(['/', '+', '#', '\0']),
            "`runner.name` must be 1 to 128 bytes without `/`, `+` and `#`, got {name:?}"
        );
        ensure!(
            (1..=65_535).contains(&self.mqtt.keep_alive_s),
            "`mqtt.keep_alive_s` must be from 1 to 65535, got {}",
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
        self.validate_limits()
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

    /// The modules of plain messages, by tenant.
    pub fn default_modules(&self) -> Result<BTreeMap<TenantId, ModuleRef>> {
        let mut modules = BTreeMap::new();
        for (name, tenant) in &self.tenants {
            let context = || format!("failed to read `tenants.{name}`");
            let id = TenantId::parse(name)
                .map_err(anyhow::Error::msg)
                .with_context(context)?;
            if let Some(module) = &tenant.default_module {
                modules.insert(
                    id,
                    ModuleRef::parse(module)
                        .map_err(anyhow::Error::msg)
                        .with_context(context)?,
                );
            }
        }
        Ok(modules)
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
        shown
    }
}

fn hostname() -> String {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let clean: String = name
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c))
        .take(100)
        .collect();
    if clean.is_empty() {
        "runner".to_owned()
    } else {
        clean
    }
}

/// Half of the machine's memory; the other half is for compiling, buffers and whatever else runs.
fn half_of_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(info.mem_unit.into()) / 2
}

fn cache_directory() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base =
        base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    base.filter(|base| base.is_absolute())
        .map(|base| base.join("wasmqtt"))
}

#[cfg(test)]
mod tests;
