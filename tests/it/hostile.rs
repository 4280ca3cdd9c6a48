//! One hostile guest for each hostile behaviour: it ends by the name of what it ran into, what it used is
//! measured, and the next task on the same runner succeeds.

use serde_json::{Value, json};
use wasmqtt::envelope::Message;
use wasmqtt_tests::guests;

use crate::rig::Rig;

/// Runs a guest and, after it, an echo; the guest's outcome.
async fn run(guest: &'static [u8], fields: Value) -> Value {
    let mut rig = Rig::new().await;
    let outcome = run_on(&mut rig, guest, fields).await;
    rig.end().await;
    outcome
}

async fn run_on(rig: &mut Rig, guest: &'static [u8], fields: Value) -> Value {
    rig.push("hostile", guest).await;
    rig.push("echo", guests::ECHO).await;
    let mut task = fields;
    task["id"] = json!("hostile");
    task["module"] = json!("hostile");
    let outcome = rig.task(task).await;
    let next = json!({"id": "next", "module": "echo", "input": "still here"});
    let next = rig.task(next).await;
    assert_eq!(next["output"], "still here", "{next}");
    outcome
}

/// That it ran and ended with the code and the message; what it used was measured.
fn assert_ended(outcome: &Value, status: &str, code: &str, message: &str) {
    assert_refused(outcome, status, code, message);
    assert_eq!(outcome["attempt"], 1, "{outcome}");
    assert!(outcome["output"].is_null(), "{outcome}");
    let usage = &outcome["usage"];
    for measured in ["fuel", "peak_memory_bytes", "cpu_ms", "run_ms"] {
        let value = usage[measured].as_f64().expect("a number");
        assert!(value > 0.0, "{measured}: {outcome}");
    }
}

fn assert_refused(outcome: &Value, status: &str, code: &str, message: &str) {
    let error = &outcome["error"];
    assert_eq!(error["code"], code, "{outcome}");
    assert_eq!(outcome["status"], status, "{outcome}");
    let said = error["message"].as_str().expect("a message");
    assert!(said.contains(message), "{message:?} is not in {said:?}");
}

pub(crate) async fn endless_loop_without_fuel() {
    let outcome = run(
        guests::ENDLESS_LOOP,
        json!({"limits": {"fuel": 10_000_000}}),
    )
    .await;
    assert_ended(
        &outcome,
        "failed",
        "fuel_exhausted",
        "used all 10000000 units in",
    );
    assert_eq!(outcome["usage"]["fuel"], 10_000_000, "{outcome}");
    let message = outcome["error"]["message"].as_str().expect("a message");
    assert!(message.ends_with("(limit from the task)"), "{message}");
}

pub(crate) async fn endless_loop_past_its_deadline() {
    let limits = json!({"limits": {"fuel": 100_000_000_000_u64, "timeout_ms": 300}});
    let outcome = run(guests::ENDLESS_LOOP, limits).await;
    assert_ended(
        &outcome,
        "timed_out",
        "deadline_exceeded",
        "still running after 300 ms (limit from the task)",
    );
}

pub(crate) async fn endless_recursion() {
    let outcome = run(guests::ENDLESS_RECURSION, json!({})).await;
    assert_ended(&outcome, "failed", "stack_overflow", "stack of 512 KiB");
}

pub(crate) async fn memory_bomb() {
    let limits = json!({"limits": {"memory_bytes": 8 << 20}});
    let outcome = run(guests::MEMORY_BOMB, limits).await;
    assert_ended(
        &outcome,
        "failed",
        "memory_exceeded",
        "of 8388608 (limit from the task)",
    );
    let peak = outcome["usage"]["peak_memory_bytes"].as_u64();
    let peak = peak.expect("a number");
    assert!((7 << 20..=8 << 20).contains(&peak), "{outcome}");
}

pub(crate) async fn memory_bomb_at_the_default_limit() {
    let outcome = run(guests::MEMORY_BOMB, json!({})).await;
    assert_ended(
        &outcome,
        "failed",
        "memory_exceeded",
        "of 67108864 (the runner's default limit)",
    );
}

pub(crate) async fn table_bomb() {
    let outcome = run(guests::TABLE_BOMB, json!({})).await;
    assert_ended(
        &outcome,
        "failed",
        "memory_exceeded",
        "wanted a table of 65537 elements, of at most 20000",
    );
}

/// More memories than a component may have: refused when it is loaded.
pub(crate) async fn many_memories() {
    let outcome = run(guests::MANY_MEMORIES, json!({})).await;
    assert_refused(&outcome, "rejected", "module_invalid", "memories");
    assert_eq!(outcome["attempt"], 0, "{outcome}");
}

