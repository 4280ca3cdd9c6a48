//! Submits recurring tasks when they are due, once in the group however many runners have them in their configuration.
//!
//! The runners agree on `runner_recurring/{group}/{name}`: who is due to submit says so, and the first by name of those who
//! said so does it, [`SETTLE`] later; when the broker has the task, that is said in a retained message, from which a later runner knows what was
//! missed. A claim that comes to nothing is void after [`VOID`]; the task submitted twice would be the same, by its id.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::envelope::Message;
use crate::envelope::answer::Request;
use crate::envelope::topics::Topics;
use crate::mqtt::{Published, Publisher};
use crate::recurring::{Recurring, seconds};

/// How long a claim holds.
const VOID: Duration = Duration::from_secs(10);
/// How long claims may be on their way to each other.
const SETTLE: Duration = Duration::from_millis(250);
/// How long until the retained message of a name must have come, if there is one.
const RETAINED: Duration = Duration::from_secs(2);
/// A long wait looks at the clock this often: it may be set.
const LOOK: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    /// Seconds since 1970.
    due: u64,
    runner: String,
    /// Submitted, rather than about to be.
    done: bool,
}

/// What the runners said of each name.
pub(super) struct Board {
    prefix: String,
    heard: Mutex<HashMap<String, Heard>>,
    news: Notify,
}

#[derive(Default)]
struct Heard {
    done: Option<u64>,
    /// The due times, who claimed each, and when.
    claims: Vec<(u64, String, Instant)>,
}

impl Board {
    pub(super) fn new(topics: &Topics, group: &str) -> Board {
        Board {
            prefix: topics.recurring(group),
            heard: Mutex::default(),
            news: Notify::new(),
        }
    }

    /// The subscription that brings what is said.
    pub(super) fn filter(topics: &Topics, group: &str) -> String {
        format!("{}+", topics.recurring(group))
    }

    /// Whether a message was for the board, and taken.
    pub(super) fn hear(&self, topic: &str, payload: &[u8]) -> bool {
        let Some(name) = topic.strip_prefix(&self.prefix) else {
            return false;
        };
        let Ok(said) = serde_json::from_slice::<Said>(payload) else {
            return true;
        };
        let mut heard = self.lock();
        let heard = heard.entry(name.to_owned()).or_default();
        // A clock that is wrong must not switch the task off until then.
        if said.due > seconds(SystemTime::now() + VOID) {
            return true;
        }
        if said.done {
            heard.done = heard.done.max(Some(said.due));
        } else {
            heard.claims.retain(|(_, _, at)| at.elapsed() <= VOID);
            heard.claims.push((said.due, said.runner, Instant::now()));
        }
        self.news.notify_waiters();
        true
    }

    fn done(&self, name: &str) -> Option<u64> {
        self.lock().get(name).and_then(|heard| heard.done)
    }

    /// Whose the time is of those who claimed it: not the first, which is another for each listener, but the first by name.
    fn claimed(&self, name: &str, due: u64) -> Option<String> {
        let heard = self.lock();
        let claims = heard.get(name)?.claims.iter();
        let holds = claims.filter(|(of, _, at)| *of == due && at.elapsed() <= VOID);
        holds.map(|(_, runner, _)| runner).min().cloned()
    }

    /// Waits until something is so that is heard of.
    async fn until<T>(&self, limit: Duration, found: impl Fn() -> Option<T>) -> Option<T> {
        let waiting = async {
            loop {
                let news = self.news.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                if let Some(found) = found() {
                    return found;
                }
                news.await;
            }
        };
        timeout(limit, waiting).await.ok()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One runner's part in one recurring task.
pub(super) struct Submitter {
    pub(super) recurring: Recurring,
    pub(super) board: Arc<Board>,
    pub(super) topics: Topics,
    pub(super) publisher: Publisher,
    pub(super) runner: String,
}

impl Submitter {
    /// Until it is dropped.
    pub(super) async fn run(self) {
        let name = &self.recurring.name;
        let retained = self.board.until(RETAINED, || self.board.done(name)).await;
        let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut last = retained.map_or_else(SystemTime::now, time);
        loop {
            let now = SystemTime::now();
            for due in self.recurring.due(last, now) {
                self.submit_once(due).await;
            }
            // A clock that was set back must not submit again what it had.
            last = last.max(now);
            let Some(next) = self.recurring.next(SystemTime::now()) else {
                return warn!(name, "recurring task is never due again");
            };
            let wait = next.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::time::sleep(wait.min(LOOK)).await;
        }
    }

    /// Returns when this time is submitted, by whomever.
    async fn submit_once(&self, due: SystemTime) {
        let (name, seconds) = (&self.recurring.name, seconds(due));
        let is_done = || self.board.done(name).filter(|done| *done >= seconds);
        while is_done().is_none() {
            if self.board.claimed(name, seconds).is_none() {
                self.say(seconds, false).await;
            }
            let claimed = || self.board.claimed(name, seconds);
            if self.board.until(VOID, claimed).await.is_some() {
                // Until every claim is heard by everybody.
                tokio::time::sleep(SETTLE).await;
            }
            if is_done().is_some() {
                return;
            }
            match self.board.until(VOID, claimed).await {
                Some(runner) if runner == self.runner && self.submit(due).await => {
                    self.say(seconds, true).await;
                }
                Some(_) => drop(self.board.until(VOID, is_done).await),
                None => {}
            }
            let _ = self.board.until(VOID, is_done).await;
        }
    }

    async fn submit(&self, due: SystemTime) -> bool {
        let recurring = &self.recurring;
        let mut request = Request::new(recurring.module.clone(), recurring.input.clone());
        request.id = recurring.task_id(due);
        request
            .labels
            .insert("recurring".to_owned(), recurring.name.clone());
        let message = request.message(&self.topics, &recurring.tenant, None);
        match self.publisher.publish(message).await {
            Ok(Published::NoSubscribers) => {
                warn!(
                    name = recurring.name,
                    "recurring task matches no runner yet"
                );
                false
            }
            Ok(Published::Accepted) => {
                info!(task_id = %request.id, name = recurring.name, "recurring task submitted");
                true
            }
            Err(why) => {
                warn!(name = recurring.name, error = %why, "recurring task not submitted");
                false
            }
        }
    }

    async fn say(&self, due: u64, done: bool) {
        let said = Said {
            due,
            runner: self.runner.clone(),
            done,
        };
        let topic = format!("{}{}", self.board.prefix, self.recurring.name);
        let message = Message {
            retain: done,
            ..Message::new(topic, serde_json::to_vec(&said).unwrap_or_default())
        };
        let _ = self.publisher.publish(message).await;
    }
}
