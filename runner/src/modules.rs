//! `ModuleRef` → a compiled module that is ready to run.
//!
//! Finds the bytes (folder, retained topic), hashes them itself, checks pins on that hash, and compiles each
//! content once, however many tasks ask at the same moment.

pub mod artifacts;
pub mod cost;
pub mod jail;
pub mod shape;
pub mod structure;

mod directory;
mod loader;
mod retained;
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
use crate::modules::directory::Directory;
use crate::modules::jail::Compiler;
use crate::modules::loader::Loader;
use crate::modules::retained::Retained;
use crate::modules::structure::Structure;
use crate::mqtt::{Deliveries, Publisher};
use crate::sandbox::engine::Engine;
use crate::sandbox::prepared::Prepared;
use crate::task::outcome::{CacheHit, ErrorCode, TaskError};
use crate::task::tenant::TenantId;
use crate::task::{Digest, ModuleName, ModuleRef};
use crate::tenants::{Source, TenantPolicy};

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
    directory: Option<Directory>,
    retained: Option<Retained>,
    loader: Loader,
    /// What modules are, also those that are not compiled yet or are refused.
    structures: Cache<Digest, Result<Arc<Structure>, TaskError>>,
}

impl ModuleStore {
    /// A store with no source yet that keeps `cached` compiled modules in memory.
    pub fn new(engine: Arc<Engine>, compiler: Compiler, cached: u64) -> ModuleStore {
        ModuleStore {
            directory: None,
            retained: None,
            loader: Loader::new(engine, compiler, cached),
            structures: Cache::new(cached),
        }
    }

    /// Adds the files `NAME.wasm` of a folder, for every tenant.
    pub fn with_directory(mut self, folder: &Path) -> Result<ModuleStore> {
        self.directory = Some(Directory::open(folder)?);
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
        self.retained = Some(Retained::start(topics, connection, lookup));
        self
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
        let content = self.content(tenant, policy, reference).await?;
        let (digest, bytes) = (content.digest, content.bytes.len() as u64);
        if bytes > policy.module_bytes {
            let most = policy.module_bytes;
            let why = format!("module {digest} has {bytes} bytes, of at most {most}");
            return Err(TaskError::new(ErrorCode::ModuleTooCostly, why));
        }
        // For each tenant: a module may be compiled for one that was granted more.
        let structure = self.structure(&content).await?;
        structure.admit(&policy.grants)?;
        let loaded = self.loader.load(tenant, &policy.compile, content).await?;
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

    async fn content(
        &self,
        tenant: &TenantId,
        policy: &TenantPolicy,
        reference: &ModuleRef,
    ) -> Result<Content, TaskError> {
        match reference {
            ModuleRef::Name(name) => self.find(tenant, policy, name).await,
            ModuleRef::Pinned(name, pin) => {
                let content = self.find(tenant, policy, name).await?;
                if content.digest != *pin {
                    return Err(TaskError::new(
                        ErrorCode::DigestMismatch,
                        format!("module `{name}` is {}, the task pins {pin}", content.digest),
                    ));
                }
                Ok(content)
            }
            ModuleRef::Digest(digest) => self.by_digest(policy, digest).await,
            ModuleRef::Remote(address) => Err(TaskError::new(
                ErrorCode::Unsupported,
                format!("this runner does not fetch modules: {address}"),
            )),
        }
    }

    async fn by_digest(
        &self,
        policy: &TenantPolicy,
        digest: &Digest,
    ) -> Result<Content, TaskError> {
        // Only what the operator gave to everybody: a digest that one tenant's module has is printed in outcomes
        // and logs, and must not be a key to it for the others.
        if let Some(directory) = self.directory(policy)
            && let Some(content) = directory.find_digest(digest).await?
        {
            return Ok(content);
        }
        Err(TaskError::new(
            ErrorCode::ModuleNotFound,
            format!(
                "no module {digest} in the module folder; a published one is named as `name@{digest}`"
            ),
        ))
    }

    /// The bytes that a name stands for: the operator's folder first, which nobody can shadow.
    async fn find(
        &self,
        tenant: &TenantId,
        policy: &TenantPolicy,
        name: &ModuleName,
    ) -> Result<Content, TaskError> {
        let directory = self.directory(policy);
        let retained = self.retained.as_ref();
        let retained = retained.filter(|_| policy.sources.contains(&Source::Published));
        if let Some(directory) = directory
            && let Some(content) = directory.find(name).await?
        {
            return Ok(content);
        }
        if let Some(retained) = retained
            && let Some(content) = retained.find(tenant, name).await?
        {
            return Ok(content);
        }
        let places: Vec<String> = [
            directory.map(|d| format!("{}/{name}.wasm", d.folder().display())),
            retained.map(|r| format!("the retained topic {}", r.topic(tenant, name))),
        ]
        .into_iter()
        .flatten()
        .collect();
        let places = match &places[..] {
            [] => "it has no source of modules".to_owned(),
            places => format!("looked at {}", places.join(" and ")),
        };
        Err(TaskError::new(
            ErrorCode::ModuleNotFound,
            format!("no module `{name}` for tenant {tenant}: {places}"),
        ))
    }

    /// The operator's folder, if the tenant may have modules from there.
    fn directory(&self, policy: &TenantPolicy) -> Option<&Directory> {
        let directory = self.directory.as_ref();
        directory.filter(|_| policy.sources.contains(&Source::Directory))
    }

    async fn structure(&self, content: &Content) -> Result<Arc<Structure>, TaskError> {
        let bytes = content.bytes.clone();
        let read = async {
            let read = tokio::task::spawn_blocking(move || structure::check(&bytes)).await;
            let died =
                |died| TaskError::new(ErrorCode::Internal, format!("reading failed: {died}"));
            read.map_err(died)?.map(Arc::new)
        };
        self.structures.get_with(content.digest, read).await
    }
}

/// Checks, compiles and links a module without any cache: what `push` and `run` do, and what the runner does
/// with a module that it has not seen.
pub fn compile(engine: &Engine, bytes: &[u8]) -> Result<Prepared, TaskError> {
    let component = engine.compile(&shape::component(bytes)?).map_err(invalid)?;
    Prepared::new(engine, &component)
}

fn invalid(why: anyhow::Error) -> TaskError {
    TaskError::new(ErrorCode::ModuleInvalid, format!("{why:#}"))
}
