//! `wasmqtt schema`: the contract's documents, for who has only the binary.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::cli::OK;
use crate::contract::{DOCUMENTS, find};

/// Print the contract: an AsyncAPI document, and JSON Schemas of tasks, outcomes and what else travels
///
/// Without a name it lists the documents. They refer to each other by their files' names: with --out they are written
/// side by side, and a validator finds them.
///
/// Example: wasmqtt schema task
#[derive(Debug, Args)]
pub(super) struct Schema {
    /// The document to print
    #[arg(value_parser = PossibleValuesParser::new(DOCUMENTS.iter().map(|document| document.name)))]
    name: Option<String>,
    /// Write all of them into this folder, which is made if it is not there
    #[arg(long, value_name = "FOLDER", conflicts_with = "name")]
    out: Option<PathBuf>,
}

impl Schema {
    pub(super) fn run(self) -> Result<u8> {
        if let Some(folder) = &self.out {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("failed to make {}", folder.display()))?;
            for document in DOCUMENTS {
                let path = folder.join(document.file);
                std::fs::write(&path, document.text)
                    .with_context(|| format!("failed to write {}", path.display()))?;
            }
            return Ok(OK);
        }
        match self.name.as_deref().and_then(find) {
            Some(document) => print!("{}", document.text),
            None => {
                for document in DOCUMENTS {
                    println!("{:<20}{}", document.name, document.about);
                }
            }
        }
        Ok(OK)
    }
}
