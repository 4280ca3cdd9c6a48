//! `wasmqtt serve`: the runner.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::access::Role;
use crate::access::password::{self, PasswordHash};
use crate::broker::{self, Broker};
use crate::cli::args::Connection;
use crate::cli::reload::{Reloads, stamp};
use crate::cli::{OK, network_runtime};
use crate::config::Config;
use crate::config::tenants::Unlisted;
use crate::doctor::{self, Finding, Verdict};
use crate::hardening;
use crate::runner::Runner;
use crate::stamp::Stamp;
use crate::task::TaskId;

/// How long trying the broker out may delay the start.
const GLANCE: Duration = Duration::from_secs(5);

/// Run tasks from a broker
///
/// Takes tasks from `task_queue` (and `tenants/+/task_queue`) in a shared subscription, runs each once in a
/// fresh sandbox, and publishes the outcomes. SIGTERM and Ctrl-C drain: nothing more is taken, what runs may
/// finish, the rest goes back to the broker; a second signal stops at once, and loses nothing either.
/// SIGHUP, or a change of the configuration file, reads [tenants] again.
///
/// Example: wasmqtt serve --broker mqtt://127.0.0.1:1883 --modules ./modules
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    connection: Connection,
    /// Start a broker in this process, instead of connecting to one; ADDR is IP:PORT, 127.0.0.1:1883 if
    /// left out
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "127.0.0.1:1883", conflicts_with = "broker")]
    embedded_broker: Option<SocketAddr>,
    /// A folder of modules, NAME.wasm, for every tenant
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
    /// Guests at one time [default: 16 a core]
    #[arg(long, value_name = "N")]
    concurrency: Option<usize>,
    /// The group of runners that share the queue [default: runners]
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// This runner's name, stable over restarts and its own in the group [default: the host's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The state folder: journals, and one slot for each process of this name [default: ~/.local/state/wasmqtt]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Which slot to take [default: the first that is free]
    #[arg(long, value_name = "N")]
    slot: Option<u16>,
    /// Give the slot up instead: end what the broker and the journal have for it, wait for what is kept, end the
    /// session, exit. For scaling in: run it with the stopped runner's --name and --slot
    #[arg(long)]
    leave: bool,
    /// Refuse a broker that is unfit, instead of warning
    #[arg(long)]
    strict: bool,
    /// The module of the default tenant's plain messages
    #[arg(long, value_name = "MODULE")]
    default_module: Option<String>,
}

impl Serve {
    pub(super) fn run(self) -> Result<u8> {
        let seen = self.connection.config_file().and_then(stamp);
        let config = self.load()?;
        let low_port = config.broker.embedded && (1..1024).contains(&config.broker.address.port());
        hardening::give_up_privileges(low_port);
        network_runtime()?.block_on(self.serve(config, seen))?;
        Ok(OK)
    }

    fn load(&self) -> Result<Config> {
        let mut config = self.connection.load(&[
            (
                "broker.embedded",
                self.embedded_broker.map(|_| "true".to_owned()),
            ),
            (
                "broker.address",
                self.embedded_broker.map(|address| address.to_string()),
            ),
            (
                "modules.directory",
                self.modules.as_ref().map(|path| path.display().to_string()),
            ),
            (
                "runner.concurrency",
                self.concurrency.map(|n| n.to_string()),
            ),
            ("mqtt.group", self.group.clone()),
            ("runner.name", self.name.clone()),
            (
                "journal.directory",
                self.state.as_ref().map(|path| path.display().to_string()),
            ),
            ("runner.slot", self.slot.map(|slot| slot.to_string())),
            ("runner.strict", self.strict.then(|| "true".to_owned())),
        ])?;
        if let Some(module) = &self.default_module {
            config
                .tenants
                .entry("default".to_owned())
                .or_default()
                .default_module = Some(module.clone());
            config.validate()?;
        }
        Ok(config)
    }

