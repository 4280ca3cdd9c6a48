//! The lanes of tenants: each task comes over one of them, whatever becomes of the connections.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;
use wasmqtt::config::tenants::Tenant;
use wasmqtt::envelope::encode::rfc3339;
use wasmqtt::envelope::{Inbound, Message};
use wasmqtt::tenants::OverQuota;
use wasmqtt_tests::guests;

use crate::faults::Chance;
use crate::proxy::Proxy;
use crate::rig::{Ear, PATIENCE, Rig, config, json as json_of, retained};
use crate::stock::Mosquitto;
use crate::tenants::write;
use crate::under_test::Serve;

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

/// Waits until the log has it so often.
async fn logs(serve: &Serve, text: &str, times: usize) {
    let has = async {
        while serve.log().matches(text).count() < times {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let heard = tokio::time::timeout(PATIENCE, has).await;
    assert!(
        heard.is_ok(),
        "not {times} times {text:?}:\n{}",
        serve.log()
    );
}

async fn publish(ear: &Ear, id: &str, module: &str, input: &str) {
    let task =
        json!({"id": id, "module": module, "input": input, "limits": {"timeout_ms": 60_000}});
    let published = Message::new("tenants/acme/task_queue", task.to_string());
    let published = ear.publisher.publish(published);
    published.await.expect("a PUBACK");
}

/// A tenant that is listed again while its lane still ends what it has: no task is lost, and the two lanes do not take each
/// other's place.
pub(crate) async fn a_tenant_goes_and_comes_back() {
    let broker = Mosquitto::start().await;
    let (folder, state) = (
        TempDir::new().expect("a folder"),
        TempDir::new().expect("a folder"),
    );
    write(folder.path(), "", &["acme"]);
    let file = folder.path().join("wasmqtt.toml");
    let (url, file, state) = (
        broker.url(),
        file.to_string_lossy(),
        state.path().to_string_lossy(),
    );
    let mut serve = Serve::ready(&["--broker", &url, "--config", &file, "--state", &state]).await;
    let mut ear = Ear::lasting(&url).await;
    for (name, guest) in [("nap", guests::NAP), ("echo", guests::ECHO)] {
        let module = retained(&format!("tenants/acme/modules/{name}"), guest);
        ear.publisher.publish(module).await.expect("a PUBACK");
    }
    let mut ids = Vec::new();
    for round in 1..=4 {
        // The second half comes back when its lane has nothing left, and its session is being ended.
        if round <= 2 {
            let id = format!("long-{round}");
            publish(&ear, &id, "nap", "4000").await;
            ids.push(id);
        }
        write(folder.path(), "", &[]);
        logs(&serve, "lane closes tenant=acme", round).await;
        for number in 0..5 {
            let id = format!("between-{round}-{number}");
            publish(&ear, &id, "echo", "x").await;
            ids.push(id);
        }
        if round > 2 {
            sleep(Duration::from_millis(1000)).await;
        }
        write(folder.path(), "", &["acme"]);
        logs(&serve, "lane opened tenant=acme", round).await;
        for number in 0..5 {
            let id = format!("after-{round}-{number}");
            publish(&ear, &id, "echo", "x").await;
            ids.push(id);
        }
    }
    // Longer than a retired lane would take to end.
    sleep(Duration::from_secs(5)).await;
    publish(&ear, "last", "echo", "x").await;
    ids.push("last".to_owned());
    for id in &ids {
        let outcome = ear.outcome(id).await;
        assert_eq!(outcome["status"], "succeeded", "{outcome}");
    }
    let log = serve.log();
    assert!(!log.contains("no connection to the broker"), "{log}");
    ear.publisher.close().await;
    serve.terminate();
    assert!(serve.ended().await.success(), "{}", serve.log());
}

/// A configuration that changes while the runner is still on its way to the broker has changed.
pub(crate) async fn a_tenant_that_came_before_the_broker() {
    let mut broker = Mosquitto::start().await;
    broker.stop().await;
    let folder = TempDir::new().expect("a folder");
    write(folder.path(), "", &[]);
    let file = folder.path().join("wasmqtt.toml");
    let (url, file) = (broker.url(), file.to_string_lossy());
    let state = folder.path().to_string_lossy();
    let serve = Serve::start(&["--broker", &url, "--config", &file, "--state", &state]);
    logs(&serve, "trying again", 1).await;
    write(folder.path(), "", &["acme"]);
    broker.run().await;
    logs(&serve, "lane opened tenant=acme", 1).await;
}

/// What the broker holds for a lane that the next process has no use for ends all the same.
pub(crate) async fn a_tenant_that_went_while_the_runner_was_away() {
    const TASKS: usize = 10;
    let broker = Mosquitto::start().await;
    let (folder, state) = (
        TempDir::new().expect("a folder"),
        TempDir::new().expect("a folder"),
    );
    let deny = "unlisted_tenants = \"deny\"";
    write(folder.path(), deny, &["acme"]);
    let file = folder.path().join("wasmqtt.toml");
    let (url, file, state) = (
        broker.url(),
        file.to_string_lossy(),
        state.path().to_string_lossy(),
    );
    let args = ["--broker", &*url, "--config", &*file, "--state", &*state];
    let mut serve = Serve::ready(&args).await;
    let mut ear = Ear::lasting(&url).await;
    let module = retained("tenants/acme/modules/nap", guests::NAP);
    ear.publisher.publish(module).await.expect("a PUBACK");
    for number in 0..TASKS {
        publish(&ear, &number.to_string(), "nap", "30000").await;
    }
    sleep(Duration::from_millis(500)).await;
    serve.kill();
    serve.ended().await;
    write(folder.path(), deny, &[]);
    let mut serve = Serve::ready(&args).await;
    for number in 0..TASKS {
        let outcome = ear.outcome(&number.to_string()).await;
        assert_eq!(outcome["error"]["code"], "tenant_denied", "{outcome}");
    }
    // And is not tried each time.
    sleep(Duration::from_secs(5)).await;
    serve.terminate();
    assert!(serve.ended().await.success(), "{}", serve.log());
    let serve = Serve::ready(&args).await;
    assert!(
        !serve.log().contains("not wanted any more"),
        "{}",
        serve.log()
    );
    ear.publisher.close().await;
    serve.end().await;
}

/// Tasks that wait for their time were within the rate when they came: a restart, with all of them at once, turns none away.
pub(crate) async fn what_was_let_in_stays_in() {
    let broker = Mosquitto::start().await;
    let state = TempDir::new().expect("a folder");
    let mut config = config(&broker.url());
    config.mqtt.session_expiry_s = 3600;
    config.journal.directory = Some(state.path().to_owned());
    let tenant = Tenant {
        rate_per_s: Some(0.02),
        burst: Some(4),
        over_quota: OverQuota::Reject,
        ..Tenant::default()
    };
    config.tenants.insert("acme".to_owned(), tenant);
    let mut rig = Rig::heard_by(Ear::lasting(&broker.url()).await, config.clone()).await;
    rig.publish(retained("tenants/acme/modules/echo", guests::ECHO))
        .await;
    let due = rfc3339(SystemTime::now() + Duration::from_secs(6));
    for number in 0..5 {
        let id = number.to_string();
        let task = json!({"id": id, "module": "echo", "input": "x", "not_before": due});
        rig.publish(Message::new("tenants/acme/task_queue", task.to_string()))
            .await;
    }
    // One is one too many: by then the others are in.
    let refused = |inbound: &Inbound| {
        json_of(inbound).is_some_and(|outcome| outcome["error"]["code"] == "quota_exceeded")
    };
    let refused = json_of(&rig.ear.hear(refused).await).expect("JSON");
    rig.stop().await;
    // Two at once, for a runner that knows nothing of the first four.
    let acme = config.tenants.get_mut("acme").expect("listed");
    acme.burst = Some(2);
    let second = Rig::heard_by(Ear::lasting(&broker.url()).await, config).await;
    let ids = (0..5).map(|number| number.to_string());
    for id in ids.filter(|id| refused["id"] != *id) {
        let outcome = rig.ear.outcome(&id).await;
        assert_eq!(outcome["status"], "succeeded", "{outcome}");
    }
    second.end().await;
    rig.end().await;
}
