//! Compiled modules on disk: found again after a restart, shared by runners, bounded, warmed up.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use wasmqtt_tests::guests;

use crate::bombs::slow;
use crate::cli::Shell;
use crate::rig::{Ear, Rig, config, retained};
use crate::shapes;
use crate::under_test::Serve;

/// A wasip1 command with some megabytes of machine code and of data, which takes seconds to compile.
fn large() -> Vec<u8> {
    let functions: String = (0..3_000)
        .map(|number| {
            let steps: String = (0..40)
                .map(|step| {
                    format!("(local.set 0 (i32.add (i32.mul (local.get 0) (i32.const {step})) (i32.load (local.get 0))))")
                })
                .collect();
            format!("(func (export \"f{number}\") (param i32) (result i32) {steps} (local.get 0))")
        })
        .collect();
    let data = "x".repeat(8 << 20);
    shapes::core(&format!(
        "(module (memory (export \"memory\") 200) (data (i32.const 65536) \"{data}\") {functions} (func (export \"_start\")))"
    ))
}

/// What the log says of the last module that was loaded: from where, and in how many milliseconds.
fn ready(log: &str) -> (String, f64) {
    let line = log.lines().rfind(|line| line.contains("module ready"));
    let line = line.unwrap_or_else(|| panic!("no module in {log}"));
    let field = |name: &str| {
        let rest = line.split(&format!("{name}=")).nth(1);
        let value = rest.and_then(|rest| rest.split_whitespace().next());
        value
            .unwrap_or_else(|| panic!("no {name} in {line}"))
            .trim_matches('"')
            .to_owned()
    };
    let took = field("took");
    let number = took.trim_end_matches(|c: char| c.is_alphabetic());
    let unit = match &took[number.len()..] {
        "s" => 1e3,
        "ms" => 1.0,
        "µs" => 1e-3,
        other => panic!("{other}"),
    };
    let number: f64 = number.parse().expect("a number");
    (field("cache"), number * unit)
}

/// One task of `large` on a runner that has just started; what its log says then.
async fn after_a_start(modules: &Path, cache: &Path) -> (String, f64) {
    let mut serve = Serve::ready_with(
        &[
            "--embedded-broker",
            "127.0.0.1:0",
            "--modules",
            modules.to_str().expect("a path"),
        ],
        |mut command| {
            command.env("XDG_CACHE_HOME", cache);
            command
        },
    )
    .await;
    let mut ear = Ear::connect(&serve.url()).await;
    let task = json!({"id": "1", "module": "large"}).to_string();
    let task = wasmqtt::envelope::Message::new("task_queue", task);
    ear.publisher.publish(task).await.expect("a PUBACK");
    let outcome = ear.outcome("1").await;
    assert_eq!(outcome["status"], "succeeded", "{outcome}");
    ear.publisher.close().await;
    serve.logs("module ready").await;
    let ready = ready(&serve.log());
    serve.end().await;
    ready
}

/// Nothing is compiled a second time. How long that takes is printed, not asserted: the bar of 50 ms is for a machine that
/// does nothing else.
pub(crate) async fn found_again_in_milliseconds() {
    let folder = TempDir::new().expect("a folder");
    let (modules, cache) = (folder.path().join("modules"), folder.path().join("cache"));
    fs::create_dir(&modules).expect("a folder");
    let large = large();
    println!("a module of {} bytes", large.len());
    fs::write(modules.join("large.wasm"), large).expect("written");
    let (from, compiled) = after_a_start(&modules, &cache).await;
    assert_eq!(from, "compiled");
    let mut least = f64::INFINITY;
    for _ in 0..8 {
        let (from, took) = after_a_start(&modules, &cache).await;
        assert_eq!(from, "disk");
        least = least.min(took);
        println!("compiled in {compiled:.0} ms, found again in {took:.1} ms");
        if least < 50.0 {
            break;
        }
    }
    assert!(
        least < compiled / 10.0,
        "{least} ms, compiled in {compiled} ms"
    );
}

