//! Core modules: made components when they are loaded, and refused by name when they cannot be.

use serde_json::{Value, json};
use wasmqtt::modules::shape;
use wasmqtt_tests::guests;

use crate::cli::Shell;
use crate::rig::{Rig, json as payload, retained, user, with_properties};
use crate::shown;

const WASI: &str = "wasi_snapshot_preview1";

/// The module of WebAssembly text.
pub(crate) fn core(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("text")
}

/// A wasip1 command that answers its input.
pub(crate) fn command() -> Vec<u8> {
    core(include_str!("../guests/core/echo.wat"))
}

/// The echo of the examples, with the metadata of its world and nothing else done to it.
pub(crate) fn typed() -> Vec<u8> {
    let echo = include_str!("../../examples/echo/echo.wat");
    shape::embed(&core(echo), "task").expect("embedded")
}

/// The same, which also writes a line to stderr by wasip1.
pub(crate) fn typed_with_wasi() -> Vec<u8> {
    let echo = include_str!("../../examples/echo/echo.wat");
    let imports = format!(
        "(module
           (import \"{WASI}\" \"fd_write\" (func $fd_write (param i32 i32 i32 i32) (result i32)))
           (data (i32.const 48) \"from wasip1\\n\")"
    );
    let begins = "    ;; Memory starts as zeroes";
    let says = format!(
        "(i32.store (i32.const 32) (i32.const 48))
         (i32.store (i32.const 36) (i32.const 12))
         (drop (call $fd_write (i32.const 2) (i32.const 32) (i32.const 1) (i32.const 40)))
         {begins}"
    );
    let text = echo
        .replacen("(module", &imports, 1)
        .replacen(begins, &says, 1);
    shape::embed(&core(&text), "task").expect("embedded")
}

async fn push(rig: &Rig, name: &str, module: Vec<u8>) {
    rig.publish(retained(&format!("modules/{name}"), module))
        .await;
}

async fn ask(rig: &mut Rig, module: &str, input: &str) -> Value {
    let id = format!("{module}-{}", input.len());
    rig.task(json!({"id": id, "module": module, "input": input, "logs": true}))
        .await
}

pub(crate) async fn a_command_of_wasip1() {
    let mut rig = Rig::new().await;
    push(&rig, "echo", command()).await;
    let outcome = ask(&mut rig, "echo", "hello").await;
    assert_eq!(outcome["output"], "hello", "{outcome}");
    // What was published is what is named.
    let digest = wasmqtt::modules::Content::new(command()).digest;
    assert_eq!(outcome["module_digest"], digest.to_string(), "{outcome}");
    assert_eq!(ask(&mut rig, "echo", "").await["status"], "succeeded");

    // Some megabytes through stdin and stdout.
    let input: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let fields = [
        ("id", "large"),
        ("module", "echo"),
        ("output_bytes", "8000000"),
    ];
    rig.publish(with_properties(input.clone(), &fields)).await;
    let answer = rig
        .ear
        .hear(|heard| heard.topic == "task_completed" && user(heard, "id") == Some("large"))
        .await;
    assert_eq!(user(&answer, "status"), Some("succeeded"));
    assert!(answer.payload == input, "{} bytes", answer.payload.len());
    let fields = [
        ("id", "larger"),
        ("module", "echo"),
        ("output_bytes", "4999999"),
    ];
    rig.publish(with_properties(input, &fields)).await;
    let answer = rig
        .ear
        .hear(|heard| heard.topic == "task_completed" && user(heard, "id") == Some("larger"))
        .await;
    assert_eq!(user(&answer, "error_code"), Some("output_too_large"));
    rig.end().await;
}

pub(crate) async fn environment_and_exit_code() {
    let mut rig = Rig::new().await;
    let module = core(include_str!("../guests/core/environment.wat"));
    push(&rig, "environment", module).await;
    let task = json!({"id": "1", "module": "environment", "content_type": "text/plain", "labels": {"a": "b"}});
    let outcome = rig.task(task).await;
    let output = outcome["output"].as_str().expect("text");
    for variable in [
        "TASK_ID=1",
        "TASK_TENANT=default",
        "TASK_MODULE=environment",
        "TASK_ATTEMPT=1",
        "TASK_CONTENT_TYPE=text/plain",
        "TASK_LABELS={\"a\":\"b\"}",
    ] {
        assert!(
            output.split('\0').any(|it| it == variable),
            "{variable}: {output}"
        );
    }
    assert_eq!(
        output.split('\0').filter(|it| !it.is_empty()).count(),
        7,
        "{output}"
    );
    let failed = ask(&mut rig, "environment", "xyz").await;
    assert_eq!(failed["error"]["code"], "exit_nonzero", "{failed}");
    rig.end().await;
}

pub(crate) async fn a_core_module_with_metadata() {
    let mut rig = Rig::new().await;
    push(&rig, "typed", typed()).await;
    let outcome = ask(&mut rig, "typed", "hello").await;
    assert_eq!(outcome["output"], "hello", "{outcome}");
    push(&rig, "with-wasi", typed_with_wasi()).await;
    let outcome = ask(&mut rig, "with-wasi", "hello").await;
    assert_eq!(outcome["output"], "hello", "{outcome}");
    let log = rig
        .ear
        .hear(|heard| heard.topic == "task_log/with-wasi-5")
        .await;
    let line = payload(&log).expect("JSON");
    assert_eq!(line["message"], "from wasip1", "{line}");
    rig.end().await;
}

/// Each with a part of the message that says what is wrong.
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let start = "(func (export \"_start\"))";
    let memory = "(memory (export \"memory\") 1)";
    let module = |fields: &str| core(&format!("(module {fields})"));
    let lying = |fields: &str| shape::embed(&module(fields), "task").expect("embedded");
    let echo = include_str!("../../examples/echo/echo.wat");
    vec![
        ("neither", module("(func (export \"add\"))")),
        ("without-metadata", core(echo)),
        (
            "snapshot-0",
            module(&format!(
                "(import \"wasi_unstable\" \"fd_write\" (func)) {memory} {start}"
            )),
        ),
        (
            "unknown-module",
            module(&format!(
                "(import \"env\" \"system\" (func (param i32))) {memory} {start}"
            )),
        ),
        (
            "unknown-function",
            module(&format!(
                "(import \"{WASI}\" \"fd_teleport\" (func)) {memory} {start}"
            )),
        ),
        (
            "another-signature",
            module(&format!(
                "(import \"{WASI}\" \"fd_write\" (func)) {memory} {start}"
            )),
        ),
        (
            "memory-import",
            module(&format!("(import \"env\" \"memory\" (memory 1)) {start}")),
        ),
        (
            "no-memory",
            module(&format!(
                "(import \"{WASI}\" \"fd_write\" (func (param i32 i32 i32 i32) (result i32))) {start}"
            )),
        ),
        (
            "not-granted",
            module(&format!(
                "(import \"wasi:http/types@0.2.0\" \"x\" (func)) {memory} {start}"
            )),
        ),
        (
            "of-the-adapter",
            module(&format!(
                "(import \"__main_module__\" \"_start\" (func)) {memory} {start}"
            )),
        ),
        (
            "another-realloc",
            module(&format!(
                "(import \"{WASI}\" \"fd_write\" (func (param i32 i32 i32 i32) (result i32)))
                 (func (export \"cabi_realloc\")) {memory} {start}"
            )),
        ),
        (
            "start-with-a-parameter",
            module(&format!("{memory} (func (export \"_start\") (param i32))")),
        ),
        (
            "no-run-behind-the-metadata",
            lying(&format!("{memory} (func (export \"run\"))")),
        ),
        (
            "metadata-is-garbage",
            module("(func (export \"run\")) (@custom \"component-type\" \"garbage\")"),
        ),
        (
            "metadata-twice",
            shape::embed(&typed(), "publishing-task").expect("embedded"),
        ),
        ("two-modules", [command(), command()].concat()),
    ]
}

pub(crate) async fn hostile_core_modules() {
    let mut rig = Rig::new().await;
    let shell = Shell::new();
    let mut messages = Vec::new();
    for (name, module) in hostile() {
        shell.write("module.wasm", &module);
        let runs = shell.call(&["run", "module.wasm"]).await;
        push(&rig, name, module).await;
        let outcome = ask(&mut rig, name, "x").await;
        let code = outcome["error"]["code"].as_str().unwrap_or("none");
        let message = outcome["error"]["message"].as_str().unwrap_or_default();
        messages.push(format!("{name}\n    {code}: {message}"));
        // The same here as there.
        let same = runs.stderr.contains(message);
        assert!(
            same || code == "capability_denied",
            "{outcome}\n{}",
            runs.stderr
        );
        assert!(!runs.stderr.contains("panicked"), "{}", runs.stderr);
    }
    let filters = [(r"offset 0x[0-9a-f]+", "offset [n]")];
    shown::filtered("refused_core_modules", &messages.join("\n"), &filters);
    push(&rig, "echo", command()).await;
    let outcome = ask(&mut rig, "echo", "hello").await;
    assert_eq!(outcome["output"], "hello", "{outcome}");
    rig.end().await;
}

pub(crate) async fn inspected_and_run() {
    let shell = Shell::new();
    shell.write("command.wasm", &command());
    shell.write("typed.wasm", &typed());
    shell.write("neither.wasm", &core("(module (func (export \"add\")))"));
    let filters = [
        (r"sha256:[0-9a-f]{64}", "sha256:[digest]"),
        (r"size     \d+", "size     [n]"),
    ];
    let mut shown = Vec::new();
    for (name, code) in [("command", 0), ("typed", 0), ("neither", 1)] {
        let ended = shell.call(&["inspect", &format!("{name}.wasm")]).await;
        shown.push(ended.code(code).text().to_owned());
        let ended = shell
            .call(&["inspect", "--json", &format!("{name}.wasm")])
            .await;
        shown.push(ended.code(code).json()["shape"].to_string());
    }
    shown::filtered("inspect_core_modules", &shown.join("\n"), &filters);
    for name in ["command", "typed"] {
        let run = ["run", &format!("{name}.wasm"), "--input", "hello"];
        assert_eq!(shell.call(&run).await.code(0).text(), "hello");
    }
    shell.write("echo.wasm", guests::ECHO);
    let ended = shell.call(&["inspect", "--json", "echo.wasm"]).await;
    assert_eq!(ended.code(0).json()["shape"], "typed");
}
