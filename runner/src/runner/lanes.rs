//! The connections that tasks come over: a lane for each listed tenant, one for all others.
//!
//! One in-flight window for everybody would fill with whoever floods; so each lane has its own connection, window and
//! subscription. The default tenant's lane is the main one, which also bears the runner's presence.
//!
//! The others' lane subscribes `tenants/+/task_queue`, so the broker gives it a copy of what is on the listed tenants'
//! lanes too. A copy is acknowledged and dropped, once it is certain that the tenant's own lane has it: see
//! [`Lanes::is_copy`].

mod lane;
mod memory;
mod retired;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::envelope::topics::Topics;
use crate::mqtt::settings::Settings;
use crate::mqtt::{Delivery, Publisher};
use crate::runner::lanes::lane::{LOOK, Lane, SETTLED};
use crate::runner::lanes::memory::Memory;
use crate::runner::lanes::retired::Retired;
use crate::runner::start::{client_id, task_settings};
use crate::task::tenant::TenantId;
use crate::tenants::{Table, TenantPolicy};

/// Marks what came over the others' lane.
pub(super) const OTHERS: u32 = 1;
/// The others' lane among those that are remembered: no tenant is called so.
const OTHERS_NAME: &str = "+";

pub(super) struct Lanes {
    config: Config,
    topics: Topics,
    inbox: mpsc::UnboundedSender<Delivery>,
    /// Hears why a lane failed for good.
    failures: mpsc::UnboundedSender<String>,
    memory: Memory,
    open: Arc<RwLock<Open>>,
    /// Changes when a session has ended.
    ended: watch::Sender<()>,
}

struct Open {
    main: Lane,
    own: BTreeMap<TenantId, Lane>,
    others: Option<Lane>,
    retired: Vec<Retired>,
}

/// A connection that is wanted, or was.
struct Wanted {
    name: String,
    client_id: String,
    filter: String,
    window: u16,
    mark: u32,
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
        let mut settings = task_settings(config, topics, &config.runner.name)?;
        let filter = topics.queue_filter(&config.mqtt.group, &TenantId::default());
        settings.filters = vec![filter.clone()];
        let name = TenantId::DEFAULT;
        let main = Lane::connect(name, filter, settings, config.prefetch(), inbox.clone());
        main.ready(&failures).await?;
        let lanes = Lanes {
            config: config.clone(),
            topics: topics.clone(),
            inbox,
            failures,
            memory: Memory::read(folder),
            open: Arc::new(RwLock::new(Open {
                main,
                own: BTreeMap::new(),
                others: None,
                retired: Vec::new(),
            })),
            ended: watch::Sender::default(),
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
        lanes.retire_forgotten().await?;
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
        let own = open.own.get(&tenant);
        own.is_some_and(|lane| lane.is_handed_over() && lane.is_settled())
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
            let lane = {
                let mut open = self.write();
                // From now on the others' lane has its tasks.
                self.memory.set(tenant.as_str(), false);
                open.own.remove(&tenant)
            };
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
        let lane = self.connect(self.own(tenant, policy.prefetch)).await?;
        let lane = lane.opened(self.memory.has_everything(tenant.as_str()));
        self.write().own.insert(tenant.clone(), lane);
        Ok(())
    }

    async fn add_others(&self) -> Result<()> {
        let lane = self.connect(self.others()).await?;
        self.write().others = Some(lane);
        Ok(())
    }

    fn own(&self, tenant: &TenantId, window: u16) -> Wanted {
        let ours = client_id(&self.config, &self.config.runner.name);
        Wanted {
            name: tenant.to_string(),
            client_id: format!("{ours}-lane-{tenant}"),
            filter: self.topics.queue_filter(&self.config.mqtt.group, tenant),
            window,
            mark: 0,
        }
    }

    fn others(&self) -> Wanted {
        let ours = client_id(&self.config, &self.config.runner.name);
        Wanted {
            name: OTHERS_NAME.to_owned(),
            client_id: format!("{ours}-others"),
            filter: self.topics.others_filter(&self.config.mqtt.group),
            window: self.config.prefetch(),
            mark: OTHERS,
        }
    }

