//! `task.toml`: what a project's folder says of itself.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::task::ModuleName;
use crate::task::limits::RequestedLimits;

/// The manifest's name.
pub const FILE: &str = "task.toml";

/// What a project is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The module's name.
    #[serde(deserialize_with = "module_name")]
    pub name: ModuleName,
    /// The name of the language, as `new --lang` takes it.
    pub language: String,
    /// What the module is to be.
    #[serde(default)]
    pub world: World,
    /// Inputs and what becomes of them; `run` and `dev` use the first, `test` all.
    #[serde(default, rename = "sample")]
    pub samples: Vec<Sample>,
    /// Limits of the samples' runs; what is left out is a runner's default.
    #[serde(default)]
    pub limits: Limits,
}

/// What the module of a project is to be.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum World {
    /// It exports `run` of `wasmqtt:task/task`.
    #[default]
    Task,
    /// The same, and it imports `publish`.
    PublishingTask,
    /// It reads standard input and writes standard output.
    Command,
}

/// An input and what becomes of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// A file, from the project's folder.
    pub input: PathBuf,
    /// The media type of the input.
    pub content_type: Option<String>,
    /// A file that the output equals.
    pub output: Option<PathBuf>,
    /// The `error.code` that it ends in, such as `guest_error`.
    pub error: Option<String>,
}

/// Limits as a manifest has them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    fuel: Option<u64>,
    memory_bytes: Option<u64>,
    timeout_ms: Option<u64>,
    output_bytes: Option<u64>,
}

impl Manifest {
    /// Reads the manifest of a folder.
    pub(super) fn read(folder: &Path) -> Result<Manifest> {
        let path = folder.join(FILE);
        if !path.exists() {
            anyhow::bail!(
                "{} is no project: it has no {FILE}; make one with `wasmqtt new NAME --lang LANGUAGE`",
                folder.display()
            );
        }
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("failed to read {}", path.display()))?;
        Manifest::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Manifest> {
        let manifest: Manifest = toml::from_str(text)?;
        for sample in &manifest.samples {
            if sample.output.is_some() && sample.error.is_some() {
                let input = sample.input.display();
                anyhow::bail!("the sample {input} has both an `output` and an `error`");
            }
        }
        Ok(manifest)
    }
}

impl Limits {
    /// As a task would ask for them.
    pub fn requested(&self) -> RequestedLimits {
        RequestedLimits {
            fuel: self.fuel,
            memory_bytes: self.memory_bytes,
            timeout_ms: self.timeout_ms,
            output_bytes: self.output_bytes,
        }
    }
}

fn module_name<'de, D: serde::Deserializer<'de>>(from: D) -> Result<ModuleName, D::Error> {
    let text = String::deserialize(from)?;
    ModuleName::parse(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_manifest_may_say() {
        let all = "name = \"hello\"\nlanguage = \"wat\"\nworld = \"command\"\n\
                   [[sample]]\ninput = \"a\"\ncontent_type = \"text/plain\"\noutput = \"b\"\n\
                   [[sample]]\ninput = \"c\"\nerror = \"trap\"\n[limits]\nfuel = 5\n";
        let manifest = Manifest::parse(all).expect("a manifest");
        assert_eq!(manifest.world, World::Command);
        assert_eq!(manifest.samples.len(), 2);
        assert_eq!(manifest.limits.requested().fuel, Some(5));
        for (bad, why) in [
            ("name = \"Hello\"\nlanguage = \"wat\"", "a-z"),
            ("name = \"a\"\nlanguage = \"wat\"\nwrld = \"task\"", "wrld"),
            ("name = \"a\"\nlanguage = \"wat\"\nworld = \"tsk\"", "tsk"),
            (
                "name = \"a\"\nlanguage = \"wat\"\n[[sample]]\ninput = \"i\"\noutput = \"o\"\nerror = \"trap\"",
                "both",
            ),
        ] {
            let error = format!("{:#}", Manifest::parse(bad).expect_err(bad));
            assert!(error.contains(why), "{error}");
        }
    }
}
