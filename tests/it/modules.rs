//! Where modules come from, what is checked of them, and that each is compiled once.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tempfile::TempDir;
use wasmqtt::envelope::Message;
use wasmqtt::envelope::encode::rfc3339;
use wasmqtt::modules::Content;
use wasmqtt::modules::source::chunks::Manifest;
use wasmqtt::runner::Runner;
use wasmqtt_tests::guests;

use crate::rig::{Rig, config, retained};
use crate::shown;

/// Two guests that can be told apart: this one answers its input, and [`OTHER`] `attempt 1`.
const ECHO: &[u8] = guests::ECHO;
const OTHER: &[u8] = guests::GUEST_ERROR;

/// Runs a module on the input `hello`; ids are not used twice.
async fn ask(rig: &mut Rig, id: &str, module: &str) -> Value {
    rig.task(json!({"id": id, "module": module, "input": "hello"}))
        .await
}

fn assert_not_found(outcome: &Value) {
    assert_eq!(outcome["status"], "rejected", "{outcome}");
    assert_eq!(outcome["error"]["code"], "module_not_found", "{outcome}");
}

fn message(outcome: &Value) -> &str {
    outcome["error"]["message"].as_str().expect("a message")
}

fn digest(module: &'static [u8]) -> String {
    Content::new(module).digest.to_string()
}

/// A runner with a module folder of its own.
async fn with_folder() -> (TempDir, Rig) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_owned();
    let rig = Rig::with(|config| config.modules.directory = Some(path)).await;
    (folder, rig)
}

fn write(folder: &TempDir, name: &str, module: &[u8]) {
    // As an operator should: complete under another name, then renamed.
    let draft = folder.path().join("draft");
    fs::write(&draft, module).expect("written");
    fs::rename(draft, folder.path().join(name)).expect("renamed");
}

pub(crate) async fn from_a_folder() {
    let (folder, mut rig) = with_folder().await;
    let missing = ask(&mut rig, "1", "job").await;
    assert_not_found(&missing);
    let file = folder.path().join("job.wasm").display().to_string();
    for place in [file.as_str(), "the retained topic modules/job"] {
        assert!(message(&missing).contains(place), "{missing}");
    }

    write(&folder, "job.wasm", ECHO);
    let found = ask(&mut rig, "2", "job").await;
    assert_eq!(found["output"], "hello", "{found}");
    assert_eq!(found["module_digest"], digest(ECHO), "{found}");

    write(&folder, "job.wasm", OTHER);
    let replaced = ask(&mut rig, "3", "job").await;
    assert_eq!(replaced["output"], "attempt 1", "{replaced}");
    assert_eq!(replaced["module_digest"], digest(OTHER), "{replaced}");

    fs::remove_file(folder.path().join("job.wasm")).expect("removed");
    assert_not_found(&ask(&mut rig, "4", "job").await);
    rig.end().await;
}

/// What another task was given meanwhile is not good enough, also for one that no journal keeps.
pub(crate) async fn a_task_that_waited_runs_what_is_there_then() {
    for max_kept in [0, 1] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().to_owned();
        let mut rig = Rig::with(|config| {
            config.modules.directory = Some(path);
            config.journal.max_kept = max_kept;
        })
        .await;
        write(&folder, "job.wasm", ECHO);
        let due = rfc3339(SystemTime::now() + Duration::from_secs(3));
        let later = json!({"id": "later", "module": "job", "not_before": due, "events": true});
        rig.publish(Message::new("task_queue", later.to_string()))
            .await;
        rig.ear.event("later", "queued").await;
        let meanwhile = ask(&mut rig, "now", "job").await;
        assert_eq!(meanwhile["module_digest"], digest(ECHO), "{meanwhile}");
        write(&folder, "job.wasm", OTHER);
        let outcome = rig.ear.outcome("later").await;
        assert_eq!(outcome["module_digest"], digest(OTHER), "{outcome}");
        rig.end().await;
    }
}

/// The operator's folder comes first: nobody who may publish can put another module in its place.
pub(crate) async fn a_published_module_does_not_shadow_the_folder() {
    let (folder, mut rig) = with_folder().await;
    write(&folder, "job.wasm", ECHO);
    rig.push("job", OTHER).await;
    let outcome = ask(&mut rig, "1", "job").await;
    assert_eq!(outcome["output"], "hello", "{outcome}");
    rig.end().await;
}