/// The limit is on what the guest holds in all, its own 1 MiB or so included.
pub(crate) async fn alloc() {
    let mut rig = Rig::new().await;
    rig.push("alloc", guests::ALLOC).await;
    for (id, bytes, status) in [
        ("few", 4 << 20, "succeeded"),
        ("many", 15 << 20, "failed"),
        ("few-again", 4 << 20, "succeeded"),
    ] {
        let limits = json!({"memory_bytes": 10 << 20});
        let task = json!({"id": id, "module": "alloc", "input": bytes, "limits": limits});
        let outcome = rig.task(task).await;
        assert_eq!(outcome["status"], status, "{outcome}");
        let peak = outcome["usage"]["peak_memory_bytes"].as_u64();
        let peak = peak.expect("a number");
        assert!(peak <= 10 << 20, "{outcome}");
        if status == "succeeded" {
            assert!(peak > bytes, "{outcome}");
        } else {
            assert_ended(
                &outcome,
                "failed",
                "memory_exceeded",
                "of 10485760 (limit from the task)",
            );
        }
    }
    rig.end().await;
}

pub(crate) async fn huge_output() {
    let outcome = run(guests::HUGE_OUTPUT, json!({})).await;
    assert_ended(
        &outcome,
        "failed",
        "output_too_large",
        "of at most 1048576 bytes of output (the runner's default limit)",
    );
}

/// A little over the limit: then the message has the size.
pub(crate) async fn output_over_the_limit() {
    let input = "x".repeat(101);
    let mut rig = Rig::new().await;
    rig.push("echo", guests::ECHO).await;
    let limits = json!({"output_bytes": 100});
    let task = json!({"id": "over", "module": "echo", "input": input, "limits": limits});
    let outcome = rig.task(task).await;
    assert_ended(
        &outcome,
        "failed",
        "output_too_large",
        "returned 101 bytes, of at most 100 bytes of output (limit from the task)",
    );
    let task = json!({"id": "at", "module": "echo", "input": input[1..], "limits": limits});
    let outcome = rig.task(task).await;
    assert_eq!(outcome["status"], "succeeded", "{outcome}");
    rig.end().await;
}

pub(crate) async fn stdout_flood() {
    let limits = json!({"limits": {"output_bytes": 10_000}});
    let outcome = run(guests::STDOUT_FLOOD, limits).await;
    assert_ended(
        &outcome,
        "failed",
        "output_too_large",
        "of at most 10000 bytes of output (limit from the task)",
    );
}

/// It logs until its fuel is used up; of the log, as much is published as a task may write.
pub(crate) async fn log_flood() {
    let mut rig = Rig::new().await;
    let flood = json!({"logs": true, "limits": {"fuel": 20_000_000}});
    let outcome = run_on(&mut rig, guests::LOG_FLOOD, flood).await;
    assert_ended(
        &outcome,
        "failed",
        "fuel_exhausted",
        "used all 20000000 units",
    );
    let lines = rig
        .ear
        .unasked(|inbound| inbound.topic == "task_log/hostile");
    let lines: Vec<Value> = lines.into_iter().filter_map(crate::rig::json).collect();
    let (last, lines) = lines.split_last().expect("lines");
    let length = |line: &Value| line["message"].as_str().map_or(0, str::len);
    let published: usize = lines.iter().map(length).sum();
    // Lines of 1 KiB, each counting as 64 bytes more: 60 of them fit 64 KiB.
    assert_eq!(published, 60 << 10);
    assert_eq!(last["level"], "warn", "{last}");
    assert_eq!(
        last["message"],
        "the log ends here: a task may write 65536 bytes of it"
    );
    rig.end().await;
}

pub(crate) async fn trap() {
    let outcome = run(guests::TRAP, json!({})).await;
    assert_ended(&outcome, "failed", "trap", "unreachable");
    let backtrace = outcome["error"]["backtrace"].as_array();
    assert!(
        backtrace.is_some_and(|frames| !frames.is_empty()),
        "{outcome}"
    );
}

pub(crate) async fn divide_by_zero() {
    let outcome = run(guests::DIVIDE_BY_ZERO, json!({})).await;
    assert_ended(&outcome, "failed", "trap", "divide by zero");
}

/// What a Rust guest says when it panics is in its log.
/// What wasmtime forgets of the fuel when the processor traps is made good for.
pub(crate) async fn burn_and_trap() {
    let outcome = run(guests::BURN_AND_TRAP, json!({})).await;
    assert_ended(&outcome, "failed", "trap", "divide by zero");
    let fuel = outcome["usage"]["fuel"].as_u64().expect("a number");
    // A unit for each nanosecond; 700,000 units take from 70,000 to as long as a busy machine lets them.
    assert!(fuel >= 30_000, "{outcome}");
}

