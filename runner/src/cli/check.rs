//! `wasmqtt check`: the effective configuration, or what one tenant has.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::json;

use crate::admission;
use crate::cli::args::{Connection, parse_tenant};
use crate::cli::{FAILED, OK};
use crate::config::Config;
use crate::grants::hosts::HostPattern;
use crate::grants::{Capability, Grants};
use crate::modules::{self, Content};
use crate::task::tenant::TenantId;
use crate::tenants::{Source, TenantPolicy, Tenants};

/// Print the effective configuration, or what a tenant may do; secrets hidden
///
/// Defaults, file, environment and flags laid over each other, validated as `serve` would. With --tenant, what that tenant
/// may do and use, its secrets read but not shown; with a module too, whether it would be admitted: nothing is
/// compiled, and the exit code is 0 if it would, 1 if not.
///
/// Example: wasmqtt check --config wasmqtt.toml --tenant acme thumbnail.wasm
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    connection: Connection,
    /// Show what this tenant may do
    #[arg(long, value_name = "NAME", value_parser = parse_tenant)]
    tenant: Option<TenantId>,
    /// A module that the tenant would run
    #[arg(requires = "tenant")]
    module: Option<PathBuf>,
    /// Print it as JSON instead of TOML
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> Result<u8> {
        let config = self.connection.load(&[])?;
        // Files that it names are read when they are used: read them now, to fail here and not there.
        config.credentials()?;
        let tenants = Tenants::new(config.tenant_table()?);
        match &self.tenant {
            None => self.whole(&config),
            Some(tenant) => self.one(tenant, &tenants),
        }
    }

    fn whole(&self, config: &Config) -> Result<u8> {
        let shown = config.without_secrets();
        if self.json {
            println!(
                "{}",
                serde_json::to_string_pretty(&shown)
                    .context("failed to print the configuration")?
            );
        } else {
            print!(
                "{}",
                toml::to_string_pretty(&shown).context("failed to print the configuration")?
            );
        }
        Ok(OK)
    }

    fn one(&self, tenant: &TenantId, tenants: &Tenants) -> Result<u8> {
        let policy = tenants.policy(tenant);
        let verdict = match &self.module {
            None => None,
            Some(module) => {
                let bytes = std::fs::read(module)
                    .with_context(|| format!("failed to read {}", module.display()))?;
                Some(match &policy {
                    None => Err(admission::unserved(tenant).error),
                    Some(policy) => modules::check(&Content::new(bytes), policy)
                        .and_then(|structure| structure.admit(&policy.grants)),
                })
            }
        };
        let lines = policy.as_ref().map(|policy| lines(policy));
        if self.json {
            let pairs = lines.iter().flatten();
            let has: serde_json::Map<_, _> = pairs
                .map(|(name, value)| ((*name).to_owned(), json!(value)))
                .collect();
            let error = verdict.as_ref().and_then(|verdict| verdict.as_ref().err());
            let report = json!({
                "tenant": tenant.as_str(),
                "served": policy.is_some(),
                "policy": has,
                "capabilities": policy.as_ref().map(|policy| granted(&policy.grants)),
                "admitted": verdict.as_ref().map(Result::is_ok),
                "error": error.map(ToString::to_string),
            });
            println!("{report:#}");
        } else {
            println!("{:<16} {tenant}", "tenant");
            match &lines {
                None => println!("{:<16} nothing: it is not served", "may do"),
                Some(lines) => lines
                    .iter()
                    .for_each(|(name, value)| println!("{name:<16} {value}")),
            }
            match &verdict {
                None => {}
                Some(Ok(())) => println!("{:<16} admitted", "module"),
                Some(Err(error)) => println!("{:<16} {error}", "module"),
            }
        }
        Ok(match verdict {
            Some(Err(_)) => FAILED,
            _ => OK,
        })
    }
}

fn granted(grants: &Grants) -> Vec<&'static str> {
    let granted = Capability::ALL.into_iter().filter(|it| grants.has(*it));
    granted.map(Capability::as_str).collect()
}

