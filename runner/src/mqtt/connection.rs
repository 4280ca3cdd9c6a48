//! The session: the one task that polls the client, over as many connections as it takes.
//!
//! rumqttc's own recovery resends under old packet ids, forgets publishes when the broker forgot the
//! session, and can acknowledge a delivery on a connection where its packet id means another message. So
//! client and event loop live for one connection only; what must survive is here.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Filter, Packet, PubAck, PubAckReason, Publish, RetainForwardRule, SubAck,
    SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Interval, MissedTickBehavior};
use tracing::{debug, error, info, warn};

use crate::mqtt::acks::Acks;
use crate::mqtt::backoff::{Backoff, random};
use crate::mqtt::outbox::Outbox;
use crate::mqtt::settings::Settings;
use crate::mqtt::{
    AckToken, BrokerLimits, Command, Delivery, Place, PublishError, Published, State, link,
};

/// Filters in one SUBSCRIBE.
const FILTERS_PER_PACKET: usize = 64;
/// A connection that lived so long was a good one.
const HELD: Duration = Duration::from_secs(5);
/// Taken over twice within this time, it is another client's doing. Once it may be our own: a CONNECT given up for lost
/// that reached the broker after the next one.
const TAKEOVERS: Duration = Duration::from_secs(60);
/// The slowest link that counts as one, in bytes a second.
const SLOWEST_LINK: usize = 64 << 10;
/// Commands taken between two looks at the network.
const COMMANDS_PER_TURN: usize = 64;

/// Where deliveries go, and what their tokens need.
pub(super) struct Inbox {
    pub(super) deliveries: mpsc::UnboundedSender<Delivery>,
    pub(super) mark: u32,
    pub(super) session: mpsc::WeakUnboundedSender<Command>,
    pub(super) number: u64,
    /// Deliveries of the connection that are not acknowledged.
    pub(super) unanswered: Arc<AtomicUsize>,
}

pub(super) struct Session {
    settings: Settings,
    commands: mpsc::UnboundedReceiver<Command>,
    inbox: Inbox,
    state: watch::Sender<State>,
    outbox: Outbox,
    /// Every filter to hold, and who waits for its SUBACK.
    filters: Vec<String>,
    subscribers: HashMap<String, Vec<oneshot::Sender<Result<(), String>>>>,
    /// Counts connections: a token of an earlier one is void.
    generation: u64,
    closing: Option<oneshot::Sender<()>>,
    ever_online: bool,
    online_since: Option<Instant>,
}

/// What lives as long as one connection.
struct Live {
    client: AsyncClient,
    acks: Acks,
    /// Packet ids to acknowledge that the client has not taken yet.
    acks_due: VecDeque<u16>,
    /// Zero until the CONNACK.
    window: usize,
    limits: Option<BrokerLimits>,
    /// SUBSCRIBEs without SUBACK, in the order they were handed over, then by packet id.
    subscribing: VecDeque<Vec<String>>,
    subscribed: HashMap<u16, Vec<String>>,
}

/// Why a connection ended.
enum End {
    Lost(String),
    Final(String),
    /// Another connection was made under this client's id.
    TakenOver,
    Closed,
}

