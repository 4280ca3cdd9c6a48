//! What each tenant may do: made from the configuration, replaced as a whole when that is read again.
//!
//! Pure but for the lock: who asks gets a value that does not change while a task runs under it.

pub mod compile;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::grants::Grants;
use crate::grants::hosts::{HostPattern, Target};
use crate::task::limits::LimitValues;
use crate::task::tenant::TenantId;
use crate::task::{ModuleName, ModuleRef};
use crate::tenants::compile::CompileLimits;

/// What one tenant may do.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantPolicy {
    /// The limits of a task that names none.
    pub limits: LimitValues,
    /// The most that a task may ask for.
    pub ceilings: LimitValues,
    /// The largest module, in bytes.
    pub module_bytes: u64,
    /// What compiling a module may cost.
    pub compile: CompileLimits,
    /// The largest task as it comes, in bytes of payload.
    pub envelope_bytes: u64,
    /// Guests at one time.
    pub concurrency: usize,
    /// Unanswered tasks that the broker may have sent on this tenant's lane.
    pub prefetch: u16,
    /// Tasks kept until they are due.
    pub max_kept: usize,
    /// Its share of the fuel, beside the other tenants' weights.
    pub weight: u32,
    /// The highest priority that counts; a higher one counts as this.
    pub max_priority: u8,
    /// Tasks a second; none is no limit.
    pub rate: Option<Rate>,
    /// Fuel a window; none is no limit.
    pub budget: Option<Budget>,
    /// What becomes of tasks over the rate or the budget.
    pub over_quota: OverQuota,
    /// The modules it may name; empty is all.
    pub modules: Vec<ModulePattern>,
    /// Where its modules may come from.
    pub sources: Vec<Source>,
    /// Which hosts those may be that modules are fetched from.
    pub remotes: Arc<Remotes>,
    /// Whose signature a module must bear; anybody's or none when empty.
    pub signed_by: Vec<Signer>,
    /// The module of plain messages.
    pub default_module: Option<ModuleRef>,
    /// Filters of reply topics beside those below the tenant's own prefix.
    pub reply_topics: Vec<String>,
    /// What its guests may use.
    pub grants: Arc<Grants>,
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Tokens that come in a second.
    pub per_second: f64,
    /// The most tokens that it holds.
    pub burst: f64,
}

/// An amount of fuel that may be burnt in each window of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Units of fuel.
    pub fuel: u64,
    /// How long a window is.
    pub window: Duration,
}

/// What becomes of tasks over a quota.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverQuota {
    /// They wait for their turn.
    #[default]
    Wait,
    /// They are rejected (`quota_exceeded`), with the time to retry.
    Reject,
}

/// Where modules come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The operator's folder.
    Directory,
    /// The tenant's retained topics.
    Published,
    /// Web servers.
    Https,
    /// Registries.
    Oci,
}

/// Hosts that modules may be fetched from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Remotes {
    /// Web servers of modules that are not pinned by their digest.
    pub https_hosts: Vec<HostPattern>,
    /// Registries.
    pub registries: Vec<HostPattern>,
    /// Whether a module that was fetched before does while its source is down.
    pub stale: bool,
}

impl Remotes {
    /// Whether an https module may come from there: from everywhere, where its digest is known beforehand.
    pub fn may_reach(&self, target: &Target, pinned: bool) -> Result<(), String> {
        if pinned || self.https_hosts.iter().any(|host| host.matches(target)) {
            return Ok(());
        }
        Err(format!(
            "`https_hosts` does not list {target}, and the reference has no digest"
        ))
    }
}

/// A public key of minisign's, in its 56 characters of base64.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Signer(String);

