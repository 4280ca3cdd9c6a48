//! The runner: takes deliveries, gives each a flow of its own, drains. Where mqtt and sandbox meet.

mod active;
mod control;
mod flow;
mod intake;
mod kept;
mod lanes;
mod messages;
mod peers;
mod permits;
mod presence;
mod recurring;
mod settle;
mod slots;
pub mod start;
mod voice;
mod warm_up;

#[cfg(test)]
mod simulation;

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::envelope::topics::Topics;
use crate::journal::{self, Journal, Recovered};
use crate::modules::ModuleStore;
use crate::mqtt::{self, Deliveries, Publisher};
use crate::relay::Relay;
use crate::runner::active::Active;
use crate::runner::intake::Dropped;
use crate::runner::kept::KeptTasks;
use crate::runner::lanes::Lanes;
use crate::runner::peers::Peers;
use crate::runner::permits::Permits;
use crate::runner::recurring::Board;
use crate::runner::slots::Slot;
use crate::runner::start::base_settings;
use crate::sandbox::{Ran, Sandbox};
use crate::task::retry;
use crate::tenants::Tenants;

/// A runner that leaves waits so long for what the broker may still have for it.
const QUIET: Duration = Duration::from_secs(2);

/// A runner that is connected and subscribed.
pub struct Runner {
    shared: Arc<Shared>,
    deliveries: Deliveries,
    /// Why a connection failed for good.
    failures: mpsc::UnboundedReceiver<String>,
    /// The connections that modules and control messages come over.
    others: Vec<Publisher>,
    control: Option<Deliveries>,
    submitters: JoinSet<()>,
    recovered: Recovered,
    journal: Option<journal::Closer>,
    reloader: Reloader,
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
    /// What the guests' threads answer by.
    answers: Relay<Ran>,
    modules: Arc<ModuleStore>,
    permits: Permits,
    active: Active,
    lanes: Lanes,
    journal: Journal,
    peers: Option<Peers>,
    board: Arc<Board>,
    retry: retry::Defaults,
    max_deaths: u32,
    kept: KeptTasks,
    /// Held while a task runs that the process may have died of.
    suspects: tokio::sync::Mutex<()>,
    /// Set when the runner begins to stop: nobody waits any longer for what is due later.
    draining: watch::Sender<bool>,
    /// Set when the grace of a drain is over: what still runs is stopped.
    stopped: watch::Sender<bool>,
}

impl Runner {
    /// The name that it goes by: the configured one, with its slot's number if that is not 0.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// What takes over another configuration while this runs.
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// Runs tasks until `shutdown` resolves, then drains. An error means that the broker refused this runner
    /// for good.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let (mut flows, control) = self.begin();
        let mut dropped = Dropped::default();
        tokio::pin!(shutdown);
        let failure = loop {
            tokio::select! {
                () = &mut shutdown => break None,
                Some(why) = self.failures.recv() => break Some(why),
                Some(flow) = flows.join_next() => report(flow),
                Some(delivery) = self.deliveries.recv() => self.accept(delivery, &mut flows, &mut dropped),
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
        let (mut flows, control) = self.begin();
        self.submitters.abort_all();
        self.shared.lanes.unsubscribe();
        let mut dropped = Dropped::default();
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
                    if !flows.is_empty() || !self.shared.lanes.are_online() {
                        online_since = Instant::now();
                    } else if online_since.elapsed() > QUIET {
                        break;
                    }
                }
            }
        }
        let (name, mut ids) = (self.shared.name.clone(), self.shared.lanes.client_ids());
        // Nobody else takes the slot before its session has ended.
        let _slot = self.drain(flows, control).await;
        ids.push(format!("{}-control", start::client_id(config, &name)));
        for id in ids {
            let settings = base_settings(config, &id)?;
            mqtt::end_session(settings).await?;
        }
        info!(runner = name, "left");
        Ok(())
    }

    /// What an earlier process left, and control messages.
    fn begin(&mut self) -> (JoinSet<()>, JoinSet<()>) {
        let (mut flows, mut control) = (JoinSet::new(), JoinSet::new());
        self.resume(&mut flows);
        if let Some(deliveries) = self.control.take() {
            control.spawn(control::run(self.shared.clone(), deliveries));
        }
        (flows, control)
    }

    /// Takes no more, lets what runs finish within the grace, hands the rest back unacknowledged.
    async fn drain(mut self, mut flows: JoinSet<()>, control: JoinSet<()>) -> Slot {
        let shared = &self.shared;
        info!(in_flight = flows.len(), grace = ?self.drain, "draining");
        // Where the broker keeps this runner's session it keeps the subscription too: what is published until the
        // runner is back waits for it, instead of matching nobody.
        if !self.keeps_session {
            shared.lanes.unsubscribe();
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
            let _ = shared.lanes.main().publish(offline).await;
            shared.lanes.close().await;
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

/// What a running runner takes over of a configuration that has changed.
#[derive(Clone)]
pub struct Reloader {
    shared: Weak<Shared>,
    config: Config,
}

impl Reloader {
    /// Goes by the tenants of `config` from now on; tasks that run go on under what they started with. Everything else
    /// takes effect at the next start, and is named.
    pub async fn reload(&self, config: &Config) -> Result<()> {
        let mut ours = self.config.clone();
        ours.tenants = config.tenants.clone();
        ours.runner.unlisted_tenants = config.runner.unlisted_tenants;
        let table = ours.tenant_table()?;
        let mut theirs = config.clone();
        // What the slot has made of it.
        theirs.runner.name = ours.runner.name.clone();
        theirs.mqtt.session_expiry_s = ours.mqtt.session_expiry_s;
        theirs.mqtt.url = ours.mqtt.url.clone();
        if ours.broker.embedded {
            theirs.mqtt.username = ours.mqtt.username.clone();
            theirs.mqtt.password = ours.mqtt.password.clone();
        }
        if ours != theirs {
            warn!(
                "other settings than the tenants' have changed too: they count from the next start"
            );
        }
        let shared = self.shared.upgrade().context("the runner has ended")?;
        shared.tenants.replace(table.clone());
        shared.lanes.follow(&table).await;
        info!(
            tenants = table.listed.len(),
            unlisted = table.unlisted.is_some(),
            "tenants read again"
        );
        Ok(())
    }
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