/// What a tenant may do, a line each.
fn lines(policy: &TenantPolicy) -> Vec<(&'static str, String)> {
    let most = policy.ceilings;
    let mut lines = vec![
        (
            "fuel",
            format!("{}, at most {}", policy.limits.fuel, most.fuel),
        ),
        (
            "memory_bytes",
            format!(
                "{}, at most {}",
                policy.limits.memory_bytes, most.memory_bytes
            ),
        ),
        (
            "timeout_ms",
            format!("{}, at most {}", policy.limits.timeout_ms, most.timeout_ms),
        ),
        (
            "output_bytes",
            format!(
                "{}, at most {}",
                policy.limits.output_bytes, most.output_bytes
            ),
        ),
        ("module_bytes", policy.module_bytes.to_string()),
        ("concurrency", policy.concurrency.to_string()),
        ("weight", policy.weight.to_string()),
    ];
    lines.extend(sources(policy));
    lines.extend(capabilities(&policy.grants));
    lines
}

/// Where its modules may come from, and whose they must be.
fn sources(policy: &TenantPolicy) -> Vec<(&'static str, String)> {
    let source = |source: &Source| match source {
        Source::Directory => "directory",
        Source::Published => "published",
        Source::Https => "https",
        Source::Oci => "oci",
    };
    let hosts = |hosts: &[HostPattern]| names(hosts.iter().map(ToString::to_string).collect());
    let (remotes, signers) = (&policy.remotes, policy.signed_by.iter());
    let mut lines = vec![(
        "sources",
        names(
            policy
                .sources
                .iter()
                .map(|it| source(it).to_owned())
                .collect(),
        ),
    )];
    if policy.sources.contains(&Source::Https) {
        let listed = hosts(&remotes.https_hosts);
        lines.push((
            "https_hosts",
            format!("{listed}; with a digest any public one"),
        ));
    }
    if policy.sources.contains(&Source::Oci) {
        lines.push(("registries", hosts(&remotes.registries)));
    }
    if remotes.stale {
        lines.push(("stale_modules", "while their source is down".to_owned()));
    }
    lines.push((
        "signed_by",
        match policy.signed_by.is_empty() {
            true => "anybody or nobody".to_owned(),
            false => names(signers.map(|key| key.as_str().to_owned()).collect()),
        },
    ));
    lines
}

fn names(names: Vec<String>) -> String {
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}

/// What it was granted, and how much of it; of secrets only their names.
fn capabilities(grants: &Grants) -> Vec<(&'static str, String)> {
    let or_not = |granted: Option<String>| granted.unwrap_or_else(|| "not granted".to_owned());
    vec![
        (
            "http",
            or_not(grants.http.as_ref().map(|http| {
                format!(
                    "{}; {} requests, {} bytes out and {} in each, {} ms",
                    names(http.hosts.iter().map(ToString::to_string).collect()),
                    http.max_requests,
                    http.max_request_bytes,
                    http.max_response_bytes,
                    http.timeout.as_millis()
                )
            })),
        ),
        (
            "config",
            or_not(grants.config.as_ref().map(|config| {
                let secrets = config.secrets.keys().map(|key| format!("{key} (secret)"));
                names(config.values.keys().cloned().chain(secrets).collect())
            })),
        ),
        (
            "keyvalue",
            or_not(grants.keyvalue.map(|it| {
                let (bytes, keys, value) = (it.max_bytes, it.max_keys, it.max_value_bytes);
                format!("{bytes} bytes, {keys} keys, {value} bytes a value")
            })),
        ),
        (
            "publish",
            or_not(grants.publish.map(|it| {
                format!(
                    "{} messages, {} bytes a task",
                    it.max_messages, it.max_bytes
                )
            })),
        ),
        (
            "scratch",
            or_not(
                grants
                    .scratch_bytes
                    .map(|bytes| format!("{bytes} bytes a task")),
            ),
        ),
        ("clock", or_not(grants.clock.then(|| "granted".to_owned()))),
        (
            "entropy",
            or_not(grants.entropy.then(|| "granted".to_owned())),
        ),
    ]
}
