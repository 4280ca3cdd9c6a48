//! The runner: takes deliveries, gives each a flow of its own, drains. Where mqtt and sandbox meet.

mod active;
mod flow;
mod permits;
mod presence;
mod voice;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, error, info, warn};

use crate::admission::Policy;
use crate::config::Config;
use crate::envelope::decode;
use crate::envelope::topics::Topics;
use crate::modules::ModuleStore;
use crate::mqtt::settings::Settings;
use crate::mqtt::{self, Deliveries, Delivery, Publisher, State};
use crate::runner::active::{Active, Arrival};
use crate::runner::permits::Permits;
use crate::sandbox::Sandbox;
use crate::sandbox::engine::{Engine, Sizes};
use crate::task::ModuleRef;
use crate::task::tenant::TenantId;

/// How often dropped QoS 0 messages are reported.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// A runner that is connected and subscribed.
pub struct Runner {
    shared: Arc<Shared>,
    deliveries: Deliveries,
    /// The connection that modules come over.
    modules: Option<Publisher>,
    filters: Vec<String>,
    keeps_session: bool,
    backlog: usize,
    drain: Duration,
}

/// What every flow needs.
struct Shared {
    name: String,
    topics: Topics,
    policy: Policy,
    default_modules: BTreeMap<TenantId, ModuleRef>,
    sandbox: Sandbox,
    modules: ModuleStore,
    permits: Permits,
    active: Active,
    publisher: Publisher,
    /// Set when the grace of a drain is over: what still runs is stopped.
    stopped: watch::Sender<bool>,
}

impl Runner {
    /// Sets up the sandbox and the modules, connects and subscribes. An error is the operator's: it names what
    /// is wrong with the configuration or the broker.
    pub async fn start(config: &Config) -> Result<Runner> {
        let topics = config.topics()?;
        let sizes = Sizes {
            guests: config.runner.concurrency,
            memory_bytes: config.ceilings.memory_bytes,
        };
        let engine = Arc::new(Engine::new(sizes)?);
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let sandbox =
            Sandbox::new(engine.clone(), cores).context("failed to start the guests' threads")?;
        let (modules, module_connection) = module_store(config, engine, &topics)?;

        let filters = topics.queue_filters(&config.mqtt.group).to_vec();
        let settings = task_settings(config, &topics, filters.clone())?;
        let (deliveries, publisher) = mqtt::connect(settings);
        publisher
            .ready()
            .await
            .map_err(|why| anyhow!(why))
            .context("failed to connect")?;

        let shared = Shared {
            name: config.runner.name.clone(),
            policy: Policy {
                topics: topics.clone(),
                limits: config.limits(),
                ceilings: config.ceilings(),
            },
            topics,
            default_modules: config.default_modules()?,
            sandbox,
            modules,
            permits: Permits::new(config.runner.concurrency, config.runner.memory_budget_bytes),
            active: Active::default(),
            publisher,
            stopped: watch::Sender::new(false),
        };
        Ok(Runner {
            shared: Arc::new(shared),
            deliveries,
            modules: module_connection,
            filters,
            keeps_session: config.mqtt.session_expiry_s > 0,
            backlog: config.runner.backlog,
            drain: config.drain(),
        })
    }

    /// Runs tasks until `shutdown` resolves, then drains. An error means that the broker refused this runner
    /// for good.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let mut flows = JoinSet::new();
        let mut dropped = Dropped::default();
        let mut state = self.shared.publisher.state();
        let failed = state.wait_for(|state| matches!(state, State::Failed(_)));
        tokio::pin!(shutdown, failed);
        let failure = loop {
            tokio::select! {
                () = &mut shutdown => break None,
                failure = &mut failed => break match failure.as_deref() {
                    Ok(State::Failed(why)) => Some(why.clone()),
                    _ => Some("the connection ended".to_owned()),
                },
                delivery = self.deliveries.recv() => match delivery {
                    Some(delivery) => self.accept(delivery, &mut flows, &mut dropped),
                    None => break Some("the connection ended".to_owned()),
                },
                Some(flow) = flows.join_next() => report(flow),
            }
        };
        if let Some(why) = failure {
            return Err(anyhow!(why).context("lost the broker for good"));
        }
        self.drain(flows).await;
        Ok(())
    }

    /// Starts the flow of one delivery, unless its task is already in hand.
    fn accept(&self, delivery: Delivery, flows: &mut JoinSet<()>, dropped: &mut Dropped) {
        let received = Instant::now();
        let shared = &self.shared;
        // QoS 0 has no window: what cannot be answered in time must not fill the memory either.
        let volatile = delivery.token.is_none();
        if volatile && flows.len() >= self.backlog.saturating_mul(2) {
            return dropped.count();
        }
        let task = decode::decode(
            &shared.topics,
            &delivery.inbound,
            |tenant| shared.default_modules.get(tenant).cloned(),
            SystemTime::now(),
        );
        let task = match task {
            Ok(task) => task,
            Err(undecodable) => {
                debug!(task_id = %undecodable.id, error = %undecodable.error, "message is no task");
                flows.spawn(flow::answer_undecodable(
                    shared.clone(),
                    *undecodable,
                    delivery.token,
                ));
                return;
            }
        };
        let full = volatile && shared.permits.waiting() >= self.backlog;
        match shared.active.arrive(&task, delivery.token) {
            Arrival::New => {
                flows.spawn(flow::run(shared.clone(), task, received, full));
            }
            Arrival::Attached => {
                debug!(task_id = %task.id, tenant = %task.tenant, redelivered = delivery.redelivered, "task is already in hand");
            }
            Arrival::Conflict(token) => {
                flows.spawn(flow::answer_conflict(shared.clone(), task, token));
            }
        }
    }

    /// Takes no more, lets what runs finish within the grace, hands the rest back unacknowledged.
    async fn drain(mut self, mut flows: JoinSet<()>) {
        let shared = &self.shared;
        info!(in_flight = flows.len(), grace = ?self.drain, "draining");
        // Where the broker keeps this runner's session it keeps the subscription too: what is published until the
        // runner is back waits for it, instead of matching nobody.
        if !self.keeps_session {
            for filter in &self.filters {
                shared.publisher.unsubscribe(filter);
            }
        }
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
            if let Some(modules) = &self.modules {
                modules.close().await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(5), closing)
            .await
            .is_err()
        {
            warn!("the broker does not answer, leaving without a good-bye");
        }
        info!("drained");
    }
}

fn module_store(
    config: &Config,
    engine: Arc<Engine>,
    topics: &Topics,
) -> Result<(ModuleStore, Option<Publisher>)> {
    let mut modules = ModuleStore::new(engine, config.modules.cached, config.modules.max_bytes);
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
    format!("wasmqtt-{}-{}", config.mqtt.group, config.runner.name)
}

/// A flow that panicked: its task stays unacknowledged, and is delivered again on the next connection.
fn report(flow: Result<(), tokio::task::JoinError>) {
    if let Err(died) = flow
        && died.is_panic()
    {
        error!(error = %died, "a task's flow died");
    }
}

/// Counts QoS 0 messages that had no room, and says so now and then.
#[derive(Default)]
struct Dropped {
    count: u64,
    reported: Option<Instant>,
}

impl Dropped {
    fn count(&mut self) {
        self.count += 1;
        if self.reported.is_none_or(|at| at.elapsed() >= REPORT_EVERY) {
            warn!(
                dropped = self.count,
                "QoS 0 messages dropped: the backlog is full"
            );
            self.count = 0;
            self.reported = Some(Instant::now());
        }
    }
}
