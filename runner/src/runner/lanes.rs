//! The connections that tasks come over: a lane for each listed tenant, one for all others.
//!
//! One in-flight window for everybody would fill with whoever floods; so each lane has its own connection, window and
//! subscription. The default tenant's lane is the main one, which also bears the runner's presence.
//!
//! The others' lane subscribes `tenants/+/task_queue`, so the broker gives it a copy of what is on the listed tenants'
//! lanes too. A copy is acknowledged and dropped, once it is certain that the tenant's own lane has it: see
//! [`Lanes::is_copy`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::envelope::topics::Topics;
use crate::mqtt::settings::Settings;
use crate::mqtt::{self, Delivery, Publisher};
use crate::runner::start::{client_id, ready, task_settings, tell_failure};
use crate::task::tenant::TenantId;
use crate::tenants::{Table, TenantPolicy};

/// Marks what came over the others' lane.
pub(super) const OTHERS: u32 = 1;
/// So long a connection must have been up, or an unfilled window unfilled, to say that nothing older is on its way.
const SETTLED: Duration = Duration::from_secs(2);
/// Remembers for which tenants the others' lane is done, in the slot's folder.
const FILE: &str = "lanes.json";

pub(super) struct Lanes {
    config: Config,
    topics: Topics,
    inbox: mpsc::UnboundedSender<Delivery>,
    /// Hears why a lane failed for good.
    failures: mpsc::UnboundedSender<String>,
    handed_over: HandedOver,
    open: RwLock<Open>,
}

struct Open {
    main: Lane,
    own: BTreeMap<TenantId, Lane>,
    others: Option<Lane>,
    /// Unsubscribed, ending what they have.
    retired: Vec<Lane>,
}

#[derive(Clone)]
struct Lane {
    publisher: Publisher,
    filter: String,
    client_id: String,
    window: usize,
    /// Everything that came before this lane was subscribed has come over the others' lane.
    handed_over: Arc<AtomicBool>,
}

impl Lanes {
    /// Connects every lane that the table wants, and waits for the subscriptions.
    pub(super) async fn open(
        config: &Config,
        topics: &Topics,
        folder: Option<PathBuf>,
        table: &Table,
        inbox: mpsc::UnboundedSender<Delivery>,
        failures: mpsc::UnboundedSender<String>,
    ) -> Result<Lanes> {
        let main = Lane::connect(
            task_settings(config, topics, &config.runner.name)?,
            topics.queue_filter(&config.mqtt.group, &TenantId::default()),
            config.prefetch(),
            inbox.clone(),
        );
        main.ready(&failures).await?;
        let lanes = Lanes {
            config: config.clone(),
            topics: topics.clone(),
            inbox,
            failures,
            handed_over: HandedOver::read(folder),
            open: RwLock::new(Open {
                main,
                own: BTreeMap::new(),
                others: None,
                retired: Vec::new(),
            }),
        };
        for (tenant, policy) in table.listed.iter().filter(|(t, _)| !t.is_default()) {
            lanes
                .add(tenant, policy)
                .await
                .with_context(|| format!("failed to open the lane of tenant {tenant}"))?;
        }
        // Last: what waits for somebody to subscribe is to find the tenants' own lanes.
        if table.unlisted.is_some() {
            lanes
                .add_others()
                .await
                .context("failed to open the lane of the tenants that are not listed")?;
        }
        lanes.hand_over();
        Ok(lanes)
    }

    /// Over which connection a tenant's outcomes go.
    pub(super) fn publisher(&self, tenant: &TenantId) -> Publisher {
        let open = self.read();
        let lane = match tenant.is_default() {
            true => Some(&open.main),
            false => open.own.get(tenant).or(open.others.as_ref()),
        };
        lane.unwrap_or(&open.main).publisher.clone()
    }

    /// The connection that is there as long as the runner.
    pub(super) fn main(&self) -> Publisher {
        self.read().main.publisher.clone()
    }

    /// Whether a delivery is a copy of one that the tenant's own lane has for certain.
    ///
    /// It is when it came over the others' lane, the own one was handed over to, and has been up for a while: a broker that
    /// keeps no sessions gives a lane nothing of what was published while it was away. In doubt the copy is taken for a
    /// delivery, and runs unless the id says that it ran.
    pub(super) fn is_copy(&self, mark: u32, topic: &str) -> bool {
        if mark != OTHERS {
            return false;
        }
        let open = self.read();
        if open.own.is_empty() {
            return false;
        }
        let Ok(tenant) = self.topics.tenant_of_queue(topic) else {
            return false;
        };
        open.own.get(&tenant).is_some_and(|lane| {
            let up = lane.publisher.online_for();
            lane.handed_over.load(Ordering::Relaxed) && up.is_some_and(|up| up > SETTLED)
        })
    }

