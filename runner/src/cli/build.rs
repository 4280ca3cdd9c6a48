//! `wasmqtt build`: a project's module, from its sources.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use crate::cli::OK;
use crate::cli::inspect;
use crate::cli::report::bytes;
use crate::project::Project;
use crate::project::build::{self, Built};

/// Build a project's module, and check that a runner would take it
///
/// Runs the toolchain of the language that task.toml names, makes a component of what comes out if it is none, and
/// keeps it as build/NAME.wasm. What the toolchain says is shown as it is. When a tool is missing, the line that
/// installs it is printed, and nothing is run.
///
/// Example: wasmqtt build
#[derive(Debug, Args)]
pub(super) struct Build {
    /// The project's folder
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
}

impl Build {
    pub(super) fn run(self) -> Result<u8> {
        let project = Project::open(&self.folder)?;
        let built = build::build(&project)?;
        let file = self.folder.join(build::FOLDER);
        let file = file.join(built.file.file_name().unwrap_or_default());
        println!("{}", file.display());
        println!("{}", summary(&built));
        Ok(OK)
    }
}

/// The file of a module that is named on the command line; of a project's folder, this one if none is named, what is built
/// of it, and the project.
pub(super) fn module(file: Option<&Path>) -> Result<(PathBuf, Option<Project>)> {
    if let Some(file) = file.filter(|file| !file.is_dir()) {
        return Ok((file.to_owned(), None));
    }
    let project = Project::open(file.unwrap_or(Path::new(".")))?;
    Ok((build::current(&project)?, Some(project)))
}

/// What was built, for a person.
pub(super) fn summary(built: &Built) -> String {
    format!(
        "{}, {}\n{}; {}",
        bytes(built.content.bytes.len() as u64),
        built.content.digest,
        built.structure.shape.describe(),
        inspect::grants(&built.structure)
    )
}
