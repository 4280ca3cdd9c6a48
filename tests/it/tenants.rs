//! Tenants: what each may do, lanes, quotas, and a configuration that changes under a running runner.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;
use wasmqtt::config::tenants::{Tenant, Unlisted};
use wasmqtt::envelope::Message;
use wasmqtt::tenants::{OverQuota, Source};
use wasmqtt_tests::guests;

use crate::rig::{Ear, Rig, retained};
use crate::under_test::Serve;

async fn ask(rig: &mut Rig, tenant: &str, task: Value) -> Value {
    let id = task["id"].as_str().expect("an id").to_owned();
    let topic = format!("tenants/{tenant}/task_queue");
    rig.publish(Message::new(topic, task.to_string())).await;
    rig.ear.outcome(&id).await
}

/// Every key of a tenant that forbids something.
pub(crate) async fn what_a_tenant_may_not() {
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("common.wasm"), guests::ECHO).expect("written");
    let directory = folder.path().to_owned();
    let mut rig = Rig::with(|config| {
        config.modules.directory = Some(directory);
        let mut acme = Tenant {
            modules: vec!["echo*".to_owned(), "missing".to_owned()],
            sources: vec![Source::Published],
            reply_topics: vec!["shared/acme/#".to_owned()],
            ..Tenant::default()
        };
        acme.ceilings.fuel = Some(1_000_000);
        acme.ceilings.envelope_bytes = Some(2_000);
        acme.ceilings.module_bytes = Some(guests::ECHO.len() as u64);
        config.tenants.insert("acme".to_owned(), acme);
        let only_folder = Tenant {
            sources: vec![Source::Directory],
            ..Tenant::default()
        };
        config.tenants.insert("folder".to_owned(), only_folder);
    })
    .await;
    for (topic, module) in [
        ("tenants/acme/modules/echo", guests::ECHO),
        ("tenants/acme/modules/echo-large", guests::NAP),
        ("tenants/folder/modules/own", guests::ECHO),
    ] {
        rig.publish(retained(topic, module)).await;
    }
    let long = "x".repeat(2_000);
    for (tenant, task, expected) in [
        (
            "acme",
            json!({"id": "a1", "module": "echo", "input": "x"}),
            "succeeded",
        ),
        (
            "acme",
            json!({"id": "a2", "module": "common"}),
            "tenant_denied",
        ),
        (
            "acme",
            json!({"id": "a3", "module": "missing"}),
            "module_not_found",
        ),
        (
            "acme",
            json!({"id": "a4", "module": "echo", "limits": {"fuel": 1_000_001}}),
            "limit_denied",
        ),
        (
            "acme",
            json!({"id": "a5", "module": "echo-large"}),
            "module_too_costly",
        ),
        (
            "acme",
            json!({"id": "a6", "module": "echo", "reply_to": "shared/acme/1"}),
            "succeeded",
        ),
        (
            "acme",
            json!({"id": "a7", "module": "echo", "reply_to": "shared/other/1"}),
            "tenant_denied",
        ),
        (
            "folder",
            json!({"id": "f1", "module": "common"}),
            "succeeded",
        ),
        (
            "folder",
            json!({"id": "f2", "module": "own"}),
            "module_not_found",
        ),
        (
            "unlisted",
            json!({"id": "u1", "module": "common"}),
            "succeeded",
        ),
    ] {
        let outcome = ask(&mut rig, tenant, task.clone()).await;
        let got = outcome["error"]["code"].as_str().unwrap_or("succeeded");
        assert_eq!(got, expected, "{task}: {outcome}");
    }
    // Too long to be looked into: it is answered under another id.
    let task = json!({"id": "a8", "module": "echo", "input": long});
    rig.publish(Message::new("tenants/acme/task_queue", task.to_string()))
        .await;
    let denied = rig.ear.hear(|inbound| {
        let text = String::from_utf8_lossy(&inbound.payload);
        text.contains("limit_denied") && text.contains("of at most 2000")
    });
    denied.await;
    rig.end().await;
}

