//! What the embedded broker promises to any client.

use std::collections::BTreeSet;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{LastWill, PubAckReason, PublishProperties};
use tokio::time::{sleep, timeout};
use wasmqtt::broker::{Broker, Settings};

use crate::raw_client::{Client, broker, expiry, options};
use crate::rig::PATIENCE;

pub(crate) async fn properties_pass_through() {
    let broker = broker().await;
    let mut a = Client::new(&broker, "a").await;
    let mut b = Client::new(&broker, "b").await;
    a.subscribe("plain/#").await;
    a.subscribe("$share/g/shared/+").await;
    for topic in ["plain/x", "shared/x"] {
        let sent = PublishProperties {
            user_properties: vec![
                ("module".into(), "upper".into()),
                ("module".into(), "é".into()),
            ],
            response_topic: Some("answers/1".into()),
            correlation_data: Some(vec![0, 1, 255].into()),
            content_type: Some("text/plain".into()),
            payload_format_indicator: Some(1),
            message_expiry_interval: Some(60),
            ..Default::default()
        };
        assert_eq!(
            b.publish_with(topic, false, "hello", sent.clone()).await,
            PubAckReason::Success
        );
        let got = a.next().await;
        assert_eq!(
            (&got.payload[..], &got.topic[..]),
            (&b"hello"[..], topic.as_bytes())
        );
        assert_eq!(got.properties.expect("properties"), sent);
    }
    // Whole seconds, rounded up: the shortest expiry arrives as such, not as none.
    b.publish_with("plain/x", false, "brief", expiry(1)).await;
    assert_eq!(
        a.next()
            .await
            .properties
            .and_then(|p| p.message_expiry_interval),
        Some(1)
    );
    let connack = a.connack.properties.clone().expect("properties");
    assert_ne!(connack.shared_subscription_available, Some(0));
    assert_ne!(connack.retain_available, Some(0));
    assert_eq!(connack.receive_max.unwrap_or(65_535), 65_535);
    assert_eq!(connack.max_packet_size, Some(64 << 20));
    broker.stop().await;
}

pub(crate) async fn retained_messages_are_kept_replaced_and_cleared() {
    let broker = broker().await;
    let mut a = Client::new(&broker, "a").await;
    let with = |value: &str| PublishProperties {
        user_properties: vec![("digest".into(), value.into())],
        ..Default::default()
    };
    a.publish_with("modules/upper", true, "one", with("1"))
        .await;
    a.publish_with("modules/upper", true, "two", with("2"))
        .await;
    a.publish_with("modules/lower", true, "low", with("3"))
        .await;
    a.publish_with("modules/brief", true, "brief", expiry(1))
        .await;
    sleep(Duration::from_millis(2100)).await;

    let mut b = Client::new(&broker, "b").await;
    b.subscribe("$share/g/modules/+").await;
    b.nothing().await;
    b.subscribe("modules/upper").await;
    let got = b.next().await;
    assert!(got.retain);
    assert_eq!(&got.payload[..], b"two");
    assert_eq!(
        got.properties.expect("properties").user_properties,
        [("digest".into(), "2".into())]
    );
    b.nothing().await;

    let mut c = Client::new(&broker, "c").await;
    c.subscribe("modules/+").await;
    let topics = BTreeSet::from([c.next().await.topic, c.next().await.topic]);
    assert_eq!(
        topics,
        BTreeSet::from(["modules/lower".into(), "modules/upper".into()])
    );
    c.nothing().await;

    a.publish_with("modules/upper", true, "", PublishProperties::default())
        .await;
    assert!(
        b.next().await.payload.is_empty(),
        "the clearing itself is seen"
    );
    assert!(b.next().await.payload.is_empty(), "by both subscriptions");
    let mut d = Client::new(&broker, "d").await;
    d.subscribe("modules/upper").await;
    d.nothing().await;
    broker.stop().await;
}

pub(crate) async fn a_large_module_is_retained_and_a_larger_one_refused() {
    let broker = Broker::start(Settings {
        max_packet_bytes: 8 << 20,
        ..Settings::default()
    })
    .await
    .expect("broker");
    let mut a = Client::new(&broker, "a").await;
    a.client
        .publish("modules/big", QoS::AtLeastOnce, true, vec![7; 7 << 20])
        .await
        .expect("publish");
    assert_eq!(a.acked().await, PubAckReason::Success);
    let mut b = Client::new(&broker, "b").await;
    b.subscribe("modules/big").await;
    assert_eq!(b.next().await.payload.len(), 7 << 20);
    a.client
        .publish("modules/big", QoS::AtLeastOnce, true, vec![7; 9 << 20])
        .await
        .expect("publish");
    timeout(PATIENCE, a.ended.recv())
        .await
        .expect("disconnected");
    broker.stop().await;
}

pub(crate) async fn a_last_will_is_published_when_the_connection_drops() {
    let broker = broker().await;
    let mut watcher = Client::new(&broker, "watcher").await;
    watcher.subscribe("runner_status/+").await;
    let mut mortal = options(broker.address(), "mortal");
    mortal.set_last_will(LastWill::new(
        "runner_status/1",
        "offline",
        QoS::AtLeastOnce,
        true,
        None,
    ));
    let mortal = Client::with(mortal).await;
    mortal.die().await;
    assert_eq!(&watcher.next().await.payload[..], b"offline");
    let mut late = Client::new(&broker, "late").await;
    late.subscribe("runner_status/+").await;
    assert_eq!(&late.next().await.payload[..], b"offline");
    broker.stop().await;
}

