//! A task's way through: the three shapes, both tenants' topic forms, where the answer goes, how output looks.

use bytes::Bytes;
use serde_json::{Value, json};
use wasmqtt::envelope::{Inbound, Message, Properties, Quality};
use wasmqtt_tests::guests;

use crate::rig::{Rig, retained, user, with_properties};
use crate::shown;

fn on(topic: &str) -> impl Fn(&Inbound) -> bool {
    move |inbound| inbound.topic == topic
}

pub(crate) async fn json_task() {
    let mut rig = Rig::new().await;
    rig.push("echo", guests::ECHO).await;
    let task =
        json!({"id": "1", "module": "echo", "input": "hello", "labels": {"a": "b", "c": "d"}});
    rig.publish(Message::new("task_queue", task.to_string()))
        .await;
    let outcome = rig.ear.hear(on("task_completed")).await;
    assert_eq!(
        outcome.properties.content_type.as_deref(),
        Some("application/json")
    );
    shown::same("json_task", &shown::payload(&outcome));
    rig.end().await;
}

pub(crate) async fn properties_task() {
    let mut rig = Rig::new().await;
    rig.push("echo", guests::ECHO).await;
    let input = Bytes::from((0..=255).collect::<Vec<u8>>());
    let task = with_properties(
        input.clone(),
        &[("id", "p-1"), ("module", "echo"), ("labels.a", "b")],
    );
    let correlation = Bytes::from_static(b"\x00\xffcorrelated");
    let task = Message {
        properties: Properties {
            content_type: Some("application/octet-stream".to_owned()),
            response_topic: Some("replies/p".to_owned()),
            correlation_data: Some(correlation.clone()),
            ..task.properties
        },
        ..task
    };
    rig.publish(task).await;
    let answer = rig.ear.hear(on("replies/p")).await;
    assert_eq!(answer.payload, input);
    assert_eq!(answer.properties.correlation_data, Some(correlation));
    shown::same("properties_task", &shown::message(&answer));
    let record = rig.ear.hear(on("task_completed")).await;
    assert_eq!(
        record.payload, answer.payload,
        "the record has the output too"
    );
    assert_eq!(record.properties, answer.properties);
    rig.end().await;
}

pub(crate) async fn properties_task_that_fails() {
    let mut rig = Rig::new().await;
    rig.push("guest-error", guests::GUEST_ERROR).await;
    rig.publish(with_properties(
        "retry",
        &[("id", "p-2"), ("module", "guest-error")],
    ))
    .await;
    let record = rig.ear.hear(on("task_completed")).await;
    assert!(record.payload.is_empty());
    shown::same("properties_task_that_fails", &shown::message(&record));
    rig.end().await;
}

pub(crate) async fn plain_task() {
    let mut rig = Rig::with(|config| {
        let tenant = config.tenants.entry("default".to_owned()).or_default();
        tenant.default_module = Some("echo".to_owned());
    })
    .await;
    rig.push("echo", guests::ECHO).await;
    let argument = Message {
        quality: Quality::AtMostOnce,
        ..Message::new("task_queue", "just an argument")
    };
    rig.publish(argument).await;
    let outcome = rig.ear.hear(on("task_completed")).await;
    shown::same("plain_task", &shown::payload(&outcome));
    rig.end().await;
}

pub(crate) async fn plain_task_without_default_module() {
    let mut rig = Rig::new().await;
    let argument = Message {
        quality: Quality::AtMostOnce,
        ..Message::new("task_queue", "just an argument")
    };
    rig.publish(argument).await;
    let outcome = rig.ear.hear(on("task_completed")).await;
    shown::same(
        "plain_task_without_default_module",
        &shown::payload(&outcome),
    );
    rig.end().await;
}

