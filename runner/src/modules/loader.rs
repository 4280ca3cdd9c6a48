//! Content → a compiled module: from memory, from disk, or from the compiler, one compilation at a time for each tenant.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use moka::future::Cache;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::modules::artifacts::Artifacts;
use crate::modules::artifacts::lock::Lock;
use crate::modules::jail::{self, Compiler};
use crate::modules::turns::Turns;
use crate::modules::{Content, Module, cost, invalid, shape, weight};
use crate::sandbox::engine::Engine;
use crate::sandbox::prepared::Prepared;
use crate::task::Digest;
use crate::task::outcome::{CacheHit, ErrorCode, TaskError};
use crate::task::tenant::TenantId;
use crate::tenants::compile::CompileLimits;

/// Failures that are remembered, in bytes, and for how long.
const REFUSED_BYTES: u64 = 1 << 20;
const REFUSED_FOR: Duration = Duration::from_secs(3600);
/// Modules in hand to be compiled: 512 MiB, as two of the largest.
const IN_HAND_KIB: u32 = 512 << 10;
/// How often the folder hears that a module in memory is used.
const NOTED_FOR: Duration = Duration::from_secs(3600);
/// How often to look whether another process has compiled it.
const LOOK: Duration = Duration::from_millis(50);

pub(super) type Loaded = Result<(Module, CacheHit), TaskError>;

pub(super) struct Loader {
    engine: Arc<Engine>,
    compiler: Compiler,
    artifacts: Option<Arc<Artifacts>>,
    compiled: Cache<Digest, Module>,
    /// What is in memory and was noted as used on disk of late.
    noted: Cache<Digest, ()>,
    /// What failed, and under which limits: another tenant's may be larger.
    refused: Cache<(Digest, CompileLimits), TaskError>,
    /// Nobody looks for the same module beside another.
    loading: Turns<Digest>,
    /// One module of a tenant at a time: who publishes many waits for their own.
    compiling: Turns<TenantId>,
    /// A core is left for whoever runs tasks.
    compilers: Semaphore,
    /// KiB of modules that may be in hand to be compiled.
    in_hand: Semaphore,
}

