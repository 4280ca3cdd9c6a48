//! `[tenants.NAME]` → what that tenant may do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::config::capabilities::{Capabilities, Secrets};
use crate::envelope::topics::Topics;
use crate::grants::hosts::HostPattern;
use crate::modules::signature;
use crate::task::ModuleRef;
use crate::task::limits::LimitValues;
use crate::task::tenant::TenantId;
use crate::tenants::compile::CompileLimits;
use crate::tenants::{
    Budget, ModulePattern, OverQuota, Rate, Remotes, Source, Table, TenantPolicy, Tenants,
};

/// `[tenants.NAME]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tenant {
    /// The module of plain messages.
    pub default_module: Option<String>,
    /// The most that a task may ask for, below `[ceilings]`.
    pub ceilings: TenantCeilings,
    /// What compiling a module may cost.
    pub compile: CompileLimits,
    /// Guests at one time; the runner's when absent.
    pub concurrency: Option<usize>,
    /// Unanswered tasks on this tenant's lane; twice its concurrency, at least 20, when absent.
    pub prefetch: Option<u16>,
    /// Tasks kept until they are due; the journal's when absent.
    pub max_kept: Option<usize>,
    /// Its share of the fuel beside the others'.
    pub weight: u32,
    /// The highest priority that counts.
    pub max_priority: u8,
    /// Tasks a second, on the average.
    pub rate_per_s: Option<f64>,
    /// Tasks at once, after a pause.
    pub burst: Option<u32>,
    /// Fuel in each window.
    pub fuel_budget: Option<u64>,
    /// Seconds of a window of the fuel budget.
    pub budget_window_s: u64,
    /// `wait` or `reject`.
    pub over_quota: OverQuota,
    /// The modules that tasks may name; every one when empty.
    pub modules: Vec<String>,
    /// Modules that are compiled before the runner is ready.
    pub warm_up: Vec<String>,
    /// `directory`, `published`, `https`, `oci`.
    pub sources: Vec<Source>,
    /// `HOST[:PORT]` or `*.DOMAIN[:PORT]`: web servers of modules that are not pinned by their digest.
    pub https_hosts: Vec<String>,
    /// The same of registries.
    pub registries: Vec<String>,
    /// Whether a module that was fetched before does while its source is down.
    pub stale_modules: bool,
    /// Public keys, of which one must have signed a module.
    pub signed_by: Vec<String>,
    /// Filters of reply topics beside those below the tenant's prefix.
    pub reply_topics: Vec<String>,
    /// What its guests may use.
    pub capabilities: Capabilities,
}

impl Default for Tenant {
    fn default() -> Self {
        Tenant {
            default_module: None,
            ceilings: TenantCeilings::default(),
            compile: CompileLimits::default(),
            concurrency: None,
            prefetch: None,
            max_kept: None,
            weight: 1,
            max_priority: 9,
            rate_per_s: None,
            burst: None,
            fuel_budget: None,
            budget_window_s: 60,
            over_quota: OverQuota::Wait,
            modules: Vec::new(),
            warm_up: Vec::new(),
            sources: vec![Source::Directory, Source::Published],
            https_hosts: Vec::new(),
            registries: Vec::new(),
            stale_modules: false,
            signed_by: Vec::new(),
            reply_topics: Vec::new(),
            capabilities: Capabilities::default(),
        }
    }
}

/// `[tenants.NAME.ceilings]`: what is absent is the runner's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantCeilings {
    /// Units of wasmtime's fuel.
    pub fuel: Option<u64>,
    /// Bytes, summed over memories.
    pub memory_bytes: Option<u64>,
    /// Milliseconds.
    pub timeout_ms: Option<u64>,
    /// Bytes.
    pub output_bytes: Option<u64>,
    /// Bytes of a module.
    pub module_bytes: Option<u64>,
    /// Bytes of a task as it comes.
    pub envelope_bytes: Option<u64>,
}

/// Whether tenants that the configuration does not name are served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unlisted {
    /// They may do what `[tenants.default]` may, but for its default module, reply topics and capabilities; nothing is fetched
    /// for them.
    #[default]
    Admit,
    /// Their tasks are not taken from the broker; those that came before they were denied are rejected
    /// (`tenant_denied`).
    Deny,
}

impl Config {
    /// What every tenant may do; reads their secrets.
    pub fn tenant_table(&self) -> Result<Table> {
        self.table(Secrets::Read)
    }

