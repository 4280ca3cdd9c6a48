//! `wasmqtt inspect`: what a module is and what it would need.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::cli::keygen::with_ending;
use crate::cli::{FAILED, OK};
use crate::grants::{Capability, Grants};
use crate::modules::structure::{self, Need, Structure, shown};
use crate::modules::{Content, cost, signature};

/// Show what a module is: shape, exports, imports and what each needs, size, digest
///
/// Nothing is compiled or run. What needs a capability runs for tenants that were granted it: see `wasmqtt check
/// --tenant`. The exit code is 0 if a runner could take the module for some tenant, 1 if for none. With --verify nothing
/// of a module is read that is not signed so.
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The module
    file: PathBuf,
    /// A public key, or its file, that must have signed it
    #[arg(long, value_name = "PUBKEY")]
    verify: Option<String>,
    /// The signature [default: FILE.minisig]
    #[arg(long, value_name = "FILE", requires = "verify")]
    signature: Option<PathBuf>,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) fn run(self) -> Result<u8> {
        let bytes = std::fs::read(&self.file)
            .with_context(|| format!("failed to read {}", self.file.display()))?;
        let content = Content::new(bytes);
        let signer = match &self.verify {
            None => None,
            Some(key) => Some(self.signed_by(key, &content)?),
        };
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
                    |name| {
                        let need = structure::need(name);
                        let capability = need.capability().map(Capability::as_str);
                        serde_json::json!({"name": name, "needs": need.as_str(), "capability": capability})
                    },
                )
                .collect();
            let report = serde_json::json!({
                "file": self.file.display().to_string(),
                "digest": content.digest.to_string(),
                "signed_by": signer,
                "bytes": content.bytes.len(),
                "shape": structure.shape.as_str(),
                "exports": structure.exports,
                "imports": imports,
                "cost": cost::count(&content.bytes).ok(),
                "capabilities": needed(&structure),
                "runs": verdict.is_none(),
                "error": verdict.as_ref().map(ToString::to_string),
            });
            println!("{report:#}");
        } else {
            println!("digest   {}", content.digest);
            println!("size     {} bytes", content.bytes.len());
            if let Some(signer) = &signer {
                println!("signed   by {signer}");
            }
            println!("shape    {}", structure.shape.describe());
            let exports: Vec<String> = structure.exports.iter().map(|it| shown(it)).collect();
            println!("exports  {}", exports.join("\n         "));
            let imports: Vec<String> = structure
                .imports
                .iter()
                .map(|name| format!("{:<40} {}", shown(name), words(structure::need(name))))
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
                None => println!("verdict  {}", grants(&structure)),
                Some(error) => println!("verdict  {error}"),
            }
        }
        Ok(if verdict.is_none() { OK } else { FAILED })
    }

    /// The public key, if it signed the module.
    fn signed_by(&self, key: &str, content: &Content) -> Result<String> {
        // A key in base64 is never the name of a file that somebody has by accident.
        let signer = match std::fs::read_to_string(key) {
            Ok(text) => signature::signer(&text).with_context(|| format!("failed to read {key}")),
            Err(_) => signature::signer(key).context("--verify is not the name of a file"),
        };
        let signer = signer?;
        let default = || with_ending(&self.file, "minisig");
        let file = self.signature.clone().unwrap_or_else(default);
        let text = std::fs::read(&file);
        let text = text.with_context(|| format!("failed to read {}", file.display()))?;
        signature::verify(&signer, &content.bytes, &text)
            .with_context(|| format!("{} is not signed by {key}", self.file.display()))?;
        Ok(signer.as_str().to_owned())
    }
}

/// What a tenant must have been granted to run a module that some tenant could run.
pub(super) fn grants(structure: &Structure) -> String {
    match structure.admit(&Grants::default()) {
        Ok(()) => "runs without any grant".to_owned(),
        Err(_) => format!("needs the capabilities {}", needed(structure).join(", ")),
    }
}

/// The capabilities that a tenant must have been granted to run it.
fn needed(structure: &Structure) -> Vec<&'static str> {
    let needs = |capability: &Capability| {
        let needs = |import: &String| structure::need(import) == Need::Grant(*capability);
        structure.imports.iter().any(needs)
    };
    let needed = Capability::ALL.into_iter().filter(needs);
    needed.map(Capability::as_str).collect()
}

fn words(need: Need) -> String {
    match need {
        Need::Nothing => "needs nothing".to_owned(),
        Need::LessWithout(capability) => {
            format!("needs nothing; more with `{}`", capability.as_str())
        }
        Need::DeniedWithout(capability) => format!(
            "needs nothing, but every call is denied without `{}`",
            capability.as_str()
        ),
        Need::Denied => "needs nothing, but every call is denied".to_owned(),
        Need::Grant(capability) => format!("needs the capability `{}`", capability.as_str()),
        Need::NotOffered => "no runner offers it".to_owned(),
    }
}
