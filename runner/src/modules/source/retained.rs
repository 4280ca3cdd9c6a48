//! What is published on `modules/{name}` and below: fetched when first asked for, followed from then on.
//!
//! MQTT has no answer "there is no retained message": a name without one is known only by the silence after
//! the SUBACK.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{info, warn};

use crate::envelope::topics::Topics;
use crate::modules::Content;
use crate::mqtt::{Deliveries, Publisher, State};
use crate::task::outcome::{ErrorCode, TaskError};

/// Names followed at one time. Beyond it the name that was not asked for longest is dropped, so that a flood
/// of made-up names costs neither memory nor the broker's subscriptions.
const MAX_FOLLOWED: usize = 1_024;
/// Bytes of modules kept for the names followed, in all; beyond it the same happens. A module that is dropped is
/// fetched again when it is asked for, and is still compiled then.
const MAX_BYTES: usize = 512 << 20;
/// How long after a reconnect a module that has not come again counts as deleted.
const FORGET: Duration = Duration::from_secs(30);
/// How long a broker may take to answer a SUBSCRIBE.
const SUBACK: Duration = Duration::from_secs(10);

pub(super) struct Retained {
    topics: Topics,
    publisher: Publisher,
    lookup: Duration,
    followed: Arc<Mutex<Followed>>,
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
    pub(super) async fn find(&self, topic: &str) -> Result<Option<Content>, TaskError> {
        self.find_within(topic, self.lookup).await
    }

    /// The same, with another silence after which nothing is known to be there.
    pub(super) async fn find_within(
        &self,
        topic: &str,
        lookup: Duration,
    ) -> Result<Option<Content>, TaskError> {
        let (mut known, dropped, new) = {
            let mut followed = lock(&self.followed);
            let generation = followed.generation;
            let new = !followed.names.contains_key(topic);
            let dropped = (new && followed.names.len() >= MAX_FOLLOWED)
                .then(|| followed.drop_oldest())
                .flatten();
            let name = followed
                .names
                .entry(topic.to_owned())
                .or_insert_with(|| Name {
                    content: watch::Sender::new(Known::Waiting),
                    asked: Instant::now(),
                    generation,
                });
            name.asked = Instant::now();
            (name.content.subscribe(), dropped, new)
        };
        if let Some(topic) = dropped {
            self.publisher.unsubscribe(&topic);
        }
        if new {
            self.follow(topic, lookup, known.clone()).await?;
        }
        // Not the first to ask: the first settles it.
        let patience = SUBACK + lookup;
        let settled = tokio::time::timeout(
            patience,
            known.wait_for(|known| !matches!(known, Known::Waiting)),
        )
        .await;
        match settled.as_ref().map(|known| known.as_deref()) {
            Ok(Ok(Known::Present(content))) => Ok(Some(content.clone())),
            Ok(Ok(_)) => Ok(None),
            _ => Err(unavailable(topic, "no answer from the broker")),
        }
    }

    /// Follows a topic no more: it is not asked for again.
    pub(super) fn forget(&self, topic: &str) {
        if lock(&self.followed).names.remove(topic).is_some() {
            self.publisher.unsubscribe(topic);
        }
    }

    async fn follow(
        &self,
        topic: &str,
        lookup: Duration,
        asked: watch::Receiver<Known>,
    ) -> Result<(), TaskError> {
        let subscribed = tokio::time::timeout(SUBACK, self.publisher.subscribe(topic)).await;
        let refused = match subscribed {
            Ok(Ok(())) => None,
            Ok(Err(why)) => Some(why),
            Err(_) => Some("no answer from the broker".to_owned()),
        };
        if let Some(why) = refused {
            // Forgotten, so that the next task asks again.
            lock(&self.followed).names.remove(topic);
            self.publisher.unsubscribe(topic);
            return Err(unavailable(topic, &why));
        }
        let (followed, topic) = (self.followed.clone(), topic.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(lookup).await;
            if let Some(name) = lock(&followed).names.get(&topic)
                // Not one that was forgotten and asked for again meanwhile.
                && name.content.subscribe().same_channel(&asked)
            {
                name.content.send_if_modified(|known| {
                    let silent = matches!(known, Known::Waiting);
                    if silent {
                        *known = Known::Absent;
                    }
                    silent
                });
            }
        });
        Ok(())
    }
}

impl Followed {
    fn bytes(&self) -> usize {
        let bytes = |name: &Name| match &*name.content.borrow() {
            Known::Present(content) => content.bytes.len(),
            Known::Waiting | Known::Absent => 0,
        };
        self.names.values().map(bytes).sum()
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
        tokio::time::sleep(lookup.max(FORGET)).await;
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