    /// The queues of the tenants that it names, and the default one's.
    pub fn served(&self, topics: &Topics) -> Result<Vec<String>> {
        let named = self.tenants.keys().map(String::as_str);
        let names: BTreeSet<&str> = named.chain([TenantId::DEFAULT]).collect();
        let queue = |name: &str| -> Result<String> {
            let tenant = TenantId::parse(name).map_err(anyhow::Error::msg)?;
            Ok(topics.queue(&tenant))
        };
        names.into_iter().map(queue).collect()
    }

    /// That there is nothing wrong with it; secrets are left where they are.
    pub(super) fn check_tenants(&self) -> Result<()> {
        self.table(Secrets::Leave).map(drop)
    }

    fn table(&self, secrets: Secrets) -> Result<Table> {
        let nobodys = Tenant::default();
        let default = self.tenants.get(TenantId::DEFAULT).unwrap_or(&nobodys);
        let mut listed = BTreeMap::new();
        let read = |name: &str, tenant: &Tenant| {
            self.policy(tenant, secrets)
                .with_context(|| format!("failed to read `tenants.{name}`"))
        };
        listed.insert(
            TenantId::default(),
            Arc::new(read(TenantId::DEFAULT, default)?),
        );
        for (name, tenant) in &self.tenants {
            let id = TenantId::parse(name)
                .map_err(anyhow::Error::msg)
                .with_context(|| format!("failed to read `tenants.{name}`"))?;
            listed.insert(id, Arc::new(read(name, tenant)?));
        }
        let unlisted = match self.runner.unlisted_tenants {
            Unlisted::Deny => None,
            Unlisted::Admit => {
                let stranger = Tenant {
                    default_module: None,
                    reply_topics: Vec::new(),
                    capabilities: Capabilities::default(),
                    sources: fetching_nothing(&default.sources),
                    ..default.clone()
                };
                Some(Arc::new(self.policy(&stranger, secrets)?))
            }
        };
        Ok(Table { listed, unlisted })
    }

    /// What one tenant may do.
    ///
    /// # Errors
    ///
    /// When it is not served, or something of the tenants is not as it has to be.
    pub fn policy_of(&self, tenant: &TenantId) -> Result<Arc<TenantPolicy>> {
        let policy = Tenants::new(self.tenant_table()?).policy(tenant);
        policy.with_context(|| format!("tenant {tenant} is not one that is served"))
    }

