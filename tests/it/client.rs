//! What a submitter can rely on, whatever happens to links, brokers and runners while it waits.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use wasmqtt::broker::{Broker, Settings};
use wasmqtt::client::{Client, Update};
use wasmqtt::envelope::answer::Request;
use wasmqtt::envelope::topics::Topics;
use wasmqtt::envelope::{Inbound, Message, Properties};
use wasmqtt::mqtt::Published;
use wasmqtt::mqtt::settings::{Address, Settings as Connection};
use wasmqtt::task::outcome::{Outcome, Status};
use wasmqtt::task::tenant::TenantId;
use wasmqtt::task::{ModuleRef, TaskId};
use wasmqtt_tests::guests;

use crate::cli::{Shell, to_end};
use crate::packets::PUBLISH;
use crate::proxy::{Proxy, Verdict, Way};
use crate::rig::{Ear, PATIENCE, Rig, config, user};
use crate::shown;
use crate::stock::Port;

/// What a client publishes again for another reason than that nothing was heard.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);

async fn embedded() -> Broker {
    Broker::start(Settings::default()).await.expect("a broker")
}

pub(crate) async fn connect(url: &str) -> Client {
    connect_for(url, "default").await
}

async fn connect_for(url: &str, tenant: &str) -> Client {
    static CLIENTS: AtomicUsize = AtomicUsize::new(0);
    let number = CLIENTS.fetch_add(1, Ordering::Relaxed);
    let settings = Connection::new(
        Address::parse(url).expect("a URL"),
        format!("client-{}-{number}", std::process::id()),
    );
    let tenant = TenantId::parse(tenant).expect("a tenant");
    let client = Client::connect(settings, Topics::default(), tenant).await;
    client.expect("connected")
}

fn id(text: &str) -> TaskId {
    TaskId::parse(text).expect("an id")
}

pub(crate) fn request(task: &str) -> Request {
    let mut request = Request::new(ModuleRef::parse("echo").expect("a module"), "hello");
    request.id = id(task);
    request
}

/// What comes next, which is not waited for without end.
async fn next(updates: &mut UnboundedReceiver<Update>) -> Option<Update> {
    let heard = timeout(PATIENCE, updates.recv()).await;
    heard.expect("heard in time")
}

pub(crate) async fn ended(updates: &mut UnboundedReceiver<Update>) -> Outcome {
    loop {
        if let Update::Ended(outcome) = next(updates).await.expect("an outcome") {
            return *outcome;
        }
    }
}

pub(crate) fn echoed(outcome: &Outcome) {
    assert_eq!(outcome.status, Status::Succeeded, "{outcome:?}");
    let output = outcome.output.as_ref().expect("output");
    assert_eq!(output.data, "hello");
}

/// A runner that has its module from a folder, so that it needs nothing of the broker.
pub(crate) async fn runner(url: &str) -> (Rig, TempDir) {
    let modules = TempDir::new().expect("a folder");
    std::fs::write(modules.path().join("echo.wasm"), guests::ECHO).expect("a module");
    let mut config = config(url);
    config.modules.published = false;
    config.modules.directory = Some(modules.path().to_owned());
    (Rig::on(config).await, modules)
}

/// Takes tasks as a runner does, but does only what the test says.
async fn worker(url: &str) -> Ear {
    let ear = Ear::connect(url).await;
    let subscribed = ear.publisher.subscribe("$share/runners/task_queue").await;
    subscribed.expect("a SUBACK");
    ear
}

fn is_task(inbound: &Inbound) -> bool {
    inbound.topic == "task_queue"
}

/// An outcome for whoever sent a task or asked.
fn answer(to: &Inbound, payload: &str, fields: &[(&str, &str)]) -> Message {
    let topic = to.properties.response_topic.clone();
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Message {
        properties: Properties {
            correlation_data: to.properties.correlation_data.clone(),
            user: fields.iter().map(owned).collect(),
            ..Properties::default()
        },
        ..Message::new(topic.expect("a Response Topic"), payload.to_owned())
    }
}

/// How many copies of a task come within a time.
async fn copies(worker: &mut Ear, within: Duration) -> usize {
    let end = Instant::now() + within;
    let mut count = 0;
    while tokio::time::timeout_at(end, worker.hear(is_task))
        .await
        .is_ok()
    {
        count += 1;
    }
    count
}

