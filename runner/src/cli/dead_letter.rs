//! `wasmqtt dead-letter`: the tasks that were given up on this machine.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::cli::args::{Connection, parse_tenant};
use crate::cli::submit::connect;
use crate::cli::{OK, network_runtime};
use crate::config::Config;
use crate::envelope::{Message, Properties};
use crate::journal::dead_letters::{self, DeadLetter};
use crate::mqtt::Published;
use crate::task::TaskId;
use crate::task::tenant::TenantId;

/// List, show, requeue or purge the tasks that were given up on this machine
///
/// A task is given up when it failed as often as it may be tried, or when the runner's process died of it too often.
/// The runners' journals keep the last 10,000 of each slot; all of them are published on `task_dead_letter` too.
#[derive(Debug, Args)]
pub(super) struct DeadLetters {
    #[command(subcommand)]
    action: Action,
    /// The state folder of the runners [default: ~/.local/state/wasmqtt]
    #[arg(long, value_name = "DIR", global = true)]
    state: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// One line for each: tenant, id, error
    Ls {
        /// One JSON object a line instead, as on `task_dead_letter`
        #[arg(long)]
        json: bool,
    },
    /// The whole of one, as on `task_dead_letter`
    Show(One),
    /// Publish the task once more, under a new id (which is printed): the old one has its outcome
    Requeue(One),
    /// Forget one, or all
    Purge {
        /// The task's id
        #[arg(value_parser = TaskId::parse, required_unless_present = "all")]
        id: Option<TaskId>,
        /// All of them
        #[arg(long, conflicts_with = "id")]
        all: bool,
        /// The tenant whose task it is
        #[arg(long, value_parser = parse_tenant, default_value = TenantId::DEFAULT)]
        tenant: TenantId,
    },
}

#[derive(Debug, Args)]
struct One {
    /// The task's id
    #[arg(value_parser = TaskId::parse)]
    id: TaskId,
    /// The tenant whose task it is
    #[arg(long, value_parser = parse_tenant, default_value = TenantId::DEFAULT)]
    tenant: TenantId,
}

impl DeadLetters {
    pub(super) fn run(self) -> Result<u8> {
        let flag = self.state.as_ref().map(|path| path.display().to_string());
        let config = self.connection.load(&[("journal.directory", flag)])?;
        let state = config.journal.directory.as_ref();
        let state = state.context("no state folder: give --state or `journal.directory`")?;
        let mut stdout = std::io::stdout().lock();
        match &self.action {
            Action::Ls { json } => {
                for letter in dead_letters::list(state)? {
                    if *json {
                        writeln!(stdout, "{}", letter.letter)?;
                    } else {
                        let error = &letter.letter["error"];
                        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
                        let (code, message) = (text(&error["code"]), text(&error["message"]));
                        let (tenant, id, at) =
                            (&letter.tenant, &letter.id, text(&letter.letter["at"]));
                        writeln!(stdout, "{at}  {tenant}  {id}  {code}: {message}")?;
                    }
                }
            }
            Action::Show(one) => {
                let letter = one.find(state)?;
                writeln!(stdout, "{}", serde_json::to_string_pretty(&letter.letter)?)?;
            }
            Action::Requeue(one) => {
                let letter = one.find(state)?;
                let (message, id) = again(&letter.letter)?;
                network_runtime()?.block_on(publish(&config, one.tenant.clone(), message))?;
                // Only now: whatever fails before leaves it where it is.
                let task = (one.tenant.as_str(), one.id.as_str());
                dead_letters::remove(state, Some(task))?;
                writeln!(stdout, "{id}")?;
            }
            Action::Purge { id, all: _, tenant } => {
                let task = id.as_ref().map(|id| (tenant.as_str(), id.as_str()));
                let removed = dead_letters::remove(state, task)?;
                if removed == 0 && id.is_some() {
                    bail!("no dead letter of that id in {}", state.display());
                }
                eprintln!("{removed} purged");
            }
        }
        Ok(OK)
    }
}

impl One {
    fn find(&self, state: &std::path::Path) -> Result<DeadLetter> {
        let ours = |letter: &DeadLetter| {
            letter.id == self.id.as_str() && letter.tenant == self.tenant.as_str()
        };
        let found = dead_letters::list(state)?.into_iter().rfind(ours);
        found.with_context(|| {
            let (id, tenant, state) = (&self.id, &self.tenant, state.display());
            format!("no dead letter of {id} of tenant {tenant} in {state}")
        })
    }
}

async fn publish(config: &Config, tenant: TenantId, message: Message) -> Result<()> {
    let client = connect(config, tenant).await?;
    let published = client.publish(message).await?;
    client.close().await;
    ensure!(
        published == Published::Accepted,
        "no runner is subscribed to the queue: the dead letter stays where it is"
    );
    Ok(())
}

/// The task as it came, under a new id and labelled with the old one.
fn again(letter: &Value) -> Result<(Message, TaskId)> {
    let damaged = || anyhow!("the dead letter is damaged");
    let (old, task) = (letter["id"].as_str().ok_or_else(damaged)?, &letter["task"]);
    let id = TaskId::generate();
    let payload = match (task["payload"].as_str(), task["payload_base64"].as_str()) {
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, Some(encoded)) => STANDARD
            .decode(encoded)
            .context("the dead letter is damaged")?,
        (None, None) => bail!(damaged()),
    };
    let text = |name: &str| task[name].as_str().map(str::to_owned);
    let pairs = task["user_properties"].as_array().into_iter().flatten();
    let mut user: Vec<(String, String)> = pairs
        .filter_map(|pair| Some((pair[0].as_str()?.to_owned(), pair[1].as_str()?.to_owned())))
        .collect();
    let correlation = text("correlation_data_base64").map(|data| STANDARD.decode(data));
    let topic = text("topic").ok_or_else(damaged)?;
    let payload = if user.iter().any(|(name, _)| name == "module") {
        user.retain(|(name, _)| name != "id" && name != "labels.requeued_from");
        user.push(("id".to_owned(), id.to_string()));
        user.push(("labels.requeued_from".to_owned(), old.to_owned()));
        payload
    } else {
        match serde_json::from_slice::<Map<String, Value>>(&payload) {
            Ok(mut object) if object.contains_key("module") => {
                object.insert("id".to_owned(), json!(id.as_str()));
                let labels = object.entry("labels").or_insert_with(|| json!({}));
                labels["requeued_from"] = json!(old);
                Value::Object(object).to_string().into_bytes()
            }
            // Raw input has no place for an id: the runner makes one.
            _ => payload,
        }
    };
    let message = Message {
        properties: Properties {
            content_type: text("content_type"),
            response_topic: text("response_topic"),
            correlation_data: correlation.transpose()?.map(Into::into),
            message_expiry_s: None,
            user,
        },
        ..Message::new(topic, payload)
    };
    Ok((message, id))
}
