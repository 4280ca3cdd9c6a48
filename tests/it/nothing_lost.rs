//! What a journal, retries, delays and cancels promise, through the front door.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;
use wasmqtt::broker::{Broker, Settings};
use wasmqtt::envelope::encode::rfc3339;
use wasmqtt::envelope::{Message, Properties};
use wasmqtt_tests::guests;

use crate::packets::PUBLISH;
use crate::proxy::{Proxy, Verdict, Way};
use crate::rig::{Ear, Rig, config, json, user};
use crate::under_test::Serve;

/// A runner with a journal in a folder, and an ear that stays when the runner goes.
async fn with_state(broker: &Broker, state: &TempDir) -> Rig {
    let mut config = config(&broker.url());
    config.journal.directory = Some(state.path().to_owned());
    let rig = Rig::on(config).await;
    rig.push("echo", guests::ECHO).await;
    rig.push("burn", guests::BURN).await;
    rig.push("guest-error", guests::GUEST_ERROR).await;
    rig
}

async fn embedded() -> Broker {
    Broker::start(Settings::default()).await.expect("a broker")
}

fn soon(delay: Duration) -> String {
    rfc3339(SystemTime::now() + delay)
}

fn completed(rig: &Rig, id: &str) -> usize {
    let is_it = |inbound: &wasmqtt::envelope::Inbound| {
        inbound.topic == "task_completed" && json(inbound).is_some_and(|o| o["id"] == id)
    };
    rig.ear.unasked(is_it).len()
}

async fn control(rig: &Rig, id: &str, request: Value) {
    let topic = format!("task_control/{id}");
    rig.publish(Message::new(topic, request.to_string())).await;
}

pub(crate) async fn an_id_again_is_answered_with_the_recorded_outcome() {
    let (broker, state) = (embedded().await, TempDir::new().expect("a folder"));
    let mut rig = with_state(&broker, &state).await;
    let task = json!({"id": "a", "module": "echo", "input": "x"});
    let first = rig.task(task.clone()).await;
    assert_eq!(
        rig.task(task.clone()).await,
        first,
        "the same, to the last field"
    );
    rig.end().await;
    // Also by another process.
    let mut rig = with_state(&broker, &state).await;
    assert_eq!(rig.task(task).await, first);
    let other = json!({"id": "a", "module": "echo", "input": "y"});
    rig.publish(Message::new("task_queue", other.to_string()))
        .await;
    let refused = rig
        .ear
        .hear(|inbound| json(inbound).is_some_and(|o| o["error"]["code"] == "invalid_task"))
        .await;
    let message = json(&refused).expect("JSON")["error"]["message"].to_string();
    assert!(
        message.contains("`id` a belongs to a task with another module or input"),
        "{message}"
    );
    rig.end().await;
    broker.stop().await;
}

pub(crate) async fn retries_and_the_dead_letter() {
    let (broker, state) = (embedded().await, TempDir::new().expect("a folder"));
    let mut rig = with_state(&broker, &state).await;
    rig.ear
        .publisher
        .subscribe("task_dead_letter")
        .await
        .expect("a SUBACK");
    let retry = json!({"max_attempts": 3, "initial_delay_ms": 10, "max_delay_ms": 20});
    let task = json!({"id": "r", "module": "guest-error", "input": "failed", "retry": retry, "events": true});
    let outcome = rig.task(task.clone()).await;
    assert_eq!(
        (&outcome["status"], &outcome["attempt"]),
        (&json!("failed"), &json!(3))
    );
    let numbers: Vec<&Value> = outcome["attempts"]
        .as_array()
        .expect("a history")
        .iter()
        .map(|attempt| &attempt["attempt"])
        .collect();
    assert_eq!(numbers, [&json!(1), &json!(2)], "{outcome}");
    let retrying = rig.ear.event("r", "retrying").await;
    assert_eq!(
        (&retrying["attempt"], &retrying["code"]),
        (&json!(1), &json!("guest_error"))
    );
    let letter = rig
        .ear
        .hear(|inbound| inbound.topic == "task_dead_letter")
        .await;
    let letter = json(&letter).expect("JSON");
    assert_eq!(letter["id"], "r");
    assert_eq!(letter["task"]["payload"], task.to_string());
    assert_eq!(letter["error"]["message"], "it did not work");
    // What asks for no retry is tried once, and is no dead letter.
    let once = rig
        .task(json!({"id": "o", "module": "guest-error", "input": "failed"}))
        .await;
    assert_eq!(
        (&once["attempt"], &once["attempts"]),
        (&json!(1), &json!(null))
    );
    let letters = |inbound: &wasmqtt::envelope::Inbound| inbound.topic == "task_dead_letter";
    assert!(rig.ear.unasked(letters).is_empty());
    rig.end().await;
    broker.stop().await;
}