/// Published, asked for, replaced, deleted, published again. What is published arrives on the runner's other
/// connection: a task right behind it may still meet the module before.
pub(crate) async fn from_the_retained_topic() {
    let mut rig = Rig::new().await;
    rig.push("job", ECHO).await;
    let outcome = ask(&mut rig, "first", "job").await;
    assert_eq!(outcome["output"], "hello", "{outcome}");

    rig.push("job", OTHER).await;
    until(&mut rig, "replaced", |outcome| {
        outcome["output"] == "attempt 1"
    })
    .await;
    rig.publish(retained("modules/job", "")).await;
    until(&mut rig, "deleted", |outcome| {
        outcome["error"]["code"] == "module_not_found"
    })
    .await;
    rig.push("job", ECHO).await;
    until(&mut rig, "back", |outcome| outcome["output"] == "hello").await;
    rig.end().await;
}

/// Asks until the answer fits; how long that may take is the rig's patience.
async fn until(rig: &mut Rig, name: &str, fits: impl Fn(&Value) -> bool) {
    let asked = tokio::time::timeout(crate::rig::PATIENCE, async {
        for number in 0.. {
            if fits(&ask(rig, &format!("{name}-{number}"), "job").await) {
                return;
            }
        }
    });
    asked.await.expect("in time");
}

pub(crate) async fn never_published() {
    let mut rig = Rig::new().await;
    let outcome = ask(&mut rig, "1", "nobody").await;
    assert_not_found(&outcome);
    assert_eq!(
        message(&outcome),
        "no module `nobody` for tenant default: looked at the retained topic modules/nobody"
    );
    // Asked for in vain before, found when it is there.
    rig.push("nobody", ECHO).await;
    let found = tokio::time::timeout(crate::rig::PATIENCE, async {
        for number in 2.. {
            if ask(&mut rig, &number.to_string(), "nobody").await["output"] == "hello" {
                return;
            }
        }
    });
    found.await.expect("found in time");
    rig.end().await;
}

/// A task may be heard of before the module that was published before it.
pub(crate) async fn a_pin_waits_for_its_module() {
    let mut rig = Rig::with(|config| config.modules.lookup_ms = 5_000).await;
    rig.push("job", ECHO).await;
    assert_eq!(ask(&mut rig, "first", "job").await["output"], "hello");
    assert_not_found(&ask(&mut rig, "none", "new").await);
    for name in ["job", "new"] {
        let task = json!({"id": name, "module": format!("{name}@{}", digest(OTHER)), "input": ""});
        rig.publish(Message::new("task_queue", task.to_string()))
            .await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        rig.push(name, OTHER).await;
        let outcome = rig.ear.outcome(name).await;
        assert_eq!(outcome["module_digest"], digest(OTHER), "{outcome}");
    }
    rig.end().await;
}

/// What cannot come is not waited for: in this test that would be for ever.
pub(crate) async fn a_wrong_pin_is_refused_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    write(&folder, "ours.wasm", ECHO);
    let path = folder.path().to_owned();
    let mut rig = Rig::with(|config| {
        config.modules.directory = Some(path);
        config.modules.lookup_ms = 1 << 40;
    })
    .await;
    let chunk = Content::new(ECHO);
    let (mut manifest, _) = Manifest::cut(&chunk, ECHO.len());
    manifest.digest = Content::new(OTHER).digest;
    let hex = chunk.digest.hex();
    rig.publish(retained(&format!("modules/lying/{hex}"), ECHO))
        .await;
    rig.publish(retained("modules/lying", manifest.to_json()))
        .await;
    for name in ["ours", "lying"] {
        let pinned = format!("{name}@{}", digest(OTHER));
        let outcome = ask(&mut rig, name, &pinned).await;
        assert_eq!(outcome["error"]["code"], "digest_mismatch", "{outcome}");
    }
    rig.end().await;
}

