//! `ModuleRef` → a compiled module that is ready to run.
//!
//! Finds the bytes, hashes them itself, checks pins on that hash and signatures, and compiles each content once,
//! however many tasks ask at the same moment.

pub mod artifacts;
pub mod cost;
pub mod jail;
pub mod shape;
pub mod signature;
pub mod source;
pub mod structure;

mod last;
mod loader;
mod turns;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use moka::future::Cache;
use sha2::{Digest as _, Sha256};
use tracing::info;

use crate::envelope::topics::Topics;
use crate::modules::artifacts::Artifacts;
use crate::modules::jail::Compiler;
use crate::modules::last::Last;
use crate::modules::loader::{Loader, blocking};
use crate::modules::signature::Signatures;
use crate::modules::source::{Found, Patience, Sources, web};
use crate::modules::structure::Structure;
use crate::mqtt::{Deliveries, Publisher};
use crate::sandbox::engine::Engine;
use crate::sandbox::prepared::Prepared;
use crate::task::outcome::{CacheHit, ErrorCode, TaskError};
use crate::task::tenant::TenantId;
use crate::task::{Digest, ModuleRef};
use crate::tenants::TenantPolicy;

/// How long a module and its signature may take to be replaced, one after the other.
const REPLACED: Duration = Duration::from_secs(2);
/// Versions of a module that a task sees replaced before they are compiled, until it is refused, to be tried later.
const VERSIONS: usize = 5;

/// What modules are is remembered, in bytes: of one with many long names, for a shorter time.
const STRUCTURES_BYTES: u64 = 2 << 20;
/// Bytes that remembering anything takes besides its text, about: 1,900 more modules of strangers made a runner 2 MiB larger.
const ENTRY: usize = 1 << 10;

/// A module that is ready to run.
#[derive(Clone)]
pub struct Module {
    /// The SHA-256 of its bytes.
    pub digest: Digest,
    /// Compiled and linked.
    pub prepared: Arc<Prepared>,
}

/// A module's bytes and their hash.
#[derive(Debug, Clone)]
pub struct Content {
    /// The SHA-256 that we computed.
    pub digest: Digest,
    /// The bytes.
    pub bytes: Bytes,
}

impl Content {
    /// Hashes bytes.
    pub fn new(bytes: impl Into<Bytes>) -> Content {
        let bytes = bytes.into();
        Content {
            digest: Digest::new(Sha256::digest(&bytes).into()),
            bytes,
        }
    }
}

/// Finds, compiles and keeps modules.
pub struct ModuleStore {
    sources: Sources,
    signatures: Signatures,
    loader: Loader,
    last: Last<Module>,
    /// What modules are, also those that are not compiled yet or are refused.
    structures: Cache<Digest, Result<Arc<Structure>, TaskError>>,
}

impl ModuleStore {
    /// A store with no source yet that keeps `cached` compiled modules in memory.
    pub fn new(engine: Arc<Engine>, compiler: Compiler, cached: u64) -> ModuleStore {
        ModuleStore {
            sources: Sources::default(),
            signatures: Signatures::default(),
            loader: Loader::new(engine, compiler, cached),
            last: Last::default(),
            structures: Cache::builder()
                .max_capacity(STRUCTURES_BYTES)
                .weigher(|_, read: &Result<Arc<Structure>, TaskError>| match read {
                    Ok(structure) => weight(structure.bytes()),
                    Err(error) => weight(error.message.len()),
                })
                .build(),
        }
    }

    /// Adds the files `NAME.wasm` of a folder, for every tenant, and begins to hash them. Must be called on a runtime.
    pub fn with_directory(mut self, folder: &Path) -> Result<ModuleStore> {
        self.sources.open_directory(folder)?;
        Ok(self)
    }

    /// Adds the modules published on `modules/{name}`, over a connection of their own: a module must not
    /// wait behind a full window of tasks that wait for it.
    pub fn with_published(
        mut self,
        topics: Topics,
        connection: (Deliveries, Publisher),
        lookup: Duration,
    ) -> ModuleStore {
        self.sources.follow(topics, connection, lookup);
        self
    }

    /// Adds web servers and registries, for the tenants that may have modules from there.
    pub fn with_fetching(mut self, settings: web::Settings) -> Result<ModuleStore> {
        self.sources.fetch(settings)?;
        Ok(self)
    }

    /// Adds a folder for compiled modules, of at most `max_bytes`; without a path, one that goes with the store.
    pub fn with_artifacts(mut self, folder: Option<&Path>, max_bytes: u64) -> Result<ModuleStore> {
        let engine = self.loader.engine();
        let artifacts = match folder {
            Some(folder) => Artifacts::open(folder, engine, max_bytes)?,
            None => Artifacts::temporary(engine, max_bytes)?,
        };
        self.loader.keep_in(artifacts);
        Ok(self)
    }

    /// The module that a reference names for a tenant at some time after `since`, compiled, and where it was found
    /// compiled.
    pub async fn resolve(
        &self,
        tenant: &TenantId,
        policy: &Arc<TenantPolicy>,
        reference: &ModuleRef,
        since: Instant,
    ) -> Result<(Module, CacheHit), TaskError> {
        if let Some(module) = self.last.get(tenant, policy, reference, since) {
            return Ok((module, CacheHit::Memory));
        }
        let now = Instant::now();
        // Boxed: every flow would have room for it, and be moved with it.
        let resolved = Box::pin(self.resolve_now(tenant, policy, reference, now));
        let (module, hit) = resolved.await?;
        self.last.set(tenant, policy, reference, now, &module);
        Ok((module, hit))
    }

