//! Sets a runner up: slot, journal, sandbox, modules, connections.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::config::sections::Dedupe;
use crate::envelope::topics::Topics;
use crate::journal::{self, Journal, Recovered};
use crate::modules::ModuleStore;
use crate::mqtt::settings::Settings;
use crate::mqtt::{self, Publisher};
use crate::relay::Relay;
use crate::runner::active::Active;
use crate::runner::kept::KeptTasks;
use crate::runner::lanes::Lanes;
use crate::runner::peers::Peers;
use crate::runner::permits::Permits;
use crate::runner::recurring::{Board, Submitter};
use crate::runner::slots::Slot;
use crate::runner::warm_up::warm_up;
use crate::runner::{Reloader, Runner, Shared, presence};
use crate::sandbox::Sandbox;
use crate::sandbox::engine::{Engine, Sizes};
use crate::sandbox::services::Services;
use crate::tenants::Tenants;

/// The most bytes of outcomes that a journal in memory holds.
const IN_MEMORY_BYTES: u64 = 64 << 20;

impl Runner {
    /// Takes a slot and reads its journal, sets up the sandbox and the modules, connects and subscribes. An error is the
    /// operator's: it names what is wrong with the configuration or the broker.
    pub async fn start(config: &Config) -> Result<Runner> {
        let slot = Slot::take(config).context("failed to take a slot")?;
        let mut config = config.clone();
        config.runner.name = slot.name.clone();
        let config = &config;
        let (journal, closer, recovered) = open_journal(config, &slot)?;

        let topics = config.topics()?;
        let sizes = Sizes {
            guests: config.runner.concurrency,
            memory_bytes: config.ceilings.memory_bytes,
        };
        let engine = Arc::new(Engine::new(sizes)?);
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let sandbox =
            Sandbox::new(engine.clone(), cores).context("failed to start the guests' threads")?;
        let sandbox = sandbox.with_services(services(config, &slot));
        let (modules, module_connection) = module_store(config, engine, &topics)?;
        let control = mqtt::connect(control_settings(config, &topics)?);
        // Before any task: what others ended, and which tasks are canceled.
        ready(&control.1).await?;
        let table = config.tenant_table()?;
        let tenants = Tenants::new(table.clone());
        let modules = Arc::new(modules);
        // Before any task too, and before anybody hears that this runner is online.
        warm_up(config, &tenants, &modules).await?;
        let (inbox, deliveries) = mpsc::unbounded_channel();
        let (failed, failures) = mpsc::unbounded_channel();
        for other in module_connection.iter().chain([&control.1]) {
            tell_failure(other, &failed);
        }
        let folder = slot.folder.clone();
        let lanes = Lanes::open(config, &topics, folder, &table, inbox, failed).await?;

        let peers = (config.journal.dedupe == Dedupe::Group).then(|| {
            let topic = topics.ended(&config.mqtt.group);
            let window = Duration::from_secs(config.journal.window_s);
            Peers::new(
                topic,
                control.1.clone(),
                config.journal.max_outcomes,
                window,
            )
        });
        let board = Arc::new(Board::new(&topics, &config.mqtt.group));
        let mut submitters = JoinSet::new();
        for recurring in config.recurring()? {
            let submitter = Submitter {
                recurring,
                board: board.clone(),
                topics: topics.clone(),
                publisher: control.1.clone(),
                runner: config.runner.name.clone(),
            };
            submitters.spawn(submitter.run());
        }
        let shared = Shared {
            name: config.runner.name.clone(),
            tenants,
            topics,
            sandbox: Arc::new(sandbox),
            answers: Relay::start(),
            modules,
            permits: Permits::new(config.runner.concurrency, config.runner.memory_budget_bytes),
            active: Active::default(),
            lanes,
            journal,
            peers,
            board,
            retry: config.retry,
            max_deaths: config.runner.max_deaths,
            kept: KeptTasks::new(config.journal.max_kept),
            suspects: tokio::sync::Mutex::default(),
            draining: watch::Sender::new(false),
            stopped: watch::Sender::new(false),
        };
        let others = module_connection
            .into_iter()
            .chain([control.1.clone()])
            .collect();
        let shared = Arc::new(shared);
        Ok(Runner {
            reloader: Reloader {
                shared: Arc::downgrade(&shared),
                config: config.clone(),
            },
            shared,
            deliveries,
            failures,
            others,
            control: Some(control.0),
            submitters,
            recovered,
            journal: Some(closer),
            keeps_session: config.mqtt.session_expiry_s > 0,
            backlog: config.runner.backlog,
            drain: config.drain(),
            slot,
        })
    }
}

