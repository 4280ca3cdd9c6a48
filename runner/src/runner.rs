//! The runner: takes deliveries, gives each a flow of its own, drains. Where mqtt and sandbox meet.

mod active;
mod control;
mod flow;
mod intake;
mod messages;
mod peers;
mod permits;
mod presence;
mod recurring;
mod settle;
mod slots;
mod voice;

#[cfg(test)]
mod simulation;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::config::sections::Dedupe;
use crate::envelope::topics::Topics;
use crate::journal::{self, Journal, Recovered};
use crate::modules::ModuleStore;
use crate::mqtt::settings::Settings;
use crate::mqtt::{self, Deliveries, Publisher, State};
use crate::runner::active::Active;
use crate::runner::intake::Dropped;
use crate::runner::peers::Peers;
use crate::runner::permits::Permits;
use crate::runner::recurring::{Board, Submitter};
use crate::runner::slots::Slot;
use crate::sandbox::Sandbox;
use crate::sandbox::engine::{Engine, Sizes};
use crate::sandbox::services::Services;
use crate::task::retry;
use crate::tenants::Tenants;

/// The most bytes of outcomes that a journal in memory holds.
const IN_MEMORY_BYTES: u64 = 64 << 20;
/// A runner that leaves waits so long for what the broker may still have for it.
const QUIET: Duration = Duration::from_secs(2);

/// A runner that is connected and subscribed.
pub struct Runner {
    shared: Arc<Shared>,
    deliveries: Deliveries,
    /// The connections that modules and control messages come over.
    others: Vec<Publisher>,
    control: Option<(Deliveries, Publisher)>,
    submitters: JoinSet<()>,
    recovered: Recovered,
    journal: Option<journal::Closer>,
    filters: Vec<String>,
    keeps_session: bool,
    backlog: usize,
    drain: Duration,
    /// Ours until the end.
    slot: Slot,
}