    async fn resolve_now(
        &self,
        tenant: &TenantId,
        policy: &TenantPolicy,
        reference: &ModuleRef,
        started: Instant,
    ) -> Result<(Module, CacheHit), TaskError> {
        for _ in 0..VERSIONS {
            let found = self
                .find(tenant, policy, reference, Patience::ForPins)
                .await?;
            let bytes = found.bytes;
            let (module, hit) = match self.loader.known(&policy.compile, &found.digest).await {
                Some(known) => known?,
                None => match Box::pin(self.load(tenant, policy, reference, found)).await? {
                    Some(loaded) => loaded,
                    None => continue,
                },
            };
            // It may be compiled for a tenant that was granted more. Of a core module, what it became may import more.
            structure::admit(module.prepared.imports(), &policy.grants)?;
            if hit != CacheHit::Memory {
                let (cache, took) = (hit.as_str(), started.elapsed());
                info!(module = %reference, digest = %module.digest, bytes, cache, ?took, "module ready");
            }
            return Ok((module, hit));
        }
        let why = format!("{reference} was replaced each time it was to be compiled");
        Err(TaskError::new(ErrorCode::ModuleUnavailable, why))
    }

    /// What is not in memory; none when it is not what was found any more.
    async fn load(
        &self,
        tenant: &TenantId,
        policy: &TenantPolicy,
        reference: &ModuleRef,
        found: Found,
    ) -> Result<Option<(Module, CacheHit)>, TaskError> {
        let of = (found.digest, found.bytes);
        // What was refused is not looked for on disk.
        if let Some(known) = self.structures.get(&found.digest).await {
            known?.admit(&policy.grants)?;
        }
        if let Some(compiled) = self.loader.look(&policy.compile, &found.digest).await {
            return compiled.map(Some);
        }
        let Some(structure) = self.structure(&found).await? else {
            return Ok(None);
        };
        structure.admit(&policy.grants)?;
        drop(found);
        let again = async || {
            let found = self.find(tenant, policy, reference, Patience::None).await;
            match found {
                Err(error) if error.code == ErrorCode::DigestMismatch => Ok(None),
                found => found?.content().await,
            }
        };
        self.loader.load(tenant, &policy.compile, of, again).await
    }

    /// Found, no larger than the tenant's modules may be, and signed as it wants them.
    async fn find(
        &self,
        tenant: &TenantId,
        policy: &TenantPolicy,
        reference: &ModuleRef,
        patience: Patience,
    ) -> Result<Found, TaskError> {
        let found = self
            .sources
            .find(tenant, policy, reference, patience)
            .await?;
        small_enough(&found.digest, found.bytes, policy)?;
        if policy.signed_by.is_empty() {
            return Ok(found);
        }
        Box::pin(self.signed(tenant, policy, reference, found)).await
    }

    /// The same, when it is signed as the tenant wants it.
    async fn signed(
        &self,
        tenant: &TenantId,
        policy: &TenantPolicy,
        reference: &ModuleRef,
        found: Found,
    ) -> Result<Found, TaskError> {
        let Err(refused) = self.signatures.check(&found, &policy.signed_by).await else {
            return Ok(found);
        };
        // Module and signature are replaced one after the other: once more, when both had time to come.
        self.sources.doubt(tenant, policy, reference).await;
        tokio::time::sleep(REPLACED).await;
        let again = self
            .sources
            .find(tenant, policy, reference, Patience::None)
            .await?;
        if (&again.signature, again.digest) == (&found.signature, found.digest) {
            return Err(refused);
        }
        small_enough(&again.digest, again.bytes, policy)?;
        self.signatures.check(&again, &policy.signed_by).await?;
        Ok(again)
    }

    /// What a module is; none when it is not what was found any more.
    async fn structure(&self, found: &Found) -> Result<Option<Arc<Structure>>, TaskError> {
        let read = async {
            let content = found.content().await.map_err(Some)?.ok_or(None)?;
            let read = move || Ok(read_structure(&content.bytes).map(Arc::new));
            blocking(read).await.map_err(Some)
        };
        match self.structures.try_get_with(found.digest, read).await {
            Ok(read) => read.map(Some),
            Err(failed) => Option::clone(&failed).map_or(Ok(None), Err),
        }
    }
}

/// What remembering so many bytes of text counts.
fn weight(text: usize) -> u32 {
    u32::try_from(text.saturating_add(ENTRY)).unwrap_or(u32::MAX)
}

/// What a runner checks before it compiles a module for a tenant, but for what that was granted.
pub fn check(content: &Content, policy: &TenantPolicy) -> Result<Structure, TaskError> {
    small_enough(&content.digest, content.bytes.len() as u64, policy)?;
    let structure = read_structure(&content.bytes)?;
    cost::check(&content.bytes, &policy.compile)?;
    Ok(structure)
}

fn read_structure(bytes: &[u8]) -> Result<Structure, TaskError> {
    // Before the names are read: exports beyond what is kept are not refused there.
    cost::check_outside(bytes)?;
    structure::check(bytes)
}

fn small_enough(digest: &Digest, bytes: u64, policy: &TenantPolicy) -> Result<(), TaskError> {
    let most = policy.module_bytes;
    if bytes > most {
        let why = format!("module {digest} has {bytes} bytes, of at most {most}");
        return Err(TaskError::new(ErrorCode::ModuleTooCostly, why));
    }
    Ok(())
}

/// Compiles and links a module without any cache: what `push` and `run` do behind [`check`].
pub fn compile(engine: &Engine, bytes: &[u8]) -> Result<Prepared, TaskError> {
    let component = engine.compile(&shape::component(bytes)?).map_err(invalid)?;
    Prepared::new(engine, &component)
}

fn invalid(why: anyhow::Error) -> TaskError {
    TaskError::new(ErrorCode::ModuleInvalid, format!("{why:#}"))
}