    /// Opens and closes lanes until they are those that the table wants. One that cannot be opened is reported: its
    /// tenant's tasks come over the others' lane, if there is one.
    pub(super) async fn follow(&self, table: &Table) {
        let wanted: BTreeSet<_> = table.listed.keys().filter(|t| !t.is_default()).collect();
        let gone: Vec<_> = {
            let open = self.read();
            let own = open.own.keys().filter(|tenant| !wanted.contains(tenant));
            own.cloned().collect()
        };
        for tenant in gone {
            // First: from now on the others' lane has its tasks.
            self.handed_over.forget(&tenant);
            let lane = self.write().own.remove(&tenant);
            info!(%tenant, "lane closes");
            lane.into_iter().for_each(|lane| self.retire(lane));
        }
        for (tenant, policy) in &table.listed {
            let known = tenant.is_default() || self.read().own.contains_key(tenant);
            if known {
                continue;
            }
            match self.add(tenant, policy).await {
                Ok(()) => info!(%tenant, "lane opened"),
                Err(why) => warn!(%tenant, error = format!("{why:#}"), "lane cannot be opened"),
            }
        }
        let has_others = self.read().others.is_some();
        match (has_others, table.unlisted.is_some()) {
            (false, true) => {
                if let Err(why) = self.add_others().await {
                    warn!(
                        error = format!("{why:#}"),
                        "lane of the others cannot be opened"
                    );
                }
            }
            (true, false) => {
                let lane = self.write().others.take();
                lane.into_iter().for_each(|lane| self.retire(lane));
            }
            _ => {}
        }
        self.hand_over();
    }

    async fn add(&self, tenant: &TenantId, policy: &TenantPolicy) -> Result<()> {
        let id = format!(
            "{}-lane-{tenant}",
            client_id(&self.config, &self.config.runner.name)
        );
        let filter = self.topics.queue_filter(&self.config.mqtt.group, tenant);
        let lane = self.connect(id, filter, policy.prefetch, 0).await?;
        let handed_over = self.handed_over.has(tenant);
        lane.handed_over.store(handed_over, Ordering::Relaxed);
        self.write().own.insert(tenant.clone(), lane);
        Ok(())
    }

    async fn add_others(&self) -> Result<()> {
        let id = format!(
            "{}-others",
            client_id(&self.config, &self.config.runner.name)
        );
        let filter = self.topics.others_filter(&self.config.mqtt.group);
        let lane = self
            .connect(id, filter, self.config.prefetch(), OTHERS)
            .await?;
        self.write().others = Some(lane);
        Ok(())
    }

    async fn connect(&self, id: String, filter: String, window: u16, mark: u32) -> Result<Lane> {
        let mut settings = task_settings(&self.config, &self.topics, &self.config.runner.name)?;
        settings.client_id = id;
        settings.mark = mark;
        (settings.birth, settings.will) = (None, None);
        let lane = Lane::connect(settings, filter, window, self.inbox.clone());
        lane.ready(&self.failures).await?;
        Ok(lane)
    }

    /// Waits, for each lane that is new, until what was published before it was there has come over the others' lane.
    fn hand_over(&self) {
        let open = self.read();
        for (tenant, lane) in &open.own {
            let Some(others) = &open.others else {
                // Nobody was subscribed to them before.
                lane.handed_over.store(true, Ordering::Relaxed);
                self.handed_over.add(tenant);
                continue;
            };
            if lane.handed_over.load(Ordering::Relaxed) {
                continue;
            }
            let (tenant, lane, others) = (tenant.clone(), lane.clone(), others.clone());
            let handed_over = self.handed_over.clone();
            tokio::spawn(async move {
                lane.outlives(&others).await;
                lane.handed_over.store(true, Ordering::Relaxed);
                handed_over.add(&tenant);
                debug!(%tenant, "its own lane has all its tasks");
            });
        }
    }

    /// Takes no more, ends what it has, and its session.
    fn retire(&self, lane: Lane) {
        lane.publisher.unsubscribe(&lane.filter);
        self.write().retired.push(lane.clone());
        let settings = task_settings(&self.config, &self.topics, &self.config.runner.name);
        tokio::spawn(async move {
            lane.drained().await;
            lane.publisher.close().await;
            let ended = match settings {
                Ok(settings) => {
                    mqtt::end_session(Settings {
                        client_id: lane.client_id.clone(),
                        birth: None,
                        will: None,
                        ..settings
                    })
                    .await
                }
                Err(why) => Err(why),
            };
            if let Err(why) = ended {
                warn!(
                    client_id = lane.client_id,
                    error = format!("{why:#}"),
                    "session of a closed lane not ended"
                );
            }
        });
    }

    /// Takes no more tasks.
    pub(super) fn unsubscribe(&self) {
        for lane in self.all() {
            lane.publisher.unsubscribe(&lane.filter);
        }
    }

