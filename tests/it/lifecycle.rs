//! What happens around a task: events, logs, a second delivery, the runner's coming and going.

use serde_json::json;
use wasmqtt::envelope::{Inbound, Message, Quality};
use wasmqtt_tests::guests;

use crate::rig::{Ear, Rig, json as read, user, with_properties};
use crate::shown;

fn example(name: &str) -> wasmqtt_examples::Example {
    let found = wasmqtt_examples::ALL.iter().find(|e| e.name == name);
    *found.expect("an example")
}

/// A task that holds its permit until its timeout and costs nothing meanwhile.
fn sleeper(id: &str, timeout_ms: u64) -> Message {
    let task =
        json!({"id": id, "module": "sleeps", "events": true, "limits": {"timeout_ms": timeout_ms}});
    Message::new("task_queue", task.to_string())
}

/// Publishes a task; what was said of it before its outcome, in order.
async fn said(rig: &mut Rig, module: &str, input: &'static [u8], wanted: &[&str]) -> Vec<Inbound> {
    let mut fields = vec![("id", "said"), ("module", module)];
    fields.extend(wanted.iter().map(|field| (*field, "true")));
    rig.publish(with_properties(input, &fields)).await;
    let outcome = rig.ear.hear(|inbound| inbound.topic == "task_completed");
    let outcome = outcome.await;
    assert_eq!(user(&outcome, "status"), Some("succeeded"), "{outcome:?}");
    let said = rig.ear.unasked(|inbound| inbound.topic.ends_with("/said"));
    said.into_iter().cloned().collect()
}

pub(crate) async fn events() {
    let mut rig = Rig::new().await;
    let thumbnail = example("thumbnail");
    rig.push("thumbnail", thumbnail.wasm).await;
    let said = said(&mut rig, "thumbnail", thumbnail.input, &["events"]).await;
    // Progress is passed on at most every 100 ms: only the first is sure.
    assert!((3..=6).contains(&said.len()), "{said:?}");
    let shown: Vec<String> = said.iter().take(3).map(shown::payload).collect();
    shown::same("events", &shown.join("\n"));
    rig.end().await;
}

pub(crate) async fn log_of_a_typed_guest() {
    let mut rig = Rig::new().await;
    let thumbnail = example("thumbnail");
    rig.push("thumbnail", thumbnail.wasm).await;
    let said = said(&mut rig, "thumbnail", thumbnail.input, &["logs"]).await;
    let shown: Vec<String> = said.iter().map(shown::payload).collect();
    shown::same("log_of_a_typed_guest", &shown.join("\n"));
    rig.end().await;
}

pub(crate) async fn log_of_a_command() {
    let mut rig = Rig::new().await;
    rig.push("wordcount", example("wordcount").wasm).await;
    let said = said(&mut rig, "wordcount", b"a b a", &["events", "logs"]).await;
    let shown: Vec<String> = said.iter().map(shown::payload).collect();
    shown::same("log_of_a_command", &shown.join("\n"));
    rig.end().await;
}

pub(crate) async fn nothing_is_said_unasked() {
    let mut rig = Rig::new().await;
    rig.push("wordcount", example("wordcount").wasm).await;
    let said = said(&mut rig, "wordcount", b"a b a", &[]).await;
    assert!(said.is_empty(), "{said:?}");
    rig.end().await;
}

/// The same task again attaches to the one that runs; another one under its id is refused.
pub(crate) async fn the_same_id_again() {
    let mut rig = Rig::new().await;
    rig.push("echo", guests::ECHO).await;
    rig.push("sleeps", guests::SLEEPING_HOST_CALL).await;
    rig.publish(sleeper("same", 3000)).await;
    rig.ear.started("same").await;
    // Sent again by somebody who wants the answer elsewhere: it does not run again, and both are answered.
    let mut again = read_message(&sleeper("same", 3000));
    again["reply_to"] = "replies/again".into();
    rig.publish(Message::new("task_queue", again.to_string()))
        .await;
    let other = json!({"id": "same", "module": "echo", "input": "other"});
    rig.publish(Message::new("task_queue", other.to_string()))
        .await;
    // Refused under another id: the one outcome of `same` is still to come.
    let refused = rig
        .ear
        .hear(|inbound| read(inbound).is_some_and(|said| said["error"]["code"] == "invalid_task"))
        .await;
    let refused = read(&refused).expect("JSON");
    assert_eq!(refused["status"], "rejected", "{refused}");
    assert_ne!(refused["id"], "same", "{refused}");
    let message = refused["error"]["message"].as_str().expect("a message");
    assert!(message.contains("`id` same"), "{message}");

    let answer = rig
        .ear
        .hear(|inbound| inbound.topic == "replies/again")
        .await;
    assert_eq!(read(&answer).expect("JSON")["id"], "same");
    let outcome = rig.ear.outcome("same").await;
    assert_eq!(outcome["status"], "timed_out", "{outcome}");
    // Once more through the queue: whatever else there was to be heard has been heard then.
    rig.task(json!({"id": "after", "module": "echo"})).await;
    let more = rig.ear.unasked(|inbound| {
        read(inbound).is_some_and(|said| said["id"] == "same" && said["status"] != "queued")
    });
    assert!(more.is_empty(), "it ran once: {more:?}");
    rig.end().await;
}

