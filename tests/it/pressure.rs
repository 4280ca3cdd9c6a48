//! Guests that never end, on all but one of the permits: everybody else goes on.

use std::time::{Duration, Instant};

use serde_json::json;
use wasmqtt::config::Config;
use wasmqtt::envelope::Message;
use wasmqtt_tests::guests;

use crate::rig::{Ear, Rig, json as json_of};

/// How long each endless guest may run.
const TIMEOUT_MS: u64 = 3000;

pub(crate) async fn endless_loops_delay_nobody() {
    let loops = Config::default().runner.concurrency;
    let mut rig = Rig::with(|config| config.runner.concurrency = loops + 1).await;
    rig.push("echo", guests::ECHO).await;
    rig.push("endless", guests::ENDLESS_LOOP).await;
    rig.task(json!({"id": "warm", "module": "echo"})).await;
    for number in 0..loops {
        // Half of them end by their fuel, whenever that is.
        let fuel = if number % 2 == 0 {
            100_000_000_000_u64
        } else {
            50_000_000
        };
        let task = json!({
            "id": format!("endless-{number}"), "module": "endless", "events": true,
            "limits": {"fuel": fuel, "timeout_ms": TIMEOUT_MS, "memory_bytes": 1 << 20}
        });
        rig.publish(Message::new("task_queue", task.to_string()))
            .await;
    }
    for number in (0..loops).step_by(2) {
        rig.ear.started(&format!("endless-{number}")).await;
    }

    let mut short = Duration::ZERO;
    for number in 0..10 {
        let asked = Instant::now();
        let task = json!({"id": format!("short-{number}"), "module": "echo", "input": "short"});
        let outcome = rig.task(task).await;
        assert_eq!(outcome["output"], "short", "{outcome}");
        short = short.max(asked.elapsed());
    }
    let mut other = Ear::connect(&rig.config.mqtt.url).await;
    let mut answered = Duration::ZERO;
    for number in 0..20 {
        let asked = Instant::now();
        let topic = format!("replies/ping-{number}");
        let published = other.publisher.publish(Message::new(topic.as_str(), ""));
        published.await.expect("a PUBACK");
        other.hear(|inbound| inbound.topic == topic).await;
        answered = answered.max(asked.elapsed());
    }
    other.publisher.close().await;

    let mut late = 0.0_f64;
    for number in 0..loops {
        let outcome = rig.ear.outcome(&format!("endless-{number}")).await;
        let run_ms = outcome["usage"]["run_ms"].as_f64().expect("a number");
        match outcome["error"]["code"].as_str() {
            Some("fuel_exhausted") => assert!(number % 2 == 1, "{outcome}"),
            Some("deadline_exceeded") => late = late.max(run_ms - TIMEOUT_MS as f64),
            _ => panic!("{outcome}"),
        }
    }
    println!(
        "{loops} endless loops: stopped at most {late:.0} ms late; meanwhile a short task took at most {short:.0?}, \
         a message to another connection {answered:.0?}"
    );
    rig.end().await;
}

/// Guests whose every call is much work for the host and next to no fuel: a short task is answered while they run.
pub(crate) async fn busy_host_calls_delay_nobody() {
    const TIMEOUT_MS: u64 = 6000;
    let busy = std::thread::available_parallelism().map_or(2, |cores| cores.get());
    for which in ["random", "stderr"] {
        let mut rig = Rig::with(|config| config.runner.concurrency = busy + 1).await;
        rig.push("echo", guests::ECHO).await;
        rig.push("busy", guests::HOST_CALLS).await;
        rig.task(json!({"id": "warm", "module": "echo"})).await;
        for number in 0..busy {
            let task = json!({
                "id": format!("busy-{number}"), "module": "busy", "input": which, "events": true,
                "limits": {"fuel": 100_000_000_000_u64, "timeout_ms": TIMEOUT_MS}
            });
            rig.publish(Message::new("task_queue", task.to_string()))
                .await;
        }
        for number in 0..busy {
            rig.ear.started(&format!("busy-{number}")).await;
        }
        for number in 0..10 {
            let task = json!({"id": format!("short-{number}"), "module": "echo", "input": "short"});
            let outcome = rig.task(task).await;
            assert_eq!(outcome["output"], "short", "{outcome}");
        }
        let ended = rig.ear.unasked(|i| {
            i.topic == "task_completed"
                && json_of(i)
                    .is_some_and(|o| o["id"].as_str().is_some_and(|id| id.starts_with("busy")))
        });
        assert!(ended.is_empty(), "{which}: they ended before: {ended:#?}");
        for number in 0..busy {
            let outcome = rig.ear.outcome(&format!("busy-{number}")).await;
            assert_eq!(outcome["error"]["code"], "deadline_exceeded", "{outcome}");
        }
        rig.end().await;
    }
}
