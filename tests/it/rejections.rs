//! Tasks that are refused before they run: each is answered, with a code for programs and a message that names
//! the field, the limit and the value for people.

use serde_json::{Value, json};
use wasmqtt::envelope::{Message, Properties};
use wasmqtt_tests::guests;

use crate::rig::{Rig, user};
use crate::shown;

/// Publishes each case under a label of its own, as an id may be what is wrong; compares codes and messages.
async fn refused(snapshot: &str, cases: &[(&str, &str)]) {
    let mut rig = Rig::new().await;
    rig.push("echo", guests::ECHO).await;
    let mut shown = Vec::new();
    for (number, (code, fields)) in cases.iter().enumerate() {
        let case = number.to_string();
        let task = format!(r#"{{"labels":{{"case":"{case}"}},{fields}}}"#);
        rig.publish(Message::new("task_queue", task)).await;
        let outcome = rig.ear.hear(|inbound| {
            let outcome: Option<Value> = serde_json::from_slice(&inbound.payload).ok();
            outcome.is_some_and(|outcome| outcome["labels"]["case"] == case.as_str())
        });
        let outcome: Value = serde_json::from_slice(&outcome.await.payload).expect("JSON");
        assert_eq!(outcome["error"]["code"], *code, "{fields}: {outcome}");
        let status = match *code {
            "deadline_exceeded" => "expired",
            _ => "rejected",
        };
        assert_eq!(outcome["status"], status, "{fields}: {outcome}");
        assert_eq!(outcome["attempt"], 0, "{fields}: {outcome}");
        assert!(outcome["started_at"].is_null(), "{fields}: {outcome}");
        let message = outcome["error"]["message"].as_str().expect("a message");
        shown.push(format!("{fields}\n    {code}: {message}"));
    }
    shown::exactly(snapshot, &shown.join("\n"));
    rig.end().await;
}

pub(crate) async fn fields() {
    refused(
        "refused_fields",
        &[
            ("invalid_task", r#""module":"echo","limit":{"fuel":1}"#),
            ("invalid_task", r#""module":"echo","limits":{"feul":1}"#),
            ("invalid_task", r#""module":"echo","retry":{"attempts":1}"#),
            ("invalid_task", r#""module":"echo","zzz":1"#),
            ("invalid_task", r#""module":"echo","module":"echo""#),
            (
                "invalid_task",
                r#""module":"echo","limits":{"fuel":1,"fuel":2}"#,
            ),
            ("invalid_task", r#""module":"echo","id":"a b""#),
            ("invalid_task", r#""module":"echo","id":7"#),
            ("invalid_task", r#""module":"Echo""#),
            ("invalid_task", r#""module":"echo@sha256:12""#),
            ("invalid_task", r#""module":["echo"]"#),
            (
                "invalid_task",
                r#""module":"echo","input":"a","input_base64":"YQ==""#,
            ),
            ("invalid_task", r#""module":"echo","input_base64":"a""#),
            ("invalid_task", r#""module":"echo","priority":10"#),
            ("invalid_task", r#""module":"echo","events":"yes""#),
            ("invalid_task", r#""module":"echo","limits":{"fuel":-1}"#),
            ("invalid_task", r#""module":"echo","limits":{"fuel":0}"#),
            ("invalid_task", r#""module":"echo","limits":7"#),
            ("invalid_task", r#""module":"echo","expires_at":"tomorrow""#),
            ("invalid_task", r#""module":"echo","retry":{"factor":0.5}"#),
        ],
    )
    .await;
}

pub(crate) async fn what_is_not_allowed() {
    refused(
        "refused_by_policy",
        &[
            (
                "limit_denied",
                r#""module":"echo","limits":{"fuel":100000000001}"#,
            ),
            (
                "limit_denied",
                r#""module":"echo","limits":{"memory_bytes":268435457}"#,
            ),
            (
                "limit_denied",
                r#""module":"echo","limits":{"timeout_ms":300001}"#,
            ),
            (
                "limit_denied",
                r#""module":"echo","limits":{"output_bytes":16777217}"#,
            ),
            ("tenant_denied", r#""module":"echo","reply_to":"replies/+""#),
            (
                "tenant_denied",
                r#""module":"echo","reply_to":"modules/echo""#,
            ),
            ("tenant_denied", r#""module":"echo","reply_to":"$SYS/x""#),
            (
                "deadline_exceeded",
                r#""module":"echo","expires_at":"2020-01-02T03:04:05Z""#,
            ),
            ("tenant_denied", r#""module":"oci://ghcr.io/a/b:1""#),
            ("tenant_denied", r#""module":"https://example.com/a.wasm""#),
            ("module_not_found", r#""module":"nobody""#),
        ],
    )
    .await;
}

/// What is asked for and is no more than what happens anyway.
pub(crate) async fn what_is_allowed() {
    let mut rig = Rig::new().await;
    rig.push("echo", guests::ECHO).await;
    for (number, field) in [
        json!({"not_before": "2020-01-01T00:00:00Z"}),
        json!({"retry": {"max_attempts": 1, "factor": 2, "initial_delay_ms": 5}}),
        json!({"expires_at": "2999-01-01T00:00:00Z"}),
        json!({"limits": {"fuel": 100_000_000_000_u64, "memory_bytes": 256 << 20, "timeout_ms": 300_000, "output_bytes": 16 << 20}}),
        json!({"priority": 9, "events": false}),
    ]
    .into_iter()
    .enumerate()
    {
        let mut task = field;
        task["id"] = json!(number.to_string());
        task["module"] = json!("echo");
        let outcome = rig.task(task.clone()).await;
        assert_eq!(outcome["status"], "succeeded", "{task}: {outcome}");
    }
    rig.end().await;
}

pub(crate) async fn user_properties() {
    let mut rig = Rig::new().await;
    rig.push("echo", guests::ECHO).await;
    let mut shown = Vec::new();
    let long = "x".repeat(200);
    for (number, properties) in [
        [("feul", "1")].as_slice(),
        &[("fuel", "1"), ("fuel", "1")],
        &[("fuel", "much")],
        &[("limits", "{}")],
        &[("events", "yes")],
        &[("module", "echo")],
        &[("priority", long.as_str())],
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("u-{number}");
        let mut user_properties = vec![
            ("module".to_owned(), "echo".to_owned()),
            ("id".to_owned(), id.clone()),
        ];
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        user_properties.extend(properties.iter().map(owned));
        rig.publish(Message {
            properties: Properties {
                user: user_properties,
                ..Properties::default()
            },
            ..Message::new("task_queue", "input")
        })
        .await;
        let record = rig.ear.hear(|inbound| user(inbound, "id") == Some(&id));
        let record = record.await;
        assert_eq!(user(&record, "status"), Some("rejected"));
        assert_eq!(user(&record, "error_code"), Some("invalid_task"));
        let message = user(&record, "error_message").expect("a message");
        shown.push(format!("{properties:?}\n    {message}"));
    }
    shown::exactly("refused_user_properties", &shown.join("\n"));
    rig.end().await;
}

/// A message that expired while it waited for a permit, as its MQTT 5 property says.
pub(crate) async fn message_expiry() {
    let mut rig = Rig::with(|config| config.runner.concurrency = 1).await;
    rig.push("echo", guests::ECHO).await;
    rig.push("sleeps", guests::SLEEPING_HOST_CALL).await;
    let sleeps =
        json!({"id": "sleeps", "module": "sleeps", "events": true, "limits": {"timeout_ms": 4000}});
    rig.publish(Message::new("task_queue", sleeps.to_string()))
        .await;
    rig.ear.started("sleeps").await;
    rig.publish(Message {
        properties: Properties {
            message_expiry_s: Some(1),
            ..Properties::default()
        },
        ..Message::new("task_queue", r#"{"id":"late","module":"echo"}"#)
    })
    .await;
    let outcome = rig.ear.outcome("late").await;
    assert_eq!(outcome["status"], "expired", "{outcome}");
    assert_eq!(outcome["error"]["code"], "deadline_exceeded", "{outcome}");
    assert_eq!(outcome["attempt"], 0, "{outcome}");
    rig.end().await;
}
