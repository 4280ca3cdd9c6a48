//! Modules that were damaged: `inspect`, `push` and the loader say what is wrong with each, and none of them panics.
//!
//! The long form: `WASMQTT_MUTATED=10000 cargo test --workspace --test it -- mutated --nocapture`.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use serde_json::json;
use wasmqtt::config::Config;
use wasmqtt::modules::{self, Content, cost, shape, structure};
use wasmqtt::sandbox::engine::{Engine, Sizes};
use wasmqtt::task::tenant::TenantId;
use wasmqtt_tests::guests;

use crate::cli::Shell;
use crate::faults::Chance;
use crate::rig::{Rig, retained};
use crate::shapes;

/// Each of so many goes through a runner's loader too, and through the real binary.
const LOADED: usize = 20;
const CALLED: usize = 50;
/// What reading and compiling one small module after another may add to this process, in bytes.
const GROWTH: u64 = 1 << 30;

/// Components, core modules, and what becomes of these.
fn seeds() -> Vec<Vec<u8>> {
    let adapted = shape::component(&shapes::command())
        .expect("a command")
        .into_owned();
    let made = shape::component(&shapes::typed())
        .expect("a task")
        .into_owned();
    vec![
        guests::ECHO.to_vec(),
        guests::BURN.to_vec(),
        guests::WANTS_HTTP.to_vec(),
        guests::MANY_MEMORIES.to_vec(),
        guests::NAP.to_vec(),
        guests::GUEST_ERROR.to_vec(),
        shapes::command(),
        shapes::typed(),
        shapes::typed_with_wasi(),
        adapted,
        made,
    ]
}

/// Damages one of the seeds.
fn mutate(chance: &mut Chance, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[chance.among(0..seeds.len())].clone();
    let other = &seeds[chance.among(0..seeds.len())];
    for _ in 0..chance.among(1..4) {
        if bytes.len() < 16 {
            break;
        }
        // The first bytes say what it is: left alone but for once in a while.
        let from = if chance.among(0..50) == 0 { 0 } else { 8 };
        let at = chance.among(from..bytes.len());
        match chance.among(0..8) {
            0 | 1 => bytes[at] ^= 1 << chance.among(0..8),
            2 => bytes[at] = chance.among(0..256) as u8,
            3 => bytes.truncate(at),
            // A length or a count that lies: the longest number of 32 bits, or a small one.
            4 => {
                let lie: &[u8] = match chance.among(0..3) {
                    0 => &[0xff, 0xff, 0xff, 0xff, 0x0f],
                    1 => &[0xff, 0x7f],
                    _ => &[0x00],
                };
                let end = bytes.len().min(at + lie.len());
                bytes.splice(at..end, lie.iter().copied());
            }
            5 => {
                let end = bytes.len().min(at + chance.among(1..64));
                bytes.drain(at..end);
            }
            // A piece of itself, again.
            6 => {
                let end = bytes.len().min(at + chance.among(1..512));
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            // A piece of another.
            _ => {
                let begin = chance.among(0..other.len());
                let end = other.len().min(begin + chance.among(1..512));
                bytes.splice(at..at, other[begin..end].iter().copied());
            }
        }
    }
    bytes
}

/// The most that this process had resident since the last reset, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kilobytes: u64 = kilobytes
        .and_then(|it| it.trim().parse().ok())
        .expect("a number");
    kilobytes << 10
}

/// What `inspect` and `push` do with a file, in this process; the code that they end in, and their words.
fn read(engine: &Engine, bytes: &[u8]) -> (String, String) {
    let inspected = structure::read(bytes);
    let counted = cost::count(bytes);
    let checked = structure::check(bytes);
    let policy = Config::default().policy_of(&TenantId::default());
    let policy = policy.expect("a policy");
    let pushed = modules::check(&Content::new(bytes.to_vec()), &policy)
        .and_then(|_| modules::compile(engine, bytes));
    match pushed {
        // What runs is no less to be inspected.
        Ok(_) => {
            assert!(inspected.is_ok() && checked.is_ok() && counted.is_ok());
            ("runs".to_owned(), String::new())
        }
        Err(error) => (error.code.to_string(), error.message),
    }
}

