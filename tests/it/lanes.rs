//! The lanes of tenants: each task comes over one of them, whatever becomes of the connections.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;
use wasmqtt::config::tenants::Tenant;
use wasmqtt::envelope::Message;
use wasmqtt_tests::guests;

use crate::faults::Chance;
use crate::proxy::Proxy;
use crate::rig::{Ear, Rig, config, retained};
use crate::stock::Mosquitto;

/// One connection of the runner after another is cut, whichever lane it is: every task has its outcome.
pub(crate) async fn lanes_are_cut() {
    let text = std::env::var("WASMQTT_LANE_CUTS").ok();
    let cuts: usize = text.map_or(20, |text| text.parse().expect("a number"));
    // The ear takes nothing until all is published.
    let broker = Mosquitto::with(|_| "max_queued_messages 0\n".to_owned()).await;
    let proxy = Proxy::start(([127, 0, 0, 1], broker.port.number).into()).await;
    let mut config = config(&proxy.url());
    config.mqtt.session_expiry_s = 3600;
    for name in ["acme", "globex"] {
        config.tenants.insert(name.to_owned(), Tenant::default());
    }
    let mut rig = Rig::heard_by(Ear::lasting(&broker.url()).await, config).await;
    let tenants = ["acme", "globex", "unlisted"];
    for tenant in tenants {
        let topic = format!("tenants/{tenant}/modules/echo");
        rig.publish(retained(&topic, guests::ECHO)).await;
    }
    let mut chance = Chance::new();
    println!("lanes are cut: seed {}", chance.seed);
    let mut ids = Vec::new();
    for round in 0..cuts {
        for number in 0..10 {
            for tenant in tenants {
                let id = format!("{tenant}-{round}-{number}");
                let task = json!({"id": id, "module": "echo", "input": "x"});
                let topic = format!("tenants/{tenant}/task_queue");
                rig.publish(Message::new(topic, task.to_string())).await;
                ids.push(id);
            }
            if number == 5 {
                let live = proxy.live();
                if !live.is_empty() {
                    proxy.cut_one(live[chance.among(0..live.len())]);
                }
            }
        }
        sleep(chance.time(50..250)).await;
    }
    for id in &ids {
        let outcome = rig.ear.outcome(id).await;
        assert_eq!(outcome["status"], "succeeded", "{outcome}");
    }
    println!(
        "{cuts} cuts, {} connections, {} tasks, none lost",
        proxy.accepted(),
        ids.len()
    );
    rig.end().await;
}

/// The others' lane brings copies of what is on a tenant's own lane: with two runners, each task still runs once.
pub(crate) async fn a_tenants_tasks_run_once() {
    const TASKS: usize = 200;
    let list = |config: &mut wasmqtt::config::Config| {
        config.tenants.insert("acme".to_owned(), Tenant::default());
    };
    let mut rig = Rig::with(list).await;
    let mut config = rig.config.clone();
    config.runner.name += "-two";
    let second = Rig::on(config).await;
    rig.publish(retained("tenants/acme/modules/echo", guests::ECHO))
        .await;
    // Until both runners are certain that acme's own lane has all.
    sleep(Duration::from_secs(6)).await;
    for number in 0..TASKS {
        let task = json!({"id": number.to_string(), "module": "echo", "input": "x"});
        rig.publish(Message::new("tenants/acme/task_queue", task.to_string()))
            .await;
    }
    let mut runners = BTreeMap::<String, usize>::new();
    for number in 0..TASKS {
        let outcome = rig.ear.outcome(&number.to_string()).await;
        assert_eq!(outcome["status"], "succeeded", "{outcome}");
        let runner = outcome["runner"].as_str().expect("a name").to_owned();
        *runners.entry(runner).or_default() += 1;
    }
    sleep(Duration::from_millis(500)).await;
    let again = rig
        .ear
        .unasked(|i| i.topic == "tenants/acme/task_completed");
    assert!(again.is_empty(), "{} outcomes too many", again.len());
    assert_eq!(runners.len(), 2, "{runners:?}");
    second.end().await;
    rig.end().await;
}
