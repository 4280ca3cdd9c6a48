//! `wasmqtt submit`: publishes a task and waits for its outcome.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;

use crate::cli::args::{
    Connection, InputArgs, LimitArgs, parse_duration, parse_tenant, parse_time,
};
use crate::cli::{NO_OUTCOME, OK, network_runtime, report};
use crate::client::{Client, Update};
use crate::config::Config;
use crate::envelope::answer::Request;
use crate::mqtt::Published;
use crate::runner::start::base_settings;
use crate::task::outcome::Outcome;
use crate::task::tenant::TenantId;
use crate::task::{ModuleRef, RetryPolicy, TaskId};

/// Publish a task and wait for its outcome
///
/// The output goes to stdout as it is, a summary and the guest's log to stderr. While it waits, the task is published
/// again, with the same id, whenever it may have been lost.
///
/// Example: wasmqtt submit upper --input hello
#[derive(Debug, Args)]
pub(super) struct Submit {
    /// The module: NAME, NAME@sha256:HEX or sha256:HEX
    #[arg(value_parser = ModuleRef::parse)]
    module: ModuleRef,
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten)]
    limits: LimitArgs,
    /// 0 to 9; higher runs first, within one tenant
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=9), default_value_t = 0)]
    priority: u8,
    /// Not to be started before, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    not_before: Option<SystemTime>,
    /// Not to be started after, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    expires_at: Option<SystemTime>,
    /// Attempts in all [default: the runner's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    max_attempts: Option<u32>,
    /// The tenant to submit for
    #[arg(long, value_parser = parse_tenant, default_value = TenantId::DEFAULT)]
    tenant: TenantId,
    /// The task's id, 1 to 64 characters of [A-Za-z0-9_-] [default: a new UUIDv7]
    #[arg(long, value_parser = TaskId::parse)]
    id: Option<TaskId>,
    /// Only publish: print the id and do not wait
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for the outcome
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "60s")]
    wait: Duration,
    /// Publish the task again after so long without a word of it, and its own --timeout
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "30s")]
    resend_after: Duration,
    /// Print the outcome as JSON to stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Submit {
    pub(super) fn run(self) -> Result<u8> {
        let config = self.connection.load(&[])?;
        let mut request = Request::new(self.module.clone(), self.input.read()?);
        if let Some(id) = self.id.clone() {
            request.id = id;
        }
        request.content_type = self.input.content_type.clone();
        request.labels = self.input.labels.iter().cloned().collect();
        request.limits = self.limits.requested();
        request.priority = self.priority;
        request.not_before = self.not_before;
        request.expires_at = self.expires_at;
        request.retry = self.max_attempts.map(|attempts| RetryPolicy {
            max_attempts: Some(attempts),
            ..RetryPolicy::default()
        });
        request.events = !self.no_wait;
        request.logs = !self.no_wait;
        network_runtime()?.block_on(self.submit(&config, request))
    }

    async fn submit(self, config: &Config, request: Request) -> Result<u8> {
        let client = connect(config, self.tenant.clone()).await?;
        let client = client.with_resend_after(self.resend_after);
        if self.no_wait {
            if client.post(&request).await? == Published::NoSubscribers {
                eprintln!("{ALONE}: the broker may have dropped the task");
            }
            println!("{}", request.id);
            client.close().await;
            return Ok(OK);
        }
        let (published, updates) = client.submit(&request).await?;
        if published == Published::NoSubscribers {
            warn_alone();
        }
        let id = &request.id;
        let code = tokio::select! {
            ended = tokio::time::timeout(self.wait, follow(updates, !self.json)) => match ended {
                Ok(Some(outcome)) => report::outcome(&outcome, self.json)?,
                Ok(None) => anyhow::bail!("lost the broker for good before the outcome of {id} came"),
                Err(_) => {
                    eprintln!(
                        "no outcome of {id} within {:?}; it may still come on task_completed; ask for it with `{}`",
                        self.wait,
                        self.hint("outcome", id)
                    );
                    NO_OUTCOME
                }
            },
            Ok(()) = tokio::signal::ctrl_c() => {
                eprintln!(
                    "not waiting any more; {id} goes on, unless you cancel it: `{}`",
                    self.hint("cancel", id)
                );
                NO_OUTCOME
            }
        };
        client.close().await;
        Ok(code)
    }

    /// Another command on the same task.
    fn hint(&self, command: &str, id: &TaskId) -> String {
        let mut hint = format!("wasmqtt {command} {id}");
        if !self.tenant.is_default() {
            hint += &format!(" --tenant {}", self.tenant);
        }
        if let Some(url) = &self.connection.broker {
            hint += &format!(" --broker {url}");
        }
        if let Some(file) = &self.connection.config {
            hint += &format!(" --config {}", file.display());
        }
        hint
    }
}

/// A client for one command.
pub(super) async fn connect(config: &Config, tenant: TenantId) -> Result<Client> {
    let settings = base_settings(config, &format!("wasmqtt-{}", TaskId::generate()))?;
    let connecting = Client::connect(settings, config.topics()?, tenant);
    match tokio::time::timeout(Duration::from_secs(10), connecting).await {
        Ok(client) => client,
        Err(_) => anyhow::bail!("no broker at {} within 10 s", config.mqtt.url),
    }
}

const ALONE: &str = "warning: no runner is subscribed to the queue";

fn warn_alone() {
    eprintln!("{ALONE}; publishing the task again until there is one");
}

/// Shows progress and logs until the outcome.
async fn follow(mut updates: mpsc::UnboundedReceiver<Update>, show: bool) -> Option<Outcome> {
    // Hidden by itself when stderr is no terminal.
    let bar = ProgressBar::new(0);
    bar.set_style(style("{spinner} {msg}"));
    while let Some(update) = updates.recv().await {
        match update {
            Update::Ended(outcome) => {
                bar.finish_and_clear();
                return Some(*outcome);
            }
            Update::Unheard => bar.suspend(warn_alone),
            Update::Log { level, message } if show => {
                bar.suspend(|| eprintln!("[{level}] {message}"))
            }
            Update::Status(status) if show => bar.set_message(status),
            Update::Progress {
                done,
                total,
                message,
            } if show => {
                if total > 0 {
                    bar.set_style(style("{bar:30} {pos}/{len} {msg}"));
                    bar.set_length(total);
                }
                bar.set_position(done);
                bar.set_message(message);
            }
            _ => {}
        }
    }
    None
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