async fn cached(rig: &mut Rig, id: &str) -> Value {
    let outcome = rig
        .task(json!({"id": id, "module": "job", "input": "1"}))
        .await;
    assert_eq!(outcome["status"], "succeeded", "{outcome}");
    outcome["usage"]["module_cache"].clone()
}

/// Two runners on one machine, with a broker each, and one cache folder.
pub(crate) async fn runners_share_a_compilation() {
    let folder = TempDir::new().expect("a folder");
    let cache = folder.path().join("cache");
    let start = || {
        Rig::with(|config| {
            config.modules.cache_directory = Some(cache.clone());
            let tenant = config.tenants.entry("default".to_owned()).or_default();
            tenant.compile.cpu_s = 300;
        })
    };
    let (mut one, mut other) = (start().await, start().await);
    for rig in [&one, &other] {
        rig.publish(retained("modules/job", slow())).await;
    }
    let (one_had, other_had) = tokio::join!(cached(&mut one, "1"), cached(&mut other, "2"));
    let mut had = [one_had, other_had].map(|it| it.as_str().expect("a word").to_owned());
    had.sort();
    assert_eq!(had, ["compiled", "disk"]);
    one.end().await;
    other.end().await;
    let left = fs::read_dir(&cache).expect("a cache").flatten();
    let mut left: Vec<_> = left
        .filter_map(|file| file.file_name().to_str().map(str::to_owned))
        .collect();
    left.sort();
    assert!(
        left.len() == 2 && left[0].ends_with(".cwasm") && left[1] == "key",
        "{left:?}"
    );
}

/// What is removed under a runner's feet is run on, and compiled again after a restart.
pub(crate) async fn bounded() {
    let folder = TempDir::new().expect("a folder");
    let cache = folder.path().join("cache");
    let mut rig = Rig::with(|config| {
        config.modules.cache_directory = Some(cache.clone());
        config.modules.cache_bytes = 1;
    })
    .await;
    rig.push("job", guests::ECHO).await;
    assert_eq!(cached(&mut rig, "1").await, "compiled");
    let files = || fs::read_dir(&cache).expect("a cache").count();
    assert_eq!(files(), 1, "more than the key is left");
    assert_eq!(cached(&mut rig, "2").await, "memory");
    rig.stop().await;
    let mut again = Rig::on(rig.config.clone()).await;
    assert_eq!(cached(&mut again, "3").await, "compiled");
    again.end().await;
    rig.end().await;
}

