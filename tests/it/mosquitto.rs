//! `wasmqtt serve` on Debian's mosquitto, with nothing but mosquitto's own clients as producers.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use wasmqtt_tests::guests;

use crate::stock::{Mosquitto, Stock, Subscribed};
use crate::under_test::{Serve, run};

const TASK: [&str; 4] = ["-t", "task_queue", "-q", "1"];

/// A broker with a runner that knows the module `echo`.
async fn echoing(more: &[&str]) -> (Mosquitto, Serve) {
    let broker = Mosquitto::start().await;
    broker.stock().push("modules/echo", guests::ECHO).await;
    let serve = Serve::ready(&[&["--broker", &broker.url()], more].concat()).await;
    (broker, serve)
}

pub(crate) async fn a_module_and_a_json_task() {
    for version in ["311", "5"] {
        let broker = Mosquitto::start().await;
        let serve = Serve::ready(&["--broker", &broker.url()]).await;
        let stock = Stock {
            version,
            ..broker.stock()
        };
        let mut completed = stock.subscribe(&["task_completed"]).await;
        stock.push("modules/echo", guests::ECHO).await;
        let task = r#"{"id":"1","module":"echo","input":"hello"}"#;
        stock.publish(&["-t", "task_queue", "-m", task]).await;
        let outcome = completed.next_json().await;
        assert_eq!(
            (&outcome["id"], &outcome["status"], &outcome["output"]),
            (&json!("1"), &json!("succeeded"), &json!("hello"))
        );
        serve.end().await;
    }
}

pub(crate) async fn a_plain_text_at_qos_0() {
    let (broker, serve) = echoing(&["--default-module", "echo"]).await;
    let stock = Stock {
        version: "311",
        ..broker.stock()
    };
    let mut completed = stock.subscribe(&["task_completed"]).await;
    stock
        .publish(&["-t", "task_queue", "-q", "0", "-m", "just a text"])
        .await;
    let outcome = completed.next_json().await;
    assert_eq!(
        (&outcome["status"], &outcome["module"], &outcome["output"]),
        (&json!("succeeded"), &json!("echo"), &json!("just a text"))
    );
    serve.end().await;
}

pub(crate) async fn properties_and_a_response_topic() {
    let (broker, serve) = echoing(&[]).await;
    let stock = broker.stock();
    let mut heard = stock.subscribe(&["replies/mine", "task_completed"]).await;
    let properties = [
        ["response-topic", "replies/mine"].as_slice(),
        &["correlation-data", "my-7"],
        &["content-type", "text/plain"],
        &["user-property", "module", "echo"],
        &["user-property", "id", "p1"],
    ];
    let mut args = [TASK.as_slice(), &["-m", "raw input"]].concat();
    for property in properties {
        args.extend([&["-D", "publish"], property].concat());
    }
    stock.publish(&args).await;
    let mut topics = BTreeSet::new();
    for _ in 0..2 {
        let heard = heard.next().await;
        assert_eq!(heard.payload, "raw input", "{heard:?}");
        assert!(heard.user.contains("id:p1"), "{heard:?}");
        assert!(heard.user.contains("status:succeeded"), "{heard:?}");
        assert_eq!(heard.correlation, "my-7", "{heard:?}");
        topics.insert(heard.topic);
    }
    assert_eq!(
        topics,
        ["replies/mine", "task_completed"].map(str::to_owned).into()
    );
    serve.end().await;
}

pub(crate) async fn request_and_response() {
    let (broker, serve) = echoing(&[]).await;
    let request = ["-t", "task_queue", "-e", "replies/x", "-m", "hi"];
    let module = ["-D", "publish", "user-property", "module", "echo"];
    let answer = broker
        .stock()
        .request(&[request.as_slice(), &module].concat())
        .await;
    assert_eq!(
        String::from_utf8_lossy(&answer.stdout),
        "hi\n",
        "{answer:?}"
    );
    serve.end().await;
}

