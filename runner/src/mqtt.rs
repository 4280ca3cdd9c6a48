//! The only door to the MQTT client: `connect()` → (`Deliveries`, `Publisher`).
//!
//! Owns what must be true of a connection whatever happens to it: a publish resolves only on its PUBACK,
//! an acknowledgement goes out only on the connection that its delivery came on, and after any failure
//! client and event loop are dropped, a new connection is made, every subscription is made again and every
//! publish without a PUBACK is sent again. It must not know what a task is.

pub mod echo;
pub mod probe;
pub mod settings;

mod acks;
mod backoff;
mod connection;
mod link;
mod outbox;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use crate::envelope::{Inbound, Message};
pub(crate) use crate::mqtt::backoff::random;
use crate::mqtt::settings::Settings;

/// A message that came, and the token that acknowledges it.
#[derive(Debug)]
pub struct Delivery {
    /// Topic, payload, properties.
    pub inbound: Inbound,
    /// The broker says that it sent this before.
    pub redelivered: bool,
    /// To be used up by [`AckToken::ack`] when the message's work is done; dropping it leaves the message to be
    /// delivered again. `None` for QoS 0, which is never delivered again.
    pub token: Option<AckToken>,
    /// Which of the connections it came over that share an inbox: [`Settings::mark`].
    pub mark: u32,
}

/// The right to acknowledge one delivery, good only on the connection that it came on.
#[derive(Debug)]
pub struct AckToken {
    session: mpsc::WeakUnboundedSender<Command>,
    /// Tells sessions apart.
    number: u64,
    place: Place,
}

/// A delivery's place in its session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) generation: u64,
    sequence: u64,
    pub(crate) packet_id: u16,
}

impl AckToken {
    /// Whether both came on one connection: then holding one of them is enough for the broker to deliver again.
    pub fn same_connection(&self, other: &AckToken) -> bool {
        (self.number, self.place.generation) == (other.number, other.place.generation)
    }

    /// Acknowledges the delivery. A token of an earlier connection does nothing: the broker delivers again.
    pub fn ack(self) {
        if let Some(session) = self.session.upgrade() {
            let _ = session.send(Command::Ack(self.place));
        }
    }
}

/// Where deliveries come from.
pub type Deliveries = mpsc::UnboundedReceiver<Delivery>;

/// What a broker said of itself when it accepted the connection, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerLimits {
    /// When the connection was made.
    pub since: Instant,
    /// The largest packet that it takes, in bytes.
    pub max_packet_bytes: usize,
    /// It kept the session of the last connection.
    pub session_present: bool,
}

/// How the connection stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not yet, or not any more; being tried again.
    Connecting {
        /// Why the last attempt failed.
        last_error: Option<String>,
    },
    /// Connected and subscribed.
    Online(BrokerLimits),
    /// Given up: trying again cannot help.
    Failed(String),
    /// Closed on request.
    Closed,
}

/// Why a publish will never be at the broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The packet is larger than the broker takes.
    #[error("a packet of {bytes} bytes for {topic:?} is over the broker's maximum of {limit}")]
    TooLarge {
        /// The topic.
        topic: String,
        /// The packet's size.
        bytes: usize,
        /// The broker's Maximum Packet Size.
        limit: usize,
    },
    /// The broker refused it by its PUBACK's reason code.
    #[error("the broker refused a publish on {topic:?}: {reason}")]
    Refused {
        /// The topic.
        topic: String,
        /// The reason code's name.
        reason: String,
    },
    /// The connection was closed before the PUBACK came.
    #[error("the connection was closed before the publish was acknowledged")]
    Closed,
}

/// What a PUBACK says of a publish that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// At the broker.
    Accepted,
    /// At the broker, which has nobody to give it to.
    NoSubscribers,
}

pub(crate) enum Command {
    Publish(
        Arc<Message>,
        oneshot::Sender<Result<Published, PublishError>>,
    ),
    Ack(Place),
    Subscribe(String, oneshot::Sender<Result<(), String>>),
    Unsubscribe(String),
    Close(oneshot::Sender<()>),
}

/// Publishes, acknowledges and subscribes. Clones share one connection.
#[derive(Clone)]
pub struct Publisher {
    commands: mpsc::UnboundedSender<Command>,
    state: watch::Receiver<State>,
    unanswered: Arc<AtomicUsize>,
}

/// Starts a connection: it is kept up until [`Publisher::close`] or until every publisher is dropped.
pub fn connect(settings: Settings) -> (Deliveries, Publisher) {
    let (inbox, deliveries) = mpsc::unbounded_channel();
    (deliveries, connect_into(settings, inbox))
}

