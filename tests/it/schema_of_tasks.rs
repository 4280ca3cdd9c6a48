//! The decoder and the schema take the same payloads for tasks.

use std::time::SystemTime;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use wasmqtt::envelope::decode::{JSON_FIELDS, MAX_LABELS, Rules, decode};
use wasmqtt::envelope::topics::Topics;
use wasmqtt::envelope::{Inbound, Properties};
use wasmqtt::task::Task;

use crate::contract::wrong;

/// Each value of each field alone, then many together.
pub(crate) async fn the_decoder_agrees() {
    // Each value alone.
    let (mut fitting, mut unfitting) = (0, 0);
    for field in JSON_FIELDS {
        let (fit, unfit) = values(field);
        let cases = fit.iter().map(|v| (v, true));
        for (value, fits) in cases.chain(unfit.iter().map(|v| (v, false))) {
            let mut task = json!({"module": "upper"});
            task[*field] = value.clone();
            let decoded = decoded(&task.to_string());
            assert_eq!(decoded.is_ok(), fits, "{task}: {decoded:?}");
            agree(&task).expect("both say the same");
            *(if fits { &mut fitting } else { &mut unfitting }) += 1;
        }
    }
    println!("{fitting} values that fit, {unfitting} that do not");
    for task in [
        json!({}),
        json!([]),
        json!("upper"),
        json!({"id": "1"}),
        json!({"module": "upper", "zzz": 1}),
        json!({"module": "upper", "": 1}),
        json!({"module": "upper", "input": 1, "input_base64": ""}),
    ] {
        assert!(decoded(&task.to_string()).is_err(), "{task}");
        agree(&task).expect("both say the same");
    }
    // Many together, now and then one that does not fit, or that nobody knows.
    let pair = |field: &&'static str| {
        let (fit, unfit) = values(field);
        let value = match unfit.is_empty() {
            true => select(fit).boxed(),
            false => prop_oneof![40 => select(fit), 1 => select(unfit)].boxed(),
        };
        (Just(*field), proptest::option::of(value))
    };
    let fields: Vec<_> = JSON_FIELDS.iter().map(pair).collect();
    let unknown = proptest::option::weighted(0.05, "[a-z_]{0,12}");
    let task = (fields, unknown).prop_map(|(fields, unknown)| {
        let fields = fields
            .into_iter()
            .filter_map(|(n, v)| Some((n.to_owned(), v?)));
        let unknown = unknown.map(|name| (name, json!(1)));
        Value::Object(fields.chain(unknown).collect())
    });
    let run = TestRunner::new(Config {
        cases: 2_000,
        failure_persistence: None,
        ..Config::default()
    })
    .run(&task, |task| {
        // Without `module` it is no task in JSON, but anything.
        agree(&task).map_err(TestCaseError::fail)
    });
    run.expect("both say the same");
}