/// What never ran is tried again too, and given up.
pub(crate) async fn a_module_that_stays_unavailable() {
    let folder = TempDir::new().expect("a folder");
    let loops = folder.path().join("broken.wasm");
    std::os::unix::fs::symlink(&loops, &loops).expect("a link to itself");
    let mut rig = Rig::with(|config| {
        config.modules.directory = Some(folder.path().to_owned());
        config.retry.initial_delay_ms = 10;
    })
    .await;
    let outcome = rig.task(json!({"id": "u", "module": "broken"})).await;
    assert_eq!(outcome["error"]["code"], "module_unavailable", "{outcome}");
    assert_eq!(
        (&outcome["status"], &outcome["attempt"]),
        (&json!("failed"), &json!(3))
    );
    assert_eq!(
        outcome["attempts"].as_array().map(Vec::len),
        Some(2),
        "{outcome}"
    );
    rig.end().await;
}

pub(crate) async fn the_guests_retry_after_is_honoured() {
    let mut rig = Rig::new().await;
    rig.push("guest-error", guests::GUEST_ERROR).await;
    let started = std::time::Instant::now();
    let retry = json!({"max_attempts": 2, "initial_delay_ms": 0});
    let task = json!({"id": "w", "module": "guest-error", "input": "retry", "retry": retry});
    let outcome = rig.task(task).await;
    assert_eq!(outcome["attempt"], 2, "{outcome}");
    assert!(started.elapsed() >= Duration::from_millis(250));
    rig.end().await;
}

/// Kept over a restart, and holding neither a permit nor the broker's window.
pub(crate) async fn a_delayed_task_starts_on_time_after_a_restart() {
    let (broker, state) = (embedded().await, TempDir::new().expect("a folder"));
    let rig = with_state(&broker, &state).await;
    let at = SystemTime::now() + Duration::from_secs(3);
    let delayed = json!({"id": "d", "module": "echo", "input": "later", "not_before": rfc3339(at), "events": true});
    rig.publish(Message::new("task_queue", delayed.to_string()))
        .await;
    let mut rig = rig;
    rig.ear.event("d", "queued").await;
    // Acknowledged: the broker has nothing left to hand to anybody.
    rig.end().await;
    let mut rig = with_state(&broker, &state).await;
    let outcome = rig.ear.outcome("d").await;
    assert_eq!(outcome["output"], "later", "{outcome}");
    assert!(SystemTime::now() >= at);
    assert_eq!(completed(&rig, "d"), 0, "once");
    rig.end().await;
    broker.stop().await;
}

pub(crate) async fn an_expired_task_does_not_start() {
    let mut rig = Rig::new().await;
    rig.push("echo", guests::ECHO).await;
    let (delay, expiry) = (Duration::from_secs(3600), Duration::from_millis(300));
    let task =
        json!({"id": "e", "module": "echo", "not_before": soon(delay), "expires_at": soon(expiry)});
    let outcome = rig.task(task).await;
    assert_eq!(outcome["status"], "expired", "{outcome}");
    rig.end().await;
}