/// The outcome is on its way, and lost with the connection.
pub(crate) async fn the_link_is_cut_before_the_outcome() {
    let broker = embedded().await;
    let tasks = Arc::new(AtomicUsize::new(0));
    let outcomes = Arc::new(AtomicUsize::new(0));
    let (sent, answered) = (tasks.clone(), outcomes.clone());
    let proxy = Proxy::tapped(broker.address(), move |_, way, packet| {
        match (way, packet.kind()) {
            (Way::ToBroker, PUBLISH) => {
                sent.fetch_add(1, Ordering::Relaxed);
            }
            (Way::ToClient, PUBLISH) if answered.fetch_add(1, Ordering::Relaxed) == 0 => {
                return Verdict::Cut;
            }
            _ => {}
        }
        Verdict::Pass
    })
    .await;
    let (rig, _modules) = runner(&broker.url()).await;
    let client = connect(&proxy.url()).await.with_resend_after(NEVER);
    let (published, mut updates) = client.submit(&request("cut")).await.expect("a PUBACK");
    assert_eq!(published, Published::Accepted);
    echoed(&ended(&mut updates).await);
    assert!(next(&mut updates).await.is_none(), "one outcome");
    assert_eq!(proxy.accepted(), 2);
    assert_eq!(tasks.load(Ordering::Relaxed), 2, "published again");
    assert_eq!(outcomes.load(Ordering::Relaxed), 2, "answered again");
    client.close().await;
    rig.end().await;
    broker.stop().await;
}

/// The task is lost with the broker that parked it.
pub(crate) async fn the_broker_is_restarted() {
    let port = Port::reserve();
    let address = SocketAddr::from(([127, 0, 0, 1], port.number));
    let start = async || {
        let settings = Settings {
            address,
            ..Settings::default()
        };
        Broker::start(settings).await.expect("a broker")
    };
    let broker = start().await;
    let client = connect(&broker.url()).await.with_resend_after(NEVER);
    let mut events = request("restarted-1");
    events.events = true;
    let (_, mut first) = client.submit(&events).await.expect("a PUBACK");
    let (_, mut second) = client
        .submit(&request("restarted-2"))
        .await
        .expect("a PUBACK");
    broker.stop().await;
    // Away for long enough that a few attempts to connect fail.
    sleep(Duration::from_millis(500)).await;
    let broker = start().await;
    let (rig, _modules) = runner(&broker.url()).await;
    assert!(
        matches!(next(&mut first).await, Some(Update::Status(_))),
        "its events are subscribed again"
    );
    echoed(&ended(&mut first).await);
    echoed(&ended(&mut second).await);
    client.close().await;
    rig.end().await;
    broker.stop().await;
}

/// Whoever took the first copy says nothing more.
pub(crate) async fn what_is_lost_is_published_again() {
    let broker = embedded().await;
    let mut worker = worker(&broker.url()).await;
    let silence = Duration::from_millis(200);
    let client = connect(&broker.url()).await.with_resend_after(silence);
    let (_, mut updates) = client.submit(&request("lost")).await.expect("a PUBACK");
    let first = worker.hear(is_task).await;
    let second = worker.hear(is_task).await;
    assert_eq!(first, second, "the same task under the same id");
    let outcome = answer(&second, "hello", &[("id", "lost"), ("status", "succeeded")]);
    for _ in 0..2 {
        let answered = worker.publisher.publish(outcome.clone()).await;
        answered.expect("a PUBACK");
    }
    echoed(&ended(&mut updates).await);
    assert!(next(&mut updates).await.is_none(), "one outcome");
    // One may have been on its way.
    let more = copies(&mut worker, Duration::from_secs(1)).await;
    assert!(more <= 2, "{more} copies after its end");

    // Nor does it go on when nobody waits any more.
    let (_, updates) = client.submit(&request("left")).await.expect("a PUBACK");
    worker.hear(is_task).await;
    drop(updates);
    let more = copies(&mut worker, Duration::from_secs(1)).await;
    assert!(more <= 2, "{more} copies that nobody waits for");
    client.close().await;
    worker.publisher.close().await;
    broker.stop().await;
}