/// What every flow needs.
struct Shared {
    name: String,
    topics: Topics,
    tenants: Tenants,
    sandbox: Arc<Sandbox>,
    modules: Arc<ModuleStore>,
    permits: Permits,
    active: Active,
    publisher: Publisher,
    journal: Journal,
    peers: Option<Peers>,
    board: Arc<Board>,
    retry: retry::Defaults,
    max_deaths: u32,
    /// Tasks kept in the journal.
    kept: AtomicUsize,
    max_kept: usize,
    /// Held while a task runs that the process may have died of.
    suspects: tokio::sync::Mutex<()>,
    /// Set when the runner begins to stop: nobody waits any longer for what is due later.
    draining: watch::Sender<bool>,
    /// Set when the grace of a drain is over: what still runs is stopped.
    stopped: watch::Sender<bool>,
}

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

        let filters = topics.queue_filters(&config.mqtt.group).to_vec();
        let settings = task_settings(config, &topics, filters.clone())?;
        let control = mqtt::connect(control_settings(config, &topics)?);
        // Before any task: what others ended, and which tasks are canceled.
        ready(&control.1).await?;
        let (deliveries, publisher) = mqtt::connect(settings);
        ready(&publisher).await?;

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
            tenants: Tenants::new(config.tenant_table()?),
            topics,
            sandbox: Arc::new(sandbox),
            modules: Arc::new(modules),
            permits: Permits::new(config.runner.concurrency, config.runner.memory_budget_bytes),
            active: Active::default(),
            publisher,
            journal,
            peers,
            board,
            retry: config.retry,
            max_deaths: config.runner.max_deaths,
            kept: AtomicUsize::new(0),
            max_kept: config.journal.max_kept,
            suspects: tokio::sync::Mutex::default(),
            draining: watch::Sender::new(false),
            stopped: watch::Sender::new(false),
        };
        let others = module_connection
            .into_iter()
            .chain([control.1.clone()])
            .collect();
        Ok(Runner {
            shared: Arc::new(shared),
            deliveries,
            others,
            control: Some(control),
            submitters,
            recovered,
            journal: Some(closer),
            filters,
            keeps_session: config.mqtt.session_expiry_s > 0,
            backlog: config.runner.backlog,
            drain: config.drain(),
            slot,
        })
    }

    /// The name that it goes by: the configured one, with its slot's number if that is not 0.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Runs tasks until `shutdown` resolves, then drains. An error means that the broker refused this runner
    /// for good.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let mut flows = JoinSet::new();
        let mut dropped = Dropped::default();
        self.resume(&mut flows);
        let mut control = JoinSet::new();
        if let Some((deliveries, publisher)) = self.control.take() {
            control.spawn(control::run(self.shared.clone(), deliveries, publisher));
        }
        let mut state = self.shared.publisher.state();
        let failed = state.wait_for(|state| matches!(state, State::Failed(_)));
        let mut others: Vec<_> = self.others.iter().map(Publisher::state).collect();
        let other_failed = async {
            let failures = others
                .iter_mut()
                .map(|state| Box::pin(state.wait_for(|state| matches!(state, State::Failed(_)))));
            first(failures.collect()).await
        };
        tokio::pin!(shutdown, failed, other_failed);
        let failure = loop {
            tokio::select! {
                // In this order: why the connection ended is said before that it did.
                biased;
                () = &mut shutdown => break None,
                failure = &mut failed => break match failure.as_deref() {
                    Ok(State::Failed(why)) => Some(why.clone()),
                    _ => Some("the connection ended".to_owned()),
                },
                why = &mut other_failed => break Some(why),
                Some(flow) = flows.join_next() => report(flow),
                delivery = self.deliveries.recv() => match delivery {
                    Some(delivery) => self.accept(delivery, &mut flows, &mut dropped),
                    None => break Some("the connection ended".to_owned()),
                },
            }
        };
        if let Some(why) = failure {
            return Err(anyhow!(why).context("lost the broker for good"));
        }
        self.drain(flows, control).await;
        Ok(())
    }

    /// Gives its slot up: takes no new tasks, ends those that it has or that the broker keeps for it, waits for the kept
    /// ones, and ends its session. What scaling in wants, where [`Runner::run`]'s drain is for coming back.
    pub async fn leave(mut self, config: &Config) -> Result<()> {
        let mut flows = JoinSet::new();
        let mut control = JoinSet::new();
        self.resume(&mut flows);
        if let Some((deliveries, publisher)) = self.control.take() {
            control.spawn(control::run(self.shared.clone(), deliveries, publisher));
        }
        self.submitters.abort_all();
        for filter in &self.filters {
            self.shared.publisher.unsubscribe(filter);
        }
        let mut dropped = Dropped::default();
        let state = self.shared.publisher.state();
        let mut online_since = Instant::now();
        loop {
            tokio::select! {
                Some(flow) = flows.join_next() => report(flow),
                Some(delivery) = self.deliveries.recv() => {
                    online_since = Instant::now();
                    self.accept(delivery, &mut flows, &mut dropped);
                }
                () = tokio::time::sleep(QUIET / 10) => {
                    // What the broker has for it cannot come while the link is down.
                    if !flows.is_empty() || !matches!(*state.borrow(), State::Online(_)) {
                        online_since = Instant::now();
                    } else if online_since.elapsed() > QUIET {
                        break;
                    }
                }
            }
        }
        let name = self.shared.name.clone();
        // Nobody else takes the slot before its session has ended.
        let _slot = self.drain(flows, control).await;
        for id in [
            client_id_of(config, &name),
            format!("{}-control", client_id_of(config, &name)),
        ] {
            let settings = base_settings(config, &id)?;
            mqtt::end_session(settings).await?;
        }
        info!(runner = name, "left");
        Ok(())
    }

    /// Takes no more, lets what runs finish within the grace, hands the rest back unacknowledged.
    async fn drain(mut self, mut flows: JoinSet<()>, control: JoinSet<()>) -> Slot {
        let shared = &self.shared;
        info!(in_flight = flows.len(), grace = ?self.drain, "draining");
        // Where the broker keeps this runner's session it keeps the subscription too: what is published until the
        // runner is back waits for it, instead of matching nobody.
        if !self.keeps_session {
            for filter in &self.filters {
                shared.publisher.unsubscribe(filter);
            }
        }
        self.submitters.abort_all();
        shared.draining.send_replace(true);
        shared.permits.close();
        let grace = tokio::time::sleep(self.drain);
        tokio::pin!(grace);
        while !flows.is_empty() {
            tokio::select! {
                () = &mut grace, if !*shared.stopped.borrow() => {
                    warn!(running = flows.len(), "the grace is over, stopping what still runs");
                    shared.stopped.send_replace(true);
                }
                // Deliveries that were on their way: unacknowledged, they are handed back; QoS 0 ones, which
                // nobody would deliver again, get an answer.
                Some(delivery) = self.deliveries.recv() => {
                    if delivery.token.is_none() {
                        self.accept(delivery, &mut flows, &mut Dropped::default());
                    }
                }
                Some(flow) = flows.join_next() => report(flow),
                // Stopped guests end at their next yield and publish; a broker that is away is not waited for.
                () = tokio::time::sleep(Duration::from_secs(5)), if *shared.stopped.borrow() => break,
            }
        }
        flows.abort_all();
        let offline = presence::offline(&shared.topics, &shared.name);
        let closing = async {
            let _ = shared.publisher.publish(offline).await;
            shared.publisher.close().await;
            for other in &self.others {
                other.close().await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(5), closing)
            .await
            .is_err()
        {
            warn!("the broker does not answer, leaving without a good-bye");
        }
        drop((control, flows));
        let Runner {
            shared,
            journal,
            slot,
            ..
        } = self;
        drop(shared);
        // A thread of its own, and not the runtime's, which would wait for it without end when the disk is full.
        let (closed, waiting) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            if let Some(journal) = journal {
                journal.close();
            }
            let _ = closed.send(());
        });
        if tokio::time::timeout(Duration::from_secs(5), waiting)
            .await
            .is_err()
        {
            warn!("the journal cannot be written, leaving it as it is");
        }
        info!("drained");
        slot
    }
}