    fn policy(&self, tenant: &Tenant, secrets: Secrets) -> Result<TenantPolicy> {
        let (limits, ours, asked) = (self.limits(), self.ceilings(), &tenant.ceilings);
        let below = |name, asked: Option<u64>, most: u64| {
            let value = asked.unwrap_or(most);
            ensure!(
                (1..=most).contains(&value),
                "`ceilings.{name}` must be from 1 to the runner's {most}, got {value}"
            );
            Ok(value)
        };
        let ceilings = LimitValues {
            fuel: below("fuel", asked.fuel, ours.fuel)?,
            memory_bytes: below("memory_bytes", asked.memory_bytes, ours.memory_bytes)?,
            timeout_ms: below("timeout_ms", asked.timeout_ms, ours.timeout_ms)?,
            output_bytes: below("output_bytes", asked.output_bytes, ours.output_bytes)?,
        };
        let packet = u64::from(self.mqtt.max_packet_bytes);
        let concurrency = tenant.concurrency.unwrap_or(self.runner.concurrency);
        for (name, value, range) in [
            ("concurrency", concurrency as u64, 1..=u64::MAX),
            ("weight", tenant.weight.into(), 1..=1000),
            ("max_priority", tenant.max_priority.into(), 0..=9),
            ("budget_window_s", tenant.budget_window_s, 1..=31 * 86_400),
            ("fuel_budget", tenant.fuel_budget.unwrap_or(1), 1..=u64::MAX),
            ("burst", tenant.burst.unwrap_or(1).into(), 1..=1_000_000),
            ("prefetch", tenant.prefetch.unwrap_or(1).into(), 1..=65_535),
        ] {
            let (least, most) = (*range.start(), *range.end());
            ensure!(
                range.contains(&value),
                "`{name}` must be from {least} to {most}, got {value}"
            );
        }
        let rate = tenant.rate_per_s.map(|per_second| {
            ensure!(
                (0.001..=1e6).contains(&per_second),
                "`rate_per_s` must be from 0.001 to 1000000, got {per_second}"
            );
            // A second's worth at once, and one task in any case.
            let burst = tenant.burst.map_or(per_second.max(1.0), f64::from);
            Ok(Rate { per_second, burst })
        });
        let budget = tenant.fuel_budget.map(|fuel| Budget {
            fuel,
            window: Duration::from_secs(tenant.budget_window_s),
        });
        let patterns = tenant.modules.iter().map(|text| ModulePattern::parse(text));
        let default_module = tenant.default_module.as_deref().map(ModuleRef::parse);
        let grants = tenant.capabilities.grants(secrets);
        Ok(TenantPolicy {
            limits: LimitValues {
                fuel: limits.fuel.min(ceilings.fuel),
                memory_bytes: limits.memory_bytes.min(ceilings.memory_bytes),
                timeout_ms: limits.timeout_ms.min(ceilings.timeout_ms),
                output_bytes: limits.output_bytes.min(ceilings.output_bytes),
            },
            ceilings,
            module_bytes: below("module_bytes", asked.module_bytes, self.modules.max_bytes)?,
            compile: check_compile(tenant.compile)?,
            envelope_bytes: below("envelope_bytes", asked.envelope_bytes, packet)?,
            concurrency: concurrency.min(self.runner.concurrency),
            // As many as may run, and as many that wait: a tenant of which nothing waits loses its turn to others.
            prefetch: tenant
                .prefetch
                .unwrap_or_else(|| u16::try_from(2 * concurrency.max(10)).unwrap_or(u16::MAX)),
            max_kept: tenant.max_kept.unwrap_or(self.journal.max_kept),
            weight: tenant.weight,
            max_priority: tenant.max_priority,
            rate: rate.transpose()?,
            budget,
            over_quota: tenant.over_quota,
            modules: patterns
                .collect::<Result<_, _>>()
                .map_err(anyhow::Error::msg)?,
            sources: tenant.sources.clone(),
            remotes: Arc::new(Remotes {
                https_hosts: hosts("https_hosts", &tenant.https_hosts)?,
                registries: hosts("registries", &tenant.registries)?,
                stale: tenant.stale_modules,
            }),
            signed_by: tenant
                .signed_by
                .iter()
                .map(|key| signature::signer(key))
                .collect::<Result<_>>()
                .context("failed to read `signed_by`")?,
            default_module: default_module.transpose().map_err(anyhow::Error::msg)?,
            reply_topics: tenant
                .reply_topics
                .iter()
                .map(|filter| check_filter(filter))
                .collect::<Result<_>>()?,
            grants: Arc::new(grants.context("failed to read `capabilities`")?),
        })
    }
}

fn fetching_nothing(sources: &[Source]) -> Vec<Source> {
    let local = |source: &&Source| matches!(source, Source::Directory | Source::Published);
    sources.iter().filter(local).copied().collect()
}

fn hosts(key: &str, hosts: &[String]) -> Result<Vec<HostPattern>> {
    let read = hosts.iter().map(|text| HostPattern::parse(text));
    read.collect::<Result<_, _>>()
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("failed to read `{key}`"))
}

/// Refuses what no module could be compiled under, or what would overflow.
fn check_compile(limits: CompileLimits) -> Result<CompileLimits> {
    for (name, value, least, most) in [
        ("cpu_s", limits.cpu_s, 1, 86_400),
        ("wall_s", limits.wall_s, 1, 86_400),
        ("memory_bytes", limits.memory_bytes, 64 << 20, 1 << 40),
        ("artifact_bytes", limits.artifact_bytes, 1 << 20, 1 << 32),
        // Both are numbers of 32 bits in a module.
        ("functions", limits.functions, 1, u32::MAX.into()),
        ("nesting", limits.nesting, 1, u32::MAX.into()),
    ] {
        ensure!(
            (least..=most).contains(&value),
            "`compile.{name}` must be from {least} to {most}, got {value}"
        );
    }
    Ok(limits)
}

/// An MQTT filter, neither shared nor of the broker's own topics.
fn check_filter(filter: &str) -> Result<String> {
    let levels: Vec<&str> = filter.split('/').collect();
    let well_formed = levels.iter().enumerate().all(|(at, level)| match *level {
        "#" => at + 1 == levels.len(),
        "+" => true,
        level => !level.contains(['+', '#', '\0']),
    });
    ensure!(
        well_formed && (1..=256).contains(&filter.len()) && !filter.starts_with('$'),
        "`reply_topics` holds MQTT filters of at most 256 bytes, not `$…`, got {filter:?}"
    );
    Ok(filter.to_owned())
}
