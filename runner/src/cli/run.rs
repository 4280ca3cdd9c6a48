//! `wasmqtt run`: the same sandbox without a broker, for authors.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::cli::args::{InputArgs, LimitArgs, parse_tenant};
use crate::cli::{network_runtime, report};
use crate::config::Config;
use crate::modules::{self, Content};
use crate::sandbox::engine::{Engine, Sizes};
use crate::sandbox::host::types;
use crate::sandbox::log::GuestEvents;
use crate::sandbox::{Job, Sandbox};
use crate::task::outcome::{CacheHit, Outcome, Status, TaskError, Usage};
use crate::task::tenant::TenantId;
use crate::task::{Reply, Shape, TaskId};

/// Run a module here, without a broker
///
/// The same sandbox, limits and checks as a runner's. The output goes to stdout, the guest's log and a
/// summary to stderr. Ctrl-C asks the guest to stop (`is-cancelled`), a second one stops it.
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
    /// The tenant that the guest is told
    #[arg(long, value_parser = parse_tenant, default_value = TenantId::DEFAULT)]
    tenant: TenantId,
    /// Print the outcome as JSON to stdout
    #[arg(long)]
    json: bool,
}

impl Run {
    pub(super) fn run(self) -> Result<u8> {
        let defaults = Config::default();
        let ceilings = defaults.ceilings();
        let limits = self
            .limits
            .requested()
            .resolve(&defaults.limits(), &ceilings)
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
            memory_bytes: ceilings.memory_bytes,
        })?);
        let prepared = match modules::compile(&engine, &content.bytes) {
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

/// The guest's log and progress on stderr.
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