/// Nobody's tasks are not even taken from the broker.
pub(crate) async fn unlisted_tenants_are_denied() {
    let mut rig = Rig::with(|config| {
        config.runner.unlisted_tenants = Unlisted::Deny;
        config.tenants.insert("acme".to_owned(), Tenant::default());
    })
    .await;
    rig.publish(retained("tenants/acme/modules/echo", guests::ECHO))
        .await;
    let outcome = ask(&mut rig, "acme", json!({"id": "1", "module": "echo"})).await;
    assert_eq!(outcome["status"], "succeeded", "{outcome}");
    let topic = "tenants/stranger/task_queue";
    let task = json!({"id": "2", "module": "echo"}).to_string();
    rig.publish(Message::new(topic, task)).await;
    let outcome = ask(&mut rig, "acme", json!({"id": "3", "module": "echo"})).await;
    assert_eq!(outcome["status"], "succeeded", "{outcome}");
    let strangers = rig
        .ear
        .unasked(|i| i.topic.starts_with("tenants/stranger/"));
    assert!(strangers.is_empty(), "{strangers:?}");
    rig.end().await;
}

pub(crate) async fn over_the_rate() {
    let mut rig = Rig::with(|config| {
        // So slow that no machine is: what is rejected does not depend on when it comes.
        for (name, rate, over_quota) in [
            ("waits", 4.0, OverQuota::Wait),
            ("not", 0.02, OverQuota::Reject),
        ] {
            let tenant = Tenant {
                rate_per_s: Some(rate),
                burst: Some(2),
                over_quota,
                ..Tenant::default()
            };
            config.tenants.insert(name.to_owned(), tenant);
        }
        let tenant = Tenant {
            fuel_budget: Some(20_000_000),
            budget_window_s: 3600,
            over_quota: OverQuota::Reject,
            ..Tenant::default()
        };
        config.tenants.insert("burns".to_owned(), tenant);
    })
    .await;
    for tenant in ["waits", "not", "burns"] {
        let topic = format!("tenants/{tenant}/modules/burn");
        rig.publish(retained(&topic, guests::BURN)).await;
        let warm = json!({"id": format!("warm-{tenant}"), "module": "burn", "input": "1"});
        let outcome = ask(&mut rig, tenant, warm).await;
        assert_eq!(outcome["status"], "succeeded", "{outcome}");
    }
    let begun = Instant::now();
    for number in 0..6 {
        for tenant in ["waits", "not"] {
            let task = json!({"id": format!("{tenant}-{number}"), "module": "burn", "input": "1"});
            let topic = format!("tenants/{tenant}/task_queue");
            rig.publish(Message::new(topic, task.to_string())).await;
        }
    }
    let mut rejected = 0;
    for number in 0..6 {
        let outcome = rig.ear.outcome(&format!("not-{number}")).await;
        if outcome["status"] == "rejected" {
            rejected += 1;
            assert_eq!(outcome["error"]["code"], "quota_exceeded", "{outcome}");
            let wait = outcome["error"]["retry_after_ms"].as_u64();
            assert!(
                wait.is_some_and(|wait| (1..=50_000).contains(&wait)),
                "{outcome}"
            );
        }
    }
    assert!(rejected >= 4, "{rejected} of 6 rejected");
    for number in 0..6 {
        let outcome = rig.ear.outcome(&format!("waits-{number}")).await;
        assert_eq!(outcome["status"], "succeeded", "{outcome}");
    }
    // Two at most at once, then four a second.
    assert!(
        begun.elapsed() >= Duration::from_millis(950),
        "{:?}",
        begun.elapsed()
    );

    let burn = |id: &str| json!({"id": id, "module": "burn", "input": "30000000"});
    let outcome = ask(&mut rig, "burns", burn("b1")).await;
    assert_eq!(outcome["status"], "succeeded", "{outcome}");
    let outcome = ask(&mut rig, "burns", burn("b2")).await;
    assert_eq!(outcome["error"]["code"], "quota_exceeded", "{outcome}");
    let wait = outcome["error"]["retry_after_ms"].as_u64().expect("a time");
    // Ten million too much, of twenty million an hour.
    assert!((1_700_000..1_900_000).contains(&wait), "{outcome}");
    rig.end().await;
}

