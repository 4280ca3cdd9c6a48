use std::time::Duration;

use super::*;
use crate::envelope::decode::decode;
use crate::envelope::encode;

fn at(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_000 + ms)
}

fn inbound(message: Message) -> Inbound {
    Inbound {
        topic: message.topic,
        payload: message.payload,
        properties: message.properties,
    }
}

fn succeeded(shape: Shape, data: &'static [u8], content_type: Option<&str>) -> Outcome {
    Outcome {
        id: TaskId::parse("a-1").expect("an id"),
        tenant: TenantId::default(),
        status: Status::Succeeded,
        module: Some("upper".to_owned()),
        module_digest: Some(Digest::new([0xab; 32])),
        attempt: 2,
        attempts: Vec::new(),
        output: Some(Output {
            data: Bytes::from_static(data),
            content_type: content_type.map(str::to_owned),
        }),
        error: None,
        usage: Usage {
            fuel: 1234,
            peak_memory_bytes: 1_114_112,
            queued_ms: 0.25,
            run_ms: 1.5,
            cpu_ms: 1.25,
            module_cache: Some(CacheHit::Disk),
        },
        runner: "edge-1".to_owned(),
        started_at: Some(at(123)),
        finished_at: at(125),
        labels: [("team".to_owned(), "a".to_owned())].into(),
        reply: Reply {
            topic: None,
            correlation_data: Some(Bytes::from_static(b"\0\x01")),
            correlation: Some("c".to_owned()),
        },
        shape,
    }
}

fn failed(shape: Shape, retry: Option<GuestRetry>) -> Outcome {
    let mut error = TaskError::new(ErrorCode::GuestError, "no such column");
    error.retry = retry;
    error.backtrace = vec!["0x1f - m!f".to_owned(), "0x2f - m!g".to_owned()];
    Outcome {
        status: Status::Failed,
        output: None,
        error: Some(error),
        ..succeeded(shape, b"", None)
    }
}

/// Never started: nothing but a status.
fn canceled(shape: Shape) -> Outcome {
    Outcome {
        status: Status::Canceled,
        module: None,
        module_digest: None,
        attempt: 0,
        output: None,
        usage: Usage::default(),
        started_at: None,
        labels: BTreeMap::new(),
        reply: Reply::default(),
        ..succeeded(shape, b"", None)
    }
}

#[test]
fn a_submitter_reads_what_a_runner_wrote() {
    for shape in [Shape::Properties, Shape::Json] {
        for written in [
            succeeded(shape, b"HELLO", None),
            succeeded(shape, b"", None),
            succeeded(shape, b"\xff\0", Some("application/octet-stream")),
            succeeded(shape, b"{\"a\": [1, null]}", Some("application/json")),
            succeeded(shape, b"\"text\"", Some("Application/JSON; charset=utf-8")),
            succeeded(shape, b"null", Some("application/json")),
            succeeded(shape, b"null", None),
            failed(shape, None),
            failed(shape, Some(GuestRetry::Never)),
            failed(shape, Some(GuestRetry::After(250))),
            failed(shape, Some(GuestRetry::ByPolicy)),
            canceled(shape),
        ] {
            let message = encode::outcome(&Topics::default(), &written).remove(0);
            let read = outcome(&TenantId::default(), &inbound(message));
            assert_eq!(read, Ok(written));
        }
    }
}

#[test]
fn what_is_no_outcome() {
    let read = |payload: &'static str| {
        let message = Message::new("task_reply/me", payload);
        outcome(&TenantId::default(), &inbound(message)).expect_err("no outcome")
    };
    for (payload, why) in [
        ("hello", "no user property `status`"),
        ("{}", "missing field `id`"),
        (r#"{"id":"1","status":"sleeping"}"#, "\"sleeping\""),
        (r#"{"id":"a b","status":"succeeded"}"#, "\"a b\""),
        (
            r#"{"id":"1","status":"failed","error":{"code":"gremlins"}}"#,
            "\"gremlins\"",
        ),
        (
            r#"{"id":"1","status":"succeeded","output_base64":"?"}"#,
            "output_base64",
        ),
    ] {
        let said = read(payload);
        assert!(said.contains(why), "{payload}: {said}");
    }
}

#[test]
fn what_a_later_runner_adds_is_no_error() {
    let message = Message::new(
        "task_reply/me",
        r#"{"id":"1","status":"succeeded","output":1,"attempts":[{}],"usage":{"joules":1}}"#,
    );
    let read = outcome(&TenantId::default(), &inbound(message)).expect("an outcome");
    let output = read.output.expect("output");
    assert_eq!(output.data, "1");
}

#[test]
fn a_runner_reads_what_a_submitter_wrote() {
    let module = ModuleRef::parse("upper").expect("a module");
    let mut request = Request::new(module, "hello");
    request.retry = Some(RetryPolicy {
        max_attempts: Some(3),
        initial_delay_ms: Some(10),
        factor: Some(1.5),
        max_delay_ms: Some(100),
    });
    request.priority = 9;
    request.not_before = Some(at(1));
    request.expires_at = Some(at(2));
    let topics = Topics::default();
    let tenant = TenantId::default();
    let message = request.message(&topics, &tenant, Some("task_reply/me"));
    let task = decode(&topics, &inbound(message), |_| Default::default(), at(0)).expect("a task");
    assert_eq!(task.id, request.id);
    assert_eq!(task.retry, request.retry);
    assert_eq!(task.priority, 9);
    assert_eq!(task.not_before, request.not_before);
    assert_eq!(task.expires_at, request.expires_at);
    assert_eq!(task.reply.topic.as_deref(), Some("task_reply/me"));
}

#[test]
fn nothing_is_said_that_was_not_asked_for() {
    let module = ModuleRef::parse("upper").expect("a module");
    let request = Request::new(module, "hello");
    let message = request.message(&Topics::default(), &TenantId::default(), None);
    let names = message.properties.user.iter().map(|(name, _)| name);
    assert_eq!(names.collect::<Vec<_>>(), ["module", "id"]);
}