    /// A lane that is subscribed; one that is on its way out turns round.
    async fn connect(&self, wanted: Wanted) -> Result<Lane> {
        if let Some(lane) = self.take_back(&wanted.client_id).await {
            if let Err(why) = lane.publisher.subscribe(&lane.filter).await {
                self.retire(lane);
                return Err(anyhow!(why).context("failed to subscribe again"));
            }
            return Ok(lane);
        }
        self.memory.add(&wanted.name);
        let filters = vec![wanted.filter.clone()];
        self.connect_with(wanted, filters).await
    }

    async fn connect_with(&self, wanted: Wanted, filters: Vec<String>) -> Result<Lane> {
        let settings = Settings {
            filters,
            mark: wanted.mark,
            ..self.settings(wanted.client_id)?
        };
        let inbox = self.inbox.clone();
        let lane = Lane::connect(&wanted.name, wanted.filter, settings, wanted.window, inbox);
        lane.ready(&self.failures).await?;
        Ok(lane)
    }

    /// Of a lane that is not the main one.
    fn settings(&self, client_id: String) -> Result<Settings> {
        let settings = task_settings(&self.config, &self.topics, &self.config.runner.name)?;
        Ok(Settings {
            client_id,
            birth: None,
            will: None,
            ..settings
        })
    }

    /// Waits, for each lane that is new, until what was published before it was there has come over the others' lane.
    fn hand_over(&self) {
        let open = self.read();
        for (tenant, lane) in &open.own {
            if open.others.is_none() {
                // Nobody was subscribed to them before.
                lane.hand_over();
                self.memory.set(tenant.as_str(), true);
            } else if !lane.is_handed_over() {
                let (tenant, lane) = (tenant.clone(), lane.clone());
                let (open, memory) = (Arc::downgrade(&self.open), self.memory.clone());
                tokio::spawn(hand_over_when_settled(open, memory, tenant, lane));
            }
        }
    }

    /// Takes no more tasks.
    pub(super) fn unsubscribe(&self) {
        for lane in self.all() {
            lane.publisher.unsubscribe(&lane.filter);
        }
    }

    /// Whether every lane is connected.
    pub(super) fn are_online(&self) -> bool {
        self.all().iter().all(Lane::is_online)
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

    /// But for those whose sessions end.
    fn all(&self) -> Vec<Lane> {
        let open = self.read();
        let retired = open.retired.iter().filter(|retired| !retired.is_ending);
        let lanes = open.others.iter().chain(open.own.values());
        let lanes = lanes.chain(retired.map(|retired| &retired.lane));
        lanes.chain([&open.main]).cloned().collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Open> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Open> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until the others' lane had room for a while with both up: it has nothing left from before.
async fn hand_over_when_settled(
    open: Weak<RwLock<Open>>,
    memory: Memory,
    tenant: TenantId,
    lane: Lane,
) {
    let mut since = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(open) = open.upgrade() else { return };
        let open = open.read().unwrap_or_else(PoisonError::into_inner);
        // It may have been closed, and opened anew, or somebody else have seen to it.
        let own = open.own.get(&tenant);
        let (Some(own), Some(others)) = (own, &open.others) else {
            return;
        };
        if !own.is(&lane) || lane.is_handed_over() {
            return;
        }
        if !(lane.is_settled() && others.is_settled() && others.has_room()) {
            since = Instant::now();
        } else if since.elapsed() > SETTLED {
            lane.hand_over();
            memory.set(tenant.as_str(), true);
            return debug!(%tenant, "its own lane has all its tasks");
        }
    }
}

#[cfg(test)]
pub(super) fn made_up(publisher: Publisher) -> Lanes {
    Lanes {
        config: Config::default(),
        topics: Topics::default(),
        inbox: mpsc::unbounded_channel().0,
        failures: mpsc::unbounded_channel().0,
        memory: Memory::read(None),
        open: Arc::new(RwLock::new(Open {
            main: Lane::made_up(publisher),
            own: BTreeMap::new(),
            others: None,
            retired: Vec::new(),
        })),
        ended: watch::Sender::default(),
    }
}
