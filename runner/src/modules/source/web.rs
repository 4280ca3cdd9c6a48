//! What is fetched over HTTP: shared while it is under way, kept for a while, asked for again by what the server called it.
//!
//! Of each tenant apart: what one may fetch says nothing of another.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use moka::Expiry;
use moka::future::Cache;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::dial::{self, Thread, Tls};
use crate::grants::addresses::AddressPattern;
use crate::grants::hosts::HostPattern;
use crate::modules::Content;
use crate::modules::source::credentials::Credentials;
use crate::modules::source::get::{Client, Failed};
use crate::modules::source::slots::Slots;
use crate::modules::source::{Found, https, oci};
use crate::task::ModuleRef;
use crate::task::outcome::{ErrorCode, TaskError};
use crate::task::tenant::TenantId;
use crate::tenants::{Remotes, TenantPolicy};

/// Bytes of fetched modules kept; beyond it those go that were not asked for longest.
const MAX_BYTES: u64 = 256 << 20;
/// How soon a source that was down is asked again, where what it had before does.
const DOWN: Duration = Duration::from_secs(10);
/// How long it is remembered that a host does not answer, for those who wait behind others that asked it.
const SILENT: Duration = Duration::from_secs(5);
/// Hosts that do not answer, remembered.
const MAX_SILENT: u64 = 1_000;
/// What does not fit its signature is not fetched again sooner.
const DOUBTED: Duration = Duration::from_secs(10);

/// How modules are fetched.
#[derive(Debug, Clone)]
pub struct Settings {
    /// PEM: authorities to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// The folder of Docker's `config.json`.
    pub docker_config: Option<PathBuf>,
    /// Addresses that are allowed though they are not public.
    pub private: Vec<AddressPattern>,
    /// Registries without TLS.
    pub insecure: Vec<HostPattern>,
    /// From a fetch's turn to its last byte.
    pub timeout: Duration,
    /// How long a server may say nothing.
    pub stall: Duration,
    /// How long what was fetched is not asked for again.
    pub recheck: Duration,
}

/// What a fetch is for.
pub(super) struct Wanted {
    pub(super) remotes: Arc<Remotes>,
    /// Bytes of a module.
    pub(super) most: u64,
    /// Whether its signature is wanted too.
    pub(super) signed: bool,
}

/// What a fetch brought.
pub(super) struct Fetched {
    pub(super) content: Content,
    pub(super) signature: Option<Bytes>,
    pub(super) validator: Option<String>,
    /// It cannot change.
    pub(super) forever: bool,
}

/// What was fetched before.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) content: Content,
    signature: Option<Bytes>,
    /// What the source calls this version of it: an ETag, a manifest's digest.
    pub(super) validator: Option<String>,
    fetched: Instant,
    keep: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    tenant: TenantId,
    reference: ModuleRef,
    signed: bool,
}

pub(super) struct Web {
    shared: Arc<Shared>,
    /// Not to be asked for again yet.
    fresh: Cache<Key, Known>,
    /// To be asked for again, or to do while its source is down.
    last: Cache<Key, Known>,
    slots: Slots,
    /// Hosts that did not answer a tenant, and what they did instead.
    silent: Cache<(TenantId, String), String>,
}

struct Shared {
    thread: Thread,
    client: Client,
    credentials: Credentials,
    settings: Settings,
}

impl Web {
    pub(super) fn new(settings: Settings) -> Result<Web> {
        let authorities = match &settings.ca_file {
            None => Vec::new(),
            Some(file) => dial::authorities(file).context("failed to read `fetch.ca_file`")?,
        };
        let weigh =
            |_: &Key, known: &Known| u32::try_from(known.content.bytes.len()).unwrap_or(u32::MAX);
        let bounded = || Cache::builder().weigher(weigh).max_capacity(MAX_BYTES);
        Ok(Web {
            fresh: bounded().expire_after(AsKept).build(),
            last: bounded().build(),
            slots: Slots::default(),
            silent: Cache::builder()
                .max_capacity(MAX_SILENT)
                .time_to_live(SILENT)
                .build(),
            shared: Arc::new(Shared {
                thread: Thread::named("fetches"),
                client: Client {
                    tls: Tls::trusting(authorities),
                    private: settings.private.clone(),
                    stall: settings.stall,
                },
                credentials: Credentials::new(settings.docker_config.clone()),
                settings,
            }),
        })
    }

    /// The module of a remote reference.
    pub(super) async fn find(
        &self,
        tenant: &TenantId,
        policy: &TenantPolicy,
        reference: &ModuleRef,
    ) -> Result<Found, TaskError> {
        // Asked when the task was admitted, and here again: what was fetched for it before is no right to it.
        policy.may_fetch(reference).map_err(|why| {
            let why = format!("tenant {tenant} may not fetch {reference}: {why}");
            TaskError::new(ErrorCode::TenantDenied, why)
        })?;
        let key = key(tenant, policy, reference);
        let wanted = Wanted {
            remotes: policy.remotes.clone(),
            most: policy.module_bytes,
            signed: key.signed,
        };
        let fetching = self.fetch(&key, wanted);
        let known = self.fresh.try_get_with(key.clone(), fetching).await;
        match known {
            Ok(known) => Ok(Found::in_memory(known.content, known.signature)),
            Err(error) => Err(TaskError::clone(&error)),
        }
    }

