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
use crate::modules::loader::{Loaded, Loader};
use crate::modules::signature::Signatures;
use crate::modules::source::{Found, Sources, web};
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
            structures: Cache::builder()
                .max_capacity(STRUCTURES_BYTES)
                .weigher(|_, read: &Result<Arc<Structure>, TaskError>| match read {
                    Ok(structure) => weight(structure.bytes()),
                    Err(error) => weight(error.message.len()),
                })
                .build(),
        }
    }

    /// Adds the files `NAME.wasm` of a folder, for every tenant.
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

    /// The module that a reference names for a tenant, compiled, and where it was found compiled.
    pub async fn resolve(
        &self,
        tenant: &TenantId,
        policy: &TenantPolicy,
        reference: &ModuleRef,
    ) -> Result<(Module, CacheHit), TaskError> {
        let started = Instant::now();
        let (structure, (digest, bytes), loaded) = loop {
            let content = self.content(tenant, policy, reference).await?;
            let of = (content.digest, content.bytes.len());
            // For each tenant: a module may be compiled for one that was granted more.
            let (structure, loaded) = self.look(policy, &content).await?;
            structure.admit(&policy.grants)?;
            if let Some(loaded) = loaded {
                break (structure, of, loaded?);
            }
            drop(content);
            let again = async || self.content(tenant, policy, reference).await;
            let loaded = self.loader.load(tenant, &policy.compile, of, again);
            // Else it was replaced while it waited to be compiled.
            if let Some(loaded) = loaded.await? {
                break (structure, of, loaded);
            }
        };
        if structure.shape.is_core() {
            // Its metadata was read where it was compiled, and may have added some.
            structure::admit(loaded.0.prepared.imports(), &policy.grants)?;
        }
        if loaded.1 != CacheHit::Memory {
            let (cache, took) = (loaded.1.as_str(), started.elapsed());
            info!(module = %reference, %digest, bytes, cache, ?took, "module ready");
        }
        Ok(loaded)
    }

    /// Found, no larger than the tenant's modules may be, and signed as it wants them.
    async fn content(
        &self,
        tenant: &TenantId,
        policy: &TenantPolicy,
        reference: &ModuleRef,
    ) -> Result<Content, TaskError> {
        let found = self.sources.find(tenant, policy, reference).await?;
        small_enough(
            &found.content.digest,
            found.content.bytes.len() as u64,
            policy,
        )?;
        if policy.signed_by.is_empty() {
            return Ok(found.content);
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
    ) -> Result<Content, TaskError> {
        let Err(refused) = self.signatures.check(&found, &policy.signed_by).await else {
            return Ok(found.content);
        };
        // Module and signature are replaced one after the other: once more, when both had time to come.
        self.sources.doubt(tenant, policy, reference).await;
        tokio::time::sleep(REPLACED).await;
        let again = self.sources.find(tenant, policy, reference).await?;
        if (&again.signature, again.content.digest) == (&found.signature, found.content.digest) {
            return Err(refused);
        }
        small_enough(
            &again.content.digest,
            again.content.bytes.len() as u64,
            policy,
        )?;
        self.signatures.check(&again, &policy.signed_by).await?;
        Ok(again.content)
    }

    /// What a module is, and what came of looking for its machine code, if that was looked for.
    async fn look(
        &self,
        policy: &TenantPolicy,
        content: &Content,
    ) -> Result<(Arc<Structure>, Option<Loaded>), TaskError> {
        if let Some(known) = self.structures.get(&content.digest).await {
            return Ok((known?, None));
        }
        let bytes = content.bytes.clone();
        let read = async {
            let read = tokio::task::spawn_blocking(move || read_structure(&bytes)).await;
            let died =
                |died| TaskError::new(ErrorCode::Internal, format!("reading failed: {died}"));
            read.map_err(died)?.map(Arc::new)
        };
        let read = self.structures.get_with(content.digest, read);
        // After a restart both are new, and its machine code is on disk: reading the one does not wait for the other.
        let loaded = self.loader.look(&policy.compile, &content.digest);
        let (read, loaded) = Box::pin(async { tokio::join!(read, loaded) }).await;
        Ok((read?, loaded))
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
