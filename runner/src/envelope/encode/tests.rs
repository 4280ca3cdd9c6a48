use std::time::Duration;

use super::*;
use crate::task::outcome::{CacheHit, ErrorCode, Output, Status, Usage};
use crate::task::{Digest, Reply};

fn sample(shape: Shape) -> Outcome {
    Outcome {
        id: TaskId::parse("a-1").expect("an id"),
        tenant: TenantId::default(),
        status: Status::Succeeded,
        module: Some("upper".to_owned()),
        module_digest: Some(Digest::new([0xab; 32])),
        attempt: 1,
        attempts: Vec::new(),
        output: Some(Output {
            data: Bytes::from_static(b"HELLO"),
            content_type: None,
        }),
        error: None,
        usage: Usage {
            fuel: 1234,
            peak_memory_bytes: 1_114_112,
            queued_ms: 0.25,
            run_ms: 1.5,
            cpu_ms: 1.25,
            module_cache: Some(CacheHit::Memory),
        },
        runner: "edge-1".to_owned(),
        started_at: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_123)),
        finished_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_125),
        labels: [("team".to_owned(), "a".to_owned())].into(),
        reply: Reply {
            topic: Some("replies/1".to_owned()),
            correlation_data: Some(Bytes::from_static(b"\0\x01")),
            correlation: Some("c".to_owned()),
        },
        shape,
    }
}

fn failed(shape: Shape) -> Outcome {
    let mut error = TaskError::new(ErrorCode::GuestError, "no such column");
    error.retry = Some(GuestRetry::After(250));
    error.backtrace = vec!["0x1f - m!f".to_owned(), "0x2f - m!g".to_owned()];
    Outcome {
        status: Status::Failed,
        output: None,
        error: Some(error),
        ..sample(shape)
    }
}

fn pretty(bytes: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(bytes).expect("JSON");
    format!("{value:#}")
}

#[test]
fn json_outcomes() {
    insta::assert_snapshot!("json_succeeded", pretty(&as_json(&sample(Shape::Json))));
    insta::assert_snapshot!("json_failed", pretty(&as_json(&failed(Shape::Json))));
}

#[test]
fn the_record_first_then_the_reply() {
    let messages = outcome(&Topics::default(), &sample(Shape::Properties));
    let topics: Vec<&str> = messages.iter().map(|m| m.topic.as_str()).collect();
    assert_eq!(topics, ["task_completed", "replies/1"]);
    assert_eq!(messages[0].payload, "HELLO");
    let mut properties = String::new();
    for (name, value) in &messages[0].properties.user {
        properties += &format!("{name} = {value}\n");
    }
    insta::assert_snapshot!("properties_succeeded", properties);
    for message in &messages {
        assert_eq!(
            message.properties.correlation_data.as_deref(),
            Some(&b"\0\x01"[..])
        );
    }
}

#[test]
fn output_is_a_value_a_string_or_base64() {
    let output = |data: &'static [u8], content_type: Option<&str>| {
        let mut outcome = sample(Shape::Json);
        outcome.output = Some(Output {
            data: Bytes::from_static(data),
            content_type: content_type.map(str::to_owned),
        });
        let value: serde_json::Value = serde_json::from_slice(&as_json(&outcome)).expect("JSON");
        (value["output"].clone(), value["output_base64"].clone())
    };
    let null = serde_json::Value::Null;
    assert_eq!(
        output(b"{\"a\":1}", Some("application/json")),
        (serde_json::json!({"a": 1}), null.clone())
    );
    assert_eq!(
        output(b"{\"a\":1}", Some("Application/JSON; charset=utf-8")).0,
        serde_json::json!({"a": 1})
    );
    assert_eq!(
        output(b"{\"a\":1}", None),
        ("{\"a\":1}".into(), null.clone())
    );
    assert_eq!(
        output(b"not json", Some("application/json")),
        ("not json".into(), null.clone())
    );
    assert_eq!(
        output(b"\xff\0", Some("application/json")),
        (null, "/wA=".into())
    );
}

#[test]
fn the_packet_bound_is_an_upper_bound() {
    // rumqttc computes the real size when it encodes; here the sum of the parts is enough to see the order.
    let message = outcome(&Topics::default(), &sample(Shape::Properties)).remove(0);
    let parts: usize = message
        .properties
        .user
        .iter()
        .map(|(n, v)| n.len() + v.len())
        .sum();
    assert!(message.packet_bytes() > message.topic.len() + message.payload.len() + parts);
}
