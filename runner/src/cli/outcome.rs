//! `wasmqtt outcome`: asks for an outcome that was missed.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::cli::args::{Connection, parse_duration, parse_tenant};
use crate::cli::submit::connect;
use crate::cli::{NO_OUTCOME, network_runtime, report};
use crate::config::Config;
use crate::task::TaskId;
use crate::task::tenant::TenantId;

/// Ask the runners for a task's outcome
///
/// The runner that recorded it answers; how long runners keep outcomes is in their configuration. It is printed as
/// `submit` prints it.
///
/// Example: wasmqtt outcome 7f3a
#[derive(Debug, Args)]
pub(super) struct Outcome {
    /// The task's id
    #[arg(value_parser = TaskId::parse)]
    id: TaskId,
    /// The tenant whose task it is
    #[arg(long, value_parser = parse_tenant, default_value = TenantId::DEFAULT)]
    tenant: TenantId,
    /// How long to wait for an answer
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "5s")]
    wait: Duration,
    /// Print the outcome as JSON to stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Outcome {
    pub(super) fn run(self) -> Result<u8> {
        let config = self.connection.load(&[])?;
        network_runtime()?.block_on(self.ask(&config))
    }

    async fn ask(self, config: &Config) -> Result<u8> {
        let client = connect(config, self.tenant.clone()).await?;
        let answer = client.outcome(&self.id, self.wait).await?;
        client.close().await;
        match answer {
            Some(outcome) => report::outcome(&outcome, self.json),
            None => {
                eprintln!(
                    "no answer within {:?}: {} has not ended yet, or no runner knows of it",
                    self.wait, self.id
                );
                Ok(NO_OUTCOME)
            }
        }
    }
}
