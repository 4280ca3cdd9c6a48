//! `wasmqtt run`: the same sandbox without a broker, for authors.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::cli::args::{InputArgs, LimitArgs, parse_tenant};
use crate::cli::build::module;
use crate::cli::here::{Given, Here};
use crate::cli::report;
use crate::config::{self, Config};
use crate::project::sample::Input;
use crate::task::tenant::TenantId;
use crate::tenants::TenantPolicy;

/// Run a module here, without a broker
///
/// The same sandbox, limits and checks as a runner's. The output goes to stdout, the guest's log and a
/// summary to stderr. Ctrl-C asks the guest to stop (`is-cancelled`), a second one stops it. With --config the tenant's
/// limits and capabilities count: its keys and values are in memory, what it publishes is shown on stderr.
///
/// Of a project it runs the module on the first sample of task.toml, if no --input is given, and builds it before when a
/// source is newer.
///
/// Example: wasmqtt run upper.wasm --input hello
#[derive(Debug, Args)]
pub(super) struct Run {
    /// The component, or a project's folder [default: the project in this folder]
    #[arg(value_name = "FILE|DIR")]
    file: Option<PathBuf>,
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
        let (file, sample) = self.module()?;
        let bytes =
            std::fs::read(&file).with_context(|| format!("failed to read {}", file.display()))?;
        let mut job = Given {
            input: self.input.read()?,
            content_type: self.input.content_type.clone(),
            labels: self.input.labels.clone(),
            limits: self.limits.requested(),
        };
        if let Some(sample) = sample {
            job.content_type = job.content_type.or(sample.content_type);
            if self.input.is_left_out() {
                job.input = sample.input;
            }
            job.limits = job.limits.or(sample.limits);
        }
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let (policy, memory_bytes) = self.policy()?;
        let here = Here::new(&name, bytes, self.tenant.clone(), policy, memory_bytes)
            .with_context(|| file.display().to_string())?;
        report::outcome(&here.run(job)?, self.json)
    }

    /// The module's file; of a project the first sample too.
    fn module(&self) -> Result<(PathBuf, Option<Input>)> {
        let (file, project) = module(self.file.as_deref())?;
        let Some(project) = project else {
            return Ok((file, None));
        };
        let sample = project.manifest.samples.first();
        let sample = sample.map(|sample| sample.read(&project)).transpose()?;
        Ok((file, sample))
    }

    /// What the tenant may do, and the most memory that a guest here may have.
    fn policy(&self) -> Result<(Arc<TenantPolicy>, u64)> {
        let config = match &self.config {
            None => Config::default(),
            Some(_) => config::load(self.config.as_deref(), std::env::vars(), &[])?,
        };
        let policy = config.policy_of(&self.tenant)?;
        Ok((policy, config.ceilings().memory_bytes))
    }
}
