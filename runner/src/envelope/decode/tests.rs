use proptest::prelude::*;

use super::*;
use crate::envelope::Properties;
use crate::task::outcome::ErrorCode;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn inbound(payload: &[u8]) -> Inbound {
    Inbound {
        topic: "task_queue".to_owned(),
        payload: Bytes::copy_from_slice(payload),
        properties: Properties::default(),
    }
}

fn with_properties(payload: &[u8], user: &[(&str, &str)]) -> Inbound {
    let mut inbound = inbound(payload);
    inbound.properties.user = user
        .iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
        .collect();
    inbound
}

fn read(inbound: &Inbound) -> Result<Task, Box<Undecodable>> {
    decode(
        &Topics::default(),
        inbound,
        |_| Default::default(),
        at(1_000),
    )
}

fn error(payload: &str) -> String {
    let undecodable = read(&inbound(payload.as_bytes())).expect_err("no task");
    assert_eq!(undecodable.error.code, ErrorCode::InvalidTask);
    undecodable.error.message
}

#[test]
fn a_json_task_with_everything() {
    let payload = br#"{"id":"a-1","module":"upper","input":"h\u00e9","content_type":"text/plain",
        "limits":{"fuel":1,"memory_bytes":2,"timeout_ms":3,"output_bytes":4},
        "retry":{"max_attempts":3,"initial_delay_ms":10,"factor":1.5,"max_delay_ms":100},
        "expires_at":"2026-01-01T00:00:00Z","not_before":"2025-01-01T00:00:00+01:00","priority":9,
        "reply_to":"replies/x","correlation":"c","events":true,"logs":false,"labels":{"k":"v"}}"#;
    let task = read(&inbound(payload)).expect("a task");
    assert_eq!(
        (task.id.as_str(), task.input.as_ref()),
        ("a-1", "hé".as_bytes())
    );
    assert_eq!(task.limits.output_bytes, Some(4));
    assert_eq!(task.retry.and_then(|r| r.factor), Some(1.5));
    assert_eq!(task.expires_at, Some(at(1_767_225_600)));
    assert_eq!(
        (task.priority, task.events, task.logs, task.shape),
        (9, true, false, Shape::Json)
    );
    assert_eq!(task.reply.topic.as_deref(), Some("replies/x"));
    assert_eq!(task.labels.get("k").map(String::as_str), Some("v"));
}

