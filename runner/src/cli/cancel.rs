//! `wasmqtt cancel`: cancels a task and says what became of it.

use anyhow::Result;
use clap::Args;

use crate::cli::args::AskArgs;
use crate::cli::submit::connect;
use crate::cli::{NO_OUTCOME, OK, TASK_FAILED, network_runtime, report};
use crate::config::Config;
use crate::mqtt::Published;
use crate::task::outcome::Status;

/// Cancel a task, whether it waits or runs
///
/// Then its outcome is asked for, and printed as `submit` prints it: a task may have ended before.
///
/// Example: wasmqtt cancel 7f3a
#[derive(Debug, Args)]
pub(super) struct Cancel {
    #[command(flatten)]
    task: AskArgs,
}

impl Cancel {
    pub(super) fn run(self) -> Result<u8> {
        let config = self.task.connection.load(&[])?;
        network_runtime()?.block_on(self.cancel(&config))
    }

    async fn cancel(self, config: &Config) -> Result<u8> {
        let client = connect(config, self.task.tenant.clone()).await?;
        if client.cancel(&self.task.id).await? == Published::NoSubscribers {
            eprintln!("warning: no runner is subscribed to task_control");
        }
        let answer = client.outcome(&self.task.id, self.task.wait).await?;
        client.close().await;
        let Some(outcome) = answer else {
            eprintln!(
                "asked to cancel it, but no outcome within {:?}: {} has not ended yet, or no runner knows of it",
                self.task.wait, self.task.id
            );
            return Ok(NO_OUTCOME);
        };
        report::outcome(&outcome, self.task.json)?;
        Ok(if outcome.status == Status::Canceled {
            OK
        } else {
            TASK_FAILED
        })
    }
}
