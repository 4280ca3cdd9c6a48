//! Many tasks at once, and whether each of them was answered.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tokio::time::{sleep, timeout};
use wasmqtt::envelope::Message;
use wasmqtt::mqtt::Published;

use crate::rig::{Ear, PATIENCE, json};

/// Publishes tasks with the ids `0`, `1`, … and waits until the broker has them all.
pub(crate) async fn publish(ear: &Ear, module: &str, input: &str, count: usize) {
    let published: Vec<_> = (0..count)
        .map(|n| {
            let task = json!({"id": n.to_string(), "module": module, "input": input});
            ear.publisher
                .publish(Message::new("task_queue", task.to_string()))
        })
        .collect();
    for published in published {
        assert_eq!(published.await, Ok(Published::Accepted));
    }
}

/// The outcomes heard, by id.
#[derive(Debug, Default)]
pub(crate) struct Answers(BTreeMap<usize, usize>);

impl Answers {
    /// Hears outcomes, which must be successes, until so many different tasks are answered.
    pub(crate) async fn until(&mut self, ear: &mut Ear, answered: usize) {
        while self.0.len() < answered {
            let outcome = ear.hear(|inbound| inbound.topic == "task_completed").await;
            let outcome = json(&outcome).expect("JSON");
            assert_eq!(outcome["status"], "succeeded", "{outcome}");
            let id = outcome["id"].as_str().and_then(|id| id.parse().ok());
            *self.0.entry(id.expect("an id of ours")).or_default() += 1;
        }
    }

    /// All of them, none twice but after a fault; says how many were.
    pub(crate) async fn all(mut self, ear: &mut Ear, count: usize, test: &str) {
        self.until(ear, count).await;
        assert!(self.0.keys().copied().eq(0..count), "{:?}", self.0);
        let outcomes: usize = self.0.values().sum();
        println!("{test}: {count} tasks, {} answered twice", outcomes - count);
    }
}

/// Waits until something is so that nobody tells of.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "not in time: {what}");
}