/// The same, with deliveries into an inbox that connections may share.
pub fn connect_into(settings: Settings, inbox: mpsc::UnboundedSender<Delivery>) -> Publisher {
    static SESSIONS: AtomicU64 = AtomicU64::new(0);
    let (commands, command_queue) = mpsc::unbounded_channel();
    let (state_sender, state) = watch::channel(State::Connecting { last_error: None });
    let unanswered = Arc::new(AtomicUsize::new(0));
    let inbox = connection::Inbox {
        deliveries: inbox,
        mark: settings.mark,
        session: commands.downgrade(),
        number: SESSIONS.fetch_add(1, Ordering::Relaxed),
        unanswered: unanswered.clone(),
    };
    let session = connection::Session::new(settings, command_queue, inbox, state_sender);
    tokio::spawn(session.run());
    Publisher {
        commands,
        state,
        unanswered,
    }
}

/// Ends a client's session: the broker forgets what it kept for it.
pub async fn end_session(mut settings: Settings) -> anyhow::Result<()> {
    settings.clean_start = true;
    settings.session_expiry = std::time::Duration::ZERO;
    let (_deliveries, publisher) = connect(settings);
    let ready = publisher.ready().await;
    ready.map_err(|why| anyhow::anyhow!("failed to end the session: {why}"))?;
    publisher.close().await;
    Ok(())
}

impl Publisher {
    /// Publishes a message; resolves when the broker has acknowledged it (QoS 1) or it is on the wire
    /// (QoS 0), however many connections that takes. The message is queued before this returns.
    pub fn publish<M: Into<Arc<Message>>>(
        &self,
        message: M,
    ) -> impl Future<Output = Result<Published, PublishError>> + Send + use<M> {
        let (done, answer) = oneshot::channel();
        // A session that is gone drops `done`, which the answer below reports.
        let _ = self.commands.send(Command::Publish(message.into(), done));
        async move { answer.await.unwrap_or(Err(PublishError::Closed)) }
    }

    /// How many deliveries of this connection are not acknowledged.
    pub fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// How long the connection has been up; `None` when it is not.
    pub fn online_for(&self) -> Option<Duration> {
        match &*self.state.borrow() {
            State::Online(limits) => Some(limits.since.elapsed()),
            _ => None,
        }
    }

    /// Subscribes at QoS 1, now and after every reconnect; resolves on the SUBACK with what it refuses.
    pub async fn subscribe(&self, filter: &str) -> Result<(), String> {
        let (done, answer) = oneshot::channel();
        let _ = self
            .commands
            .send(Command::Subscribe(filter.to_owned(), done));
        answer
            .await
            .unwrap_or_else(|_| Err("the connection was closed".to_owned()))
    }

    /// Ends a subscription.
    pub fn unsubscribe(&self, filter: &str) {
        let _ = self.commands.send(Command::Unsubscribe(filter.to_owned()));
    }

    /// How the connection stands, and its changes.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Waits for the first connection; an error when the broker can never serve this client.
    pub async fn ready(&self) -> Result<BrokerLimits, String> {
        let mut state = self.state.clone();
        let settled = state
            .wait_for(|s| !matches!(s, State::Connecting { .. }))
            .await;
        match settled.as_deref() {
            Ok(State::Online(limits)) => Ok(limits.clone()),
            Ok(State::Failed(why)) => Err(why.clone()),
            _ => Err("the connection was closed".to_owned()),
        }
    }

    /// The broker's limits, while connected.
    pub fn limits(&self) -> Option<BrokerLimits> {
        match &*self.state.borrow() {
            State::Online(limits) => Some(limits.clone()),
            _ => None,
        }
    }

    /// Waits until trying again cannot help: why. Never resolves for a connection that was closed.
    pub async fn failed(&self) -> String {
        let mut state = self.state.clone();
        let failed = state.wait_for(|state| matches!(state, State::Failed(_)));
        let why = match failed.await.as_deref() {
            Ok(State::Failed(why)) => Some(why.clone()),
            _ => None,
        };
        match why {
            Some(why) => why,
            None => std::future::pending().await,
        }
    }

    /// Disconnects in good order. What has no PUBACK by then is given up: await it first.
    pub async fn close(&self) {
        let (done, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Close(done));
        let _ = answer.await;
    }
}

/// The other end of a publisher, for tests that play the broker.
#[cfg(test)]
pub(crate) mod made_up {
    use super::*;

    pub(crate) fn publisher() -> (
        Publisher,
        mpsc::UnboundedReceiver<Command>,
        watch::Sender<State>,
    ) {
        let (commands, queue) = mpsc::unbounded_channel();
        let (sender, state) = watch::channel(State::Connecting { last_error: None });
        let publisher = Publisher {
            commands,
            state,
            unanswered: Arc::default(),
        };
        (publisher, queue, sender)
    }

    pub(crate) fn token(publisher: &Publisher, generation: u64, packet_id: u16) -> AckToken {
        AckToken {
            session: publisher.commands.downgrade(),
            number: 0,
            place: Place {
                generation,
                sequence: packet_id.into(),
                packet_id,
            },
        }
    }
}
