//! What is published on `modules/{name}` and below: fetched when first asked for, followed from then on.
//!
//! MQTT has no answer "there is no retained message": a name without one is known only by the silence after
//! the SUBACK.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, watch};
use tracing::{info, warn};

use crate::envelope::topics::Topics;
use crate::modules::Content;
use crate::modules::source::slots::Each;
use crate::mqtt::{Deliveries, Publisher, State};
use crate::task::outcome::{ErrorCode, TaskError};
use crate::task::tenant::TenantId;

/// Names followed at one time. Beyond it those that were not asked for longest are dropped, but for those that are
/// looked for just now: so a flood of made-up names costs neither memory nor the broker's subscriptions.
const MAX_FOLLOWED: usize = 1_024;
/// Names that a tenant may look for at one time; the next ones wait.
const LOOKUPS_OF_A_TENANT: usize = 64;
/// Tasks of a tenant that wait for a pinned module to come; the next ones are refused at once.
const PINS_OF_A_TENANT: usize = 64;
/// Bytes of modules kept for the names followed, in all; beyond it the same happens. A module that is dropped is
/// fetched again when it is asked for, and is still compiled then.
const MAX_BYTES: usize = 512 << 20;
/// How long after a reconnect a module that has not come again counts as deleted.
const FORGET: Duration = Duration::from_secs(30);
/// How long a broker may take to answer a SUBSCRIBE.
const SUBACK: Duration = Duration::from_secs(10);
/// How much longer whoever asks waits than the answer may take.
const MARGIN: Duration = Duration::from_secs(1);

pub(super) struct Retained {
    topics: Topics,
    publisher: Publisher,
    lookup: Duration,
    followed: Arc<Mutex<Followed>>,
    lookups: Each<TenantId>,
    pins: Each<TenantId>,
}

/// What is on a topic from now on; one of its tenant's places to wait for that.
pub(super) struct News {
    known: watch::Receiver<Known>,
    _place: OwnedSemaphorePermit,
}

impl News {
    /// Waits for the next; false when the topic is not followed any more.
    pub(super) async fn next(&mut self) -> bool {
        self.known.changed().await.is_ok()
    }
}

/// By topic.
#[derive(Default)]
struct Followed {
    names: HashMap<String, Name>,
    /// Counts connections: a name that a new one does not mention is gone.
    generation: u64,
}

struct Name {
    content: watch::Sender<Known>,
    asked: Instant,
    generation: u64,
}

#[derive(Debug, Clone)]
enum Known {
    /// Nothing has come, and it is too early to say that nothing will.
    Waiting,
    /// There is no such module.
    Absent,
    /// The broker does not say.
    Failed(String),
    /// The bytes.
    Present(Content),
}

impl Retained {
    pub(super) fn start(
        topics: Topics,
        (deliveries, publisher): (Deliveries, Publisher),
        lookup: Duration,
    ) -> Retained {
        let followed: Arc<Mutex<Followed>> = Arc::default();
        tokio::spawn(receive(deliveries, publisher.clone(), followed.clone()));
        tokio::spawn(watch_connections(
            publisher.state(),
            followed.clone(),
            lookup,
        ));
        Retained {
            topics,
            publisher,
            lookup,
            followed,
            lookups: Each::of(LOOKUPS_OF_A_TENANT),
            pins: Each::of(PINS_OF_A_TENANT),
        }
    }

    /// How long to wait for what may not be there.
    pub(super) fn lookup(&self) -> Duration {
        self.lookup
    }

    pub(super) fn topics(&self) -> &Topics {
        &self.topics
    }

    /// What is published on a topic, if anything is.
    pub(super) async fn find(
        &self,
        tenant: &TenantId,
        topic: &str,
    ) -> Result<Option<Content>, TaskError> {
        self.find_within(tenant, topic, self.lookup).await
    }

    /// The same, with another silence after which nothing is known to be there.
    pub(super) async fn find_within(
        &self,
        tenant: &TenantId,
        topic: &str,
        lookup: Duration,
    ) -> Result<Option<Content>, TaskError> {
        let asked = lock(&self.followed).asked(topic);
        let mut known = match asked {
            Some(known) => known,
            None => {
                let one = self.lookups.one(tenant.clone()).acquire_owned().await;
                self.follow(topic, lookup, one.ok())
            }
        };
        let patience = SUBACK + lookup + MARGIN;
        let settled = known.wait_for(|known| !matches!(known, Known::Waiting));
        let settled = tokio::time::timeout(patience, settled).await;
        match settled.as_ref().map(|known| known.as_deref()) {
            Ok(Ok(Known::Present(content))) => Ok(Some(content.clone())),
            Ok(Ok(Known::Failed(why))) => Err(unavailable(topic, why)),
            Ok(Ok(Known::Waiting | Known::Absent)) => Ok(None),
            Ok(Err(_)) | Err(_) => Err(unavailable(topic, "no answer from the broker")),
        }
    }

    /// What comes on a topic that is followed, if the tenant may wait for that too.
    pub(super) fn news(&self, tenant: &TenantId, topic: &str) -> Option<News> {
        let place = self.pins.one(tenant.clone()).try_acquire_owned().ok()?;
        Some(News {
            known: lock(&self.followed).asked(topic)?,
            _place: place,
        })
    }

    /// Follows a topic no more: it is not asked for again.
    pub(super) fn forget(&self, topic: &str) {
        if lock(&self.followed).names.remove(topic).is_some() {
            self.publisher.unsubscribe(topic);
        }
    }

