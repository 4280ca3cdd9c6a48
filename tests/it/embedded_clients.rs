//! The embedded broker with Debian's mosquitto clients, which speak both versions of MQTT.

use std::time::Duration;

use tokio::time::timeout;
use wasmqtt::broker::{Broker, Settings};

use crate::raw_client::broker;
use crate::stock::Stock;

fn stock(broker: &Broker, version: &'static str) -> Stock {
    Stock {
        port: broker.address().port(),
        version,
        login: None,
    }
}

async fn round_trip(publisher: &'static str, subscriber: &'static str) {
    let broker = broker().await;
    let publisher = stock(&broker, publisher);
    // Retained and parked before anybody is there; cleared; QoS 0 and 1.
    for (topic, message) in [
        ("modules/upper", ["-m", "wasm"].as_slice()),
        ("modules/gone", &["-m", "wasm"]),
        ("modules/gone", &["-n"]),
    ] {
        publisher
            .publish(&[&["-r", "-q", "1", "-t", topic], message].concat())
            .await;
    }
    for qos in ["0", "1"] {
        publisher
            .publish(&["-t", "task_queue", "-q", qos, "-m", qos])
            .await;
    }
    let mut heard = stock(&broker, subscriber)
        .subscribe(&[
            "modules/+",
            "$share/g/task_queue",
            "$share/g/tenants/+/task_queue",
            "task_completed",
        ])
        .await;
    publisher
        .publish(&[
            "-t",
            "task_completed",
            "-q",
            "1",
            "-m",
            "done",
            "--will-topic",
            "x",
            "--will-payload",
            "y",
        ])
        .await;
    publisher
        .publish(&["-t", "tenants/t/task_queue", "-q", "1", "-m", "2"])
        .await;
    let mut seen = Vec::new();
    for _ in 0..5 {
        let heard = heard.next().await;
        seen.push(format!("{} {}", heard.topic, heard.payload));
    }
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            "modules/upper wasm",
            "task_completed done",
            "task_queue 0",
            "task_queue 1",
            "tenants/t/task_queue 2"
        ]
    );
    broker.stop().await;
}

pub(crate) async fn both_versions_on_one_listener() {
    for publisher in ["311", "5"] {
        for subscriber in ["311", "5"] {
            round_trip(publisher, subscriber).await;
        }
    }
}

pub(crate) async fn properties_reach_mosquitto() {
    let broker = broker().await;
    let stock = stock(&broker, "5");
    let mut heard = stock.subscribe(&["$share/g/task_queue"]).await;
    stock
        .publish(&[
            "-t",
            "task_queue",
            "-q",
            "1",
            "-m",
            "in",
            "-D",
            "publish",
            "user-property",
            "module",
            "upper",
            "-D",
            "publish",
            "response-topic",
            "answers",
            "-D",
            "publish",
            "correlation-data",
            "c1",
        ])
        .await;
    let heard = heard.next().await;
    assert_eq!(
        (
            heard.user.as_str(),
            heard.response_topic.as_str(),
            heard.correlation.as_str(),
            heard.payload.as_str()
        ),
        ("module:upper", "answers", "c1", "in")
    );
    broker.stop().await;
}

pub(crate) async fn an_old_publisher_is_not_told_success_when_the_broker_is_full() {
    let broker = Broker::start(Settings {
        max_held_messages: 1,
        ..Settings::default()
    })
    .await
    .expect("a broker");
    let args = ["-t", "task_queue", "-q", "1", "-m", "1"];
    let old = stock(&broker, "311");
    old.publish(&args).await;
    // It is disconnected without its PUBACK, and tries again for ever.
    let refused = timeout(Duration::from_secs(1), old.try_publish(&args)).await;
    assert!(refused.is_err() || refused.is_ok_and(|output| !output.status.success()));
    let refused = stock(&broker, "5").try_publish(&args).await;
    let said = String::from_utf8_lossy(&refused.stderr).to_lowercase();
    assert!(said.contains("quota"), "{said}");
    broker.stop().await;
}
