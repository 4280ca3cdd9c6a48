//! `wasmqtt test`: a project's samples, run here and compared.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::cli::here::{Given, Here};
use crate::cli::report::{bytes, count};
use crate::cli::{OK, TASK_FAILED};
use crate::config::Config;
use crate::project::{Project, build};
use crate::task::tenant::TenantId;

/// Run a project's samples in the sandbox, and compare what comes of them with what task.toml says
///
/// The module is built before when a source is newer. The limits are those of task.toml, else a runner's; nothing is
/// granted. The guest's log goes to stderr.
///
/// Example: wasmqtt test
#[derive(Debug, Args)]
pub(super) struct Test {
    /// The project's folder
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
}

impl Test {
    pub(super) fn run(self) -> Result<u8> {
        let project = Project::open(&self.folder)?;
        if project.manifest.samples.is_empty() {
            bail!("task.toml has no [[sample]]");
        }
        let file = build::current(&project)?;
        let bytes_of_module =
            std::fs::read(&file).with_context(|| format!("failed to read {}", file.display()))?;
        let config = Config::default();
        let tenant = TenantId::default();
        let policy = config.policy_of(&tenant)?;
        let here = Here::new(
            project.manifest.name.as_str(),
            bytes_of_module,
            tenant,
            policy,
            config.ceilings().memory_bytes,
        )
        .with_context(|| file.display().to_string())?;
        let mut surprises = 0;
        for sample in &project.manifest.samples {
            let input = sample.read(&project)?;
            let outcome = here.run(Given {
                input: input.input,
                content_type: input.content_type,
                limits: input.limits,
                ..Given::default()
            })?;
            let surprise = sample.surprise(&project, &outcome)?;
            println!(
                "{} {} · fuel {} · memory {} · {:.1} ms",
                if surprise.is_none() {
                    "ok    "
                } else {
                    "FAILED"
                },
                sample.input.display(),
                count(outcome.usage.fuel),
                bytes(outcome.usage.peak_memory_bytes),
                outcome.usage.run_ms,
            );
            if let Some(surprise) = surprise {
                println!("{surprise}");
                surprises += 1;
            }
        }
        println!(
            "{} of {} samples as expected",
            project.manifest.samples.len() - surprises,
            project.manifest.samples.len()
        );
        Ok(if surprises == 0 { OK } else { TASK_FAILED })
    }
}