impl Session {
    pub(super) fn new(
        settings: Settings,
        commands: mpsc::UnboundedReceiver<Command>,
        inbox: Inbox,
        state: watch::Sender<State>,
    ) -> Session {
        let filters = settings.filters.clone();
        Session {
            settings,
            commands,
            inbox,
            state,
            outbox: Outbox::default(),
            filters,
            subscribers: HashMap::new(),
            generation: 0,
            closing: None,
            ever_online: false,
            online_since: None,
        }
    }

    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut taken_over: Option<Instant> = None;
        let ended = loop {
            let online_before = self.ever_online;
            let end = match self.connection().await {
                End::TakenOver
                    if taken_over
                        .replace(Instant::now())
                        .is_none_or(|last| last.elapsed() > TAKEOVERS) =>
                {
                    End::Lost("another connection took over the session".to_owned())
                }
                end => end,
            };
            match end {
                End::Closed => break State::Closed,
                // To reconnect would take it back, for ever.
                End::TakenOver => {
                    let id = &self.settings.client_id;
                    break State::Failed(format!(
                        "another client connected as {id:?}: every runner needs a name of its own"
                    ));
                }
                // After the first success a refusal may pass (a broker that is starting up): keep trying.
                End::Final(why) if !online_before => break State::Failed(why),
                End::Final(why) | End::Lost(why) => {
                    // Not when it was lost at once: two clients that fight for one id would do so at full speed.
                    let held = self.online_since.take().map(|since| since.elapsed());
                    if held.is_some_and(|held| held >= HELD) {
                        backoff.reset();
                    }
                    let delay = backoff.next(random());
                    warn!(broker = %self.settings.address, error = why, ?delay, "no connection to the broker, trying again");
                    self.state.send_replace(State::Connecting {
                        last_error: Some(why),
                    });
                    if self.wait(delay).await.is_break() {
                        break State::Closed;
                    }
                }
            }
        };
        self.state.send_replace(ended);
        if let Some(done) = self.closing.take() {
            let _ = done.send(());
        }
    }

    /// Sleeps, but goes on taking commands, so that a close is heard and publishes are queued.
    async fn wait(&mut self, delay: Duration) -> ControlFlow<()> {
        let sleep = tokio::time::sleep(delay);
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                () = &mut sleep => return ControlFlow::Continue(()),
                command = self.commands.recv() => self.command(command, None)?,
            }
        }
    }

    /// One connection from its first packet to its end.
    async fn connection(&mut self) -> End {
        self.generation += 1;
        self.inbox.unanswered.store(0, Ordering::Relaxed);
        let clean_start = self.settings.clean_start && self.generation == 1;
        let (client, mut events) = match link::open(&self.settings, clean_start) {
            Ok(opened) => opened,
            Err(why) => return End::Final(format!("{why:#}")),
        };
        let mut live = Live {
            client,
            acks: Acks::new(self.settings.ack_order),
            acks_due: VecDeque::new(),
            window: 0,
            limits: None,
            subscribing: VecDeque::new(),
            subscribed: HashMap::new(),
        };
        // rumqttc's own keep-alive stands still while it writes to a link that takes nothing.
        let mut ticks = tokio::time::interval(self.settings.keep_alive);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = 'connected: loop {
            match self.next_event(&mut events, &mut ticks, &mut live).await {
                Ok(event) => {
                    let mut next = Some(event);
                    while let Some(event) = next {
                        if let ControlFlow::Break(end) = self.event(event, &mut live) {
                            break 'connected end;
                        }
                        // What was read in the same breath is had without another poll.
                        next = events.state.events.pop_front();
                    }
                }
                Err(_) if self.closing.is_some() => break End::Closed,
                Err(error) if link::is_takeover(&error) => break End::TakenOver,
                Err(error) if link::is_final(&error) => {
                    break End::Final(format!("{}: {error}", self.settings.address));
                }
                Err(error) => break End::Lost(error.to_string()),
            }
        };
        // rumqttc tells of the end before it tells of what it had read in the same breath; a broker that forgets the
        // session would not send that again.
        for event in events.state.events.drain(..) {
            match event {
                Event::Incoming(Packet::Publish(publish)) => self.delivered(publish, &mut live),
                Event::Incoming(Packet::PubAck(puback)) => self.acknowledged(&puback),
                _ => {}
            }
        }
        self.outbox.connection_lost();
        end
    }

    /// The client's next event; commands are taken meanwhile.
    async fn next_event(
        &mut self,
        events: &mut EventLoop,
        ticks: &mut Interval,
        live: &mut Live,
    ) -> Result<Event, ConnectionError> {
        let mut quiet_ticks = 0;
        // A poll is never cancelled: rumqttc would lose what it had read.
        let poll = events.poll();
        tokio::pin!(poll);
        loop {
            tokio::select! {
                event = &mut poll => return event,
                command = self.commands.recv(), if self.closing.is_none() => {
                    // Asked to close before the broker answered: there is nothing to say good-bye to.
                    if self.turn(command, live).is_break() && live.limits.is_none() {
                        return Err(ConnectionError::RequestsDone);
                    }
                }
                _ = ticks.tick() => {
                    quiet_ticks += 1;
                    if quiet_ticks > self.patience() {
                        let stalled = io::Error::new(ErrorKind::TimedOut, "the link takes nothing more");
                        return Err(ConnectionError::Io(stalled));
                    }
                }
            }
        }
    }

    /// How many keep-alives may pass without an event: in each there is a ping at least, unless a large packet
    /// is on its way out.
    fn patience(&self) -> u64 {
        let seconds = self.outbox.largest_handed() / SLOWEST_LINK;
        2 + seconds as u64 / self.settings.keep_alive.as_secs().max(1)
    }

    /// Takes the first command and those that wait behind it.
    fn turn(&mut self, first: Option<Command>, live: &mut Live) -> ControlFlow<()> {
        self.command(first, Some(live))?;
        for _ in 0..COMMANDS_PER_TURN {
            let Ok(command) = self.commands.try_recv() else {
                break;
            };
            self.command(Some(command), Some(live))?;
        }
        self.pump(live);
        ControlFlow::Continue(())
    }

    /// Breaks when the connection is to be closed.
    fn command(&mut self, command: Option<Command>, live: Option<&mut Live>) -> ControlFlow<()> {
        match command {
            Some(Command::Publish(message, waiter)) => self.outbox.push(message, Some(waiter)),
            Some(Command::Ack(place)) => {
                if let Some(live) = live {
                    self.ack(&place, live);
                }
            }
            Some(Command::Subscribe(filter, done)) => {
                self.subscribers
                    .entry(filter.clone())
                    .or_default()
                    .push(done);
                if !self.filters.contains(&filter) {
                    self.filters.push(filter.clone());
                }
                if let Some(live) = live.filter(|live| live.limits.is_some()) {
                    subscribe(live, vec![filter]);
                }
            }
            Some(Command::Unsubscribe(filter)) => {
                self.filters.retain(|held| *held != filter);
                if let Some(live) = live.filter(|live| live.limits.is_some()) {
                    let _ = live.client.try_unsubscribe(filter);
                }
            }
            Some(Command::Close(done)) => {
                self.closing = Some(done);
                if let Some(live) = live {
                    let _ = live.client.try_disconnect();
                }
                return ControlFlow::Break(());
            }
            // Every publisher is gone: nobody can ask for anything any more. Polled on, the closed channel
            // would spin.
            None => {
                let (done, _) = oneshot::channel();
                return self.command(Some(Command::Close(done)), live);
            }
        }
        ControlFlow::Continue(())
    }

    /// Hands over as many publishes as the window takes.
    fn pump(&mut self, live: &mut Live) {
        let Some(limits) = &live.limits else { return };
        while let Some(packet_id) = live.acks_due.front() {
            let mut publish = Publish::new("", QoS::AtLeastOnce, "", None);
            publish.pkid = *packet_id;
            if live.client.try_ack(&publish).is_err() {
                break;
            }
            live.acks_due.pop_front();
        }
        while let Some(pending) = self.outbox.next(live.window) {
            let bytes = pending.message.packet_bytes();
            if bytes > limits.max_packet_bytes {
                // Sent all the same, it would cost the connection, again and again.
                let (topic, limit) = (pending.message.topic.clone(), limits.max_packet_bytes);
                pending.answer(Err(PublishError::TooLarge {
                    topic,
                    bytes,
                    limit,
                }));
            } else if !rumqttc::valid_topic(&pending.message.topic) {
                let topic = pending.message.topic.clone();
                pending.answer(Err(PublishError::Refused {
                    topic,
                    reason: "not a valid topic".to_owned(),
                }));
            } else if link::hand_over(&live.client, &pending.message) {
                self.outbox.handed(pending);
            } else {
                // The channel is full: it is tried again when an event says that there is room.
                self.outbox.put_back(pending);
                break;
            }
        }
    }

    fn ack(&mut self, place: &Place, live: &mut Live) {
        if place.generation != self.generation {
            debug!(
                packet_id = place.packet_id,
                "acknowledgement of an earlier connection dropped"
            );
            return;
        }
        self.inbox.unanswered.fetch_sub(1, Ordering::Relaxed);
        for packet_id in live.acks.done(place.sequence, place.packet_id) {
            live.acks_due.push_back(packet_id);
        }
    }

    fn event(&mut self, event: Event, live: &mut Live) -> ControlFlow<End> {
        match event {
            Event::Incoming(Packet::ConnAck(connack)) => self.connected(&connack, live)?,
            Event::Incoming(Packet::SubAck(suback)) => self.subscribed(&suback, live)?,
            Event::Incoming(Packet::Publish(publish)) => self.delivered(publish, live),
            Event::Incoming(Packet::PubAck(puback)) => self.acknowledged(&puback),
            Event::Outgoing(Outgoing::Publish(packet_id)) => self.outbox.sent(packet_id),
            Event::Outgoing(Outgoing::Subscribe(packet_id)) => {
                if let Some(filters) = live.subscribing.pop_front() {
                    live.subscribed.insert(packet_id, filters);
                }
            }
            Event::Outgoing(Outgoing::Disconnect) => return ControlFlow::Break(End::Closed),
            _ => {}
        }
        self.pump(live);
        ControlFlow::Continue(())
    }

    fn acknowledged(&mut self, puback: &PubAck) {
        let Some(pending) = self.outbox.acknowledged(puback.pkid) else {
            return;
        };
        let topic = &pending.message.topic;
        let answer = match puback.reason {
            PubAckReason::Success => Ok(Published::Accepted),
            PubAckReason::NoMatchingSubscribers => Ok(Published::NoSubscribers),
            reason => Err(PublishError::Refused {
                topic: topic.clone(),
                reason: format!("{reason:?}"),
            }),
        };
        pending.answer(answer);
    }

    fn connected(&mut self, connack: &ConnAck, live: &mut Live) -> ControlFlow<End> {
        let limits = match link::fit(&self.settings, connack) {
            Ok(limits) => limits,
            Err(why) => return ControlFlow::Break(End::Final(why)),
        };
        live.window = link::window(&self.settings, connack);
        live.limits = Some(limits);
        // All of them, session or none: to subscribe again is harmless, and a retained message comes again.
        for filters in self.filters.chunks(FILTERS_PER_PACKET) {
            subscribe(live, filters.to_vec());
        }
        if let Some(birth) = &self.settings.birth {
            self.outbox.push(birth.clone().into(), None);
        }
        if self.filters.is_empty() {
            self.online(live);
        }
        ControlFlow::Continue(())
    }

    fn online(&mut self, live: &Live) {
        let Some(limits) = live.limits.clone() else {
            return;
        };
        if !matches!(*self.state.borrow(), State::Online(_)) {
            info!(broker = %self.settings.address, client_id = self.settings.client_id, session = limits.session_present, "connected");
        }
        self.ever_online = true;
        self.online_since.get_or_insert_with(Instant::now);
        self.state.send_replace(State::Online(limits));
    }

    fn subscribed(&mut self, suback: &SubAck, live: &mut Live) -> ControlFlow<End> {
        let filters = live.subscribed.remove(&suback.pkid).unwrap_or_default();
        for (filter, code) in filters.into_iter().zip(&suback.return_codes) {
            let answer = match code {
                SubscribeReasonCode::Success(QoS::AtLeastOnce | QoS::ExactlyOnce) => Ok(()),
                SubscribeReasonCode::Success(QoS::AtMostOnce) => {
                    Err("granted QoS 0 only".to_owned())
                }
                refused => Err(format!("{refused:?}")),
            };
            let why = answer
                .as_ref()
                .err()
                .map(|why| format!("the broker refused the subscription {filter:?}: {why}"));
            for waiter in self.subscribers.remove(&filter).unwrap_or_default() {
                let _ = waiter.send(why.clone().map_or(Ok(()), Err));
            }
            if let Some(why) = why {
                if self.settings.filters.contains(&filter) {
                    return ControlFlow::Break(End::Final(why));
                }
                self.filters.retain(|held| *held != filter);
            }
        }
        if live.subscribing.is_empty() && live.subscribed.is_empty() {
            self.online(live);
        }
        ControlFlow::Continue(())
    }

    fn delivered(&mut self, publish: Publish, live: &mut Live) {
        let (packet_id, redelivered) = (publish.pkid, publish.dup);
        let token = (publish.qos != QoS::AtMostOnce).then(|| {
            self.inbox.unanswered.fetch_add(1, Ordering::Relaxed);
            AckToken {
                session: self.inbox.session.clone(),
                number: self.inbox.number,
                place: Place {
                    generation: self.generation,
                    sequence: live.acks.arrived(packet_id),
                    packet_id,
                },
            }
        });
        let delivery = link::inbound(publish).map(|inbound| Delivery {
            inbound,
            redelivered,
            token,
            mark: self.inbox.mark,
        });
        // Whoever took deliveries is gone: unacknowledged, they come again for whoever comes next.
        if let Some(delivery) = delivery {
            let _ = self.inbox.deliveries.send(delivery);
        }
    }
}

fn subscribe(live: &mut Live, filters: Vec<String>) {
    let wanted = filters.iter().map(|path| Filter {
        path: path.clone(),
        qos: QoS::AtLeastOnce,
        nolocal: false,
        preserve_retain: true,
        retain_forward_rule: RetainForwardRule::OnEverySubscribe,
    });
    if live.client.try_subscribe_many(wanted).is_ok() {
        live.subscribing.push_back(filters);
    } else {
        error!(?filters, "the client does not take this subscription");
    }
}