    /// Follows a topic from now on; the broker's answer settles what is known of it, whoever asked is gone or not.
    fn follow(
        &self,
        topic: &str,
        lookup: Duration,
        one: Option<OwnedSemaphorePermit>,
    ) -> watch::Receiver<Known> {
        let (asked, dropped) = {
            let mut followed = lock(&self.followed);
            // Whoever waited for this lookup's turn may have been second.
            if let Some(known) = followed.asked(topic) {
                return known;
            }
            let mut dropped = Vec::new();
            while followed.names.len() >= MAX_FOLLOWED {
                let Some(oldest) = followed.drop_oldest() else {
                    break;
                };
                dropped.push(oldest);
            }
            let (content, asked) = watch::channel(Known::Waiting);
            let name = Name {
                content,
                asked: Instant::now(),
                generation: followed.generation,
            };
            followed.names.insert(topic.to_owned(), name);
            (asked, dropped)
        };
        for topic in dropped {
            self.publisher.unsubscribe(&topic);
        }
        let (followed, publisher) = (self.followed.clone(), self.publisher.clone());
        let (topic, mut known) = (topic.to_owned(), asked.clone());
        tokio::spawn(async move {
            let _one = one;
            let subscribed = tokio::time::timeout(SUBACK, publisher.subscribe(&topic)).await;
            let settled = match subscribed {
                Ok(Ok(())) => {
                    let come = known.wait_for(|known| !matches!(known, Known::Waiting));
                    let _ = tokio::time::timeout(lookup, come).await;
                    // If it has not come.
                    Known::Absent
                }
                Ok(Err(why)) => Known::Failed(why),
                Err(_) => Known::Failed("no answer from the broker".to_owned()),
            };
            let failed = matches!(settled, Known::Failed(_));
            let mut followed = lock(&followed);
            // Not one that was forgotten and asked for again meanwhile.
            let name = followed.names.get(&topic);
            let Some(name) = name.filter(|name| name.content.subscribe().same_channel(&known))
            else {
                return;
            };
            name.content.send_if_modified(|known| {
                let silent = matches!(known, Known::Waiting);
                if silent {
                    *known = settled;
                }
                silent
            });
            // The next task asks again.
            if failed {
                followed.names.remove(&topic);
                publisher.unsubscribe(&topic);
            }
        });
        asked
    }
}

impl Followed {
    fn bytes(&self) -> usize {
        let bytes = |name: &Name| match &*name.content.borrow() {
            Known::Present(content) => content.bytes.len(),
            Known::Waiting | Known::Absent | Known::Failed(_) => 0,
        };
        self.names.values().map(bytes).sum()
    }

    /// A name that is followed, and is asked for now.
    fn asked(&mut self, topic: &str) -> Option<watch::Receiver<Known>> {
        let name = self.names.get_mut(topic)?;
        name.asked = Instant::now();
        Some(name.content.subscribe())
    }

    fn drop_oldest(&mut self) -> Option<String> {
        // Not one that somebody waits for.
        let oldest = self
            .names
            .iter()
            .filter(|(_, name)| !matches!(*name.content.borrow(), Known::Waiting))
            .min_by_key(|(_, name)| name.asked)?
            .0
            .clone();
        self.names.remove(&oldest);
        Some(oldest)
    }
}

async fn receive(mut deliveries: Deliveries, publisher: Publisher, followed: Arc<Mutex<Followed>>) {
    while let Some(delivery) = deliveries.recv().await {
        let topic = delivery.inbound.topic;
        let payload = delivery.inbound.payload;
        // An empty retained message is how MQTT deletes one. Hashing is off the network's thread.
        let known = if payload.is_empty() {
            Known::Absent
        } else {
            match tokio::task::spawn_blocking(|| Content::new(payload)).await {
                Ok(content) => Known::Present(content),
                Err(_) => continue,
            }
        };
        {
            let mut followed = lock(&followed);
            let generation = followed.generation;
            if let Some(name) = followed.names.get_mut(&topic) {
                name.generation = generation;
                if let Known::Present(content) = &known {
                    info!(topic, digest = %content.digest, bytes = content.bytes.len(), "module published");
                }
                name.asked = Instant::now();
                name.content.send_replace(known);
            }
            while followed.bytes() > MAX_BYTES && followed.names.len() > 1 {
                let Some(dropped) = followed.drop_oldest() else {
                    break;
                };
                publisher.unsubscribe(&dropped);
            }
        }
        if let Some(token) = delivery.token {
            token.ack();
        }
    }
}

/// After a reconnect every retained module comes again; one that does not was deleted meanwhile.
async fn watch_connections(
    mut state: watch::Receiver<State>,
    followed: Arc<Mutex<Followed>>,
    lookup: Duration,
) {
    loop {
        if state
            .wait_for(|state| matches!(state, State::Online(_)))
            .await
            .is_err()
        {
            return;
        }
        let generation = lock(&followed).generation;
        let lost = state.wait_for(|state| !matches!(state, State::Online(_)));
        match tokio::time::timeout(lookup.max(FORGET), lost).await {
            Ok(Ok(_)) => {
                lock(&followed).generation += 1;
                continue;
            }
            Ok(Err(_)) => return,
            Err(_) => {}
        }
        for (topic, name) in &lock(&followed).names {
            if name.generation < generation
                && !matches!(*name.content.borrow(), Known::Waiting | Known::Absent)
            {
                warn!(topic, "module is not published any more");
                name.content.send_replace(Known::Absent);
            }
        }
        if state
            .wait_for(|state| !matches!(state, State::Online(_)))
            .await
            .is_err()
        {
            return;
        }
        lock(&followed).generation += 1;
    }
}

fn lock(followed: &Mutex<Followed>) -> MutexGuard<'_, Followed> {
    followed.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unavailable(topic: &str, why: &str) -> TaskError {
    TaskError::new(
        ErrorCode::ModuleUnavailable,
        format!("failed to fetch {topic}: {why}"),
    )
}
