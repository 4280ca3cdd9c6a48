//! `wasmqtt cancel`: cancels a task and says what became of it.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::cli::args::{Connection, parse_duration, parse_tenant};
use crate::cli::submit::connect;
use crate::cli::{NO_OUTCOME, OK, TASK_FAILED, network_runtime, report};
use crate::config::Config;
use crate::mqtt::Published;
use crate::task::TaskId;
use crate::task::outcome::Status;
use crate::task::tenant::TenantId;

/// Cancel a task, whether it waits or runs
///
/// Then its outcome is asked for, and printed as `submit` prints it: a task may have ended before.
///
/// Example: wasmqtt cancel 7f3a
#[derive(Debug, Args)]
pub(super) struct Cancel {
    /// The task's id
    #[arg(value_parser = TaskId::parse)]
    id: TaskId,
    /// The tenant whose task it is
    #[arg(long, value_parser = parse_tenant, default_value = TenantId::DEFAULT)]
    tenant: TenantId,
    /// How long to wait for the outcome
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "5s")]
    wait: Duration,
    /// Print the outcome as JSON to stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Cancel {
    pub(super) fn run(self) -> Result<u8> {
        let config = self.connection.load(&[])?;
        network_runtime()?.block_on(self.cancel(&config))
    }

    async fn cancel(self, config: &Config) -> Result<u8> {
        let client = connect(config, self.tenant.clone()).await?;
        if client.cancel(&self.id).await? == Published::NoSubscribers {
            eprintln!("warning: no runner is subscribed to task_control");
        }
        let answer = client.outcome(&self.id, self.wait).await?;
        client.close().await;
        let Some(outcome) = answer else {
            eprintln!(
                "asked to cancel it, but no outcome within {:?}: {} has not ended yet, or no runner knows of it",
                self.wait, self.id
            );
            return Ok(NO_OUTCOME);
        };
        report::outcome(&outcome, self.json)?;
        Ok(if outcome.status == Status::Canceled {
            OK
        } else {
            TASK_FAILED
        })
    }
}
