use std::time::Duration;

use super::*;
use crate::config::Config;
use crate::envelope::Inbound;
use crate::envelope::decode;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

fn policy() -> TenantPolicy {
    let mut config = Config::default();
    config.limits.fuel = 10;
    config.ceilings.fuel = 100;
    let modules = vec!["m".to_owned(), "oci://r/m:1".to_owned()];
    config
        .tenants
        .entry("default".to_owned())
        .or_default()
        .modules = modules;
    let table = config.tenant_table().expect("a table");
    (*table.listed[&TenantId::default()]).clone()
}

fn verdict(topic: &str, json: &str) -> Result<u64, (Status, ErrorCode, String)> {
    let inbound = Inbound {
        topic: topic.to_owned(),
        payload: json.to_owned().into(),
        properties: Default::default(),
    };
    let task = decode::decode(&Topics::default(), &inbound, |_| Default::default(), now())
        .expect("a task");
    admit(&task, &policy(), &Topics::default(), now())
        .map(|limits| limits.fuel.value)
        .map_err(|rejection| {
            (
                rejection.status,
                rejection.error.code,
                rejection.error.message,
            )
        })
}

#[test]
fn verdicts() {
    let accepted = |json| assert!(verdict("task_queue", json).is_ok(), "{json}");
    accepted(r#"{"module":"m"}"#);
    accepted(r#"{"module":"m","limits":{"fuel":100}}"#);
    accepted(
        r#"{"module":"m","expires_at":"2026-01-01T00:00:01Z","not_before":"2026-01-01T00:00:00Z"}"#,
    );
    accepted(r#"{"module":"m","retry":{"max_attempts":9}}"#);
    accepted(r#"{"module":"m","not_before":"2999-01-01T00:00:00Z"}"#);
    accepted(r#"{"module":"m","reply_to":"replies/1"}"#);
    for (topic, json, status, code) in [
        (
            "task_queue",
            r#"{"module":"m","limits":{"fuel":101}}"#,
            Status::Rejected,
            ErrorCode::LimitDenied,
        ),
        (
            "task_queue",
            r#"{"module":"m","expires_at":"2026-01-01T00:00:00Z"}"#,
            Status::Expired,
            ErrorCode::DeadlineExceeded,
        ),
        (
            "task_queue",
            r#"{"module":"oci://r/m:1"}"#,
            Status::Rejected,
            ErrorCode::TenantDenied,
        ),
        (
            "task_queue",
            r#"{"module":"n"}"#,
            Status::Rejected,
            ErrorCode::TenantDenied,
        ),
        (
            "task_queue",
            r#"{"module":"m","reply_to":"task_queue"}"#,
            Status::Rejected,
            ErrorCode::TenantDenied,
        ),
        (
            "tenants/a/task_queue",
            r#"{"module":"m","reply_to":"replies/1"}"#,
            Status::Rejected,
            ErrorCode::TenantDenied,
        ),
    ] {
        let (got_status, got_code, message) = verdict(topic, json).expect_err("refused");
        assert_eq!((got_status, got_code), (status, code), "{json}: {message}");
    }
}
