//! `wasmqtt new`: a task's project from a template.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::cli::OK;
use crate::project::language::{self, Language};
use crate::project::{self, Project, build};
use crate::task::ModuleName;

/// Write a project for a task, in the language you know
///
/// It has a manifest (task.toml), a first task that builds and runs, a sample input with the output that is expected
/// of it, and a README with the commands. Nothing is overwritten.
///
/// Example: wasmqtt new upper --lang rust
#[derive(Debug, Args)]
pub(super) struct New {
    /// The module's name, which is that of the folder
    #[arg(value_parser = ModuleName::parse)]
    name: ModuleName,
    /// The language
    #[arg(long, value_name = "LANGUAGE", value_parser = language::find, help = languages())]
    lang: &'static Language,
    /// The folder [default: ./NAME]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl New {
    pub(super) fn run(self) -> Result<u8> {
        let folder = self
            .folder
            .unwrap_or_else(|| PathBuf::from(self.name.as_str()));
        let written = project::create(&folder, &self.name, self.lang)
            .with_context(|| format!("failed to write the project {}", self.name))?;
        for file in &written {
            println!("{}", folder.join(file).display());
        }
        println!("\nnext:\n  cd {}", folder.display());
        for line in build::install(&Project::open(&folder)?.missing()) {
            println!("  {line}");
        }
        println!("  wasmqtt run");
        Ok(OK)
    }
}

fn languages() -> String {
    let names: Vec<&str> = language::ALL.iter().map(|language| language.name).collect();
    format!("The language: {}", names.join(", "))
}