pub(crate) async fn a_full_broker_refuses_and_says_so() {
    let settings = Settings {
        max_held_messages: 10,
        ..Settings::default()
    };
    let broker = Broker::start(settings).await.expect("broker");
    let mut producer = Client::new(&broker, "producer").await;
    producer
        .publish_with("task_queue", false, "99", expiry(2))
        .await;
    producer.publish_numbers("task_queue", 0..9).await;
    assert_eq!(
        producer.publish("task_queue", "9").await,
        PubAckReason::QuotaExceeded
    );
    assert_eq!(
        producer.publish("tenants/t/task_queue", "9").await,
        PubAckReason::QuotaExceeded
    );
    assert_eq!(
        producer.publish("elsewhere", "9").await,
        PubAckReason::Success
    );
    producer
        .client
        .publish("task_queue", QoS::AtMostOnce, false, "9")
        .await
        .expect("publish");
    sleep(Duration::from_millis(3500)).await;
    // One has expired, so there is room for one.
    assert_eq!(
        producer.publish("task_queue", "9").await,
        PubAckReason::Success
    );
    assert_eq!(
        producer.publish("task_queue", "10").await,
        PubAckReason::QuotaExceeded
    );
    let mut member = Client::manual(&broker, "member", 0, 50).await;
    member.subscribe("$share/g/task_queue").await;
    assert_eq!(member.take_all(10).await, (0..10).collect::<Vec<_>>());
    assert_eq!(
        producer.publish("task_queue", "10").await,
        PubAckReason::Success
    );
    assert_eq!(member.take_all(1).await, [10]);
    broker.stop().await;

    let settings = Settings {
        max_held_bytes: 100_000,
        ..Settings::default()
    };
    let broker = Broker::start(settings).await.expect("broker");
    let mut producer = Client::new(&broker, "producer").await;
    assert_eq!(
        producer.publish("task_queue", vec![b'x'; 60_000]).await,
        PubAckReason::Success
    );
    assert_eq!(
        producer.publish("task_queue", vec![b'x'; 60_000]).await,
        PubAckReason::QuotaExceeded
    );
    assert_eq!(
        producer.publish("task_queue", vec![b'x'; 6_000]).await,
        PubAckReason::Success
    );
    broker.stop().await;
}

pub(crate) async fn brokers_are_independent_and_stop_frees_the_port() {
    let (one, two) = (broker().await, broker().await);
    assert_ne!(one.address(), two.address());
    let mut at_one = Client::new(&one, "same").await;
    let mut at_two = Client::new(&two, "same").await;
    at_one.subscribe("#").await;
    at_two.subscribe("#").await;
    at_one.publish("t", "1").await;
    assert_eq!(at_one.next_number().await, 1);
    at_two.nothing().await;

    let address = one.address();
    let taken = Broker::start(Settings {
        address,
        ..Settings::default()
    })
    .await;
    assert!(format!("{:#}", taken.expect_err("taken")).contains(&address.to_string()));
    let mut away = Client::manual(&one, "away", 3600, 10).await;
    away.subscribe("$share/g/t").await;
    away.die().await;
    timeout(PATIENCE, one.stop()).await.expect("stopped");
    timeout(PATIENCE, at_one.ended.recv())
        .await
        .expect("disconnected");
    let again = Broker::start(Settings {
        address,
        ..Settings::default()
    })
    .await
    .expect("the same port again");
    assert_eq!(again.address(), address);
    assert_eq!(again.url(), format!("mqtt://127.0.0.1:{}", address.port()));
    let mut back = Client::new(&again, "same").await;
    back.publish("t", "2").await;
    at_two.nothing().await;

    // Dropping it does the same, a moment later.
    drop(again);
    timeout(PATIENCE, back.ended.recv())
        .await
        .expect("disconnected");
    two.stop().await;
}

pub(crate) async fn stopping_under_load_leaves_nothing() {
    let mut address = None;
    for _ in 0..5 {
        let settings = Settings {
            address: address.unwrap_or(Settings::default().address),
            ..Settings::default()
        };
        let broker = Broker::start(settings).await.expect("broker");
        address = Some(broker.address());
        let mut members = Vec::new();
        for n in 0..10 {
            let mut member = Client::manual(&broker, &format!("m{n}"), n % 2 * 600, 20).await;
            member.subscribe("$share/g/task_queue").await;
            members.push(member);
        }
        let mut producer = Client::new(&broker, "producer").await;
        producer.publish_numbers("task_queue", 0..100).await;
        let producing = tokio::spawn(async move {
            while producer
                .client
                .publish("task_queue", QoS::AtLeastOnce, false, "1")
                .await
                .is_ok()
            {
                if !producer.ended.is_empty() {
                    break;
                }
            }
        });
        sleep(Duration::from_millis(100)).await;
        timeout(PATIENCE, broker.stop()).await.expect("stopped");
        timeout(PATIENCE, producing)
            .await
            .expect("ended")
            .expect("producer");
    }
}
