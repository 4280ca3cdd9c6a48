//! Brokers that cannot serve a runner: it does not start, and says what they lack.

use tokio::time::timeout;
use wasmqtt::runner::Runner;

use crate::fake_broker::{FakeBroker, Script, WILLING};
use crate::rig::{PATIENCE, config};

/// What a runner says that does not start on this broker.
async fn refusal(script: Script) -> String {
    let broker = FakeBroker::start(script).await;
    let config = config(&broker.url());
    let starting = timeout(PATIENCE, Runner::start(&config)).await;
    match starting.expect("an answer in time") {
        Ok(_) => panic!("it starts on {script:?}"),
        Err(error) => format!("{error:#}"),
    }
}

pub(crate) async fn a_willing_broker_is_fit() {
    let broker = FakeBroker::start(WILLING).await;
    let config = config(&broker.url());
    let starting = timeout(PATIENCE, Runner::start(&config)).await;
    let started = starting.expect("started in time");
    assert!(started.is_ok(), "{:?}", started.err());
}

pub(crate) async fn what_a_broker_lacks_is_named() {
    for (property, lacks) in [
        (0x2a, "has no shared subscriptions"),
        (0x28, "has no wildcard subscriptions"),
        (0x24, "has no QoS 1"),
        (0x25, "has no retained messages"),
    ] {
        let properties: &'static [u8] = match property {
            0x2a => &[0x2a, 0],
            0x28 => &[0x28, 0],
            0x24 => &[0x24, 0],
            _ => &[0x25, 0],
        };
        let said = refusal(Script {
            properties,
            ..WILLING
        })
        .await;
        assert!(said.contains(lacks), "{property:#x}: {said}");
        assert!(said.contains("mqtt://127.0.0.1:"), "{said}");
    }
}

pub(crate) async fn a_refused_connection_is_named() {
    for (connack, reason) in [
        (0x84, "UnsupportedProtocolVersion"),
        (0x85, "ClientIdentifierNotValid"),
        (0x86, "BadUserNamePassword"),
        (0x87, "NotAuthorized"),
        (0x8a, "Banned"),
    ] {
        let said = refusal(Script { connack, ..WILLING }).await;
        assert!(said.contains(reason), "{connack:#x}: {said}");
    }
}

pub(crate) async fn a_refused_subscription_is_named() {
    for (suback, reason) in [
        (0x00, "granted QoS 0 only"),
        (0x80, "Unspecified"),
        (0x87, "NotAuthorized"),
        (0x97, "QuotaExceeded"),
        (0x9e, "SharedSubscriptionsNotSupported"),
        (0xa2, "WildcardSubscriptionsNotSupported"),
    ] {
        let said = refusal(Script { suback, ..WILLING }).await;
        assert!(said.contains(reason), "{suback:#x}: {said}");
        assert!(
            said.contains("the broker refused the subscription"),
            "{said}"
        );
    }
}

/// DISCONNECT with reason 0x8e, and how a runner ends that gets it again at once.
pub(crate) async fn a_session_taken_over_ends_the_runner() {
    let broker = FakeBroker::start(Script {
        last_words: Some(&[0xe0, 2, 0x8e, 0]),
        ..WILLING
    })
    .await;
    let config = config(&broker.url());
    let ending = async {
        Runner::start(&config)
            .await?
            .run(std::future::pending())
            .await
    };
    let ended = timeout(PATIENCE, ending).await.expect("an end in time");
    let said = format!("{:#}", ended.expect_err("it was taken over"));
    assert!(said.contains("another client connected as"), "{said}");
    assert!(said.contains("a name of its own"), "{said}");
}
