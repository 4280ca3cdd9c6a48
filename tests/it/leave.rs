//! Scaling in: what mosquitto keeps for a runner that is to go for good.

use serde_json::json;
use tempfile::TempDir;
use wasmqtt::envelope::Message;
use wasmqtt_tests::guests;

use crate::rig::Ear;
use crate::stock::Mosquitto;
use crate::under_test::Serve;

/// A runner is killed with tasks in its hands, and is not to come back: `serve --leave` ends them and its session.
pub(crate) async fn a_slot_is_given_up() {
    const TASKS: usize = 30;
    let broker = Mosquitto::start().await;
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("burn.wasm"), guests::BURN).expect("a module");
    let modules = folder.path().to_str().expect("a path");
    let (url, states) = (broker.url(), format!("{modules}/states"));
    let args = [
        "--broker",
        &url,
        "--modules",
        modules,
        "--state",
        &states,
        "--name",
        "edge",
    ];
    let mut ear = Ear::connect(&url).await;
    let mut runner = Serve::ready(&args).await;
    for n in 0..TASKS {
        let task = json!({"id": n.to_string(), "module": "burn", "input": "300000000"});
        let task = Message::new("task_queue", task.to_string());
        ear.publisher.publish(task).await.expect("a PUBACK");
    }
    ear.hear(|inbound| inbound.topic == "task_completed").await;
    runner.kill();
    runner.ended().await;

    let mut leaving = Serve::start(&[&args[..], &["--leave"]].concat());
    leaving.logs("left runner=\"edge\"").await;
    assert!(leaving.ended().await.success());
    let mut answered = std::collections::BTreeSet::new();
    while answered.len() < TASKS - 1 {
        let outcome = ear.hear(|inbound| inbound.topic == "task_completed").await;
        let outcome = crate::rig::json(&outcome).expect("JSON");
        assert_eq!(outcome["status"], "succeeded", "{outcome}");
        answered.insert(outcome["id"].to_string());
    }
    // Nobody is subscribed any more, and the broker says so.
    let late = Message::new("task_queue", "{\"module\":\"burn\"}");
    let published = ear.publisher.publish(late).await;
    assert_eq!(published, Ok(wasmqtt::mqtt::Published::NoSubscribers));
}
