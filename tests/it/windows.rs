//! How many deliveries a runner holds, and in which order it acknowledges them, seen on the wire.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::json;
use wasmqtt::broker::{Broker, Settings};
use wasmqtt::config::Config;
use wasmqtt::envelope::Message;
use wasmqtt::mqtt::settings::AckOrder;
use wasmqtt_tests::guests;

use crate::batch::{self, Answers, until};
use crate::packets::{PUBACK, PUBLISH, Packet};
use crate::proxy::{Proxy, Verdict, Way};
use crate::rig::{Ear, Rig, config};

/// The packet ids of tasks, as they were delivered and as they were acknowledged.
#[derive(Debug, Default)]
struct Wire {
    /// The connection that tasks come over.
    connection: Option<usize>,
    delivered: Vec<u16>,
    acknowledged: Vec<u16>,
    most_held: usize,
}

impl Wire {
    fn see(&mut self, connection: usize, way: Way, packet: &Packet) {
        match (way, packet.kind()) {
            (Way::ToClient, PUBLISH) if packet.topic() == "task_queue" => {
                self.connection = Some(connection);
                self.delivered.push(packet.id());
            }
            (Way::ToBroker, PUBACK) if self.connection == Some(connection) => {
                self.acknowledged.push(packet.id());
            }
            _ => {}
        }
        let held = self.delivered.len() - self.acknowledged.len();
        self.most_held = self.most_held.max(held);
    }
}

struct Watched {
    rig: Rig,
    broker: Broker,
    wire: Arc<Mutex<Wire>>,
    _proxy: Proxy,
}

impl Watched {
    async fn new(change: impl FnOnce(&mut Config)) -> Watched {
        let broker = Broker::start(Settings::default()).await.expect("a broker");
        let wire = Arc::new(Mutex::new(Wire::default()));
        let seen = wire.clone();
        let proxy = Proxy::tapped(broker.address(), move |connection, way, packet| {
            lock(&seen).see(connection, way, packet);
            Verdict::Pass
        })
        .await;
        let mut config = config(&proxy.url());
        config.runner.drain_s = 0;
        change(&mut config);
        let rig = Rig::heard_by(Ear::connect(&broker.url()).await, config).await;
        rig.push("echo", guests::ECHO).await;
        rig.push("sleep", guests::SLEEPING_HOST_CALL).await;
        Watched {
            rig,
            broker,
            wire,
            _proxy: proxy,
        }
    }

    /// A task that ends at its deadline, and ten behind it that end at once.
    async fn one_slow_task(&mut self, timeout_ms: u64) {
        let limits = json!({"timeout_ms": timeout_ms});
        let slow = json!({"id": "slow", "module": "sleep", "limits": limits});
        let message = Message::new("task_queue", slow.to_string());
        self.rig.publish(message).await;
        batch::publish(&self.rig.ear, "echo", "hello", 10).await;
        let mut answers = Answers::default();
        answers.until(&mut self.rig.ear, 10).await;
    }

    async fn acknowledged(&self, count: usize) {
        until("acknowledged", || {
            lock(&self.wire).acknowledged.len() >= count
        })
        .await;
    }

    async fn end(self) {
        self.rig.end().await;
        self.broker.stop().await;
    }
}

fn lock(wire: &Mutex<Wire>) -> MutexGuard<'_, Wire> {
    wire.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) async fn completion_order_waits_for_nobody() {
    let mut watched = Watched::new(|_| {}).await;
    watched.one_slow_task(300_000).await;
    watched.acknowledged(10).await;
    {
        let wire = lock(&watched.wire);
        assert!(!wire.acknowledged.contains(&wire.delivered[0]), "{wire:?}");
    }
    watched.end().await;
}

pub(crate) async fn arrival_order_waits_for_the_head() {
    let mut watched = Watched::new(|config| {
        config.mqtt.ack_order = AckOrder::Arrival;
    })
    .await;
    watched.one_slow_task(2_000).await;
    let slow = watched.rig.ear.outcome("slow").await;
    assert_eq!(slow["error"]["code"], "deadline_exceeded");
    watched.acknowledged(11).await;
    {
        let wire = lock(&watched.wire);
        assert_eq!(wire.acknowledged, wire.delivered);
    }
    watched.end().await;
}

pub(crate) async fn the_prefetch_is_honoured() {
    let mut watched = Watched::new(|config| config.runner.prefetch = 5).await;
    batch::publish(&watched.rig.ear, "echo", "hello", 200).await;
    let answers = Answers::default();
    answers.all(&mut watched.rig.ear, 200, "prefetch 5").await;
    assert_eq!(lock(&watched.wire).most_held, 5);
    watched.end().await;
}
