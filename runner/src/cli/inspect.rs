//! `wasmqtt inspect`: what a module is and what it would need.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::cli::{FAILED, OK};
use crate::modules::structure::{self, Need};
use crate::modules::{Content, cost};

/// Show what a module is: shape, exports, imports and what each needs, size, digest
///
/// Nothing is compiled or run. The exit code is 0 if a runner would take the module, 1 if not.
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The module
    file: PathBuf,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) fn run(self) -> Result<u8> {
        let bytes = std::fs::read(&self.file)
            .with_context(|| format!("failed to read {}", self.file.display()))?;
        let content = Content::new(bytes);
        let structure = match structure::read(&content.bytes) {
            Ok(structure) => structure,
            Err(error) => bail!("{}: {error}", self.file.display()),
        };
        let verdict = structure::check(&content.bytes).err();
        if self.json {
            let imports: Vec<_> = structure
                .imports
                .iter()
                .map(
                    |name| serde_json::json!({"name": name, "needs": structure::need(name).as_str()}),
                )
                .collect();
            let report = serde_json::json!({
                "file": self.file.display().to_string(),
                "digest": content.digest.to_string(),
                "bytes": content.bytes.len(),
                "shape": structure.shape.as_str(),
                "exports": structure.exports,
                "imports": imports,
                "cost": cost::count(&content.bytes).ok(),
                "runs": verdict.is_none(),
                "error": verdict.as_ref().map(ToString::to_string),
            });
            println!("{report:#}");
        } else {
            println!("digest   {}", content.digest);
            println!("size     {} bytes", content.bytes.len());
            println!("shape    {}", structure.shape.describe());
            println!("exports  {}", structure.exports.join("\n         "));
            let imports: Vec<String> = structure
                .imports
                .iter()
                .map(|name| format!("{name:<40} {}", words(structure::need(name))))
                .collect();
            println!(
                "imports  {}",
                if imports.is_empty() {
                    "none".to_owned()
                } else {
                    imports.join("\n         ")
                }
            );
            match &verdict {
                None => println!("verdict  runs without any grant"),
                Some(error) => println!("verdict  {error}"),
            }
        }
        Ok(if verdict.is_none() { OK } else { FAILED })
    }
}

fn words(need: Need) -> &'static str {
    match need {
        Need::Nothing => "needs nothing",
        Need::LinkedButDenied => "needs nothing, but every call is denied",
        Need::NotOffered => "no runner offers it",
    }
}
