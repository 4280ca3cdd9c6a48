//! One module in a sandbox of this process, as a runner would run it: for `run` and `test`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use tokio::runtime::Runtime;

use crate::cli::network_runtime;
use crate::modules::{self, Content, structure};
use crate::relay::Relay;
use crate::sandbox::engine::{Engine, Sizes};
use crate::sandbox::host::types;
use crate::sandbox::log::GuestEvents;
use crate::sandbox::prepared::Prepared;
use crate::sandbox::publish::{GuestMessages, Unpublished};
use crate::sandbox::{Job, Sandbox};
use crate::task::limits::RequestedLimits;
use crate::task::outcome::{CacheHit, Outcome, Status, TaskError, Usage};
use crate::task::tenant::TenantId;
use crate::task::{Reply, Shape, TaskId};
use crate::tenants::TenantPolicy;

/// A module that is ready to run for a tenant.
pub(super) struct Here {
    name: String,
    content: Content,
    prepared: Arc<Prepared>,
    sandbox: Sandbox,
    tenant: TenantId,
    policy: Arc<TenantPolicy>,
    runtime: Runtime,
}

/// What a task is given.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) input: Bytes,
    pub(super) content_type: Option<String>,
    pub(super) labels: Vec<(String, String)>,
    pub(super) limits: RequestedLimits,
}

impl Here {
    /// Checks and compiles a module; a guest may have `memory_bytes` at most.
    ///
    /// # Errors
    ///
    /// When the tenant may not run it.
    pub(super) fn new(
        name: &str,
        bytes: Vec<u8>,
        tenant: TenantId,
        policy: Arc<TenantPolicy>,
        memory_bytes: u64,
    ) -> Result<Here> {
        let content = Content::new(bytes);
        let engine = Arc::new(Engine::new(Sizes {
            guests: 1,
            memory_bytes,
        })?);
        let admitted = modules::check(&content, &policy)
            .and_then(|structure| structure.admit(&policy.grants))
            .and_then(|()| modules::compile(&engine, &content.bytes))
            .and_then(|prepared| {
                structure::admit(prepared.imports(), &policy.grants).map(|()| prepared)
            });
        let prepared = match admitted {
            Ok(prepared) => Arc::new(prepared),
            Err(error) => bail!("{error}"),
        };
        let sandbox = Sandbox::new(engine, 1).context("failed to start the guest's thread")?;
        Ok(Here {
            name: name.to_owned(),
            content,
            prepared,
            sandbox,
            tenant,
            policy,
            runtime: network_runtime()?,
        })
    }

    /// Runs it once. Ctrl-C asks the guest to stop, a second one stops it.
    ///
    /// # Errors
    ///
    /// When the limits are above the tenant's, or it was stopped.
    pub(super) fn run(&self, given: Given) -> Result<Outcome> {
        let limits = given
            .limits
            .resolve(&self.policy.limits, &self.policy.ceilings)
            .map_err(anyhow::Error::msg)?;
        let id = TaskId::generate();
        let deadline = SystemTime::now() + Duration::from_millis(limits.timeout_ms.value);
        let context = types::Context {
            id: id.to_string(),
            tenant: self.tenant.to_string(),
            module: self.name.clone(),
            attempt: 1,
            content_type: given.content_type,
            deadline_ms: deadline
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |d| d.as_millis() as u64),
            labels: given.labels.clone(),
        };
        let terminal = Arc::new(Terminal::default());
        let started = Instant::now();
        let ran = self.runtime.block_on(async {
            let run = self.sandbox.run(
                self.prepared.clone(),
                Job {
                    context,
                    input: given.input,
                    limits,
                    tenant: self.tenant.clone(),
                    weight: 1,
                    grants: self.policy.grants.clone(),
                    messages: Some(terminal.clone()),
                },
                Some(terminal.clone()),
                &Relay::start(),
            );
            tokio::pin!(run);
            loop {
                tokio::select! {
                    ran = &mut run => break Some(ran),
                    _ = tokio::signal::ctrl_c() => {
                        if terminal.cancelled.swap(true, Ordering::Relaxed) {
                            break None;
                        }
                        eprintln!("asked the guest to stop; once more stops it");
                    }
                }
            }
        });
        let Some(ran) = ran else {
            bail!("stopped after {:?}", started.elapsed())
        };
        let (output, error) = match ran.result {
            Ok(output) => (Some(output), None),
            Err(error) => (None, Some(error)),
        };
        Ok(Outcome {
            id,
            tenant: self.tenant.clone(),
            status: error.as_ref().map_or(Status::Succeeded, TaskError::status),
            module: Some(self.name.clone()),
            module_digest: Some(self.content.digest),
            attempt: 1,
            attempts: Vec::new(),
            output,
            error,
            usage: Usage {
                module_cache: Some(CacheHit::Compiled),
                ..ran.usage
            },
            runner: "run".to_owned(),
            started_at: Some(ran.started_at),
            finished_at: SystemTime::now(),
            labels: given.labels.into_iter().collect(),
            reply: Reply::default(),
            shape: Shape::Json,
        })
    }
}

/// The guest's log, progress and messages on stderr.
#[derive(Default)]
struct Terminal {
    cancelled: AtomicBool,
}

impl GuestEvents for Terminal {
    fn log(&self, level: &'static str, source: &'static str, message: &str) {
        match source {
            "log" => eprintln!("[{level}] {message}"),
            stream => eprintln!("[{stream}] {message}"),
        }
    }

    fn progress(&self, done: u64, total: u64, message: &str) {
        eprintln!("[progress] {done}/{total} {message}");
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

#[async_trait::async_trait]
impl GuestMessages for Terminal {
    async fn publish(
        &self,
        topic: String,
        payload: bytes::Bytes,
        _: Option<String>,
    ) -> Result<(), Unpublished> {
        eprintln!("[publish] {topic}: {} bytes", payload.len());
        Ok(())
    }
}