/// A task that runs for long is not lost: its runner says so.
pub(crate) async fn what_is_heard_of_is_not_published_again() {
    let broker = embedded().await;
    let mut worker = worker(&broker.url()).await;
    let silence = Duration::from_secs(2);
    let client = connect(&broker.url()).await.with_resend_after(silence);
    let mut task = request("long");
    task.events = true;
    let (_, mut updates) = client.submit(&task).await.expect("a PUBACK");
    worker.hear(is_task).await;
    for done in 0..25 {
        let progress = json!({"id": "long", "status": "progress", "done": done, "total": 25,
            "message": "", "runner": "worker", "at": "2026-01-31T12:00:00.000Z"});
        let progress = Message::new("task_status/long", progress.to_string());
        worker.publisher.publish(progress).await.expect("a PUBACK");
        assert!(matches!(
            next(&mut updates).await,
            Some(Update::Progress { .. })
        ));
        sleep(Duration::from_millis(100)).await;
    }
    assert!(worker.unasked(is_task).is_empty());
    assert_eq!(copies(&mut worker, Duration::ZERO).await, 0);
    // Until it falls silent.
    worker.hear(is_task).await;
    client.close().await;
    worker.publisher.close().await;
    broker.stop().await;
}

/// Whoever waits is told that there is nothing to wait for.
pub(crate) async fn the_client_goes() {
    let broker = embedded().await;
    let client = connect(&broker.url()).await;
    let (_, mut updates) = client.submit(&request("closed")).await.expect("a PUBACK");
    client.close().await;
    assert!(next(&mut updates).await.is_none());
    assert!(client.submit(&request("too-late")).await.is_err());

    let client = connect(&broker.url()).await;
    let (_, mut updates) = client.submit(&request("dropped")).await.expect("a PUBACK");
    drop(client.clone());
    drop(client);
    assert!(next(&mut updates).await.is_none());
    broker.stop().await;
}

