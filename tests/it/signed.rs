//! Signatures: made by `wasmqtt`, beside the module in each source, and nothing compiled without.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};
use wasmqtt::config::Config;
use wasmqtt::envelope::Message;
use wasmqtt::modules::Content;
use wasmqtt::modules::signature::SigningKey;
use wasmqtt_tests::guests;

use crate::cli::Shell;
use crate::depot::{self, Answer};
use crate::rig::{Rig, retained};
use crate::under_test::Serve;

const ECHO: &[u8] = guests::ECHO;
const OTHER: &[u8] = guests::GUEST_ERROR;

/// A shell with the keys `ours` and `theirs`; the public halves.
async fn with_keys() -> (Shell, [String; 2]) {
    let shell = Shell::new();
    let mut keys = Vec::new();
    for name in ["ours", "theirs"] {
        let made = shell.call(&["keygen", name]).await.code(0);
        keys.push(made.text().trim().to_owned());
    }
    let keys = keys.try_into().expect("two keys");
    (shell, keys)
}

fn sign(shell: &Shell, key: &str, module: &[u8]) -> String {
    let file = shell.path().join(format!("{key}.key"));
    let text = std::fs::read_to_string(file).expect("a key");
    let key = SigningKey::parse(&text).expect("a key");
    key.sign(&Content::new(module.to_vec())).expect("signed")
}

fn demand(config: &mut Config, key: &str) {
    let tenant = config.tenants.entry("default".to_owned()).or_default();
    tenant.signed_by = vec![key.to_owned()];
}

async fn ask(rig: &mut Rig, id: &str, module: &str) -> Value {
    rig.task(json!({"id": id, "module": module, "input": "hello"}))
        .await
}

#[track_caller]
fn assert_invalid(outcome: &Value, says: &str) {
    assert_eq!(outcome["status"], "rejected", "{outcome}");
    assert_eq!(outcome["error"]["code"], "signature_invalid", "{outcome}");
    let message = outcome["error"]["message"].as_str().expect("a message");
    assert!(message.contains(says), "no {says:?} in {message}");
}

const UNSIGNED: &str = "there is no signature beside it";

/// Signed, unsigned, signed by somebody else, signed when it was another module: in each source.
pub(crate) async fn in_each_source() {
    let (shell, [ours, _]) = with_keys().await;
    let depot = depot::open().await;
    let folder = tempfile::tempdir().expect("a folder");
    let good = sign(&shell, "ours", ECHO);
    for (name, signature) in [
        ("good", Some(good.clone())),
        ("unsigned", None),
        ("theirs", Some(sign(&shell, "theirs", ECHO))),
        ("another", Some(sign(&shell, "ours", OTHER))),
        ("garbage", Some("garbage".to_owned())),
    ] {
        std::fs::write(folder.path().join(format!("{name}-file.wasm")), ECHO).expect("written");
        depot.put(&format!("/{name}"), Answer::Bytes(ECHO.to_vec()));
        depot.push(name, "1", ECHO, signature.as_deref());
        if let Some(text) = signature {
            let file = folder.path().join(format!("{name}-file.wasm.minisig"));
            std::fs::write(file, &text).expect("written");
            depot.put(
                &format!("/{name}.minisig"),
                Answer::Bytes(text.into_bytes()),
            );
        }
    }
    let path = folder.path().to_owned();
    let mut rig = Rig::with(|config| {
        depot.permit(config);
        config.modules.directory = Some(path);
        demand(config, &ours);
        let tenant = config.tenants.entry("default".to_owned()).or_default();
        tenant.sources.push(wasmqtt::tenants::Source::Directory);
    })
    .await;
    for name in ["good", "unsigned", "theirs", "another", "garbage"] {
        rig.push(&format!("{name}-topic"), ECHO).await;
        let file = folder.path().join(format!("{name}-file.wasm.minisig"));
        if let Ok(text) = std::fs::read_to_string(file) {
            let topic = format!("modules/{name}-topic/signature");
            rig.publish(retained(&topic, text)).await;
        }
    }
    let places = |name: &str| {
        [
            format!("{name}-file"),
            format!("{name}-topic"),
            depot.https(&format!("/{name}")),
            depot.oci(&format!("{name}:1")),
        ]
    };
    // Before anything was compiled: a compiled module is no excuse either, as the last round shows.
    for round in ["cold", "warm"] {
        for name in ["unsigned", "theirs", "another", "garbage"] {
            for (place, module) in places(name).into_iter().enumerate() {
                let task = json!({"id": format!("{round}-{name}-{place}"), "module": module});
                rig.publish(Message::new("task_queue", task.to_string()))
                    .await;
            }
        }
        for name in ["unsigned", "theirs", "another", "garbage"] {
            for place in 0..4 {
                let outcome = rig.ear.outcome(&format!("{round}-{name}-{place}")).await;
                assert_invalid(&outcome, if name == "unsigned" { UNSIGNED } else { "" });
            }
        }
        for (place, module) in places("good").into_iter().enumerate() {
            let outcome = ask(&mut rig, &format!("{round}-good-{place}"), &module).await;
            assert_eq!(outcome["output"], "hello", "{outcome}");
        }
    }
    rig.end().await;
}