/// Writes a configuration with these tenants beside it, in one step.
pub(crate) fn write(folder: &Path, runner: &str, tenants: &[&str]) {
    let sections: String = tenants
        .iter()
        .map(|tenant| format!("[tenants.{tenant}]\n"))
        .collect();
    let beside = folder.join("new.toml");
    std::fs::write(&beside, format!("[runner]\n{runner}\n{sections}")).expect("written");
    std::fs::rename(beside, folder.join("wasmqtt.toml")).expect("renamed");
}

/// Tenants come and go under load, over a file that changes and over SIGHUP: every task has its outcome.
pub(crate) async fn the_configuration_is_read_again() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("wasmqtt.toml");
    write(folder.path(), "", &[]);
    let mut serve = Serve::ready(&[
        "--config",
        file.to_str().expect("a path"),
        "--embedded-broker",
        "127.0.0.1:0",
    ])
    .await;
    let mut ear = Ear::connect(&serve.url()).await;
    for tenant in ["acme", "globex"] {
        let topic = format!("tenants/{tenant}/modules/echo");
        let published = ear.publisher.publish(retained(&topic, guests::ECHO));
        published.await.expect("a PUBACK");
    }
    let publisher = ear.publisher.clone();
    let load = tokio::spawn(async move {
        let mut ids = Vec::new();
        for number in 0..240 {
            for tenant in ["acme", "globex"] {
                let id = format!("{tenant}-{number}");
                let task = json!({"id": id, "module": "echo", "input": "x"});
                let topic = format!("tenants/{tenant}/task_queue");
                let published = publisher.publish(Message::new(topic, task.to_string()));
                published.await.expect("a PUBACK");
                ids.push(id);
            }
            sleep(Duration::from_millis(50)).await;
        }
        ids
    });
    sleep(Duration::from_millis(500)).await;
    write(folder.path(), "", &["acme"]);
    serve.logs("lane opened tenant=acme").await;
    sleep(Duration::from_secs(5)).await;
    write(folder.path(), "", &["globex", "acme"]);
    serve.signal(Signal::HUP);
    serve.logs("lane opened tenant=globex").await;
    sleep(Duration::from_secs(1)).await;
    write(folder.path(), "", &["globex"]);
    serve.logs("lane closes tenant=acme").await;
    std::fs::write(&file, "[tenant").expect("written");
    serve.logs("the last one stays").await;
    let ids = load.await.expect("no panic");
    for id in &ids {
        let outcome = ear.outcome(id).await;
        assert_eq!(outcome["status"], "succeeded", "{outcome}");
    }
    // From now on acme is nobody.
    write(folder.path(), "unlisted_tenants = \"deny\"", &["globex"]);
    serve.logs("unlisted=false").await;
    ear.publisher.close().await;
    serve.end().await;
}

/// What nobody will ever take is not kept for anybody either.
pub(crate) async fn the_embedded_broker_keeps_nothing_of_denied_tenants() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("wasmqtt.toml");
    write(folder.path(), "unlisted_tenants = \"deny\"", &["acme"]);
    let serve = Serve::ready(&[
        "--config",
        file.to_str().expect("a path"),
        "--embedded-broker",
        "127.0.0.1:0",
    ])
    .await;
    let url = serve.url();
    let ear = Ear::connect(&url).await;
    let task = json!({"id": "1", "module": "echo"}).to_string();
    let task = Message::new("tenants/stranger/task_queue", task);
    ear.publisher.publish(task).await.expect("a PUBACK");
    let mut late = Ear::hearing(&url, &["$share/late/tenants/+/task_queue", "replies/end"]).await;
    let end = Message::new("replies/end", "");
    ear.publisher.publish(end).await.expect("a PUBACK");
    late.hear(|inbound| inbound.topic == "replies/end").await;
    sleep(Duration::from_millis(500)).await;
    let another = Message::new("replies/end", "");
    ear.publisher.publish(another).await.expect("a PUBACK");
    late.hear(|inbound| inbound.topic == "replies/end").await;
    let kept = late.unasked(|inbound| inbound.topic.ends_with("task_queue"));
    assert!(kept.is_empty(), "{kept:?}");
    late.publisher.close().await;
    ear.publisher.close().await;
    serve.end().await;
}