/// The reason of the first connection that failed for good.
async fn first(
    failures: Vec<
        impl Future<Output = Result<watch::Ref<'_, State>, watch::error::RecvError>> + Unpin,
    >,
) -> String {
    let mut failures = failures;
    std::future::poll_fn(|context| {
        for failure in &mut failures {
            if let Poll::Ready(Ok(state)) = Pin::new(failure).poll(context) {
                let why = match &*state {
                    State::Failed(why) => why.clone(),
                    _ => "a connection ended".to_owned(),
                };
                return Poll::Ready(why);
            }
        }
        Poll::Pending
    })
    .await
}

/// Keys and values are the machine's; folders of tasks the process's own.
fn services(config: &Config, slot: &Slot) -> Services {
    let state = config.journal.directory.as_ref();
    let scratch = slot.folder.as_ref().map(|folder| folder.join("scratch"));
    Services::new(state.map(|state| state.join("keyvalue.db")), scratch)
}

fn open_journal(config: &Config, slot: &Slot) -> Result<(Journal, journal::Closer, Recovered)> {
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

async fn ready(publisher: &Publisher) -> Result<()> {
    let ready = publisher.ready().await;
    ready
        .map_err(|why| anyhow!(why))
        .context("failed to connect")?;
    Ok(())
}

/// The connection that control messages come over; kept by the broker as long as the tasks, so that a cancel is not
/// missed.
fn control_settings(config: &Config, topics: &Topics) -> Result<Settings> {
    let mut settings = base_settings(config, &format!("{}-control", client_id(config)))?;
    settings.clean_start = false;
    settings.session_expiry = Duration::from_secs(config.mqtt.session_expiry_s);
    settings.filters = topics.control_filters().to_vec();
    if config.journal.dedupe == Dedupe::Group {
        settings.filters.push(topics.ended(&config.mqtt.group));
    }
    if !config.recurring.is_empty() {
        let board = Board::new(topics, &config.mqtt.group);
        settings.filters.push(board.filter());
    }
    Ok(settings)
}

impl Shared {
    /// Uniform in 0..1.
    fn random(&self) -> f64 {
        mqtt::random()
    }
}

fn module_store(
    config: &Config,
    engine: Arc<Engine>,
    topics: &Topics,
) -> Result<(ModuleStore, Option<Publisher>)> {
    let mut modules = ModuleStore::new(engine, config.modules.cached);
    if let Some(folder) = &config.modules.directory {
        modules = modules.with_directory(folder)?;
    }
    if let Some(folder) = &config.modules.cache_directory {
        modules = modules.with_artifacts(folder)?;
    }
    if !config.modules.published {
        return Ok((modules, None));
    }
    let mut settings = base_settings(config, &format!("{}-modules", client_id(config)))?;
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

/// The connection that tasks come and outcomes go over.
fn task_settings(config: &Config, topics: &Topics, filters: Vec<String>) -> Result<Settings> {
    let mut settings = base_settings(config, &client_id(config))?;
    settings.clean_start = false;
    settings.session_expiry = Duration::from_secs(config.mqtt.session_expiry_s);
    settings.receive_maximum = config.prefetch();
    settings.send_maximum = config.prefetch().saturating_mul(2).max(100);
    settings.ack_order = config.mqtt.ack_order;
    settings.filters = filters;
    settings.birth = Some(presence::online(topics, config));
    settings.will = Some(presence::offline(topics, &config.runner.name));
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

fn client_id(config: &Config) -> String {
    client_id_of(config, &config.runner.name)
}

fn client_id_of(config: &Config, runner: &str) -> String {
    format!("wasmqtt-{}-{runner}", config.mqtt.group)
}

/// A flow that panicked: its task stays unacknowledged, and is delivered again on the next connection. The journal has
/// its attempt as one that the process died of.
fn report(flow: Result<(), tokio::task::JoinError>) {
    if let Err(died) = flow
        && died.is_panic()
    {
        error!(error = %died, "a task's flow died");
    }
}