/// Keys and values are the machine's; folders of tasks the process's own.
fn services(config: &Config, slot: &Slot) -> Services {
    let state = config.journal.directory.as_ref();
    let scratch = slot.folder.as_ref().map(|folder| folder.join("scratch"));
    Services::new(state.map(|state| state.join("keyvalue.db")), scratch)
}

pub(super) fn open_journal(
    config: &Config,
    slot: &Slot,
) -> Result<(Journal, journal::Closer, Recovered)> {
    let journal = &config.journal;
    Journal::open(journal::Settings {
        folder: slot.folder.clone(),
        durability: journal.durability,
        window: Duration::from_secs(journal.window_s),
        max_outcomes: journal.max_outcomes,
        // In memory it is memory that it takes.
        max_bytes: match slot.folder {
            Some(_) => journal.max_bytes,
            None => journal.max_bytes.min(IN_MEMORY_BYTES),
        },
    })
}

pub(super) async fn ready(publisher: &Publisher) -> Result<()> {
    let ready = publisher.ready().await;
    ready
        .map_err(|why| anyhow!(why))
        .context("failed to connect")?;
    Ok(())
}

/// Says why the connection has failed for good, should it.
pub(super) fn tell_failure(publisher: &Publisher, failures: &mpsc::UnboundedSender<String>) {
    let (publisher, failures) = (publisher.clone(), failures.clone());
    tokio::spawn(async move {
        let _ = failures.send(publisher.failed().await);
    });
}

/// The connection that control messages come over; kept by the broker as long as the tasks, so that a cancel is not
/// missed.
fn control_settings(config: &Config, topics: &Topics) -> Result<Settings> {
    let mut settings = base_settings(
        config,
        &format!("{}-control", client_id(config, &config.runner.name)),
    )?;
    settings.clean_start = false;
    settings.session_expiry = Duration::from_secs(config.mqtt.session_expiry_s);
    settings.filters = topics.control_filters().to_vec();
    if config.journal.dedupe == Dedupe::Group {
        settings.filters.push(topics.ended(&config.mqtt.group));
    }
    if !config.recurring.is_empty() {
        settings
            .filters
            .push(Board::filter(topics, &config.mqtt.group));
    }
    Ok(settings)
}

fn module_store(
    config: &Config,
    engine: Arc<Engine>,
    topics: &Topics,
) -> Result<(ModuleStore, Option<Publisher>)> {
    let compiler = config.modules.compiler.clone();
    let cache = config.modules.cache_directory.as_deref();
    let mut modules = ModuleStore::new(engine, compiler, config.modules.cached)
        .with_artifacts(cache, config.modules.cache_bytes)?
        .with_fetching(config.fetch.settings()?)?;
    if let Some(folder) = &config.modules.directory {
        modules = modules.with_directory(folder)?;
    }
    if !config.modules.published {
        return Ok((modules, None));
    }
    let mut settings = base_settings(
        config,
        &format!("{}-modules", client_id(config, &config.runner.name)),
    )?;
    settings.clean_start = true;
    settings.receive_maximum = 8;
    let connection = mqtt::connect(settings);
    let publisher = connection.1.clone();
    let lookup = Duration::from_millis(config.modules.lookup_ms);
    Ok((
        modules.with_published(topics.clone(), connection, lookup),
        Some(publisher),
    ))
}

/// What every connection has that tasks come and outcomes go over; as it is, the main one.
pub(super) fn task_settings(config: &Config, topics: &Topics, runner: &str) -> Result<Settings> {
    let mut settings = base_settings(config, &client_id(config, runner))?;
    settings.clean_start = false;
    settings.session_expiry = Duration::from_secs(config.mqtt.session_expiry_s);
    settings.ack_order = config.mqtt.ack_order;
    settings.birth = Some(presence::online(topics, config));
    settings.will = Some(presence::offline(topics, runner));
    Ok(settings)
}

/// Address, credentials and packet size: what every connection of this configuration has.
pub fn base_settings(config: &Config, client_id: &str) -> Result<Settings> {
    let mut settings = Settings::new(config.address()?, client_id);
    settings.credentials = config.credentials()?;
    settings.tls = config.tls();
    settings.keep_alive = Duration::from_secs(config.mqtt.keep_alive_s);
    settings.max_packet_bytes = config.mqtt.max_packet_bytes;
    Ok(settings)
}

pub(super) fn client_id(config: &Config, runner: &str) -> String {
    format!("{}{runner}", config.runner_client_ids())
}
