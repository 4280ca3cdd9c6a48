//! `wasmqtt run`: the same sandbox without a broker, for authors.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::cli::args::{InputArgs, LimitArgs, parse_tenant};
use crate::cli::{network_runtime, report};
use crate::config::{self, Config};
use crate::modules::{self, Content, structure};
use crate::sandbox::engine::{Engine, Sizes};
use crate::sandbox::host::types;
use crate::sandbox::log::GuestEvents;
use crate::sandbox::publish::{GuestMessages, Unpublished};
use crate::sandbox::{Job, Sandbox};
use crate::task::outcome::{CacheHit, Outcome, Status, TaskError, Usage};
use crate::task::tenant::TenantId;
use crate::task::{Reply, Shape, TaskId};
use crate::tenants::{TenantPolicy, Tenants};

/// Run a module here, without a broker
///
/// The same sandbox, limits and checks as a runner's. The output goes to stdout, the guest's log and a
/// summary to stderr. Ctrl-C asks the guest to stop (`is-cancelled`), a second one stops it. With --config the tenant's
/// limits and capabilities count: its keys and values are in memory, what it publishes is shown on stderr.
///
/// Example: wasmqtt run upper.wasm --input hello
#[derive(Debug, Args)]
pub(super) struct Run {
    /// The component
    file: PathBuf,
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten)]
    limits: LimitArgs,
    /// A configuration file, for what the tenant may do [default: the limits of a runner, no capabilities]
    #[arg(long, value_name = "FILE", env = "WASMQTT_CONFIG")]
    config: Option<PathBuf>,
    /// The tenant that the guest is told
    #[arg(long, value_parser = parse_tenant, default_value = TenantId::DEFAULT)]
    tenant: TenantId,
    /// Print the outcome as JSON to stdout
    #[arg(long)]
    json: bool,
}

impl Run {
    pub(super) fn run(self) -> Result<u8> {
        let (policy, memory_bytes) = self.policy()?;
        let limits = self
            .limits
            .requested()
            .resolve(&policy.limits, &policy.ceilings)
            .map_err(anyhow::Error::msg)?;
        let bytes = std::fs::read(&self.file)
            .with_context(|| format!("failed to read {}", self.file.display()))?;
        let content = Content::new(bytes);
        let input = self.input.read()?;
        let name = self
            .file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();

        let engine = Arc::new(Engine::new(Sizes {
            guests: 1,
            memory_bytes,
        })?);
        let admitted = structure::check(&content.bytes)
            .and_then(|structure| structure.admit(&policy.grants))
            .and_then(|()| modules::compile(&engine, &content.bytes))
            .and_then(|prepared| {
                structure::admit(prepared.imports(), &policy.grants).map(|()| prepared)
            });
        let prepared = match admitted {
            Ok(prepared) => Arc::new(prepared),
            Err(error) => bail!("{}: {error}", self.file.display()),
        };
        let id = TaskId::generate();
        let deadline = SystemTime::now() + Duration::from_millis(limits.timeout_ms.value);
        let context = types::Context {
            id: id.to_string(),
            tenant: self.tenant.to_string(),
            module: name.clone(),
            attempt: 1,
            content_type: self.input.content_type.clone(),
            deadline_ms: deadline
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |d| d.as_millis() as u64),
            labels: self.input.labels.clone(),
        };
        let sandbox = Sandbox::new(engine, 1).context("failed to start the guest's thread")?;
        let terminal = Arc::new(Terminal::default());
        let started = Instant::now();
        let ran = network_runtime()?.block_on(async {
            let run = sandbox.run(
                prepared,
                Job {
                    context,
                    input,
                    limits,
                    tenant: self.tenant.clone(),
                    weight: 1,
                    grants: policy.grants.clone(),
                    messages: Some(terminal.clone()),
                },
                Some(terminal.clone()),
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
        report::outcome(
            &Outcome {
                id,
                tenant: self.tenant,
                status: error.as_ref().map_or(Status::Succeeded, TaskError::status),
                module: Some(name),
                module_digest: Some(content.digest),
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
                labels: self.input.labels.iter().cloned().collect(),
                reply: Reply::default(),
                shape: Shape::Json,
            },
            self.json,
        )
    }
}

impl Run {
    /// What the tenant may do, and the most memory that a guest here may have.
    fn policy(&self) -> Result<(Arc<TenantPolicy>, u64)> {
        let config = match &self.config {
            None => Config::default(),
            Some(_) => config::load(self.config.as_deref(), std::env::vars(), &[])?,
        };
        let tenants = Tenants::new(config.tenant_table()?);
        let policy = tenants.policy(&self.tenant);
        let policy =
            policy.with_context(|| format!("tenant {} is not one that is served", self.tenant))?;
        Ok((policy, config.ceilings().memory_bytes))
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
