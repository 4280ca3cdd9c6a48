//! What is written fits its schema, and what a schema describes is written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::{Value, json};
use wasmqtt::envelope::encode::{self, Event, LogLine};
use wasmqtt::envelope::topics::Topics;
use wasmqtt::envelope::{Inbound, Message, Properties, answer};
use wasmqtt::modules::Content;
use wasmqtt::modules::source::chunks::Manifest;
use wasmqtt::task::outcome::{
    Attempt, CacheHit, ErrorCode, GuestRetry, Outcome, Output, Status, TaskError, Usage,
};
use wasmqtt::task::tenant::TenantId;
use wasmqtt::task::{Digest, ModuleName, Reply, Shape, TaskId};

use crate::contract::{outcome_json, seen, wrong};
use crate::schema_of_tasks::decoded;
use crate::schemas::{document, names};

/// Outcomes, dead letters, events and lines of a log.
pub(crate) async fn the_encoder_agrees() {
    let topics = Topics::default();
    let mut written = Written::default();
    let original = |payload: &'static [u8]| Inbound {
        topic: "task_queue".to_owned(),
        payload: Bytes::from_static(payload),
        properties: Properties {
            content_type: Some("text/plain".to_owned()),
            response_topic: Some("replies/1".to_owned()),
            correlation_data: Some(Bytes::from_static(b"\0")),
            message_expiry_s: None,
            user: vec![("module".to_owned(), "upper".to_owned())],
        },
    };
    for outcome in outcomes() {
        let name = match outcome.shape {
            Shape::Properties => "outcome-properties",
            _ => "outcome",
        };
        for message in encode::outcome(&topics, &outcome) {
            written.see(name, &message);
            // And the reader of outcomes takes it.
            answer::outcome(&outcome.tenant, &inbound(&message)).expect("an outcome");
        }
        for task in [original(b"hello"), original(b"\xff")] {
            written.see(
                "dead-letter",
                &encode::dead_letter(&topics, &outcome, &task),
            );
        }
    }
    let now = SystemTime::UNIX_EPOCH;
    let task = decoded(r#"{"id":"a-1","module":"upper"}"#).expect("a task");
    for event in [
        Event::Queued,
        Event::Started { attempt: 1 },
        Event::Retrying {
            attempt: 1,
            delay_ms: 0,
            code: ErrorCode::Internal.as_str(),
            message: String::new(),
        },
        Event::Progress {
            done: 1,
            total: 0,
            message: "half".to_owned(),
        },
    ] {
        written.see(
            "status",
            &encode::event(&topics, &task, "edge", &event, now),
        );
    }
    for level in ["trace", "debug", "info", "warn", "error"] {
        for source in ["log", "stdout", "stderr"] {
            let line = LogLine {
                level,
                source,
                message: "a line".to_owned(),
            };
            written.see(
                "log",
                &encode::log(&topics, &task.tenant, &task.id, &line, now),
            );
        }
    }
    let module = Content::new(Bytes::from_static(b"\0asm and more"));
    let (manifest, _) = Manifest::cut(&module, 4);
    let topic = topics.module(&task.tenant, &ModuleName::parse("a").expect("a name"));
    written.see("module-manifest", &Message::new(topic, manifest.to_json()));
    for (name, written) in written.0 {
        let document = document(name);
        let described = names(&document["properties"]);
        let written: BTreeSet<&str> = written.iter().map(String::as_str).collect();
        assert_eq!(described, written, "{name}");
    }
    // The other way round: an outcome must not be what none is.
    for (field, value) in [
        ("status", json!("done")),
        ("attempt", json!(-1)),
        ("finished_at", json!("today")),
        ("error", json!({"code": "trap", "message": ""})),
        ("usage", json!({})),
        ("module_digest", json!("sha256:ab")),
        ("extra", json!(1)),
    ] {
        let whole = &outcomes()[0];
        let mut outcome: Value = serde_json::from_slice(&encode::as_json(whole)).expect("JSON");
        outcome_json(&outcome);
        outcome[field] = value;
        assert_ne!(wrong("outcome", &outcome), [""; 0], "{outcome}");
    }
}