impl Loader {
    pub(super) fn new(engine: Arc<Engine>, compiler: Compiler, cached: u64) -> Loader {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        Loader {
            engine,
            compiler,
            artifacts: None,
            compiled: Cache::new(cached),
            noted: Cache::builder()
                .max_capacity(cached)
                .time_to_live(NOTED_FOR)
                .build(),
            refused: Cache::builder()
                .max_capacity(REFUSED_BYTES)
                .weigher(|_, error: &TaskError| weight(error.message.len()))
                .time_to_live(REFUSED_FOR)
                .build(),
            loading: Turns::default(),
            compiling: Turns::default(),
            compilers: Semaphore::new(cores.saturating_sub(1).max(1)),
            in_hand: Semaphore::new(IN_HAND_KIB as usize),
        }
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn keep_in(&mut self, artifacts: Artifacts) {
        self.artifacts = Some(Arc::new(artifacts));
    }

    /// Compiles the module of that digest, which was neither in memory nor on disk a moment ago, has so many bytes and
    /// whose structure has been checked. `content` finds it once more when it is its turn, so that whoever waits for that
    /// holds no bytes; `None` when it found another one.
    pub(super) async fn load(
        &self,
        tenant: &TenantId,
        limits: &CompileLimits,
        (digest, bytes): (Digest, u64),
        content: impl AsyncFnOnce() -> Result<Option<Content>, TaskError>,
    ) -> Result<Option<(Module, CacheHit)>, TaskError> {
        let _turn = self.compiling.take(tenant.clone()).await;
        if let Some(known) = self.known(limits, &digest).await {
            return known.map(Some);
        }
        let room = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let _room = self.in_hand.acquire_many(room.min(IN_HAND_KIB)).await;
        let content = content().await?;
        let Some(content) = content.filter(|content| content.digest == digest) else {
            return Ok(None);
        };
        // Another tenant may compile the very same; it is not waited for in its queue, only while it does.
        let _one = self.loading.take(digest).await;
        if let Some(found) = self.find(limits, &digest).await {
            return found.map(Some);
        }
        // Nor another runner on this machine: it is waited for while it does, and not longer than it may take.
        let given_up = Instant::now() + Duration::from_secs(limits.wall_s);
        let (_compiler, _lock) = loop {
            let compiler = self.compilers.acquire().await;
            match self.lock(&digest) {
                Locked::Ours(lock) => break (compiler, Some(lock)),
                Locked::Nobodys => break (compiler, None),
                Locked::Theirs if Instant::now() > given_up => break (compiler, None),
                Locked::Theirs => drop(compiler),
            }
            tokio::time::sleep(LOOK).await;
        };
        if let Some(found) = self.find(limits, &digest).await {
            return found.map(Some);
        }
        let compiled = self.compile(limits, &content).await;
        self.remember(limits, digest, compiled).await.map(Some)
    }

    /// In memory or on disk; nobody looks for the same beside another.
    pub(super) async fn look(&self, limits: &CompileLimits, digest: &Digest) -> Option<Loaded> {
        let _one = self.loading.take(*digest).await;
        self.find(limits, digest).await
    }

    fn lock(&self, digest: &Digest) -> Locked {
        let locked = self
            .artifacts
            .as_ref()
            .map(|artifacts| artifacts.lock(digest));
        match locked {
            None => Locked::Nobodys,
            Some(Ok(Some(lock))) => Locked::Ours(lock),
            Some(Ok(None)) => Locked::Theirs,
            Some(Err(error)) => {
                // Compiled twice is better than not at all.
                warn!(%digest, error = format!("{error:#}"), "no lock in the cache folder");
                Locked::Nobodys
            }
        }
    }

    /// Says in the cache folder that a module is used.
    async fn note(&self, digest: &Digest) {
        if let Some(artifacts) = &self.artifacts
            && self.noted.get(digest).await.is_none()
        {
            self.noted.insert(*digest, ()).await;
            let (artifacts, digest) = (artifacts.clone(), *digest);
            tokio::task::spawn_blocking(move || artifacts.touch(&digest));
        }
    }

    /// In memory, as a module or as a failure.
    pub(super) async fn known(&self, limits: &CompileLimits, digest: &Digest) -> Option<Loaded> {
        if let Some(module) = self.compiled.get(digest).await {
            self.note(digest).await;
            return Some(Ok((module, CacheHit::Memory)));
        }
        let refused = self.refused.get(&(*digest, *limits)).await;
        refused.map(Err)
    }

    /// In memory or on disk.
    async fn find(&self, limits: &CompileLimits, digest: &Digest) -> Option<Loaded> {
        if let Some(known) = self.known(limits, digest).await {
            return Some(known);
        }
        let (engine, wanted, artifacts) = (self.engine.clone(), *digest, self.artifacts.clone());
        let found = blocking(move || {
            let Some(artifacts) = artifacts else {
                return Ok(None);
            };
            let Some(component) = artifacts.load(&engine, &wanted)? else {
                return Ok(None);
            };
            Ok(Some(Prepared::new(&engine, &component)?))
        });
        let found = found.await.transpose()?;
        let found = found.map(|prepared| (prepared, CacheHit::Disk));
        Some(self.remember(limits, *digest, found).await)
    }

    async fn compile(
        &self,
        limits: &CompileLimits,
        content: &Content,
    ) -> Result<(Prepared, CacheHit), TaskError> {
        let started = Instant::now();
        let prepared = match &self.compiler {
            Compiler::InProcess => self.compile_here(content).await?,
            Compiler::Jail(program) => {
                let (bytes, of_tenant) = (content.bytes.clone(), *limits);
                blocking(move || cost::check(&bytes, &of_tenant)).await?;
                let artifacts = self.artifacts.clone().ok_or_else(|| ours("no cache"))?;
                let draft = artifacts.draft().map_err(ours)?;
                jail::compile(program, &content.bytes, limits, &draft).await?;
                let (engine, digest) = (self.engine.clone(), content.digest);
                blocking(move || {
                    artifacts.keep(&digest, draft).map_err(ours)?;
                    let component = artifacts.load(&engine, &digest)?;
                    prune(&artifacts, &digest);
                    let component =
                        component.ok_or_else(|| ours("the machine code is not whole"))?;
                    Prepared::new(&engine, &component)
                })
                .await?
            }
        };
        info!(digest = %content.digest, bytes = content.bytes.len(), took = ?started.elapsed(), "module compiled");
        Ok((prepared, CacheHit::Compiled))
    }

    async fn compile_here(&self, content: &Content) -> Result<Prepared, TaskError> {
        let (engine, content) = (self.engine.clone(), content.clone());
        let artifacts = self.artifacts.clone();
        blocking(move || {
            let component = shape::component(&content.bytes)?;
            let component = engine.compile(&component).map_err(invalid)?;
            // Kept before it is linked: what compiles but does not fit is not compiled again for the next task.
            if let Some(artifacts) = artifacts {
                match artifacts.store(&content.digest, &component) {
                    Ok(()) => prune(&artifacts, &content.digest),
                    Err(error) => {
                        warn!(digest = %content.digest, error = format!("{error:#}"), "compiled module not cached on disk");
                    }
                }
            }
            Prepared::new(&engine, &component)
        })
        .await
    }

    async fn remember(
        &self,
        limits: &CompileLimits,
        digest: Digest,
        loaded: Result<(Prepared, CacheHit), TaskError>,
    ) -> Loaded {
        match loaded {
            Ok((prepared, hit)) => {
                let prepared = Arc::new(prepared);
                let module = Module { digest, prepared };
                self.compiled.insert(digest, module.clone()).await;
                self.noted.insert(digest, ()).await;
                Ok((module, hit))
            }
            Err(error) => {
                if let ErrorCode::ModuleInvalid
                | ErrorCode::ModuleTooCostly
                | ErrorCode::ImportDenied = error.code
                {
                    let key = (digest, *limits);
                    self.refused.insert(key, error.clone()).await;
                }
                Err(error)
            }
        }
    }
}

/// Who may compile a module.
enum Locked {
    /// This process, until the lock is dropped.
    Ours(Lock),
    /// Another process has the right.
    Theirs,
    /// There is no lock to be had: whoever wants to.
    Nobodys,
}

fn prune(artifacts: &Artifacts, added: &Digest) {
    if let Err(error) = artifacts.prune_after(added) {
        warn!(error = format!("{error:#}"), "cache folder not pruned");
    }
}

/// Runs what takes long on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TaskError> + Send + 'static,
) -> Result<T, TaskError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|died| Err(ours(died)))
}

/// A failure that no module caused.
fn ours(why: impl std::fmt::Display) -> TaskError {
    TaskError::new(
        ErrorCode::Internal,
        format!("failed to load a module: {why:#}"),
    )
}
