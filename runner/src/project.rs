//! A task's folder: a manifest `task.toml`, sources, samples, and `build/` for what a toolchain makes of them.
//!
//! What it owns: what `new` writes, how each language is built, and whether the result is a task. A language is a file
//! beside this one and a line in [`language::ALL`]. It must not know brokers.

pub mod build;
pub mod difference;
pub mod language;
pub mod manifest;
pub mod sample;
pub mod watch;

mod assemblyscript;
mod c;
mod create;
mod go;
mod javascript;
mod python;
mod rust;
mod segments;
mod wat;
mod zig;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::project::language::{Language, Tool};
use crate::project::manifest::Manifest;
pub use create::{Template, create};

/// A task's folder, with what its manifest says.
#[derive(Debug)]
pub struct Project {
    /// The folder, absolute.
    pub folder: PathBuf,
    /// What `task.toml` says.
    pub manifest: Manifest,
    /// The language that it names.
    pub language: &'static Language,
}

impl Project {
    /// Reads the manifest of a folder.
    ///
    /// # Errors
    ///
    /// When there is none, or it says what it may not.
    pub fn open(folder: &Path) -> Result<Project> {
        let folder = folder
            .canonicalize()
            .with_context(|| format!("failed to open the folder {}", folder.display()))?;
        let manifest = Manifest::read(&folder)?;
        let language = language::find(&manifest.language)
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("{}: language", folder.join(manifest::FILE).display()))?;
        Ok(Project {
            folder,
            manifest,
            language,
        })
    }

    /// The tools that its language needs and that are not there.
    pub fn missing(&self) -> Vec<&'static Tool> {
        let tools = self.language.tools.iter().copied();
        tools
            .filter(|tool| tool.find(&self.folder).is_none())
            .collect()
    }

    /// Where the built module is.
    pub fn module(&self) -> PathBuf {
        let file = format!("{}.wasm", self.manifest.name);
        self.folder.join(build::FOLDER).join(file)
    }
}