/// On drain what runs finishes; what waits goes to another runner of the group.
pub(crate) async fn drain_hands_back_what_waits() {
    let mut first = Rig::with(|config| {
        config.runner.concurrency = 1;
        config.runner.name = "first".to_owned();
    })
    .await;
    first.push("echo", guests::ECHO).await;
    first.push("sleeps", guests::SLEEPING_HOST_CALL).await;
    first.publish(sleeper("runs", 3000)).await;
    first.ear.started("runs").await;
    let waits = json!({"id": "waits", "module": "echo", "input": "hello", "events": true});
    first
        .publish(Message::new("task_queue", waits.to_string()))
        .await;
    let hopeless = Message {
        quality: Quality::AtMostOnce,
        ..Message::new(
            "task_queue",
            r#"{"id":"hopeless","module":"echo","events":true}"#,
        )
    };
    first.publish(hopeless).await;
    first.ear.event("waits", "queued").await;
    first.ear.event("hopeless", "queued").await;
    first.stop().await;

    let ran = first.ear.outcome("runs").await;
    assert_eq!(ran["status"], "timed_out", "it had its time: {ran}");
    assert_eq!(ran["runner"], "first", "{ran}");
    let hopeless = first.ear.outcome("hopeless").await;
    assert_eq!(
        hopeless["error"]["code"], "runner_shutdown",
        "nobody delivers QoS 0 again: {hopeless}"
    );

    let mut config = first.config.clone();
    config.runner.name = "second".to_owned();
    let mut second = Rig::on(config).await;
    let handed_on = first.ear.outcome("waits").await;
    assert_eq!(handed_on["output"], "hello", "{handed_on}");
    assert_eq!(handed_on["runner"], "second", "{handed_on}");
    second.stop().await;
    second.end().await;
    first.end().await;
}

/// When the grace of a drain is over, what still runs is handed back too.
pub(crate) async fn drain_ends_after_its_grace() {
    let mut first = Rig::with(|config| {
        config.runner.drain_s = 0;
        config.runner.name = "first".to_owned();
    })
    .await;
    first.push("sleeps", guests::SLEEPING_HOST_CALL).await;
    first.publish(sleeper("stopped", 60_000)).await;
    first.ear.started("stopped").await;
    first.stop().await;
    // The name means another guest by now, or the second runner would sleep too.
    first.push("sleeps", guests::ECHO).await;
    let mut config = first.config.clone();
    config.runner.name = "second".to_owned();
    let second = Rig::on(config).await;
    let outcome = first.ear.outcome("stopped").await;
    assert_eq!(outcome["status"], "succeeded", "{outcome}");
    assert_eq!(outcome["runner"], "second", "{outcome}");
    second.end().await;
    first.end().await;
}

/// Retained, so that whoever comes later sees it too.
pub(crate) async fn presence() {
    let mut rig = Rig::new().await;
    let topic = format!("runner_status/{}", rig.config.runner.name);
    let mut late = Ear::connect(&rig.config.mqtt.url).await;
    let subscribed = late.publisher.subscribe("runner_status/+").await;
    subscribed.expect("a SUBACK");
    let online = late.hear(|inbound| inbound.topic == topic).await;
    let online = read(&online).expect("JSON");
    assert_eq!(online["status"], "online", "{online}");
    assert_eq!(online["runner"], rig.config.runner.name, "{online}");
    assert_eq!(online["can"]["concurrency"], 4, "{online}");
    assert_eq!(online["can"]["group"], "runners", "{online}");
    assert_eq!(online["can"]["limits"]["fuel"], 1_000_000_000, "{online}");
    assert_eq!(online["can"]["ceilings"]["timeout_ms"], 300_000, "{online}");

    rig.stop().await;
    let offline = late.hear(|inbound| inbound.topic == topic).await;
    assert_eq!(
        read(&offline),
        Some(json!({"status": "offline", "runner": rig.config.runner.name}))
    );
    late.publisher.close().await;
    rig.end().await;
}

fn read_message(message: &Message) -> serde_json::Value {
    serde_json::from_slice(&message.payload).expect("JSON")
}