pub(crate) async fn panic() {
    let mut rig = Rig::new().await;
    let task = json!({"input": "out of luck", "logs": true});
    let outcome = run_on(&mut rig, guests::PANIC, task).await;
    assert_ended(&outcome, "failed", "trap", "unreachable");
    let log = rig
        .ear
        .unasked(|inbound| inbound.topic == "task_log/hostile");
    let lines: Vec<Value> = log.into_iter().filter_map(crate::rig::json).collect();
    let says = |line: &Value| {
        let said = line["message"].as_str().unwrap_or_default();
        line["source"] == "stderr" && said.contains("out of luck")
    };
    assert!(lines.iter().any(says), "{lines:?}");
    rig.end().await;
}

pub(crate) async fn exit_code() {
    let outcome = run(guests::EXIT_CODE, json!({})).await;
    assert_ended(
        &outcome,
        "failed",
        "exit_nonzero",
        "the command ended with exit code 1",
    );
}

/// In the host, neither fuel nor epochs count.
pub(crate) async fn sleeping_host_call() {
    let limits = json!({"limits": {"timeout_ms": 500}});
    let outcome = run(guests::SLEEPING_HOST_CALL, limits).await;
    assert_ended(
        &outcome,
        "timed_out",
        "deadline_exceeded",
        "still running after 500 ms (limit from the task)",
    );
    let run_ms = outcome["usage"]["run_ms"].as_f64().expect("a number");
    assert!(run_ms >= 500.0, "{outcome}");
}

pub(crate) async fn guest_error() {
    let mut rig = Rig::new().await;
    rig.push("guest-error", guests::GUEST_ERROR).await;
    for (input, message, retry, after) in [
        ("reject", "the input is wrong", "never", json!(null)),
        ("retry", "not now", "after", json!(250)),
        ("failed", "it did not work", "by_policy", json!(null)),
    ] {
        let once = json!({"max_attempts": 1});
        let task = json!({"id": input, "module": "guest-error", "input": input, "retry": once});
        let outcome = rig.task(task).await;
        assert_ended(&outcome, "failed", "guest_error", message);
        assert_eq!(outcome["error"]["message"], message, "{outcome}");
        assert_eq!(outcome["error"]["retry"], retry, "{outcome}");
        assert_eq!(outcome["error"]["retry_after_ms"], after, "{outcome}");
    }
    let outcome = rig
        .task(json!({"id": "well", "module": "guest-error"}))
        .await;
    assert_eq!(outcome["output"], "attempt 1", "{outcome}");
    rig.end().await;
}

pub(crate) async fn wants_blobstore() {
    let outcome = run(guests::WANTS_BLOBSTORE, json!({})).await;
    assert_refused(
        &outcome,
        "rejected",
        "import_denied",
        "imports wasi:blobstore/blobstore@0.2.0-draft, which no runner offers",
    );
    assert_eq!(outcome["attempt"], 0, "{outcome}");
}

pub(crate) async fn wants_http() {
    let outcome = run(guests::WANTS_HTTP, json!({})).await;
    assert_refused(
        &outcome,
        "rejected",
        "capability_denied",
        "wasi:http/outgoing-handler@0.2.0",
    );
    assert_eq!(outcome["attempt"], 0, "{outcome}");
}

/// A command that reaches for everything gets its task's fields and nothing else.
pub(crate) async fn reads_files() {
    let mut rig = Rig::new().await;
    rig.push("reads-files", guests::READS_FILES).await;
    let task = json!({
        "id": "nosy", "module": "reads-files", "input": "12345",
        "content_type": "text/plain", "labels": {"a": "b"}
    });
    rig.publish(Message::new("task_queue", task.to_string()))
        .await;
    let outcome = rig.ear.outcome("nosy").await;
    assert_eq!(outcome["status"], "succeeded", "{outcome}");
    let got = outcome["output"].as_str().expect("text");
    for reached in [
        "/etc/passwd",
        "../Cargo.toml",
        "list /",
        "list .",
        "write",
        "connect",
        "listen",
        "udp",
        "resolve",
    ] {
        let line = got.lines().find(|line| line.contains(reached));
        let line = line.expect("a line about it");
        assert!(line.contains(": denied: "), "{line}");
    }
    let environment: Vec<&str> = got
        .lines()
        .filter(|line| line.starts_with("env "))
        .collect();
    let deadline = environment
        .iter()
        .find(|line| line.starts_with("env TASK_DEADLINE_MS="));
    let deadline = deadline.expect("a deadline");
    let wanted = [
        "env TASK_ATTEMPT=1",
        "env TASK_CONTENT_TYPE=text/plain",
        deadline,
        "env TASK_ID=nosy",
        r#"env TASK_LABELS={"a":"b"}"#,
        "env TASK_MODULE=reads-files",
        "env TASK_TENANT=default",
    ];
    assert_eq!(environment, wanted);
    assert!(got.contains("stdin: got 5\n"), "{got}");
    assert!(got.contains(r#"args: ["reads-files"]"#), "{got}");
    rig.end().await;
}