fn clear(code: &str, message: &str) -> bool {
    let codes = ["module_invalid", "import_denied", "module_too_costly"];
    let words = ["panicked", "died of it", "internal error", "RUST_BACKTRACE"];
    codes.contains(&code) && !message.is_empty() && !words.iter().any(|it| message.contains(it))
}

pub(crate) async fn mutated_files() {
    let text = std::env::var("WASMQTT_MUTATED").ok();
    let count: usize = text.map_or(400, |text| text.parse().expect("a number"));
    let seeds = seeds();
    let mut chance = Chance::new();
    println!("mutated files: seed {}", chance.seed);
    let sizes = Sizes {
        guests: 1,
        memory_bytes: 64 << 20,
    };
    let engine = Engine::new(sizes).expect("an engine");
    let (shell, mut rig) = (Shell::new(), Rig::new().await);
    let mut ends = BTreeMap::<String, usize>::new();
    let (begun, before) = (Instant::now(), peak());
    let mut worst = 0;
    for number in 0..count {
        let bytes = mutate(&mut chance, &seeds);
        shell.write("mutated.wasm", &bytes);
        let seed = chance.seed;
        let kept = || {
            let file = std::env::temp_dir().join(format!("wasmqtt-mutated-{seed}-{number}.wasm"));
            std::fs::write(&file, &bytes).expect("written");
            format!("number {number} of seed {seed}, kept as {}", file.display())
        };
        let started = Instant::now();
        let read = catch_unwind(AssertUnwindSafe(|| read(&engine, &bytes)));
        worst = worst.max(started.elapsed().as_millis());
        let (code, message) = read.unwrap_or_else(|_| panic!("a panic: {}", kept()));
        assert!(
            code == "runs" || clear(&code, &message),
            "{code}: {message}: {}",
            kept()
        );

        if number % CALLED == 0 {
            let inspected = shell.call(&["inspect", "mutated.wasm"]).await;
            let pushed = [
                "push",
                "mutated.wasm",
                "--broker",
                rig.config.mqtt.url.as_str(),
            ];
            let pushed = shell.call(&pushed).await;
            for ended in [&inspected, &pushed] {
                let said = &ended.stderr;
                let told = ended.code == Some(0) || said.starts_with("error: ") || said.is_empty();
                assert!(told && !said.contains("panicked"), "{said}: {}", kept());
                assert!(
                    matches!(ended.code, Some(0 | 1)),
                    "{:?}: {}",
                    ended.code,
                    kept()
                );
            }
            assert_eq!(
                pushed.code == Some(0),
                code == "runs",
                "{}: {}",
                pushed.stderr,
                kept()
            );
        }
        if number % LOADED == 0 {
            let name = format!("m{number}");
            rig.publish(retained(&format!("modules/{name}"), bytes.clone()))
                .await;
            let limits = json!({"timeout_ms": 1000, "fuel": 100_000_000});
            let task =
                json!({"id": name, "module": name, "limits": limits, "retry": {"max_attempts": 1}});
            let outcome = rig.task(task).await;
            let error = &outcome["error"];
            let (loaded, message) = (error["code"].as_str(), error["message"].as_str());
            let rejected = outcome["status"] == "rejected";
            // A tenant that was granted nothing is refused before anything is compiled.
            let refused = loaded == Some("capability_denied")
                || rejected && clear(loaded.unwrap_or_default(), message.unwrap_or_default());
            assert!(refused || code == "runs", "{outcome}: {}", kept());
            assert!(refused == rejected, "{outcome}: {}", kept());
            // What is removed need not be kept by the broker.
            rig.publish(retained(&format!("modules/{name}"), "")).await;
        }
        *ends.entry(code).or_default() += 1;
    }
    let grown = peak().saturating_sub(before);
    println!(
        "{count} mutated files in {:?}, the slowest {worst} ms; {} through a runner's loader, {} through the binary; peak \
         {} MiB more than before; ends {ends:?}",
        begun.elapsed(),
        count.div_ceil(LOADED),
        count.div_ceil(CALLED),
        grown >> 20,
    );
    assert!(grown < GROWTH, "{grown} bytes");
    assert!(ends.len() > 2, "the files are all alike: {ends:?}");
    rig.end().await;
}