pub(crate) async fn tenants_are_apart() {
    let mut rig = Rig::new().await;
    rig.push("ours", guests::ECHO).await;
    rig.publish(retained("tenants/acme/modules/theirs", guests::ECHO))
        .await;

    let cases = [
        (
            "tenants/acme/task_queue",
            "tenants/acme/task_completed",
            "theirs",
            true,
        ),
        (
            "tenants/acme/task_queue",
            "tenants/acme/task_completed",
            "ours",
            false,
        ),
        ("task_queue", "task_completed", "ours", true),
        ("task_queue", "task_completed", "theirs", false),
    ];
    for (number, (queue, completed, module, succeeds)) in cases.into_iter().enumerate() {
        let task = json!({"id": number.to_string(), "module": module, "input": "hello"});
        rig.publish(Message::new(queue, task.to_string())).await;
        let outcome = rig
            .ear
            .hear(|inbound| inbound.topic.ends_with("task_completed"));
        let outcome = outcome.await;
        assert_eq!(outcome.topic, completed, "{module}");
        let outcome: Value = serde_json::from_slice(&outcome.payload).expect("JSON");
        if succeeds {
            assert_eq!(outcome["output"], "hello", "{outcome}");
        } else {
            assert_eq!(outcome["status"], "rejected", "{outcome}");
            assert_eq!(outcome["error"]["code"], "module_not_found", "{outcome}");
        }
    }
    rig.end().await;
}

pub(crate) async fn answers_stay_with_the_tenant() {
    let mut rig = Rig::new().await;
    rig.push("echo", guests::ECHO).await;
    rig.publish(retained("tenants/acme/modules/echo", guests::ECHO))
        .await;

    let foreign = [
        ("tenants/acme/task_queue", "replies/stolen"),
        ("tenants/acme/task_queue", "tenants/other/replies/stolen"),
        ("tenants/acme/task_queue", "task_completed"),
        ("task_queue", "tenants/acme/replies/stolen"),
        ("task_queue", "task_status/stolen"),
    ];
    let mut refusals = Vec::new();
    for (number, (queue, reply_to)) in foreign.into_iter().enumerate() {
        let id = format!("foreign-{number}");
        let task = json!({"id": id, "module": "echo", "input": "stolen", "reply_to": reply_to});
        rig.publish(Message::new(queue, task.to_string())).await;
        let outcome = rig.ear.outcome(&id).await;
        assert_eq!(outcome["error"]["code"], "tenant_denied", "{outcome}");
        refusals.push(format!(
            "{queue}, {reply_to}: {}",
            outcome["error"]["message"]
        ));
    }
    // What is published for a later task comes later: these came after whatever the others led to.
    for (tenant, prefix) in [("", ""), ("acme", "tenants/acme/")] {
        let reply_to = format!("{prefix}replies/own");
        let task = json!({"id": tenant.len().to_string(), "module": "echo", "reply_to": reply_to});
        rig.publish(Message::new(
            format!("{prefix}task_queue"),
            task.to_string(),
        ))
        .await;
        rig.ear.hear(on(&reply_to)).await;
    }
    let stolen = rig.ear.unasked(|inbound| {
        inbound.topic.contains("stolen") || inbound.payload.windows(7).any(|w| w == b"foreign")
    });
    assert!(stolen.is_empty(), "{stolen:?}");
    shown::exactly("answers_stay_with_the_tenant", &refusals.join("\n"));
    rig.end().await;
}

pub(crate) async fn reply_and_correlation_in_json() {
    let mut rig = Rig::new().await;
    rig.push("echo", guests::ECHO).await;
    let outcome = rig
        .task(json!({
            "id": "r", "module": "echo", "input": "hello",
            "reply_to": "replies/r", "correlation": "c-1"
        }))
        .await;
    let answer = rig.ear.hear(on("replies/r")).await;
    let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    assert_eq!(answer, outcome);
    assert_eq!(answer["correlation"], "c-1");
    rig.end().await;
}