pub(crate) async fn cancel_wherever_it_waits() {
    let mut rig = Rig::with(|config| config.runner.concurrency = 1).await;
    rig.push("burn", guests::BURN).await;
    rig.push("echo", guests::ECHO).await;
    rig.push("sleeping", guests::SLEEPING_HOST_CALL).await;
    rig.push("guest-error", guests::GUEST_ERROR).await;
    let cancel = json!({"action": "cancel"});
    let retry =
        json!({"max_attempts": 9, "initial_delay_ms": 3_600_000, "max_delay_ms": 3_600_000});
    let endless = json!({"fuel": 100_000_000_000_u64, "timeout_ms": 300_000});
    for (id, event, fields) in [
        (
            "running",
            "started",
            json!({"module": "burn", "input": "90000000000", "limits": endless}),
        ),
        (
            "parked",
            "started",
            json!({"module": "sleeping", "limits": endless}),
        ),
        (
            "delayed",
            "queued",
            json!({"module": "echo", "not_before": "2999-01-01T00:00:00Z"}),
        ),
        (
            "retrying",
            "retrying",
            json!({"module": "guest-error", "input": "failed", "retry": retry}),
        ),
    ] {
        let mut task = fields;
        task["id"] = json!(id);
        task["events"] = json!(true);
        rig.publish(Message::new("task_queue", task.to_string()))
            .await;
        rig.ear.event(id, event).await;
        control(&rig, id, cancel.clone()).await;
        let outcome = rig.ear.outcome(id).await;
        assert_eq!(outcome["status"], "canceled", "{id}: {outcome}");
    }
    // Waiting for the permit that another has.
    let long = json!({"id": "long", "module": "burn", "input": "90000000000", "limits": endless, "events": true});
    rig.publish(Message::new("task_queue", long.to_string()))
        .await;
    rig.ear.started("long").await;
    let waiting = json!({"id": "waiting", "module": "echo", "events": true});
    rig.publish(Message::new("task_queue", waiting.to_string()))
        .await;
    rig.ear.event("waiting", "queued").await;
    control(&rig, "waiting", cancel.clone()).await;
    assert_eq!(rig.ear.outcome("waiting").await["status"], "canceled");
    control(&rig, "long", cancel.clone()).await;
    assert_eq!(rig.ear.outcome("long").await["status"], "canceled");
    // Before it comes: its message and the cancel travel on two connections, so give the cancel its time.
    control(&rig, "early", cancel.clone()).await;
    sleep(Duration::from_millis(300)).await;
    let early = rig.task(json!({"id": "early", "module": "echo"})).await;
    assert_eq!(early["status"], "canceled", "{early}");
    // After its end it has the outcome that it had.
    let done = json!({"id": "done", "module": "echo", "input": "x"});
    let first = rig.task(done.clone()).await;
    control(&rig, "done", cancel).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(rig.task(done).await, first);
    rig.end().await;
}

/// The broker has the outcome, the runner dies before it knows: the next process publishes the same again.
pub(crate) async fn the_outbox_is_replayed() {
    let (broker, state) = (embedded().await, TempDir::new().expect("a folder"));
    let proxy = Proxy::tapped(broker.address(), |_, way, packet| {
        let outcome = packet.kind() == PUBLISH && packet.topic() == "task_completed";
        match way {
            Way::ToBroker if outcome => Verdict::Cut,
            _ => Verdict::Pass,
        }
    })
    .await;
    let mut config = config(&proxy.url());
    config.journal.directory = Some(state.path().to_owned());
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("echo.wasm"), guests::ECHO).expect("a module");
    config.modules.directory = Some(folder.path().to_owned());
    config.runner.drain_s = 0;
    let ear = Ear::connect(&broker.url()).await;
    let mut rig = Rig::heard_by(ear, config.clone()).await;
    let task = json!({"id": "x", "module": "echo", "input": "x"});
    rig.publish(Message::new("task_queue", task.to_string()))
        .await;
    crate::batch::until("the outcome was on its way", || proxy.accepted() > 3).await;
    assert_eq!(completed(&rig, "x"), 0);
    rig.stop().await;
    drop(proxy);
    config.mqtt.url = broker.url();
    let mut rig = Rig::heard_by(Ear::connect(&broker.url()).await, config).await;
    let outcome = rig.ear.outcome("x").await;
    assert_eq!(outcome["output"], "x", "{outcome}");
    rig.end().await;
    broker.stop().await;
}

/// Whoever missed an outcome asks for it.
pub(crate) async fn an_outcome_can_be_asked_for() {
    let mut rig = Rig::new().await;
    rig.push("echo", guests::ECHO).await;
    let outcome = rig
        .task(json!({"id": "q", "module": "echo", "input": "x"}))
        .await;
    let ask = Message {
        properties: Properties {
            response_topic: Some("replies/q".to_owned()),
            correlation_data: Some("c".into()),
            ..Properties::default()
        },
        ..Message::new("task_control/q", json!({"action": "outcome"}).to_string())
    };
    rig.publish(ask).await;
    let answer = rig.ear.hear(|inbound| inbound.topic == "replies/q").await;
    assert_eq!(json(&answer), Some(outcome));
    assert_eq!(
        answer.properties.correlation_data.as_deref(),
        Some(&b"c"[..])
    );
    rig.end().await;
}