/// Of the same length, and given the same time by hand, as `cp -p` and reproducible builds do.
pub(crate) async fn a_file_is_read_again_whatever_its_date() {
    let (folder, mut rig) = with_folder().await;
    let file = folder.path().join("job.wasm");
    let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1);
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..20 {
        // A custom section: the same module, of another digest.
        let mut module = ECHO.to_vec();
        module.extend([0, 3, 1, b'n', number]);
        fs::write(&file, &module).expect("written");
        let opened = fs::File::options().write(true).open(&file).expect("a file");
        opened.set_modified(long_ago).expect("a time");
        let outcome = ask(&mut rig, &number.to_string(), "job").await;
        assert_eq!(outcome["output"], "hello", "{outcome}");
        let digest = Content::new(module).digest.to_string();
        assert_eq!(outcome["module_digest"], digest, "{outcome}");
        seen.insert(digest);
    }
    assert_eq!(seen.len(), 20);
    rig.end().await;
}

pub(crate) async fn pinned_by_digest() {
    let mut rig = Rig::new().await;
    rig.push("job", ECHO).await;
    let (right, wrong) = (digest(ECHO), digest(OTHER));
    // By its digest alone: only once it is loaded.
    let unknown = ask(&mut rig, "unknown", &right).await;
    assert_not_found(&unknown);
    assert!(message(&unknown).contains(&right), "{unknown}");

    let outcome = ask(&mut rig, "wrong", &format!("job@{wrong}")).await;
    assert_eq!(outcome["status"], "rejected", "{outcome}");
    assert_eq!(outcome["error"]["code"], "digest_mismatch", "{outcome}");
    assert_eq!(
        message(&outcome),
        format!("module `job` is {right}, the task pins {wrong}")
    );
    let outcome = ask(&mut rig, "right", &format!("job@{right}")).await;
    assert_eq!(outcome["output"], "hello", "{outcome}");
    // Its digest alone is in outcomes and logs, and is no key to a module that a tenant published.
    let outcome = ask(&mut rig, "bare", &right).await;
    assert_eq!(outcome["error"]["code"], "module_not_found", "{outcome}");
    rig.end().await;
}

pub(crate) async fn by_digest_from_a_folder() {
    let (folder, mut rig) = with_folder().await;
    write(&folder, "whatever.wasm", ECHO);
    let outcome = ask(&mut rig, "1", &digest(ECHO)).await;
    assert_eq!(outcome["output"], "hello", "{outcome}");
    rig.end().await;
}

/// The fault is the module's, and the message says what to do about it.
pub(crate) async fn what_is_no_module() {
    let mut rig = Rig::new().await;
    // `(module (func (export "_start")))`
    let core = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x0a\x01\x06_start\0\0\x0a\x04\x01\x02\0\x0b";
    // `(component)`
    let component = b"\0asm\x0d\0\x01\0";
    let truncated = &ECHO[..ECHO.len() / 2];
    let mut messages = Vec::new();
    for (name, bytes) in [
        ("garbage", &b"garbage"[..]),
        ("core", core),
        ("empty", component),
        ("truncated", truncated),
        ("many-memories", guests::MANY_MEMORIES),
        ("wants-blobstore", guests::WANTS_BLOBSTORE),
    ] {
        rig.publish(retained(&format!("modules/{name}"), bytes))
            .await;
        let outcome = ask(&mut rig, name, name).await;
        assert_eq!(outcome["status"], "rejected", "{outcome}");
        let code = outcome["error"]["code"].as_str().expect("a code");
        let wanted = match name {
            "wants-blobstore" => "import_denied",
            _ => "module_invalid",
        };
        assert_eq!(code, wanted, "{outcome}");
        messages.push(format!("{name}\n    {code}: {}", message(&outcome)));
    }
    // Where the cut module ends, the echo's size says.
    let filters = [(r"offset 0x[0-9a-f]+", "offset [n]")];
    shown::filtered("refused_modules", &messages.join("\n"), &filters);
    rig.push("echo", ECHO).await;
    let outcome = ask(&mut rig, "next", "echo").await;
    assert_eq!(outcome["output"], "hello", "{outcome}");
    rig.end().await;
}