#[test]
fn inputs() {
    let input = |field: &str| {
        let payload = format!(r#"{{"module":"m",{field}}}"#);
        read(&inbound(payload.as_bytes())).expect("a task").input
    };
    assert_eq!(input(r#""input":"text""#), "text");
    assert_eq!(
        input(r#""input":{"a": [1, 2.50]}"#),
        r#"{"a": [1, 2.50]}"#,
        "as written, not re-encoded"
    );
    assert_eq!(input(r#""input":null"#), "null");
    assert_eq!(input(r#""input_base64":"AP8=""#), &b"\0\xff"[..]);
    let deep = format!(r#""input":{}{}"#, "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(
        input(&deep).len(),
        20_000,
        "nesting is not the envelope's to judge"
    );
}

#[test]
fn wrong_fields_are_named() {
    for (payload, expected) in [
        (r#"{"module":"m","fule":1}"#, "unknown field `fule`"),
        (
            r#"{"module":"m","limits":{"fule":1}}"#,
            "unknown field in `limits` `fule`, did you mean `fuel`?",
        ),
        (
            r#"{"module":"m","id":"a b"}"#,
            r#"`id` must be 1 to 64 characters of [A-Za-z0-9_-], got "a b""#,
        ),
        (r#"{"module":"m","id":7}"#, "`id` must be a string, got 7"),
        (
            r#"{"module":"M"}"#,
            r#"`module`: a module name is [a-z0-9][a-z0-9._-]{0,127}, got "M""#,
        ),
        (
            r#"{"module":"m","priority":10}"#,
            "`priority` must be an integer from 0 to 9, got 10",
        ),
        (
            r#"{"module":"m","limits":{"fuel":-1}}"#,
            "`fuel` must be an integer of at least 1, got -1",
        ),
        (
            r#"{"module":"m","limits":3}"#,
            "`limits` must be an object, got 3",
        ),
        (
            r#"{"module":"m","events":"yes"}"#,
            "`events` must be true or false, got \"yes\"",
        ),
        (
            r#"{"module":"m","expires_at":"tomorrow"}"#,
            "`expires_at` must be an RFC 3339 time",
        ),
        (
            r#"{"module":"m","module":"n"}"#,
            "field `module` appears twice",
        ),
        (
            r#"{"module":"m","labels":{"a":"1","a":"2"}}"#,
            "field `a` appears twice in `labels`",
        ),
        (
            r#"{"module":"m","input":"a","input_base64":"YQ=="}"#,
            "both `input` and `input_base64` are present",
        ),
        (
            r#"{"module":"m","input_base64":"YQ"}"#,
            "`input_base64` must be base64 with padding",
        ),
        (r#"{"modul":"m"}"#, "neither a JSON object with `module`"),
        ("hello", "neither a JSON object with `module`"),
    ] {
        let message = error(payload);
        assert!(message.starts_with(expected), "{payload}: {message}");
    }
}

#[test]
fn what_could_be_read_answers_the_sender() {
    let payload =
        br#"{"limits":{"fuel":"x"},"module":"m","id":"7","reply_to":"r","labels":{"a":"b"}}"#;
    let undecodable = read(&inbound(payload)).expect_err("no task");
    assert_eq!(undecodable.id.as_str(), "7");
    assert_eq!(undecodable.reply.topic.as_deref(), Some("r"));
    assert_eq!(undecodable.module.as_deref(), Some("m"));
    assert_eq!(undecodable.labels.len(), 1);
}

#[test]
fn properties() {
    let user = [
        ("module", "m"),
        ("id", "1"),
        ("fuel", "5"),
        ("max_attempts", "1"),
        ("labels.k", "v"),
        ("logs", "true"),
    ];
    let mut message = with_properties(b"\xff\0", &user);
    message.properties.response_topic = Some("r".to_owned());
    message.properties.correlation_data = Some(Bytes::from_static(b"\0c"));
    message.properties.content_type = Some("image/png".to_owned());
    message.properties.message_expiry_s = Some(5);
    let task = read(&message).expect("a task");
    assert_eq!(
        (task.input.as_ref(), task.shape),
        (&b"\xff\0"[..], Shape::Properties)
    );
    assert_eq!(task.input.as_ptr(), message.payload.as_ptr(), "not copied");
    assert_eq!(
        (task.limits.fuel, task.expires_at, task.logs),
        (Some(5), Some(at(1_005)), true)
    );
    assert_eq!(task.content_type.as_deref(), Some("image/png"));
    assert_eq!(task.reply.correlation_data.as_deref(), Some(&b"\0c"[..]));

    for (user, expected) in [
        (
            vec![("module", "m"), ("fule", "5")],
            "unknown user property `fule`",
        ),
        (
            vec![("module", "m"), ("module", "n")],
            "user property `module` appears twice",
        ),
        (
            vec![("module", "m"), ("fuel", "lots")],
            "`fuel` must be an integer",
        ),
        (
            vec![("module", "m"), ("input", "x")],
            "unknown user property `input`",
        ),
    ] {
        let undecodable = read(&with_properties(b"", &user)).expect_err("no task");
        assert!(
            undecodable.error.message.starts_with(expected),
            "{}",
            undecodable.error.message
        );
    }
}

#[test]
fn plain_messages_go_to_the_default_module() {
    let rules = |tenant: &TenantId| Rules {
        default_module: tenant
            .is_default()
            .then(|| ModuleRef::parse("upper").expect("a name")),
        ..Rules::default()
    };
    let plain = |payload: &[u8]| decode(&Topics::default(), &inbound(payload), rules, at(0));
    for payload in [
        &b"hello"[..],
        b"",
        b"\xff\xfe",
        b"{not json",
        b"[1]",
        br#"{"other":1}"#,
    ] {
        let task = plain(payload).expect("a task");
        assert_eq!(
            (
                task.input.as_ref(),
                task.shape,
                task.module.to_string().as_str()
            ),
            (payload, Shape::Plain, "upper")
        );
    }
}

#[test]
fn the_tenant_is_the_topics() {
    let mut message = inbound(br#"{"module":"m"}"#);
    message.topic = "tenants/acme/task_queue".to_owned();
    assert_eq!(read(&message).expect("a task").tenant.as_str(), "acme");
    message.topic = "tenants/BAD/task_queue".to_owned();
    message.properties.response_topic = Some("replies/1".to_owned());
    assert_eq!(read(&message).expect_err("no task").reply, Reply::default());
    assert_eq!(
        read(&message).expect_err("no task").error.code,
        ErrorCode::TenantDenied
    );
    let mut message = inbound(br#"{"module":"m","tenant":"other"}"#);
    message.topic = "tenants/acme/task_queue".to_owned();
    assert!(
        read(&message)
            .expect_err("no task")
            .error
            .message
            .starts_with("unknown field `tenant`")
    );
}

fn json_like() -> impl Strategy<Value = String> {
    let fields = prop::sample::select(
        JSON_FIELDS
            .iter()
            .chain(LIMIT_FIELDS)
            .chain(["x", "MODULE", ""].iter())
            .copied()
            .collect::<Vec<_>>(),
    );
    let scalar = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| format!("{n:e}")),
        "\\PC{0,20}".prop_map(|s| serde_json::to_string(&s).expect("a string")),
    ];
    let value = scalar.prop_recursive(3, 12, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|v| format!("[{}]", v.join(","))),
            prop::collection::vec(
                (prop::sample::select(vec!["fuel", "factor", "k"]), inner),
                0..4
            )
            .prop_map(|v| object(&v.iter().map(|(n, v)| (*n, v.as_str())).collect::<Vec<_>>())),
        ]
    });
    prop::collection::vec((fields, value), 0..8)
        .prop_map(|v| object(&v.iter().map(|(n, v)| (*n, v.as_str())).collect::<Vec<_>>()))
}

fn object(fields: &[(&str, &str)]) -> String {
    let fields: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{name:?}:{value}"))
        .collect();
    format!("{{{}}}", fields.join(","))
}

proptest! {
    #[test]
    fn never_panics(payload in prop::collection::vec(any::<u8>(), 0..200), topic in "\\PC{0,40}") {
        let mut message = inbound(&payload);
        let _ = read(&message);
        message.topic = topic;
        let _ = read(&message);
    }

    #[test]
    fn json_like_bytes_never_panic(payload in json_like(), cut in any::<prop::sample::Index>()) {
        let _ = read(&inbound(payload.as_bytes()));
        let bytes = payload.as_bytes();
        let _ = read(&inbound(&bytes[..cut.index(bytes.len())]));
    }

    #[test]
    fn properties_never_panic(user in prop::collection::vec(("[a-z._]{0,20}|module|id|fuel", "\\PC{0,30}"), 0..6)) {
        let user: Vec<(&str, &str)> = user.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let _ = read(&with_properties(b"x", &user));
    }

    #[test]
    fn any_string_survives_as_input(text in "\\PC{0,50}") {
        let payload = serde_json::json!({"module": "m", "input": text}).to_string();
        let task = read(&inbound(payload.as_bytes())).expect("a task");
        prop_assert_eq!(task.input.as_ref(), text.as_bytes());
    }
}
