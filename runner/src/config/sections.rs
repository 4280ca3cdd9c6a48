//! The sections of the configuration and their defaults.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::access::Staff;
use crate::config::tenants::Unlisted;
use crate::journal::Durability;
use crate::modules::jail::Compiler;
use crate::mqtt::settings::AckOrder;
use crate::recurring::Missed;
use crate::task::tenant::TenantId;

/// Known to everybody who has read this.
pub const DEFAULT_CLIENT_ID_PREFIX: &str = "wasmqtt";

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
    /// In front of the client ids of runners.
    pub client_id_prefix: String,
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
            client_id_prefix: DEFAULT_CLIENT_ID_PREFIX.to_owned(),
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
    /// Whether it may ask nobody for a password although others than this machine can connect.
    pub anonymous: bool,
    /// Who may connect, by user name; everybody when empty.
    pub users: BTreeMap<String, User>,
}

impl Default for EmbeddedBroker {
    fn default() -> Self {
        EmbeddedBroker {
            embedded: false,
            address: SocketAddr::from(([127, 0, 0, 1], 1883)),
            anonymous: false,
            users: BTreeMap::new(),
        }
    }
}

/// `[broker.users.NAME]`: either a role or a tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// As `wasmqtt passwd` prints it.
    pub password_hash: String,
    /// `runner` or `operator`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Staff>,
    /// Whose tasks it submits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Whether it may publish the tenant's modules.
    #[serde(default = "yes")]
    pub modules: bool,
}

fn yes() -> bool {
    true
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
    /// Which of this name's slots to take: a number, or `auto` for the first that is free.
    pub slot: String,
    /// After how many attempts that the process died of a task is given up.
    pub max_deaths: u32,
    /// `admit` or `deny`.
    pub unlisted_tenants: Unlisted,
    /// Whether to refuse a broker that is unfit, instead of warning.
    pub strict: bool,
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
            slot: "auto".to_owned(),
            max_deaths: 5,
            unlisted_tenants: Unlisted::Admit,
            strict: false,
        }
    }
}

/// `[journal]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Journal {
    /// The state folder, in which every slot has one of its own; in memory when absent.
    pub directory: Option<PathBuf>,
    /// `process` or `power`.
    pub durability: Durability,
    /// `slot` or `group`.
    pub dedupe: Dedupe,
    /// Seconds for which an outcome is remembered.
    pub window_s: u64,
    /// The most outcomes remembered.
    pub max_outcomes: usize,
    /// The most bytes of outcomes remembered.
    pub max_bytes: u64,
    /// The most tasks kept until they are due.
    pub max_kept: usize,
}

impl Default for Journal {
    fn default() -> Self {
        Journal {
            directory: state_directory(),
            durability: Durability::Process,
            dedupe: Dedupe::Slot,
            window_s: 24 * 3600,
            max_outcomes: 1_000_000,
            max_bytes: 1 << 30,
            max_kept: 100_000,
        }
    }
}

/// Who remembers which tasks ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dedupe {
    /// The slot that ran them.
    #[default]
    Slot,
    /// Every runner of the group.
    Group,
}

/// `[modules]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Modules {
    /// A folder of `NAME.wasm`.
    pub directory: Option<PathBuf>,
    /// Whether modules may be published on `modules/{name}`.
    pub published: bool,
    /// How long to wait for a module that may not be there, or not be what a task pins.
    pub lookup_ms: u64,
    /// The largest module, in bytes.
    pub max_bytes: u64,
    /// Compiled modules on disk; none when absent.
    pub cache_directory: Option<PathBuf>,
    /// The most bytes of compiled modules on disk.
    pub cache_bytes: u64,
    /// Compiled modules in memory.
    pub cached: u64,
    /// Modules of the default tenant that are compiled before the runner is ready.
    pub warm_up: Vec<String>,
    /// Where they are compiled: not a key, but what the program that starts a runner knows.
    #[serde(skip)]
    pub compiler: Compiler,
}

impl Default for Modules {
    fn default() -> Self {
        Modules {
            directory: None,
            published: true,
            lookup_ms: 2_000,
            max_bytes: 64 << 20,
            cache_directory: cache_directory(),
            cache_bytes: 4 << 30,
            cached: 1_000,
            warm_up: Vec::new(),
            compiler: Compiler::default(),
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

/// `[recurring.NAME]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recurring {
    /// Five fields, or six with seconds in front.
    pub cron: String,
    /// A name of the IANA time zone database.
    #[serde(default = "utc")]
    pub timezone: String,
    /// Whose task it is.
    #[serde(default = "default_tenant")]
    pub tenant: String,
    /// What it runs.
    pub module: String,
    /// On what.
    #[serde(default)]
    pub input: String,
    /// `skip`, `last` or `all`.
    #[serde(default)]
    pub missed: Missed,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn default_tenant() -> String {
    TenantId::DEFAULT.to_owned()
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
    folder_of_ours("XDG_CACHE_HOME", ".cache")
}

fn state_directory() -> Option<PathBuf> {
    folder_of_ours("XDG_STATE_HOME", ".local/state")
}

fn folder_of_ours(variable: &str, in_home: &str) -> Option<PathBuf> {
    let base = std::env::var_os(variable).map(PathBuf::from);
    let base =
        base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(in_home)));
    base.filter(|base| base.is_absolute())
        .map(|base| base.join("wasmqtt"))
}