/// Outcomes of all kinds, with all fields and with few.
fn outcomes() -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let output = |data: &'static [u8], content_type: Option<&str>| Output {
        data: Bytes::from_static(data),
        content_type: content_type.map(str::to_owned),
    };
    for shape in [Shape::Json, Shape::Plain, Shape::Properties] {
        for output in [
            output(b"hello", None),
            output(b"", Some("text/plain")),
            output(
                b"{\"a\": [1, null]}",
                Some("application/json; charset=utf-8"),
            ),
            output(b"null", Some("application/json")),
            output(b"\xff\0", Some("image/png")),
        ] {
            let mut full = outcome(shape, Status::Succeeded);
            full.output = Some(output);
            full.usage.module_cache = Some(CacheHit::ALL[outcomes.len() % CacheHit::ALL.len()]);
            outcomes.push(full);
        }
        outcomes.push(outcome(shape, Status::Canceled));
        for code in ErrorCode::ALL {
            let mut error = TaskError::new(*code, "the thing,\nthe limit and the value");
            let mut full = outcome(shape, code.status());
            full.error = Some(error.clone());
            let mut few = bare(full.clone());
            few.module = None;
            outcomes.push(few);
            error.backtrace = vec!["0x1f - m!f".to_owned(), "0x2f - m!g".to_owned()];
            for retry in [
                GuestRetry::Never,
                GuestRetry::After(250),
                GuestRetry::ByPolicy,
            ] {
                error.retry = Some(retry);
                full.error = Some(error.clone());
                outcomes.push(full.clone());
            }
        }
    }
    outcomes
}

fn outcome(shape: Shape, status: Status) -> Outcome {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_123);
    Outcome {
        id: TaskId::parse("a-1").expect("an id"),
        tenant: TenantId::default(),
        status,
        module: Some("upper".to_owned()),
        module_digest: Some(Digest::new([0xab; 32])),
        attempt: 2,
        attempts: vec![Attempt {
            attempt: 1,
            failed_at: at,
            code: ErrorCode::Internal.to_string(),
            message: "a fault".to_owned(),
        }],
        output: None,
        error: None,
        usage: Usage {
            fuel: u64::MAX,
            peak_memory_bytes: 1_114_112,
            queued_ms: 0.25,
            run_ms: 1_000_000_000_000.0,
            cpu_ms: 0.0004,
            module_cache: Some(CacheHit::Memory),
        },
        runner: "edge-1".to_owned(),
        started_at: Some(at),
        finished_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40),
        labels: [("team\u{2028}".to_owned(), "a".to_owned())].into(),
        reply: Reply {
            topic: Some("replies/1".to_owned()),
            correlation_data: Some(Bytes::from_static(b"\0\x01")),
            correlation: Some("c".to_owned()),
        },
        shape,
    }
}

/// The same without all that may be absent.
fn bare(outcome: Outcome) -> Outcome {
    Outcome {
        module_digest: None,
        attempt: 0,
        attempts: Vec::new(),
        usage: Usage::default(),
        started_at: None,
        labels: BTreeMap::new(),
        reply: Reply::default(),
        ..outcome
    }
}

fn inbound(message: &Message) -> Inbound {
    Inbound {
        topic: message.topic.clone(),
        payload: message.payload.clone(),
        properties: message.properties.clone(),
    }
}

/// Remembers which fields were written.
#[derive(Default)]
struct Written(BTreeMap<&'static str, BTreeSet<String>>);

impl Written {
    fn see(&mut self, name: &'static str, message: &Message) {
        seen(&inbound(message));
        let of = self.0.entry(name).or_default();
        if name.ends_with("-properties") {
            let user = message.properties.user.iter().map(|(name, _)| name.clone());
            of.extend(user.filter(|name| !name.starts_with("labels.")));
        } else {
            let value: Value = serde_json::from_slice(&message.payload).expect("JSON");
            of.extend(names(&value).into_iter().map(str::to_owned));
        }
    }
}