impl Signer {
    /// Takes a key that was found to be one.
    pub fn new(key: String) -> Signer {
        Signer(key)
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Names of modules: a name, or a reference as tasks write it, or the beginning of either with `*` behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModulePattern {
    /// Every name that begins so.
    Prefix(String),
    /// Every `https://…` or `oci://…` that begins so, its host included.
    Below(String),
    /// This name, pinned or not.
    Name(ModuleName),
    /// Exactly this reference.
    Exact(ModuleRef),
}

impl ModulePattern {
    /// Reads a pattern as the configuration writes it.
    pub fn parse(text: &str) -> Result<ModulePattern, String> {
        if let Some(prefix) = text.strip_suffix('*') {
            let allowed =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
            if prefix.chars().all(allowed) {
                return Ok(ModulePattern::Prefix(prefix.to_owned()));
            }
            if let Some((_, rest)) = prefix.split_once("://") {
                // With the beginning of a host alone it would be others' hosts too.
                if !rest.contains('/') {
                    return Err(format!("a host ends with `/`, got {text:?}"));
                }
                ModuleRef::parse(&format!("{prefix}x"))?;
                return Ok(ModulePattern::Below(prefix.to_owned()));
            }
            return Err(format!(
                "a pattern is the beginning of a module's name and `*`, got {text:?}"
            ));
        }
        Ok(match ModuleRef::parse(text)? {
            ModuleRef::Name(name) => ModulePattern::Name(name),
            exact => ModulePattern::Exact(exact),
        })
    }

    /// Whether a reference is one of those meant.
    pub fn matches(&self, reference: &ModuleRef) -> bool {
        let name = match reference {
            ModuleRef::Name(name) | ModuleRef::Pinned(name, _) => Some(name),
            ModuleRef::Digest(_) | ModuleRef::Https(_) | ModuleRef::Oci(_) => None,
        };
        match self {
            ModulePattern::Prefix(prefix) => {
                name.is_some_and(|name| name.as_str().starts_with(prefix.as_str()))
            }
            ModulePattern::Below(beginning) => {
                matches!(reference, ModuleRef::Https(_) | ModuleRef::Oci(_))
                    && reference.to_string().starts_with(beginning)
            }
            ModulePattern::Name(meant) => name == Some(meant),
            ModulePattern::Exact(meant) => meant == reference,
        }
    }
}

impl TenantPolicy {
    /// Whether a tenant may name this module.
    pub fn may_name(&self, reference: &ModuleRef) -> bool {
        self.modules.is_empty()
            || self
                .modules
                .iter()
                .any(|pattern| pattern.matches(reference))
    }

    /// Whether a module may be fetched from where this reference says.
    pub fn may_fetch(&self, reference: &ModuleRef) -> Result<(), String> {
        let source = |source, name: &str| match self.sources.contains(&source) {
            true => Ok(()),
            false => Err(format!("`sources` does not list {name:?}")),
        };
        match reference {
            ModuleRef::Name(_) | ModuleRef::Pinned(..) | ModuleRef::Digest(_) => Ok(()),
            ModuleRef::Https(module) => {
                source(Source::Https, "https")?;
                let pinned = module.pin.is_some();
                self.remotes.may_reach(&module.target, pinned)
            }
            ModuleRef::Oci(module) => {
                source(Source::Oci, "oci")?;
                let mut listed = self.remotes.registries.iter();
                match listed.any(|host| host.matches(&module.registry)) {
                    true => Ok(()),
                    false => Err(format!("`registries` does not list {}", module.registry)),
                }
            }
        }
    }
}

/// What all tenants may do. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Tenants(Arc<RwLock<Arc<Table>>>);

/// One reading of the configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    /// By name.
    pub listed: BTreeMap<TenantId, Arc<TenantPolicy>>,
    /// Of every other tenant; none is that they may do nothing.
    pub unlisted: Option<Arc<TenantPolicy>>,
}

impl Tenants {
    /// What a table says.
    pub fn new(table: Table) -> Tenants {
        Tenants(Arc::new(RwLock::new(Arc::new(table))))
    }

    /// What a tenant may do; `None` when it may do nothing.
    pub fn policy(&self, tenant: &TenantId) -> Option<Arc<TenantPolicy>> {
        let table = self.table();
        table
            .listed
            .get(tenant)
            .or(table.unlisted.as_ref())
            .cloned()
    }

    /// All of it, as it is now.
    pub fn table(&self) -> Arc<Table> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Another reading counts from now on; tasks that run go on under the one they started with.
    pub fn replace(&self, table: Table) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(text: &str) -> ModuleRef {
        ModuleRef::parse(text).expect("a reference")
    }

    #[test]
    fn patterns_name_modules() {
        let pin = format!("thumb@sha256:{}", "a".repeat(64));
        let digest = format!("sha256:{}", "a".repeat(64));
        for (pattern, matching, other) in [
            ("thumb*", "thumbnail", "othumb"),
            ("*", "anything", digest.as_str()),
            ("thumb", pin.as_str(), "thumbnail"),
            (pin.as_str(), pin.as_str(), "thumb"),
            (digest.as_str(), digest.as_str(), pin.as_str()),
            ("oci://r.io/a/*", "oci://r.io/a/b:1", "oci://r.io/ab/c"),
            ("oci://r.io/a*", "oci://r.io/ab", "thumb"),
            ("https://h/a/*", "https://h/a/b", "oci://h/a/b"),
            ("https://h/a", "https://h/a", "https://h/ab"),
        ] {
            let pattern = ModulePattern::parse(pattern).expect("a pattern");
            assert!(
                pattern.matches(&reference(matching)),
                "{pattern:?} {matching}"
            );
            assert!(!pattern.matches(&reference(other)), "{pattern:?} {other}");
        }
        for bad in [
            "",
            "a/b*",
            "Upper",
            "a*b",
            "oci://r.io*",
            "https://h/../*",
            "http://h/*",
        ] {
            assert!(ModulePattern::parse(bad).is_err(), "{bad}");
        }
    }
}
