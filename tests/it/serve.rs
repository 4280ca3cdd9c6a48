//! `wasmqtt serve`, and the commands that go through a broker.

use serde_json::json;
use wasmqtt::broker::Broker;
use wasmqtt_tests::guests;

use crate::cli::Shell;
use crate::rig::{Ear, json as read};
use crate::shown;
use crate::under_test::Serve;

/// A module of one's own, from the push to the outcome, and everything that can become of it.
pub(crate) async fn serve_push_and_submit() {
    let shell = Shell::new();
    shell.write("echo.wasm", guests::ECHO);
    shell.write("trap.wasm", guests::TRAP);
    let mut server = Serve::ready(&["--embedded-broker", "127.0.0.1:0"]).await;
    let url = server.url();
    let broker = ["--broker", url.as_str()];
    let with = |arguments: &[&'static str]| [arguments, &broker].concat();

    let pushed = shell.call(&with(&["push", "echo.wasm"])).await.code(0);
    let digests = [
        (r"sha256:[0-9a-f]{64}", "sha256:[digest]"),
        (r"\d+ bytes", "[n] bytes"),
    ];
    shown::filtered("push", pushed.text(), &digests);
    // A project, which is built before.
    shell.call(&["new", "mine", "--lang", "wat"]).await.code(0);
    let pushed = shell.call(&with(&["push", "mine", "--json"])).await;
    let pushed = pushed.code(0).json();
    assert_eq!(pushed["topic"], "modules/mine", "{pushed}");
    let submit = with(&["submit", "mine", "--input", "hello"]);
    assert_eq!(shell.call(&submit).await.code(0).text(), "HELLO");
    let push = with(&["push", "trap.wasm", "--name", "upside.down", "--json"]);
    let pushed = shell.call(&push).await.code(0).json();
    assert_eq!(pushed["topic"], "modules/upside.down", "{pushed}");
    assert_eq!(pushed["bytes"], guests::TRAP.len(), "{pushed}");

    // Input from stdin, output as it is.
    let bytes: Vec<u8> = (0..=255).collect();
    let submit = with(&["submit", "echo", "--input", "-", "--id", "by-hand"]);
    let ended = shell.call_with(&submit, &bytes).await.code(0);
    assert_eq!(ended.stdout, bytes);
    let measured = [
        (r"fuel [0-9.kM]+", "fuel [n]"),
        (r"memory [0-9.]+ [KM]iB", "memory [n]"),
        (r"[0-9.]+ ms", "[n] ms"),
        (r"0x[0-9a-f]+", "[offset]"),
    ];
    shown::filtered("submit", &ended.stderr, &measured);

    let submit = with(&[
        "submit", "echo", "--input", "hi", "--json", "--label", "a=b",
    ]);
    let outcome = shell.call(&submit).await.code(0).json();
    assert_eq!(outcome["output"], "hi", "{outcome}");
    assert_eq!(outcome["labels"], json!({"a": "b"}), "{outcome}");

    let submit = with(&["submit", "upside.down", "--id", "trapped"]);
    let ended = shell.call(&submit).await.code(3);
    assert_eq!(ended.text(), "");
    shown::filtered("submit_trap", &ended.stderr, &measured);
    let submit = with(&["submit", "nobody", "--id", "nobodys"]);
    let ended = shell.call(&submit).await.code(3);
    shown::filtered("submit_nobody", &ended.stderr, &measured);

    let submit = with(&["submit", "echo", "--no-wait", "--id", "unawaited"]);
    let ended = shell.call(&submit).await.code(0);
    assert_eq!(ended.text(), "unawaited\n");
    assert_eq!(ended.stderr, "");

    server.terminate();
    let status = server.ended().await;
    let log = server.log();
    assert!(status.success(), "{status}: {log}");
    assert!(log.contains("draining") && log.contains("drained"), "{log}");
}

/// What `push` refuses, no runner would take.
pub(crate) async fn push_checks() {
    let shell = Shell::new();
    shell.write("garbage.wasm", b"garbage");
    shell.write("blobstore.wasm", guests::WANTS_BLOBSTORE);
    shell.write("Echo.wasm", guests::ECHO);
    let mut shown = Vec::new();
    for arguments in [
        &["push", "nothing.wasm"][..],
        &["push", "garbage.wasm"],
        &["push", "blobstore.wasm"],
        &["push", "Echo.wasm"],
    ] {
        let ended = shell.call(arguments).await.code(1);
        shown.push(format!(
            "$ wasmqtt {}\n{}",
            arguments.join(" "),
            ended.stderr
        ));
    }
    shown::exactly("push_refuses", &shown.join("\n"));
}

/// Nobody takes the task: the broker keeps it, and `submit` says that it did not wait for ever.
pub(crate) async fn no_outcome_in_time() {
    let broker = Broker::start(Default::default()).await;
    let broker = broker.expect("a broker");
    let shell = Shell::new();
    let url = broker.url();
    let submit = [
        "submit", "echo", "--wait", "200ms", "--id", "lonely", "--broker", &url,
    ];
    let ended = shell.call(&submit).await.code(4);
    assert_eq!(ended.text(), "");
    let port = [(r"127\.0\.0\.1:\d+", "[address]")];
    shown::filtered("no_outcome_in_time", &ended.stderr, &port);
    broker.stop().await;
}

/// SIGKILL leaves no time for a good-bye: the broker publishes the Last Will.
pub(crate) async fn last_will() {
    let broker = Broker::start(Default::default()).await;
    let broker = broker.expect("a broker");
    let url = broker.url();
    let mut server = Serve::ready(&["--broker", &url, "--name", "killed"]).await;
    let mut ear = Ear::connect(&url).await;
    ear.publisher
        .subscribe("runner_status/+")
        .await
        .expect("a SUBACK");
    let status = async |ear: &mut Ear| {
        let inbound = ear
            .hear(|inbound| inbound.topic == "runner_status/killed")
            .await;
        read(&inbound).expect("JSON")["status"].clone()
    };
    assert_eq!(status(&mut ear).await, "online");
    server.kill();
    assert_eq!(status(&mut ear).await, "offline");
    ear.publisher.close().await;
    broker.stop().await;
}

/// What the kernel says of a runner that waits for tasks.
pub(crate) async fn gives_up_privileges() {
    let serve = Serve::ready(&["--embedded-broker", "127.0.0.1:0"]).await;
    let read = |name: &str| {
        let path = format!("/proc/{}/{name}", serve.id());
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let (status, limits) = (read("status"), read("limits"));
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name}: {status}"));
        line.split_whitespace()
            .nth(1)
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(of("NoNewPrivs:"), "1");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(of(set), "0000000000000000", "{set}");
    }
    let cores = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let cores: Vec<&str> = cores.expect("a limit").split_whitespace().collect();
    assert_eq!(cores[4..6], ["0", "0"], "{limits}");
    // Every thread of it: capabilities are a thread's own.
    for thread in std::fs::read_dir(format!("/proc/{}/task", serve.id())).expect("its threads") {
        let path = thread.expect("a thread").path().join("status");
        let status = std::fs::read_to_string(path).expect("its status");
        assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    }
    serve.end().await;
}