/// With `dedupe = "group"` a task that ended on another runner is not run again.
pub(crate) async fn the_group_remembers() {
    let broker = embedded().await;
    let start = async |name: &str, group: &str| {
        let mut config = config(&broker.url());
        config.runner.name = name.to_owned();
        config.mqtt.group = group.to_owned();
        config.journal.dedupe = wasmqtt::config::sections::Dedupe::Group;
        Rig::on(config).await
    };
    let mut first = start("one", "g").await;
    first.push("echo", guests::ECHO).await;
    let mut second = start("two", "g").await;
    const TASKS: usize = 20;
    let task = |n: usize| json!({"id": n.to_string(), "module": "echo"});
    let mut of_first = Vec::new();
    for n in 0..TASKS {
        let outcome = first.task(task(n)).await;
        assert_eq!(second.ear.outcome(&n.to_string()).await, outcome);
        if outcome["runner"] == "one" {
            of_first.push(n);
        }
    }
    assert!(
        (1..TASKS).contains(&of_first.len()),
        "both took some: {of_first:?}"
    );
    // What was told may be on its way still.
    sleep(Duration::from_millis(300)).await;
    first.end().await;
    for n in &of_first {
        let again = Message::new("task_queue", task(*n).to_string());
        second.publish(again).await;
    }
    let next = second.task(json!({"id": "next", "module": "echo"})).await;
    assert_eq!(next["runner"], "two");
    let rig = second;
    for n in of_first {
        assert_eq!(
            completed(&rig, &n.to_string()),
            0,
            "{n}: once, by the first"
        );
    }
    rig.end().await;
    broker.stop().await;
}