/// Twenty tasks that need the same cold module compile it once.
pub(crate) async fn a_cold_module_is_compiled_once() {
    let mut rig = Rig::new().await;
    rig.push("job", ECHO).await;
    let ids: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    for id in &ids {
        let task = json!({"id": id, "module": "job"});
        let message = Message::new("task_queue", task.to_string());
        // Not awaited: all at one time.
        drop(rig.ear.publisher.publish(message));
    }
    let mut compiled = 0;
    for id in &ids {
        let outcome = rig.ear.outcome(id).await;
        match outcome["usage"]["module_cache"].as_str() {
            Some("compiled") => compiled += 1,
            Some("memory") => {}
            _ => panic!("{outcome}"),
        }
    }
    assert_eq!(compiled, 1);
    rig.end().await;
}

/// Found again after a restart; compiled again, and never loaded, when a byte of it is another.
pub(crate) async fn the_cache_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    let path = cache.clone();
    let mut first = Rig::with(|config| config.modules.cache_directory = Some(path)).await;
    first.push("job", ECHO).await;
    assert_eq!(cached(&mut first, "0").await, "compiled");
    assert_eq!(cached(&mut first, "1").await, "memory");
    let mode = fs::metadata(&cache).expect("a cache").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);

    assert_eq!(after_restart(&mut first, "2").await, "disk");
    let artifact = artifact(&cache);
    let whole = fs::read(&artifact).expect("an artifact");
    for at in [0, whole.len() / 2, whole.len() - 1] {
        let mut flipped = fs::read(&artifact).expect("an artifact");
        flipped[at] ^= 1;
        fs::write(&artifact, &flipped).expect("written");
        let id = format!("flipped-{at}");
        assert_eq!(after_restart(&mut first, &id).await, "compiled");
        let id = format!("written-again-{at}");
        assert_eq!(after_restart(&mut first, &id).await, "disk");
    }
    fs::write(&artifact, &whole[..whole.len() / 2]).expect("written");
    assert_eq!(after_restart(&mut first, "cut").await, "compiled");
    // Ours, but under another module's name.
    let other = cache.join(
        artifact
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .replace(
                &digest(ECHO)["sha256:".len()..],
                &digest(OTHER)["sha256:".len()..],
            ),
    );
    fs::copy(&artifact, other).expect("copied");
    first.push("job", OTHER).await;
    assert_eq!(after_restart(&mut first, "exchanged").await, "compiled");
    first.end().await;
}

/// Where the module of a task came from.
async fn cached(rig: &mut Rig, id: &str) -> String {
    let outcome = ask(rig, id, "job").await;
    assert_eq!(outcome["status"], "succeeded", "{outcome}");
    outcome["usage"]["module_cache"]
        .as_str()
        .expect("a word")
        .to_owned()
}

/// The same with a runner that starts anew.
async fn after_restart(rig: &mut Rig, id: &str) -> String {
    rig.stop().await;
    let mut restarted = Rig::on(rig.config.clone()).await;
    let cached = cached(&mut restarted, id).await;
    restarted.end().await;
    cached
}

/// The only compiled module in a cache folder.
fn artifact(cache: &Path) -> PathBuf {
    let entries = fs::read_dir(cache).expect("a cache");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut artifacts = paths.filter(|path| path.extension().is_some_and(|e| e == "cwasm"));
    let artifact = artifacts.next().expect("an artifact");
    assert!(artifacts.next().is_none());
    artifact
}

/// Code is loaded from it: nobody else may write to it.
pub(crate) async fn an_open_cache_folder_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    fs::create_dir(&cache).expect("a folder");
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o755)).expect("a mode");
    let mut config = config("mqtt://127.0.0.1:1");
    config.modules.cache_directory = Some(cache.clone());
    let refused = Runner::start(&config).await.err().expect("refused");
    assert_eq!(
        format!("{refused:#}"),
        format!(
            "the cache folder {} is open to others (mode 755): it must be 0700",
            cache.display()
        )
    );
}

pub(crate) async fn a_missing_module_folder_is_refused() {
    let mut config = config("mqtt://127.0.0.1:1");
    config.modules.directory = Some("/nowhere/modules".into());
    let refused = Runner::start(&config).await.err().expect("refused");
    assert_eq!(
        format!("{refused:#}"),
        "failed to open the module folder /nowhere/modules: No such file or directory (os error 2)"
    );
}