/// Whether the decoder takes a payload for a task.
pub(crate) fn decoded(payload: &str) -> Result<Task, String> {
    let inbound = Inbound {
        topic: "task_queue".to_owned(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        properties: Properties::default(),
    };
    let now = SystemTime::UNIX_EPOCH;
    let task = decode(&Topics::default(), &inbound, |_| Rules::default(), now);
    task.map_err(|why| why.error.message)
}

fn agree(task: &Value) -> Result<(), String> {
    let decoded = decoded(&task.to_string());
    let wrong = wrong("task", task);
    if decoded.is_ok() == wrong.is_empty() {
        return Ok(());
    }
    Err(format!(
        "schema: {wrong:?}, decoder: {:?}: {task}",
        decoded.err()
    ))
}

/// Values that fit a field, and values that do not.
fn values(field: &str) -> (Vec<Value>, Vec<Value>) {
    let hex = "aB".repeat(32);
    let labels = |count: usize| {
        let label = |n| (format!("l{n}"), json!("x"));
        Value::Object((0..count).map(label).collect())
    };
    let (fit, unfit) = match field {
        "id" => (
            vec![json!("1"), json!("a_B-9"), json!("x".repeat(64))],
            vec![
                json!(""),
                json!("a b"),
                json!("é"),
                json!("a\n"),
                json!("x".repeat(65)),
            ],
        ),
        "module" => (
            vec![
                json!("upper"),
                json!("0a.b_c-d"),
                json!("x".repeat(128)),
                json!(format!("upper@sha256:{hex}")),
                json!(format!("sha256:{hex}")),
                json!("oci://registry.example/acme/thumbnail:1.2"),
                json!("oci://localhost:5000/a__b/c-d.e"),
                json!(format!("oci://ghcr.io/a/b:1@sha256:{}", "ab".repeat(32))),
                json!("https://example.com/a.wasm"),
                json!("https://[::1]:8443/a/b.wasm?v=1&x=%20"),
                json!(format!(
                    "https://example.com/@a/b@sha256:{}",
                    "ab".repeat(32)
                )),
            ],
            vec![
                json!(""),
                json!("Upper"),
                json!("-a"),
                json!("a/b"),
                json!("a\n"),
                json!("a@1"),
                json!("a@sha256:"),
                json!(format!("a@sha256:{hex}0")),
                json!(format!("sha256:{}", "+f".repeat(32))),
                json!("oci://a b"),
                json!("oci://ghcr.io"),
                json!("oci://ghcr.io/Acme/b"),
                json!("oci://ghcr.io/a/b:"),
                json!("https://example.com"),
                json!("https://example.com/"),
                json!("https://example.com/a#b"),
                json!("http://example.com/a.wasm"),
                json!("x".repeat(129)),
                json!(["upper"]),
            ],
        ),
        "input" => (
            vec![
                Value::Null,
                json!(""),
                json!("é"),
                json!(1.5),
                json!([]),
                json!({"a": {}}),
            ],
            vec![],
        ),
        "input_base64" => (
            vec![json!(""), json!("YQ=="), json!("YWI="), json!("+/+/")],
            vec![
                json!("a"),
                json!("YQ"),
                json!("YR=="),
                json!("YWJ="),
                json!("YQ==\n"),
                json!("_-__"),
            ],
        ),
        "limits" => (
            vec![
                json!({}),
                json!({"fuel": 1, "memory_bytes": 65536}),
                json!({"timeout_ms": 1, "output_bytes": u64::MAX}),
            ],
            vec![
                json!({"fuel": 0}),
                json!({"fuel": -1}),
                json!({"fuel": "1"}),
                json!({"fuel": null}),
                json!({"memory_bytes": 0.5}),
                json!({"timeout_ms": 1e30}),
                json!({"feul": 1}),
                json!([]),
            ],
        ),
        "retry" => (
            vec![
                json!({}),
                json!({"max_attempts": 1, "initial_delay_ms": 0}),
                json!({"max_attempts": 1000, "factor": 1, "max_delay_ms": u64::MAX}),
                json!({"factor": 1.5}),
                json!({"factor": 100}),
            ],
            vec![
                json!({"max_attempts": 0}),
                json!({"max_attempts": 1001}),
                json!({"factor": 0.99}),
                json!({"factor": 100.5}),
                json!({"factor": "2"}),
                json!({"max_delay_ms": -1}),
                json!({"attempts": 1}),
            ],
        ),
        "expires_at" | "not_before" => (
            vec![
                json!("2026-01-31T12:00:00Z"),
                json!("2026-01-31T12:00:00.123456789+01:00"),
                json!("2024-02-29T23:59:59-11:30"),
            ],
            vec![
                json!(""),
                json!("tomorrow"),
                json!("2026-01-31"),
                json!("2026-01-31T12:00:00"),
                json!("2026-13-01T00:00:00Z"),
                json!("2026-02-29T00:00:00Z"),
                json!(1_767_225_600),
            ],
        ),
        "priority" => (
            vec![json!(0), json!(9)],
            vec![json!(10), json!(-1), json!("1"), json!(0.5)],
        ),
        // What is no topic is refused by admission: the decoder has no say in it.
        "reply_to" => (vec![json!("replies/1")], vec![]),
        "content_type" | "correlation" => (vec![json!(""), json!("text/plain")], vec![]),
        "events" | "logs" => (
            vec![json!(true), json!(false)],
            vec![json!("true"), json!(0)],
        ),
        "labels" => (
            vec![
                json!({}),
                labels(MAX_LABELS),
                json!({"k": "", "x".repeat(1024): "y".repeat(1024)}),
            ],
            vec![
                labels(MAX_LABELS + 1),
                json!({"": "x"}),
                json!({"k": 1}),
                json!({"k": "x".repeat(1025)}),
                json!({"x".repeat(1025): ""}),
                json!(["k"]),
            ],
        ),
        _ => panic!("no values for {field}"),
    };
    let odd = match field {
        "input" => vec![],
        "events" | "logs" => vec![Value::Null, json!({})],
        _ => vec![Value::Null, json!(true)],
    };
    (fit, [unfit, odd].concat())
}
