//! `wasmqtt cache`: the compiled modules on this machine's disk.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::OK;
use crate::cli::args::parse_bytes;
use crate::config::{self, Config};
use crate::envelope::encode::rfc3339;
use crate::modules::artifacts::Artifacts;
use crate::modules::artifacts::bounds::Entry;
use crate::sandbox::engine::{Engine, Sizes};

/// List or prune the compiled modules on this machine's disk
///
/// A module is compiled once for all runners of this user, and found again after a restart. What is removed is compiled
/// again when a task needs it; what runs goes on running.
#[derive(Debug, Args)]
pub(super) struct Cache {
    #[command(subcommand)]
    action: Action,
    /// The cache folder [default: `modules.cache_directory`, ~/.cache/wasmqtt]
    #[arg(long, value_name = "DIR", global = true)]
    dir: Option<PathBuf>,
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "WASMQTT_CONFIG", global = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// One line for each, the last used first: module, engine (this program's or another's), size, last use
    Ls {
        /// One JSON object a line instead
        #[arg(long)]
        json: bool,
    },
    /// Remove what other engines and killed runners left, and then what is over the bound, the least recently used first
    Prune {
        /// The bytes that may stay, such as 1GiB [default: `modules.cache_bytes`]
        #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
        keep: Option<u64>,
        /// One JSON object for each that was removed
        #[arg(long)]
        json: bool,
    },
}

impl Cache {
    pub(super) fn run(self) -> Result<u8> {
        let flag = self.dir.as_ref().map(|path| path.display().to_string());
        let flags: Vec<_> = flag
            .map(|dir| ("modules.cache_directory", dir))
            .into_iter()
            .collect();
        let config = config::load(self.config.as_deref(), std::env::vars(), &flags)?;
        let mut stdout = std::io::stdout().lock();
        let Some(artifacts) = open(&config)? else {
            return Ok(OK);
        };
        match self.action {
            Action::Ls { json } => {
                for entry in artifacts.entries()? {
                    writeln!(stdout, "{}", line(&entry, json))?;
                }
            }
            Action::Prune { keep, json } => {
                let (swept, mut freed) = artifacts.sweep()?;
                let mut removed = artifacts.remove_others()?;
                removed.extend(artifacts.prune_to(keep.unwrap_or(config.modules.cache_bytes))?);
                for entry in &removed {
                    writeln!(stdout, "{}", line(entry, json))?;
                    freed += entry.bytes;
                }
                eprintln!("{} removed, {freed} bytes", swept + removed.len());
            }
        }
        Ok(OK)
    }
}

/// None when nobody has made the folder yet.
fn open(config: &Config) -> Result<Option<Artifacts>> {
    let folder = config.modules.cache_directory.as_ref();
    let folder = folder.context("no cache folder: give --dir or `modules.cache_directory`")?;
    if !folder.exists() {
        return Ok(None);
    }
    let engine = Engine::new(Sizes {
        guests: 1,
        memory_bytes: config.ceilings.memory_bytes,
    })?;
    Artifacts::open_existing(folder, &engine, config.modules.cache_bytes).map(Some)
}

fn line(entry: &Entry, json: bool) -> String {
    let used = rfc3339(entry.used);
    if json {
        let line: Value = json!({
            "digest": entry.digest.to_string(),
            "current": entry.current,
            "bytes": entry.bytes,
            "last_used": used,
        });
        return line.to_string();
    }
    let engine = if entry.current { "current" } else { "other" };
    format!("{}  {engine:<7}  {:>10}  {used}", entry.digest, entry.bytes)
}