    /// It does not fit its signature.
    pub(super) async fn doubt(
        &self,
        tenant: &TenantId,
        policy: &TenantPolicy,
        reference: &ModuleRef,
    ) {
        let key = key(tenant, policy, reference);
        if let Some(known) = self.fresh.get(&key).await
            && known.fetched.elapsed() > DOUBTED
        {
            self.fresh.invalidate(&key).await;
        }
    }

    async fn fetch(&self, key: &Key, wanted: Wanted) -> Result<Known, TaskError> {
        let known = self.last.get(key).await;
        let may_be_stale = wanted.remotes.stale;
        let started = Instant::now();
        match self.fetch_now(key, wanted, known.clone()).await {
            Ok(fetched) => {
                let (digest, bytes) = (fetched.content.digest, fetched.content.bytes.len());
                // What a tag meant.
                let manifest = fetched.validator.as_deref().filter(|_| is_image(key));
                info!(tenant = %key.tenant, module = %key.reference, %digest, manifest, bytes, took = ?started.elapsed(), "module fetched");
                let recheck = self.shared.settings.recheck;
                let known = Known {
                    content: fetched.content,
                    signature: fetched.signature,
                    validator: fetched.validator,
                    fetched: Instant::now(),
                    keep: (!fetched.forever).then_some(recheck),
                };
                self.last.insert(key.clone(), known.clone()).await;
                Ok(known)
            }
            Err(Failed {
                code, why, refused, ..
            }) => {
                let error =
                    TaskError::new(code, format!("failed to fetch {}: {why}", key.reference));
                let is_down = code == ErrorCode::ModuleUnavailable && !refused;
                if !is_down {
                    // Nor does it do later, when the source is down.
                    self.last.invalidate(key).await;
                }
                match known.filter(|_| may_be_stale && is_down) {
                    None => Err(error),
                    Some(known) => {
                        warn!(tenant = %key.tenant, %error, "the module that was fetched before is used");
                        let keep = Some(DOWN);
                        Ok(Known { keep, ..known })
                    }
                }
            }
        }
    }

    async fn fetch_now(
        &self,
        key: &Key,
        wanted: Wanted,
        known: Option<Known>,
    ) -> Result<Fetched, Failed> {
        let host = match &key.reference {
            ModuleRef::Https(module) => module.target.to_string(),
            ModuleRef::Oci(module) => module.registry.to_string(),
            other => return Err(Failed::unavailable(format!("{other} is nowhere else"))),
        };
        let most = self.shared.settings.timeout;
        let late = |what: &str| {
            let seconds = most.as_secs();
            Failed::unavailable(format!("{what} took longer than {seconds} s"))
        };
        let asked = (key.tenant.clone(), host);
        let mut taking = pin!(self.slots.take(&asked.0, asked.1.clone()));
        let at_once = tokio::select! {
            biased;
            slot = &mut taking => Some(slot),
            () = std::future::ready(()) => None,
        };
        let _slot = match at_once {
            Some(slot) => slot,
            None => {
                let turn = timeout(most, taking).await;
                let slot = turn.map_err(|_| late("waiting behind other fetches"))?;
                // Who stood behind those that stalled does not stall too, with everybody behind them.
                if let Some(why) = self.silent.get(&asked).await {
                    return Err(Failed::unavailable(format!("a moment ago: {why}")));
                }
                slot
            }
        };
        let (shared, reference) = (self.shared.clone(), key.reference.clone());
        let work = async move {
            let fetched = async {
                match &reference {
                    ModuleRef::Https(module) => {
                        https::fetch(&shared.client, module, &wanted, known.as_ref()).await
                    }
                    ModuleRef::Oci(module) => {
                        let registry = oci::Registry {
                            client: &shared.client,
                            credentials: &shared.credentials,
                            insecure: &shared.settings.insecure,
                        };
                        registry.fetch(module, &wanted, known.as_ref()).await
                    }
                    _ => Err(Failed::unavailable("it is nowhere else")),
                }
            };
            timeout(shared.settings.timeout, fetched).await
        };
        let mut fetching = self.shared.thread.spawn(work).map_err(|error| {
            Failed::unavailable(format!("failed to start the thread for it: {error}"))
        })?;
        let fetched = match (&mut fetching.0).await {
            Ok(Ok(fetched)) => fetched,
            Ok(Err(_)) => Err(late("it")),
            Err(_) => Err(Failed::unavailable("it was given up")),
        };
        if let Err(failed) = &fetched
            && failed.silent
        {
            self.silent.insert(asked.clone(), failed.why.clone()).await;
        }
        fetched
    }
}

fn key(tenant: &TenantId, policy: &TenantPolicy, reference: &ModuleRef) -> Key {
    Key {
        tenant: tenant.clone(),
        reference: reference.clone(),
        signed: !policy.signed_by.is_empty(),
    }
}

fn is_image(key: &Key) -> bool {
    matches!(key.reference, ModuleRef::Oci(_))
}

/// Hashes off the thread that others fetch on.
pub(super) async fn hash(bytes: Vec<u8>) -> Result<Content, Failed> {
    let hashed = tokio::task::spawn_blocking(|| Content::new(bytes)).await;
    hashed.map_err(|died| Failed::new(ErrorCode::Internal, format!("failed to hash it: {died}")))
}

/// Each for its own time.
struct AsKept;

impl Expiry<Key, Known> for AsKept {
    fn expire_after_create(&self, _: &Key, known: &Known, _: Instant) -> Option<Duration> {
        known.keep
    }
}