/// What is on the wire.
pub(crate) async fn cancel_and_ask() {
    let broker = embedded().await;
    let mut ear = Ear::connect(&broker.url()).await;
    for filter in Topics::default().control_filters() {
        ear.publisher.subscribe(&filter).await.expect("a SUBACK");
    }
    for (tenant, prefix) in [("default", ""), ("acme", "tenants/acme/")] {
        let client = connect_for(&broker.url(), tenant).await;
        let control = format!("{prefix}task_control/7");
        let about = |inbound: &Inbound| inbound.topic == control;
        assert_eq!(
            client.cancel(&id("7")).await.ok(),
            Some(Published::Accepted)
        );
        let canceled = ear.hear(about).await;
        assert_eq!(canceled.payload, r#"{"action":"cancel"}"#);

        let asking = client.clone();
        let asked = tokio::spawn(async move { asking.outcome(&id("7"), PATIENCE).await });
        // It asks until it is answered.
        let first = ear.hear(about).await;
        let question = ear.hear(about).await;
        assert_eq!(first, question);
        assert_eq!(question.payload, r#"{"action":"outcome"}"#);
        let topic = question.properties.response_topic.as_deref();
        let reply = format!("{prefix}task_reply/client-");
        assert!(
            topic.is_some_and(|topic| topic.starts_with(&reply)),
            "{topic:?}"
        );
        assert_eq!(
            question.properties.correlation_data.as_deref(),
            Some(&b"7"[..])
        );
        let outcome = json!({"id": "7", "status": "succeeded", "output": "hello"});
        let outcome = answer(&question, &outcome.to_string(), &[]);
        ear.publisher.publish(outcome).await.expect("a PUBACK");
        let outcome = asked.await.expect("no panic").expect("no error");
        echoed(&outcome.expect("an outcome"));

        // Nobody says anything of a task that nobody knows.
        let silence = client.outcome(&id("8"), Duration::from_millis(200)).await;
        assert!(silence.expect("no error").is_none());
        client.close().await;
    }
    ear.publisher.close().await;
    broker.stop().await;
}

/// Answers for what it recorded, as a runner does.
async fn recorder(url: &str) -> JoinHandle<()> {
    let mut ear = Ear::connect(url).await;
    let subscribed = ear.publisher.subscribe("task_control/+").await;
    subscribed.expect("a SUBACK");
    tokio::spawn(async move {
        loop {
            let asked = ear
                .hear(|inbound| inbound.properties.response_topic.is_some())
                .await;
            let task = asked.topic.trim_start_matches("task_control/");
            let outcome = match task {
                "done" => answer(&asked, "hello", &[("id", task), ("status", "succeeded")]),
                "stopped" => answer(&asked, "", &[("id", task), ("status", "canceled")]),
                "broken" => {
                    let error = json!({"code": "guest_error", "message": "no such column"});
                    let outcome = json!({"id": task, "status": "failed", "error": error});
                    answer(&asked, &outcome.to_string(), &[])
                }
                _ => continue,
            };
            ear.publisher.publish(outcome).await.expect("a PUBACK");
        }
    })
}

/// `wasmqtt outcome` and `wasmqtt cancel`.
pub(crate) async fn by_hand() {
    let broker = embedded().await;
    let url = broker.url();
    let recorder = recorder(&url).await;
    let shell = Shell::new();
    let mut said = Vec::new();
    for (arguments, code) in [
        (&["outcome", "done"][..], 0),
        (&["outcome", "broken"], 3),
        (&["outcome", "stopped"], 3),
        (&["outcome", "unknown", "--wait", "300ms"], 4),
        (&["cancel", "stopped"], 0),
        (&["cancel", "done"], 3),
        (&["cancel", "broken"], 3),
        (&["cancel", "unknown", "--wait", "300ms"], 4),
        (
            &["cancel", "unknown", "--wait", "300ms", "--tenant", "acme"],
            4,
        ),
    ] {
        let with_broker = [arguments, &["--broker", &url]].concat();
        let ended = shell.call(&with_broker).await.code(code);
        said.push(format!(
            "$ wasmqtt {}\nexit code {code}\n{}{}",
            arguments.join(" "),
            ended.stderr,
            match ended.text() {
                "" => String::new(),
                output => format!("stdout: {output}\n"),
            }
        ));
    }
    shown::exactly("cancel_and_outcome", &said.join("\n"));
    let json = ["outcome", "broken", "--json", "--broker", &url];
    let outcome: Value = shell.call(&json).await.code(3).json();
    assert_eq!(outcome["error"]["message"], "no such column", "{outcome}");
    recorder.abort();
    broker.stop().await;
}

/// Ctrl-C ends the waiting, not the task.
pub(crate) async fn interrupted() {
    let broker = embedded().await;
    let url = broker.url();
    let mut worker = worker(&url).await;
    let shell = Shell::new();
    let submit = ["submit", "echo", "--id", "goes-on", "--broker", &url];
    let mut child = shell.command(&submit).spawn().expect("started");
    worker.hear(is_task).await;
    let mut stderr = BufReader::new(child.stderr.take().expect("its stderr")).lines();
    // What it shows shows that it waits.
    let line = json!({"id": "goes-on", "level": "info", "source": "log", "message": "working",
        "at": "2026-01-31T12:00:00.000Z"});
    let line = Message::new("task_log/goes-on", line.to_string());
    worker.publisher.publish(line).await.expect("a PUBACK");
    let shown = stderr.next_line().await.expect("read");
    assert_eq!(shown.as_deref(), Some("[info] working"));
    let process = child.id().and_then(|id| i32::try_from(id).ok());
    let process = process.and_then(Pid::from_raw).expect("a process id");
    kill_process(process, Signal::INT).expect("it is ours");
    let said = stderr.next_line().await.expect("read");
    let hint = format!("wasmqtt cancel goes-on --broker {url}");
    assert_eq!(
        said,
        Some(format!(
            "not waiting any more; goes-on goes on, unless you cancel it: `{hint}`"
        ))
    );
    to_end(child, b"").await.code(4);
    worker.publisher.close().await;
    broker.stop().await;
}

/// What a task may ask for, as flags.
pub(crate) async fn flags() {
    let broker = embedded().await;
    let url = broker.url();
    let mut worker = worker(&url).await;
    let shell = Shell::new();
    let submit = [
        "submit",
        "echo",
        "--no-wait",
        "--priority",
        "7",
        "--not-before",
        "2026-01-31T12:00:00Z",
        "--expires-at",
        "2026-01-31T14:00:00.5+01:00",
        "--max-attempts",
        "3",
        "--broker",
        &url,
    ];
    let mut child = shell.command(&submit);
    let child = child.stdin(Stdio::null()).spawn().expect("started");
    let task = worker.hear(is_task).await;
    to_end(child, b"").await.code(0);
    for (name, value) in [
        ("priority", "7"),
        ("not_before", "2026-01-31T12:00:00.000Z"),
        ("expires_at", "2026-01-31T13:00:00.500Z"),
        ("max_attempts", "3"),
    ] {
        assert_eq!(user(&task, name), Some(value), "{task:?}");
    }
    worker.publisher.close().await;
    broker.stop().await;
}