pub(crate) async fn response_topic_of_a_json_task() {
    let mut rig = Rig::new().await;
    rig.push("echo", guests::ECHO).await;
    let task = json!({"id": "r5", "module": "echo", "input": "hello"});
    rig.publish(Message {
        properties: Properties {
            response_topic: Some("replies/r5".to_owned()),
            correlation_data: Some(Bytes::from_static(b"c-5")),
            ..Properties::default()
        },
        ..Message::new("task_queue", task.to_string())
    })
    .await;
    let answer = rig.ear.hear(on("replies/r5")).await;
    assert_eq!(
        answer.properties.correlation_data.as_deref(),
        Some(&b"c-5"[..])
    );
    let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    assert_eq!(answer["output"], "hello", "a JSON task has a JSON answer");
    rig.end().await;
}

/// Input as the guest gets it and output as the producer gets it, through an echo.
pub(crate) async fn input_and_output() {
    let mut rig = Rig::new().await;
    rig.push("echo", guests::ECHO).await;
    let json_type = "application/json";
    let cases = [
        (
            "a string is its text",
            json!({"input": "grüß"}),
            "output",
            json!("grüß"),
        ),
        ("no input is none", json!({}), "output", json!("")),
        (
            "other JSON is its text",
            json!({"input": [1, {"a": null}]}),
            "output",
            json!(r#"[1,{"a":null}]"#),
        ),
        (
            "bytes that are text",
            json!({"input_base64": "aGk="}),
            "output",
            json!("hi"),
        ),
        (
            "bytes that are none",
            json!({"input_base64": "AP+A"}),
            "output_base64",
            json!("AP+A"),
        ),
        (
            "JSON stays JSON",
            json!({"input": {"a": 1.5}, "content_type": json_type}),
            "output",
            json!({"a": 1.5}),
        ),
        (
            "whatever its parameters",
            json!({"input": [], "content_type": "Application/JSON; charset=utf-8"}),
            "output",
            json!([]),
        ),
        (
            "a lie is text",
            json!({"input": "{a", "content_type": json_type}),
            "output",
            json!("{a"),
        ),
        (
            "text is no JSON",
            json!({"input": {"a": 1}, "content_type": "text/plain"}),
            "output",
            json!(r#"{"a":1}"#),
        ),
    ];
    for (number, (name, mut task, field, wanted)) in cases.into_iter().enumerate() {
        task["id"] = json!(number.to_string());
        task["module"] = json!("echo");
        let outcome = rig.task(task.clone()).await;
        assert_eq!(outcome["status"], "succeeded", "{name}: {outcome}");
        assert_eq!(outcome[field], wanted, "{name}: {outcome}");
        assert_eq!(
            outcome["content_type"], task["content_type"],
            "{name}: {outcome}"
        );
        let other = if field == "output" {
            "output_base64"
        } else {
            "output"
        };
        assert!(outcome[other].is_null(), "{name}: {outcome}");
    }
    rig.end().await;
}

/// A number that a double cannot hold and the spaces of the producer reach the guest as they were.
pub(crate) async fn json_input_is_not_rewritten() {
    let mut rig = Rig::new().await;
    rig.push("echo", guests::ECHO).await;
    let task = r#"{"id":"raw","module":"echo","input":{ "n" : 12345678901234567890.10 }}"#;
    rig.publish(Message::new("task_queue", task)).await;
    let outcome = rig.ear.outcome("raw").await;
    assert_eq!(outcome["output"], r#"{ "n" : 12345678901234567890.10 }"#);
    rig.end().await;
}

pub(crate) async fn a_task_without_an_id_gets_one() {
    let mut rig = Rig::new().await;
    rig.push("echo", guests::ECHO).await;
    rig.publish(with_properties("x", &[("module", "echo")]))
        .await;
    let record = rig.ear.hear(on("task_completed")).await;
    let id = user(&record, "id").expect("an id");
    assert_eq!((id.len(), id.as_bytes()[14]), (36, b'7'), "a UUIDv7: {id}");
    rig.end().await;
}
