//! `wasmqtt check`: what the configuration is in the end, and what is wrong with it.

use wasmqtt_tests::guests;

use crate::cli::{Shell, to_end};
use crate::{shapes, shown};

pub(crate) async fn effective() {
    let shell = Shell::new();
    shell.write(
        "good.toml",
        b"[mqtt]\nusername = \"me\"\npassword = \"secret-word\"\n[runner]\nname = \"here\"\nconcurrency = 7\n\
          memory_budget_bytes = 1073741824\n[journal]\ndirectory = \"/var/lib/wasmqtt\"\n[modules]\ncache_directory = \"/var/cache/wasmqtt\"\n\
          [tenants.default]\ndefault_module = \"echo\"\n",
    );
    let ended = shell.call(&["check", "--config", "good.toml"]).await;
    let ended = ended.code(0);
    assert!(!ended.text().contains("secret-word"));
    shown::exactly("check", ended.text());
    let ended = shell
        .call(&["check", "--config", "good.toml", "--json"])
        .await;
    let config = ended.code(0).json();
    assert_eq!(config["runner"]["concurrency"], 7, "{config}");
    assert_eq!(config["mqtt"]["password"], "(hidden)", "{config}");

    // Variables over the file, flags over variables.
    let mut command = shell.command(&["check", "--json", "--broker", "mqtt://flag"]);
    command
        .env("WASMQTT_CONFIG", "good.toml")
        .env("WASMQTT_RUNNER_CONCURRENCY", "9")
        .env("WASMQTT_MQTT_URL", "mqtt://variable");
    let ended = to_end(command.spawn().expect("started"), b"")
        .await
        .code(0)
        .json();
    assert_eq!(ended["runner"]["concurrency"], 9, "{ended}");
    assert_eq!(ended["mqtt"]["url"], "mqtt://flag", "{ended}");
    assert_eq!(ended["mqtt"]["username"], "me", "{ended}");
}

/// What a runner would not compile, no command takes.
pub(crate) async fn a_costly_module() {
    let shell = Shell::new();
    let functions = "(func)".repeat(50_001);
    let text =
        format!("(module (memory (export \"memory\") 1) (func (export \"_start\")) {functions})");
    shell.write("costly.wasm", &shapes::core(&text));
    shell.write("echo.wasm", guests::ECHO);
    shell.call(&["new", "w", "--lang", "wat"]).await.code(0);
    let manifest = b"name = \"w\"\nlanguage = \"wat\"\nworld = \"command\"\n[[sample]]\ninput = \"sample/input.txt\"\n";
    shell.write("w/task.toml", manifest);
    shell.write("w/src/task.wat", text.as_bytes());
    shell.write("small.toml", b"[tenants.small.compile]\nfunctions = 1\n");
    for arguments in [
        &["push", "costly.wasm"][..],
        &["run", "costly.wasm"],
        &["check", "--tenant", "default", "costly.wasm"],
        &["build", "w"],
        &["test", "w"],
        &["push", "w"],
        &[
            "check",
            "--config",
            "small.toml",
            "--tenant",
            "small",
            "echo.wasm",
        ],
        &[
            "push",
            "--config",
            "small.toml",
            "--tenant",
            "small",
            "echo.wasm",
        ],
    ] {
        let refused = shell.call(arguments).await.code(1);
        let said = format!("{}{}", refused.text(), refused.stderr);
        assert!(
            said.contains("module_too_costly: it has "),
            "{arguments:?}: {said}"
        );
    }
    let default = [
        "check",
        "--config",
        "small.toml",
        "--tenant",
        "default",
        "echo.wasm",
    ];
    shell.call(&default).await.code(0);
}

pub(crate) async fn refuses() {
    let shell = Shell::new();
    let mut shown = Vec::new();
    for text in [
        "[runner]\nconcurency = 4",
        "[runer]\nconcurrency = 4",
        "[runner]\nzzz = 4",
        "[runner]\nconcurrency = \"four\"",
        "[runner]\nconcurrency = 0",
        "[mqtt]\nurl = \"localhost\"",
        "[mqtt]\npassword = \"secret-word\"",
        "[mqtt]\nack_order = \"random\"",
        "[limits]\nfuel = 0",
        "[tenants.Acme]\ndefault_module = \"x\"",
        "[tenants.acme]\ndefault_module = \"X\"",
        "[runner",
        "[mqtt]\nkeep_alive_s = -1",
    ] {
        shell.write("bad.toml", text.as_bytes());
        let ended = shell.call(&["check", "--config", "bad.toml"]).await;
        let ended = ended.code(1);
        assert!(!ended.stderr.contains("secret-word"));
        shown.push(format!("{text}\n{}", ended.stderr));
    }
    for (name, value) in [
        ("WASMQTT_RUNNER_CONCURENCY", "4"),
        ("WASMQTT_ZZZ", "4"),
        ("WASMQTT_RUNNER_CONCURRENCY", "four"),
        ("WASMQTT_MODULES_PUBLISHED", "yes"),
    ] {
        let mut command = shell.command(&["check"]);
        command.env(name, value);
        let ended = to_end(command.spawn().expect("started"), b"").await.code(1);
        shown.push(format!("{name}={value}\n{}", ended.stderr));
    }
    let ended = shell.call(&["check", "--config", "missing.toml"]).await;
    shown.push(format!("missing.toml\n{}", ended.code(1).stderr));
    shown::exactly("check_refuses", &shown.join("\n"));
}