/// Whenever it starts, the process dies. It is given up after so many times, and what ran beside it is not.
pub(crate) async fn poison_is_given_up() {
    const DEATHS: u64 = 3;
    const OTHERS: usize = 50;
    let (broker, state) = (embedded().await, TempDir::new().expect("a folder"));
    for (name, module) in [
        ("sleeping.wasm", guests::SLEEPING_HOST_CALL),
        ("burn.wasm", guests::BURN),
    ] {
        std::fs::write(state.path().join(name), module).expect("a module");
    }
    let folder = state.path().to_str().expect("a path");
    let states = format!("{folder}/states");
    let url = broker.url();
    let args = [
        "--broker",
        &url,
        "--modules",
        folder,
        "--state",
        &states,
        "--name",
        "poisoned",
    ];
    let start = async || {
        Serve::ready_with(&args, |mut command| {
            command
                .env("WASMQTT_RUNNER_MAX_DEATHS", DEATHS.to_string())
                .env("WASMQTT_MQTT_SESSION_EXPIRY_S", "0");
            command
        })
        .await
    };
    let mut ear = Ear::connect(&url).await;
    ear.publisher
        .subscribe("task_dead_letter")
        .await
        .expect("a SUBACK");
    let mut runner = start().await;
    let limits = json!({"timeout_ms": 300_000});
    let poison = json!({"id": "poison", "module": "sleeping", "events": true, "limits": limits});
    let publish = async |task: Value| {
        let task = Message::new("task_queue", task.to_string());
        ear.publisher.publish(task).await.expect("a PUBACK");
    };
    publish(poison).await;
    for n in 0..OTHERS {
        publish(json!({"id": format!("other-{n}"), "module": "burn", "input": "30000000"})).await;
    }
    let is_start = |inbound: &wasmqtt::envelope::Inbound| {
        inbound.topic == "task_status/poison"
            && json(inbound).is_some_and(|e| e["status"] == "started")
    };
    for _ in 0..DEATHS {
        ear.hear(is_start).await;
        runner.kill();
        runner.ended().await;
        runner = start().await;
    }
    let outcome = ear.outcome("poison").await;
    assert_eq!(
        (&outcome["status"], &outcome["error"]["code"]),
        (&json!("failed"), &json!("internal"))
    );
    let message = outcome["error"]["message"].to_string();
    assert!(message.contains("process ended 3 times"), "{message}");
    assert_eq!(
        outcome["attempts"].as_array().map(Vec::len),
        Some(3),
        "{outcome}"
    );
    for n in 0..OTHERS {
        let outcome = ear.outcome(&format!("other-{n}")).await;
        assert_eq!(outcome["status"], "succeeded", "{outcome}");
    }
    let letter = ear
        .hear(|inbound| inbound.topic == "task_dead_letter")
        .await;
    assert_eq!(json(&letter).expect("JSON")["id"], "poison");
    assert!(ear.unasked(is_start).is_empty(), "not started once more");

    // By hand: listed, requeued under another id, gone from the list.
    let call = async |action: &[&str]| {
        let args = ["dead-letter", "--state", &states, "--broker", &url];
        let output = crate::under_test::run(args.iter().chain(action)).await;
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    assert!(call(&["ls"]).await.contains("poison  internal: given up"));
    assert!(call(&["show", "poison"]).await.contains("\"task_queue\""));
    let id = call(&["requeue", "poison"]).await;
    ear.started(id.trim()).await;
    assert_eq!(call(&["ls"]).await, "");
    let cancel = Message::new(
        format!("task_control/{}", id.trim()),
        "{\"action\":\"cancel\"}",
    );
    ear.publisher.publish(cancel).await.expect("a PUBACK");
    let outcome = ear.outcome(id.trim()).await;
    assert_eq!(outcome["status"], "canceled");
    assert_eq!(outcome["labels"]["requeued_from"], "poison");
    runner.end().await;
    broker.stop().await;
}

/// Two runners have it in their configuration; each time is submitted once.
pub(crate) async fn a_recurring_task_is_submitted_once() {
    let broker = embedded().await;
    let start = async |name: &str| {
        let mut config = config(&broker.url());
        config.runner.name = name.to_owned();
        let tick = wasmqtt::config::sections::Recurring {
            cron: "* * * * * *".to_owned(),
            timezone: "Europe/Berlin".to_owned(),
            tenant: "default".to_owned(),
            module: "echo".to_owned(),
            input: "tick".to_owned(),
            missed: wasmqtt::recurring::Missed::Skip,
        };
        config.recurring.insert("tick".to_owned(), tick);
        Rig::on(config).await
    };
    let mut first = start("one").await;
    let second = start("two").await;
    first.push("echo", guests::ECHO).await;
    let mut times = std::collections::BTreeMap::new();
    for _ in 0..5 {
        let outcome = first
            .ear
            .hear(|inbound| inbound.topic == "task_completed")
            .await;
        assert_eq!(outcome.payload, "tick");
        assert_eq!(user(&outcome, "labels.recurring"), Some("tick"));
        let id = user(&outcome, "id").expect("an id").to_owned();
        *times.entry(id).or_insert(0) += 1;
    }
    assert_eq!(times.len(), 5, "{times:?}");
    first.end().await;
    second.end().await;
    broker.stop().await;
}

/// Three processes of one name on one state folder have three slots; one that is started again takes the dead one's.
pub(crate) async fn slots_are_taken_over() {
    let (broker, state) = (embedded().await, TempDir::new().expect("a folder"));
    let states = state.path().to_str().expect("a path");
    let url = broker.url();
    let args = [
        "--broker",
        url.as_str(),
        "--state",
        states,
        "--name",
        "edge",
    ];
    let mut first = Serve::ready(&args).await;
    let second = Serve::ready(&args).await;
    assert!(
        first.log().contains("ready runner=\"edge\""),
        "{}",
        first.log()
    );
    assert!(
        second.log().contains("ready runner=\"edge.1\""),
        "{}",
        second.log()
    );
    first.kill();
    first.ended().await;
    let again = Serve::ready(&args).await;
    assert!(
        again.log().contains("ready runner=\"edge\""),
        "{}",
        again.log()
    );
    let output = crate::under_test::run(["serve", "--slot", "1"].iter().chain(&args)).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("slot 1 of \"edge\"") && said.contains("is taken by another process"),
        "{said}"
    );
    again.end().await;
    second.end().await;
    broker.stop().await;
}
