//! What becomes of tasks when the link between runner and broker fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use wasmqtt::broker::{Broker, Settings};
use wasmqtt::runner::Runner;
use wasmqtt_tests::guests;

use crate::batch::{self, Answers, until};
use crate::packets::{PUBACK, PUBLISH};
use crate::proxy::{Proxy, Stall, Verdict, Way};
use crate::rig::{Ear, PATIENCE, Rig, config, retained, with_properties};
use crate::stock::Port;

/// A few milliseconds of a guest.
const SHORT: &str = "1000000";

/// The shortest keep-alive that the client takes, in seconds.
const SHORTEST: u64 = 5;

async fn embedded() -> Broker {
    Broker::start(Settings::default()).await.expect("a broker")
}

/// A runner behind a proxy, and an ear on the broker itself.
async fn behind(proxy: &Proxy, broker: &Broker) -> Rig {
    let rig = Rig::heard_by(Ear::connect(&broker.url()).await, config(&proxy.url())).await;
    rig.push("echo", guests::ECHO).await;
    rig.push("burn", guests::BURN).await;
    rig
}

/// The same with one connection only, which is to notice soon when the link stalls.
async fn alone_behind(proxy: &Proxy, broker: &Broker, modules: &TempDir) -> Rig {
    for (name, module) in [("echo.wasm", guests::ECHO), ("burn.wasm", guests::BURN)] {
        std::fs::write(modules.path().join(name), module).expect("a module");
    }
    let mut config = config(&proxy.url());
    config.mqtt.keep_alive_s = SHORTEST;
    config.modules.published = false;
    config.modules.directory = Some(modules.path().to_owned());
    config.runner.prefetch = 200;
    Rig::heard_by(Ear::connect(&broker.url()).await, config).await
}

pub(crate) async fn the_link_is_cut_again_and_again() {
    const TASKS: usize = 300;
    let broker = embedded().await;
    let proxy = Proxy::start(broker.address()).await;
    let mut rig = behind(&proxy, &broker).await;
    batch::publish(&rig.ear, "burn", SHORT, TASKS).await;
    let mut answers = Answers::default();
    for cuts in 1..=5 {
        answers.until(&mut rig.ear, cuts * 50).await;
        proxy.cut();
    }
    answers.all(&mut rig.ear, TASKS, "link cut").await;
    rig.end().await;
    broker.stop().await;
}

/// Nothing comes and nothing goes, and no connection ends: only the keep-alive tells.
pub(crate) async fn a_stalled_link_is_noticed() {
    const TASKS: usize = 100;
    let broker = embedded().await;
    let proxy = Proxy::start(broker.address()).await;
    let modules = TempDir::new().expect("a folder");
    let mut rig = alone_behind(&proxy, &broker, &modules).await;
    batch::publish(&rig.ear, "burn", SHORT, TASKS).await;
    let mut answers = Answers::default();
    answers.until(&mut rig.ear, 20).await;
    proxy.stall(Stall::Everything);
    until("it connects anew", || proxy.accepted() > 1).await;
    proxy.stall(Stall::Nothing);
    answers.all(&mut rig.ear, TASKS, "link stalled").await;
    rig.end().await;
    broker.stop().await;
}

/// The same while the runner has more to send than the buffers on the way take.
pub(crate) async fn a_stalled_link_is_noticed_under_way() {
    const TASKS: usize = 200;
    const BYTES: usize = 64 << 10;
    let broker = embedded().await;
    let proxy = Proxy::start(broker.address()).await;
    let modules = TempDir::new().expect("a folder");
    let mut rig = alone_behind(&proxy, &broker, &modules).await;
    rig.task(json!({"id": "warm", "module": "echo"})).await;
    proxy.stall(Stall::ToBroker);
    for n in 0..TASKS {
        let task = [("id", &*n.to_string()), ("module", "echo")];
        rig.publish(with_properties(vec![b'x'; BYTES], &task)).await;
    }
    until("it connects anew", || proxy.accepted() > 1).await;
    proxy.stall(Stall::Nothing);
    for n in 0..TASKS {
        let outcome = rig
            .ear
            .hear(|inbound| {
                inbound.topic == "task_completed"
                    && crate::rig::user(inbound, "id") == Some(&n.to_string())
            })
            .await;
        assert_eq!(outcome.payload.len(), BYTES);
    }
    rig.end().await;
    broker.stop().await;
}

