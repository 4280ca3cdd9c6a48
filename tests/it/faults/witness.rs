//! What went over the runners' links: says where a lost task was seen last, and so who lost it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::packets::{PUBACK, PUBLISH, Packet};
use crate::proxy::{Verdict, Way};

/// A PUBACK that says: nobody is subscribed.
const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;

/// A packet takes less on this machine, however busy it is.
const UNDER_WAY: Duration = Duration::from_millis(200);

/// How far a task came, in the order in which it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Seen {
    /// Taken over by the broker, never given to a runner.
    NeverDelivered,
    /// Sent to a runner on a connection that ended too soon to tell whether it arrived.
    Sent,
    /// Given to a runner, which neither answered nor acknowledged it.
    Delivered,
    /// Acknowledged by a runner before the broker had an outcome.
    Acknowledged,
    /// A runner published its outcome, and no PUBACK came.
    Published,
    /// The broker has taken over the outcome, with nobody to give it to.
    Unsubscribed,
    /// The broker has taken over the outcome.
    Stored,
}

impl Seen {
    /// Whether the task, or its outcome, was the broker's alone when it was lost.
    pub(crate) fn is_the_brokers(self) -> bool {
        matches!(
            self,
            Seen::NeverDelivered | Seen::Sent | Seen::Unsubscribed | Seen::Stored
        )
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Seen::NeverDelivered => "never delivered by the broker",
            Seen::Sent => "sent to a runner as the connection ended",
            Seen::Delivered => "delivered to a runner, not acknowledged",
            Seen::Acknowledged => "acknowledged by a runner without an outcome",
            Seen::Published => "outcome published, not taken over by the broker",
            Seen::Unsubscribed => "outcome taken over while nobody was subscribed",
            Seen::Stored => "outcome taken over by the broker",
        })
    }
}

/// Clones share what was seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Witness(Arc<Mutex<Log>>);

/// Number of the link, number of the connection on it.
type Connection = (usize, usize);
/// With the packet id.
type Key = (Connection, u16);

#[derive(Debug, Default)]
struct Log {
    furthest: BTreeMap<String, Seen>,
    deliveries: HashMap<Key, String>,
    /// By task, when it was sent and on which connection.
    sent: HashMap<String, Vec<(Instant, Connection)>>,
    /// When something came from the runner last.
    alive: HashMap<Connection, Instant>,
    outcomes: HashMap<Key, String>,
    /// Packet ids of the tasks, in the order of their delivery.
    packet_ids: Vec<u16>,
    /// The link on which an outcome comes so far is shut instead, once.
    shut_at: Option<Seen>,
}

impl Witness {
    /// To be called with every packet of a link.
    pub(crate) fn see(&self, link: usize, connection: usize, way: Way, packet: &Packet) -> Verdict {
        let mut log = self.log();
        let connection = (link, connection);
        let key = |packet: &Packet| (connection, packet.id());
        if way == Way::ToBroker {
            log.alive.insert(connection, Instant::now());
        }
        match (way, packet.kind()) {
            (Way::ToClient, PUBLISH) if packet.topic() == "task_queue" => {
                if let Some(id) = id(packet) {
                    log.reached(&id, Seen::Sent);
                    let sent = (Instant::now(), connection);
                    log.sent.entry(id.clone()).or_default().push(sent);
                    log.deliveries.insert(key(packet), id);
                    log.packet_ids.push(packet.id());
                }
            }
            (Way::ToBroker, PUBACK) => {
                if let Some(id) = log.deliveries.remove(&key(packet)) {
                    log.reached(&id, Seen::Acknowledged);
                }
            }
            (Way::ToBroker, PUBLISH) if packet.topic() == "task_completed" => {
                if let Some(id) = id(packet) {
                    log.reached(&id, Seen::Published);
                    log.outcomes.insert(key(packet), id);
                    return log.passes(Seen::Published);
                }
            }
            (Way::ToClient, PUBACK) => {
                if let Some(id) = log.outcomes.remove(&key(packet)) {
                    let nobody = packet.reason() == NO_MATCHING_SUBSCRIBERS;
                    let seen = if nobody {
                        Seen::Unsubscribed
                    } else {
                        Seen::Stored
                    };
                    // A PUBACK that does not get through tells the runner nothing.
                    if log.passes(Seen::Stored) == Verdict::Shut {
                        return Verdict::Shut;
                    }
                    log.reached(&id, seen);
                }
            }
            _ => {}
        }
        Verdict::Pass
    }

    /// How far a task came.
    pub(crate) fn seen(&self, id: &str) -> Seen {
        let log = self.log();
        match log.furthest.get(id).copied() {
            None => Seen::NeverDelivered,
            Some(Seen::Sent) if log.arrived(id) => Seen::Delivered,
            Some(seen) => seen,
        }
    }

    /// How many tasks a runner has for certain, or had.
    pub(crate) fn delivered(&self) -> usize {
        let log = self.log();
        let seen = log.furthest.iter();
        seen.filter(|(id, seen)| **seen > Seen::Sent || log.arrived(id))
            .count()
    }

    /// The next outcome's PUBLISH (`Published`) or its PUBACK (`Stored`) does not get through: its link is shut.
    pub(crate) fn shut_at(&self, seen: Seen) {
        self.log().shut_at = Some(seen);
    }

    /// Whether that has happened.
    pub(crate) fn has_shut(&self) -> bool {
        self.log().shut_at.is_none()
    }

    /// Packet ids under which tasks were delivered, in their order.
    pub(crate) fn packet_ids(&self) -> Vec<u16> {
        self.log().packet_ids.clone()
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn reached(&mut self, id: &str, seen: Seen) {
        let furthest = self.furthest.entry(id.to_owned()).or_insert(seen);
        *furthest = seen.max(*furthest);
    }

    /// Whether the runner was still there when a task that was sent to it must have arrived.
    fn arrived(&self, id: &str) -> bool {
        let sent = self.sent.get(id).into_iter().flatten();
        sent.into_iter().any(|(sent, connection)| {
            self.alive
                .get(connection)
                .is_some_and(|alive| alive.saturating_duration_since(*sent) > UNDER_WAY)
        })
    }

    fn passes(&mut self, seen: Seen) -> Verdict {
        match self.shut_at.take_if(|at| *at == seen) {
            Some(_) => Verdict::Shut,
            None => Verdict::Pass,
        }
    }
}

/// The task's id in a task or an outcome.
fn id(packet: &Packet) -> Option<String> {
    let value: Value = serde_json::from_slice(packet.payload()).ok()?;
    value["id"].as_str().map(str::to_owned)
}
