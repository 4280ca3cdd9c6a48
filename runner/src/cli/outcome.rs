//! `wasmqtt outcome`: asks for an outcome that was missed.

use anyhow::Result;
use clap::Args;

use crate::cli::args::AskArgs;
use crate::cli::submit::connect;
use crate::cli::{NO_OUTCOME, network_runtime, report};
use crate::config::Config;

/// Ask the runners for a task's outcome
///
/// The runner that recorded it answers; how long runners keep outcomes is in their configuration. It is printed as
/// `submit` prints it.
///
/// Example: wasmqtt outcome 7f3a
#[derive(Debug, Args)]
pub(super) struct Outcome {
    #[command(flatten)]
    task: AskArgs,
}

impl Outcome {
    pub(super) fn run(self) -> Result<u8> {
        let config = self.task.connection.load(&[])?;
        network_runtime()?.block_on(self.ask(&config))
    }

    async fn ask(self, config: &Config) -> Result<u8> {
        let client = connect(config, self.task.tenant.clone()).await?;
        let answer = client.outcome(&self.task.id, self.task.wait).await?;
        client.close().await;
        match answer {
            Some(outcome) => report::outcome(&outcome, self.task.json),
            None => {
                eprintln!(
                    "no answer within {:?}: {} has not ended yet, or no runner knows of it",
                    self.task.wait, self.task.id
                );
                Ok(NO_OUTCOME)
            }
        }
    }
}