/// The broker has the outcome, but the runner does not know.
pub(crate) async fn the_link_is_cut_before_the_outcomes_puback() {
    let broker = embedded().await;
    let outcomes = Arc::new(AtomicU16::new(0));
    let cuts = Arc::new(AtomicUsize::new(0));
    let (seen, cut) = (outcomes.clone(), cuts.clone());
    let proxy = Proxy::tapped(broker.address(), move |_, way, packet| {
        match (way, packet.kind()) {
            (Way::ToBroker, PUBLISH) if packet.topic() == "task_completed" => {
                seen.store(packet.id(), Ordering::Relaxed);
            }
            (Way::ToClient, PUBACK)
                if packet.id() == seen.load(Ordering::Relaxed)
                    && cut.load(Ordering::Relaxed) == 0 =>
            {
                cut.fetch_add(1, Ordering::Relaxed);
                return Verdict::Cut;
            }
            _ => {}
        }
        Verdict::Pass
    })
    .await;
    let mut rig = behind(&proxy, &broker).await;
    for id in ["1", "2"] {
        let outcome = rig
            .task(json!({"id": id, "module": "echo", "input": id}))
            .await;
        assert_eq!(outcome["output"], id);
    }
    assert_eq!(cuts.load(Ordering::Relaxed), 1);
    rig.end().await;
    broker.stop().await;
}

pub(crate) async fn two_runners_of_one_name_lose_nothing() {
    let broker = embedded().await;
    two_of_one_name(&broker.url(), 0).await;
    broker.stop().await;
}

/// Brokers close the first one's connection without a word, so each takes the session from the other again; the
/// tasks are answered all the same.
pub(crate) async fn two_of_one_name(url: &str, session_expiry_s: u64) {
    const TASKS: usize = 50;
    let mut config = config(url);
    config.mqtt.session_expiry_s = session_expiry_s;
    let first = Runner::start(&config).await.expect("a runner");
    let first = tokio::spawn(first.run(std::future::pending()));
    let mut rig = Rig::on(config).await;
    rig.push("burn", guests::BURN).await;
    batch::publish(&rig.ear, "burn", SHORT, TASKS).await;
    let answers = Answers::default();
    answers.all(&mut rig.ear, TASKS, "one name").await;
    first.abort();
    rig.end().await;
}

pub(crate) async fn the_broker_comes_later() {
    let port = Port::reserve();
    let address = SocketAddr::from(([127, 0, 0, 1], port.number));
    let config = config(&format!("mqtt://{address}"));
    let starting = tokio::spawn(async move { Runner::start(&config).await });
    // Long enough for a few attempts; nothing fails if there were none.
    sleep(Duration::from_millis(500)).await;
    assert!(!starting.is_finished(), "it waits");
    let settings = Settings {
        address,
        ..Settings::default()
    };
    let broker = Broker::start(settings).await.expect("a broker");
    let started = timeout(PATIENCE, starting).await.expect("started in time");
    let runner = started.expect("no panic").expect("a runner");
    let running = tokio::spawn(runner.run(std::future::pending()));
    let mut ear = Ear::connect(&broker.url()).await;
    let module = retained("modules/echo", guests::ECHO);
    ear.publisher.publish(module).await.expect("a PUBACK");
    batch::publish(&ear, "echo", "hello", 1).await;
    Answers::default().all(&mut ear, 1, "broker later").await;
    running.abort();
    broker.stop().await;
}
