//! The real binary, as a person or a script calls it.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use wasmqtt_tests::guests;

use crate::rig::PATIENCE;
use crate::{shown, under_test};

/// A folder to call the binary in; nothing that it writes is outside.
pub(crate) struct Shell {
    folder: TempDir,
}

/// What came of a call.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("UTF-8")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).expect("JSON")
    }

    /// That it ended with the code; what it said otherwise.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Ended {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        self
    }
}

impl Shell {
    pub(crate) fn new() -> Shell {
        let folder = tempfile::tempdir().expect("a folder");
        Shell { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path().join(name), bytes).expect("written");
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = under_test::command(arguments);
        command
            .arg0("wasmqtt")
            .current_dir(self.path())
            .env("XDG_CACHE_HOME", self.path().join("cache"))
            .env("XDG_STATE_HOME", self.path().join("state"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) async fn call(&self, arguments: &[&str]) -> Ended {
        to_end(self.command(arguments).spawn().expect("started"), b"").await
    }

    pub(crate) async fn call_with(&self, arguments: &[&str], stdin: &[u8]) -> Ended {
        let child = self.command(arguments).stdin(Stdio::piped()).spawn();
        to_end(child.expect("started"), stdin).await
    }
}

pub(crate) async fn to_end(mut child: Child, stdin: &[u8]) -> Ended {
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(stdin).await.expect("written");
    }
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output());
    let output = output.await.expect("ended in time").expect("waited for");
    Ended {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

pub(crate) async fn help() {
    let shell = Shell::new();
    for command in [
        "", "new", "build", "test", "dev", "demo", "serve", "submit", "cancel", "outcome", "push",
        "keygen", "sign", "run", "inspect", "bench", "check", "acl", "passwd", "doctor", "schema",
        "cache",
    ] {
        let arguments: Vec<&str> = [command, "--help"]
            .into_iter()
            .filter(|argument| !argument.is_empty())
            .collect();
        let help = shell.call(&arguments).await.code(0);
        let name = format!("help_{command}");
        shown::exactly(name.trim_end_matches('_'), help.text());
    }
}

pub(crate) async fn wrong_arguments() {
    let shell = Shell::new();
    let mut shown = Vec::new();
    for arguments in [
        &["subnit"][..],
        &["submit"],
        &["submit", "Upper"],
        &["submit", "upper", "--memory", "64Mb"],
        &["submit", "upper", "--id", "a b"],
        &["submit", "upper", "--priority", "10"],
        &["submit", "upper", "--not-before", "tomorrow"],
        &["submit", "upper", "--max-attempts", "0"],
        &["cancel"],
        &["outcome", "a/b"],
        &["serve", "--embedded-broker", "--broker", "mqtt://x"],
        &["serve", "--embedded-broker", "localhost"],
        &["serve", "--concurrency", "many"],
        &["bench", "--tasks", "0"],
    ] {
        let ended = shell.call(arguments).await.code(2);
        shown.push(format!(
            "$ wasmqtt {}\n{}",
            arguments.join(" "),
            ended.stderr
        ));
    }
    shown::exactly("wrong_arguments", &shown.join("\n"));
}

pub(crate) async fn demo() {
    let shell = Shell::new();
    let ended = shell.call(&["demo"]).await.code(0);
    for example in wasmqtt_examples::ALL {
        let line = ended
            .text()
            .lines()
            .find(|line| line.starts_with(example.name));
        let line = line.expect("a line for each example");
        let status = match example.expect {
            wasmqtt_examples::Expect::Error(code) => format!("failed ({code})"),
            _ => "succeeded".to_owned(),
        };
        assert!(line.contains(&status), "{line}");
    }
    assert!(ended.text().contains("every outcome as expected"));
    assert_eq!(ended.stderr, "");
}

pub(crate) async fn run() {
    let shell = Shell::new();
    shell.write("echo.wasm", guests::ECHO);
    shell.write("endless.wasm", guests::ENDLESS_LOOP);
    shell.write("panic.wasm", guests::PANIC);
    let bytes: Vec<u8> = (0..=255).collect();
    let ended = shell.call_with(&["run", "echo.wasm", "--input", "-"], &bytes);
    assert_eq!(ended.await.code(0).stdout, bytes);
    let ended = shell.call(&["run", "endless.wasm", "--fuel", "1M", "--json"]);
    let outcome = ended.await.code(3).json();
    assert_eq!(outcome["error"]["code"], "fuel_exhausted", "{outcome}");
    assert_eq!(outcome["usage"]["fuel"], 1_000_000, "{outcome}");
    // The guest's own words are on stderr, before the summary.
    let ended = shell.call(&["run", "panic.wasm", "--input", "out of luck"]);
    let ended = ended.await.code(3);
    let said = ended.stderr.find("out of luck").expect("what it said");
    let summary = ended.stderr.find("failed · fuel").expect("a summary");
    assert!(said < summary, "{}", ended.stderr);
    assert_eq!(ended.text(), "");

    shell.write("input.bin", b"from a file");
    let ended = shell.call(&["run", "echo.wasm", "--input", "@input.bin"]);
    assert_eq!(ended.await.code(0).text(), "from a file");
    let ended = shell.call(&["run", "echo.wasm", "--fuel", "101G"]);
    assert_eq!(
        ended.await.code(1).stderr,
        "error: `limits.fuel` may be at most 100000000000, got 101000000000\n"
    );
}

pub(crate) async fn inspect() {
    let shell = Shell::new();
    shell.write("echo.wasm", guests::ECHO);
    shell.write("command.wasm", guests::EXIT_CODE);
    shell.write("http.wasm", guests::WANTS_HTTP);
    shell.write("blobstore.wasm", guests::WANTS_BLOBSTORE);
    shell.write("garbage.wasm", b"garbage");
    let filters = [
        (r"sha256:[0-9a-f]{64}", "sha256:[digest]"),
        (r"size     \d+", "size     [n]"),
        (r#""bytes": \d+"#, r#""bytes": [n]"#),
    ];
    for (name, code) in [("echo", 0), ("command", 0), ("http", 0), ("blobstore", 1)] {
        let ended = shell.call(&["inspect", &format!("{name}.wasm")]).await;
        let ended = ended.code(code);
        shown::filtered(&format!("inspect_{name}"), ended.text(), &filters);
    }
    let ended = shell.call(&["inspect", "http.wasm", "--json"]).await;
    shown::filtered("inspect_json", ended.code(0).text(), &filters);
    let ended = shell.call(&["inspect", "garbage.wasm"]).await.code(1);
    assert_eq!(
        ended.stderr,
        "error: garbage.wasm: module_invalid: not a wasm module: 7 bytes that do not begin with \\0asm\n"
    );
}

pub(crate) async fn bench() {
    let shell = Shell::new();
    let bench = ["bench", "--tasks", "200", "--rounds", "1", "--json"];
    let figures = shell.call(&bench).await.code(0).json();
    for key in [
        "ratio",
        "tasks_per_second",
        "echo_tasks_per_second",
        "p50_ms",
        "p99_ms",
    ] {
        let value = figures[key].as_f64().expect("a number");
        assert!(value > 0.0, "{key}: {figures}");
    }
    assert_eq!(figures["tasks"], 200, "{figures}");
    assert_eq!(figures["window"], 100, "{figures}");
    // Somebody listens there, who answers nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("mqtt://{}", silent.local_addr().expect("an address"));
    let ended = shell.call(&["bench", "--broker", &url]).await.code(1);
    let said = format!("error: no broker at {url} within 10s");
    assert!(ended.stderr.contains(&said), "{}", ended.stderr);
}
