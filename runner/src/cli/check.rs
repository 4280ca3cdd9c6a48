//! `wasmqtt check`: the effective configuration.

use anyhow::{Context as _, Result};
use clap::Args;

use crate::cli::OK;
use crate::cli::args::Connection;

/// Print the effective configuration, secrets hidden
///
/// Defaults, file, environment and flags laid over each other, validated as `serve` would.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    connection: Connection,
    /// Print it as JSON instead of TOML
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> Result<u8> {
        let config = self.connection.load(&[])?;
        // Files that it names are read when they are used: read them now, to fail here and not there.
        config.credentials()?;
        let shown = config.without_secrets();
        if self.json {
            println!(
                "{}",
                serde_json::to_string_pretty(&shown)
                    .context("failed to print the configuration")?
            );
        } else {
            print!(
                "{}",
                toml::to_string_pretty(&shown).context("failed to print the configuration")?
            );
        }
        Ok(OK)
    }
}