pub(crate) async fn a_tenants_topics() {
    let (broker, serve) = echoing(&[]).await;
    let stock = broker.stock();
    stock.push("tenants/acme/modules/own", guests::ECHO).await;
    let mut heard = stock
        .subscribe(&["task_completed", "tenants/+/task_completed"])
        .await;
    let task = r#"{"id":"t1","module":"own","input":"of acme"}"#;
    stock
        .publish(&["-t", "tenants/acme/task_queue", "-q", "1", "-m", task])
        .await;
    let outcome = heard.next().await;
    assert_eq!(outcome.topic, "tenants/acme/task_completed");
    let outcome: Value = serde_json::from_str(&outcome.payload).expect("JSON");
    assert_eq!(outcome["output"], "of acme");
    // Nobody else has it.
    stock
        .publish(&["-t", "tenants/other/task_queue", "-q", "1", "-m", task])
        .await;
    let outcome = heard.next_json().await;
    assert_eq!(outcome["error"]["code"], "module_not_found");
    serve.end().await;
}

pub(crate) async fn push_and_submit() {
    let broker = Mosquitto::start().await;
    let serve = Serve::ready(&["--broker", &broker.url()]).await;
    let file = broker.folder.path().join("echo.wasm");
    std::fs::write(&file, guests::ECHO).expect("a file");
    let file = file.to_str().expect("a path in UTF-8");
    let pushed = run(["push", file, "--broker", &broker.url()]).await;
    assert!(pushed.status.success(), "{pushed:?}");
    let submit = ["submit", "echo", "--input", "hello", "--broker"];
    let submitted = run([submit.as_slice(), &[&broker.url()]].concat()).await;
    assert!(submitted.status.success(), "{submitted:?}");
    assert_eq!(String::from_utf8_lossy(&submitted.stdout), "hello");
    serve.end().await;
}

pub(crate) async fn one_of_two_runners_leaves() {
    of_two_runners_the_first(Serve::end).await;
}

pub(crate) async fn one_of_two_runners_is_killed() {
    of_two_runners_the_first(async |mut first: Serve| {
        first.kill();
        first.ended().await;
    })
    .await;
}

/// Two share the work, the first goes in the middle, another one takes its name. Mosquitto keeps what it had sent to
/// the one that is gone until its session is taken up again.
async fn of_two_runners_the_first(goes: impl AsyncFnOnce(Serve)) {
    const TASKS: usize = 500;
    let broker = Mosquitto::with(|_| "max_queued_messages 0\n".to_owned()).await;
    let stock = broker.stock();
    stock.push("modules/burn", guests::BURN).await;
    let url = broker.url();
    let named = |name| ["--broker", url.as_str(), "--name", name];
    let first = Serve::ready(&named("first")).await;
    let second = Serve::ready(&named("second")).await;
    let mut completed = stock.subscribe(&["task_completed"]).await;
    let tasks: String = (0..TASKS)
        .map(|n| format!("{{\"id\":\"{n}\",\"module\":\"burn\",\"input\":\"1000000\"}}\n"))
        .collect();
    let publishing = tokio::spawn(async move { stock.publish_lines("task_queue", &tasks).await });

    let mut outcomes = Outcomes::default();
    outcomes.until(&mut completed, 100).await;
    goes(first).await;
    let replacement = Serve::ready(&named("first")).await;
    outcomes.until(&mut completed, TASKS).await;
    publishing.await.expect("published");
    assert_eq!(outcomes.by, ["first", "second"].map(str::to_owned).into());
    println!("{} outcomes of {TASKS} tasks", outcomes.count);
    replacement.end().await;
    second.end().await;
}

#[derive(Default)]
struct Outcomes {
    answered: BTreeSet<String>,
    by: BTreeSet<String>,
    count: usize,
}

impl Outcomes {
    /// Hears until so many different tasks are answered.
    async fn until(&mut self, completed: &mut Subscribed, answered: usize) {
        while self.answered.len() < answered {
            let outcome = completed.next_json().await;
            assert_eq!(outcome["status"], "succeeded", "{outcome}");
            let text = |name: &str| outcome[name].as_str().expect("a text").to_owned();
            self.answered.insert(text("id"));
            self.by.insert(text("runner"));
            self.count += 1;
        }
    }
}