/// What is not signed is neither read nor compiled: garbage is not even found to be garbage.
pub(crate) async fn nothing_unsigned_is_read() {
    let (shell, [ours, _]) = with_keys().await;
    let config = format!("[tenants.default]\nsigned_by = [\"{ours}\"]\n");
    shell.write("strict.toml", config.as_bytes());
    let file = shell.path().join("strict.toml");
    let file = file.to_str().expect("a path");
    let server = Serve::ready(&["--embedded-broker", "127.0.0.1:0", "--config", file]).await;
    let mut ear = crate::rig::Ear::connect(&server.url()).await;
    for (name, module) in [("job", ECHO), ("garbage", b"garbage")] {
        let module = retained(&format!("modules/{name}"), module);
        ear.publisher.publish(module).await.expect("a PUBACK");
        let task = json!({"id": name, "module": name}).to_string();
        let task = Message::new("task_queue", task);
        ear.publisher.publish(task).await.expect("a PUBACK");
        assert_invalid(&ear.outcome(name).await, UNSIGNED);
    }
    assert!(
        !server.log().contains("module compiled"),
        "{}",
        server.log()
    );

    // Signed by a push it runs, and the next version does too, at once.
    shell.write("echo.wasm", ECHO);
    shell.write("other.wasm", OTHER);
    let url = server.url();
    for (number, module) in ["echo.wasm", "other.wasm"].into_iter().enumerate() {
        let push = [
            "push", module, "--name", "job", "--sign", "ours.key", "--broker", &url,
        ];
        shell.call(&push).await.code(0);
        let digest = Content::new([ECHO, OTHER][number]).digest.to_string();
        let pinned = format!("job@{digest}");
        let submit = ["submit", &pinned, "--input", "hello", "--broker", &url];
        let until = async {
            loop {
                let ended = shell.call(&submit).await;
                if ended.code == Some(0) {
                    break;
                }
                // The module before it, for a moment.
                assert!(ended.stderr.contains("digest_mismatch"), "{}", ended.stderr);
            }
        };
        let in_time = tokio::time::timeout(crate::rig::PATIENCE, until).await;
        in_time.expect("in time");
    }
    ear.publisher.close().await;
    server.end().await;
}

/// `keygen`, `sign` and `inspect --verify`, by hand.
pub(crate) async fn by_hand() {
    let (shell, [ours, theirs]) = with_keys().await;
    let secret = std::fs::metadata(shell.path().join("ours.key")).expect("a key");
    assert_eq!(secret.permissions().mode() & 0o777, 0o600);
    let again = shell.call(&["keygen", "ours"]).await.code(1);
    assert!(again.stderr.contains("ours.key"), "{}", again.stderr);
    shell.write("half.pub", b"mine");
    let half = shell.call(&["keygen", "half"]).await.code(1);
    assert!(half.stderr.contains("half.pub"), "{}", half.stderr);
    assert!(!shell.path().join("half.key").exists());

    shell.write("echo.wasm", ECHO);
    let verify = ["inspect", "echo.wasm", "--verify", &ours];
    let unsigned = shell.call(&verify).await.code(1);
    assert!(
        unsigned.stderr.contains("echo.wasm.minisig"),
        "{}",
        unsigned.stderr
    );
    let signed = shell
        .call(&["sign", "echo.wasm", "--key", "ours.key"])
        .await;
    assert_eq!(signed.code(0).text(), "echo.wasm.minisig\n");
    for key in [ours.as_str(), "ours.pub"] {
        let verify = ["inspect", "echo.wasm", "--verify", key, "--json"];
        let report = shell.call(&verify).await.code(0).json();
        assert_eq!(report["signed_by"], ours.as_str(), "{report}");
    }
    for key in [theirs.as_str(), "theirs.pub"] {
        let refused = shell.call(&["inspect", "echo.wasm", "--verify", key]).await;
        let refused = refused.code(1);
        assert!(
            refused.stderr.contains("is not signed by"),
            "{}",
            refused.stderr
        );
        assert_eq!(refused.text(), "");
    }
    shell.write("echo.wasm", OTHER);
    shell.call(&verify).await.code(1);
    let no_key = shell
        .call(&["inspect", "echo.wasm", "--verify", "nobody.pub"])
        .await;
    assert!(no_key.code(1).stderr.contains("no public key"));
    let secret = std::fs::read_to_string(shell.path().join("ours.key")).expect("a key");
    let secret = secret.lines().nth(1).expect("two lines");
    let verify = ["inspect", "echo.wasm", "--verify", secret];
    let told = shell.call(&verify).await.code(1).stderr;
    assert!(told.contains("the secret half"), "{told}");
    assert!(!told.contains(secret), "{told}");
}