pub(crate) async fn listed_and_pruned() {
    let shell = Shell::new();
    let cache = shell.path().join("modules-cache");
    let mut rig = Rig::with(|config| config.modules.cache_directory = Some(cache.clone())).await;
    rig.push("job", guests::ECHO).await;
    assert_eq!(cached(&mut rig, "1").await, "compiled");
    rig.end().await;
    let digest = wasmqtt::modules::Content::new(guests::ECHO).digest;
    // Of an engine that is no more.
    let old = cache.join(format!("{}-0000000000000001.cwasm", "ab".repeat(32)));
    fs::write(&old, [0; 1000]).expect("written");
    let then = std::time::SystemTime::now() - Duration::from_secs(3600);
    let age = |path: &Path, then| {
        let file = fs::File::options().write(true).open(path).expect("opened");
        file.set_modified(then).expect("set");
    };
    age(&old, then);
    // Of a runner that was killed, and what is nobody's of ours.
    let (draft, others) = (cache.join("draft-Ab12cd.wasmqtt"), cache.join("yarn.lock"));
    for path in [&draft, &others] {
        fs::write(path, [0; 5]).expect("written");
        age(path, then - Duration::from_secs(3 * 86_400));
    }

    let command = async |arguments: &[&str]| {
        let all = [&["cache"], arguments, &["--dir", "modules-cache"]].concat();
        shell.call(&all).await.code(0)
    };
    let listed = command(&["ls"]).await;
    let lines: Vec<&str> = listed.text().lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with(&format!("{digest}  current")),
        "{lines:?}"
    );
    assert!(lines[1].contains("  other          1000  "), "{lines:?}");
    let listed = command(&["ls", "--json"]).await;
    let line = listed.text().lines().next().expect("a line");
    let line: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(line["digest"], digest.to_string(), "{line}");
    assert_eq!(line["current"], true, "{line}");
    assert!(
        line["bytes"].as_u64() > Some(1000) && line["last_used"].is_string(),
        "{line}"
    );

    let pruned = command(&["prune"]).await;
    assert_eq!(pruned.stderr, "2 removed, 1005 bytes\n");
    assert!(!old.exists() && !draft.exists() && others.exists());
    assert_eq!(command(&["ls"]).await.text().lines().count(), 1);
    let pruned = command(&["prune", "--keep", "0", "--json"]).await;
    let line: Value = serde_json::from_str(pruned.text()).expect("JSON");
    assert_eq!(line["digest"], digest.to_string(), "{line}");
    assert_eq!(command(&["ls"]).await.text(), "");
    // Nobody has made it: nothing is in it, and it is not made.
    let ended = shell
        .call(&["cache", "ls", "--dir", "nowhere"])
        .await
        .code(0);
    assert_eq!(ended.text(), "");
    assert!(!shell.path().join("nowhere").exists());
    // Somebody else's folder is left alone.
    fs::remove_file(cache.join("key")).expect("removed");
    for action in ["ls", "prune"] {
        let arguments = ["cache", action, "--dir", "modules-cache"];
        let refused = shell.call(&arguments).await.code(1);
        let words = "modules-cache is no cache folder of wasmqtt's";
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
    assert!(!cache.join("key").exists());
}

pub(crate) async fn warmed_up() {
    let shell = Shell::new();
    fs::create_dir(shell.path().join("modules")).expect("a folder");
    shell.write("modules/job.wasm", guests::ECHO);
    let settings = "[modules]\nwarm_up = [\"job\", \"nobodys\"]\nlookup_ms = 200\n\
                    [tenants.acme]\nwarm_up = [\"job\"]\n";
    shell.write("warm.toml", settings.as_bytes());
    let path = |name: &str| shell.path().join(name).display().to_string();
    let (file, modules) = (path("warm.toml"), path("modules"));
    let arguments = [
        "--embedded-broker",
        "127.0.0.1:0",
        "--config",
        &file,
        "--modules",
        &modules,
    ];
    let serve = Serve::ready(&arguments).await;
    let log = serve.log();
    let before = log.split("serve: ready").next().expect("a beginning");
    for words in [
        "module warmed up tenant=default module=job",
        "module warmed up tenant=acme module=job",
        "module not warmed up tenant=default module=nobodys error=module_not_found",
    ] {
        assert!(before.contains(words), "{words}: {log}");
    }
    let mut ear = Ear::connect(&serve.url()).await;
    let task = json!({"id": "1", "module": "job", "input": "x"}).to_string();
    let task = wasmqtt::envelope::Message::new("task_queue", task);
    ear.publisher.publish(task).await.expect("a PUBACK");
    let outcome = ear.outcome("1").await;
    assert_eq!(outcome["usage"]["module_cache"], "memory", "{outcome}");
    ear.publisher.close().await;
    serve.end().await;

    let all = [&["serve", "--strict"], &arguments[..]].concat();
    let refused = shell.call(&all).await.code(1);
    let words = "failed to warm up module nobodys of tenant default: module_not_found";
    assert!(refused.stderr.contains(words), "{}", refused.stderr);
    let mut wrong = config("mqtt://127.0.0.1:1");
    wrong.modules.warm_up = vec!["Upper".to_owned()];
    let error = wrong.validate().expect_err("refused");
    assert!(
        format!("{error:#}").contains("`warm_up` of tenant default"),
        "{error:#}"
    );
}