    async fn serve(&self, mut config: Config, seen: Option<Stamp>) -> Result<()> {
        let shutdown = Shutdown::listen()?;
        let reloads = Reloads::listen(seen)?;
        let broker = start_broker(&mut config).await?;
        let runner = async {
            // The embedded one is known.
            if broker.is_none() {
                look_at_broker(&config).await?;
            }
            Runner::start(&config).await
        };
        tokio::pin!(shutdown);
        let runner = tokio::select! {
            runner = runner => Some(runner?),
            () = shutdown.asked() => None,
        };
        hardening::hide_memory();
        if let Some(runner) = runner {
            info!(
                runner = runner.name(),
                broker = config.mqtt.url,
                group = config.mqtt.group,
                concurrency = config.runner.concurrency,
                "ready"
            );
            if self.leave {
                tokio::select! {
                    left = runner.leave(&config) => left?,
                    () = shutdown.asked() => warn!("asked to stop: the slot is not given up yet"),
                }
                return Ok(());
            }
            let reloader = runner.reloader();
            let file = self.connection.config_file();
            let reloading = reloads.follow(&reloader, file, || self.load());
            tokio::pin!(reloading);
            let (drain, draining) = tokio::sync::oneshot::channel::<()>();
            let running = runner.run(async {
                let _ = draining.await;
            });
            tokio::pin!(running);
            tokio::select! {
                ended = &mut running => return ended,
                () = shutdown.asked() => drop(drain),
                () = &mut reloading => {}
            }
            tokio::select! {
                ended = running => ended?,
                // Nothing is lost: what is not acknowledged is delivered again, what is recorded is in the journal.
                () = shutdown.asked() => warn!("asked again: stopped at once"),
            }
        }
        if let Some(broker) = broker {
            broker.stop().await;
        }
        Ok(())
    }
}

/// Starts the embedded broker if it is configured, and points the configuration at it.
async fn start_broker(config: &mut Config) -> Result<Option<Broker>> {
    if !config.broker.embedded {
        return Ok(None);
    }
    let topics = config.topics()?;
    let mut users = config.broker_users()?;
    if !users.is_empty() && config.mqtt.username.is_none() {
        users.push(own_user(config)?);
    }
    let settings = broker::Settings {
        address: config.broker.address,
        users,
        runner_client_ids: config.runner_client_ids(),
        max_packet_bytes: config.mqtt.max_packet_bytes,
        park: match config.runner.unlisted_tenants {
            Unlisted::Admit => topics.queues().to_vec(),
            // Nobody takes the others' tasks, ever.
            Unlisted::Deny => config.served(&topics)?,
        },
        ..broker::Settings::default()
    };
    let broker = Broker::start(settings)
        .await
        .context("failed to start the embedded broker")?;
    config.mqtt.url = broker.url();
    // What a runner holds goes to another as soon as it is lost: this broker sees to that.
    config.mqtt.session_expiry_s = 0;
    info!(address = %broker.address(), "embedded broker listens");
    Ok(Some(broker))
}

/// Warns of what is wrong with the broker, or refuses it. One that is away is not waited for here.
async fn look_at_broker(config: &Config) -> Result<()> {
    let findings = match timeout(GLANCE, doctor::glance(config)).await {
        Ok(Ok(findings)) => findings,
        Ok(Err(why)) => {
            debug!(%why, "broker not tried out");
            return Ok(());
        }
        Err(_) => {
            warn!("broker not tried out: it is too slow to answer");
            return Ok(());
        }
    };
    for Finding {
        check,
        verdict,
        says,
    } in findings
    {
        match verdict {
            Verdict::Fatal if config.runner.strict => {
                bail!("the broker is unfit: {check}: {says} (`runner.strict`)")
            }
            Verdict::Fatal | Verdict::Warning => warn!(check, ?verdict, says, "broker"),
            Verdict::Fine | Verdict::Notice => debug!(check, ?verdict, says, "broker"),
        }
    }
    Ok(())
}

/// A user of the embedded broker for this process's own runner, which nobody else knows.
fn own_user(config: &mut Config) -> Result<broker::User> {
    let name = format!("runner-{}", TaskId::generate());
    let secret = password::generate()?;
    let user = broker::User {
        access: config.fleet()?.access(&Role::Runner, &name),
        // Nobody guesses 192 bits, however cheap a guess is.
        password: PasswordHash::new(&secret, 1)?,
        runner: true,
        name: name.clone(),
    };
    (config.mqtt.username, config.mqtt.password) = (Some(name), Some(secret));
    config.mqtt.password_file = None;
    Ok(user)
}

/// SIGTERM and SIGINT.
pub(super) struct Shutdown {
    terminate: Signal,
    interrupt: Signal,
}

impl Shutdown {
    pub(super) fn listen() -> Result<Shutdown> {
        let listen = |kind| signal(kind).context("failed to listen for signals");
        Ok(Shutdown {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    pub(super) async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