    /// Whether every lane is connected.
    pub(super) fn are_online(&self) -> bool {
        let online = |lane: &Lane| lane.publisher.online_for().is_some();
        self.all().iter().all(online)
    }

    /// Disconnects in good order: the others' lane first, whose copies only the own ones make droppable.
    pub(super) async fn close(&self) {
        for lane in self.all() {
            lane.publisher.close().await;
        }
    }

    /// The ids of all lanes' sessions.
    pub(super) fn client_ids(&self) -> Vec<String> {
        self.all().into_iter().map(|lane| lane.client_id).collect()
    }

    fn all(&self) -> Vec<Lane> {
        let open = self.read();
        let lanes = open.others.iter().chain(open.own.values());
        let lanes = lanes.chain(&open.retired).chain([&open.main]);
        lanes.cloned().collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Open> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Open> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    fn connect(
        mut settings: Settings,
        filter: String,
        window: u16,
        inbox: mpsc::UnboundedSender<Delivery>,
    ) -> Lane {
        settings.receive_maximum = window;
        settings.send_maximum = window.saturating_mul(2).max(100);
        settings.filters = vec![filter.clone()];
        Lane {
            client_id: settings.client_id.clone(),
            publisher: mqtt::connect_into(settings, inbox),
            filter,
            window: window.into(),
            handed_over: Arc::default(),
        }
    }

    async fn ready(&self, failures: &mpsc::UnboundedSender<String>) -> Result<()> {
        ready(&self.publisher).await?;
        tell_failure(&self.publisher, failures);
        Ok(())
    }

    /// Waits until the others' lane had room for a while since this one is up: it has nothing left from before.
    async fn outlives(&self, others: &Lane) {
        let up = |lane: &Lane| lane.publisher.online_for().is_some_and(|up| up > SETTLED);
        let mut since = Instant::now();
        while since.elapsed() <= SETTLED {
            tokio::time::sleep(SETTLED / 20).await;
            let idle = others.publisher.unanswered() < others.window;
            if !(up(self) && up(others) && idle) {
                since = Instant::now();
            }
        }
    }

    /// Waits until everything that came is answered, and for a while nothing more came.
    async fn drained(&self) {
        let mut since = Instant::now();
        while since.elapsed() <= SETTLED {
            tokio::time::sleep(SETTLED / 20).await;
            let online = self.publisher.online_for().is_some();
            if !online || self.publisher.unanswered() > 0 {
                since = Instant::now();
            }
        }
    }
}

/// Tenants whose lanes have everything. Survives the process: else each start would begin in doubt.
#[derive(Clone)]
struct HandedOver {
    file: Option<PathBuf>,
    tenants: Arc<Mutex<BTreeSet<String>>>,
}

impl HandedOver {
    fn read(folder: Option<PathBuf>) -> HandedOver {
        let file = folder.map(|folder| folder.join(FILE));
        let read = file.as_ref().and_then(|file| std::fs::read(file).ok());
        let tenants = read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        HandedOver {
            file,
            tenants: Arc::new(Mutex::new(tenants.unwrap_or_default())),
        }
    }

    fn has(&self, tenant: &TenantId) -> bool {
        let tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.contains(tenant.as_str())
    }

    fn add(&self, tenant: &TenantId) {
        self.change(|tenants| tenants.insert(tenant.as_str().to_owned()));
    }

    fn forget(&self, tenant: &TenantId) {
        self.change(|tenants| tenants.remove(tenant.as_str()));
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<String>) -> bool) {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if !change(&mut tenants) {
            return;
        }
        let Some(file) = &self.file else { return };
        let written = serde_json::to_vec(&*tenants)
            .map_err(std::io::Error::from)
            .and_then(|bytes| {
                let beside = file.with_extension("new");
                std::fs::write(&beside, bytes)?;
                std::fs::rename(&beside, file)
            });
        if let Err(error) = written {
            // Not remembered, the next start begins in doubt; remembered wrongly is worse.
            let _ = std::fs::remove_file(file);
            warn!(%error, file = %file.display(), "lanes not remembered");
        }
    }
}

#[cfg(test)]
pub(super) fn made_up(publisher: Publisher) -> Lanes {
    let main = Lane {
        publisher,
        filter: String::new(),
        client_id: String::new(),
        window: 1,
        handed_over: Arc::default(),
    };
    Lanes {
        config: Config::default(),
        topics: Topics::default(),
        inbox: mpsc::unbounded_channel().0,
        failures: mpsc::unbounded_channel().0,
        handed_over: HandedOver::read(None),
        open: RwLock::new(Open {
            main,
            own: BTreeMap::new(),
            others: None,
            retired: Vec::new(),
        }),
    }
}
