//! A hostile tenant submits modules that wasm-smith made up, and real ones with wrong bytes; an honest one goes on.
//!
//! The long form: `WASMQTT_SMITH_MINUTES=60 cargo test --workspace --test it -- smith --nocapture`.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;
use wasm_smith::{Config, Module};
use wasmqtt::envelope::Message;
use wasmqtt_tests::guests;

use crate::faults::Chance;
use crate::rig::{Ear, json, retained};
use crate::under_test::Serve;

/// Names under which the hostile tenant publishes, again and again.
const NAMES: usize = 40;
/// The honest tenant's pace.
const PACE: Duration = Duration::from_millis(200);

/// What every typed component exports, for wasm-smith to make up the rest.
const OUTSIDE: &str = r#"(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
  (func (export "run")
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32 i32 i32) (result i32) unreachable))"#;

/// Makes hostile modules.
struct Smith {
    folder: TempDir,
    outside: Vec<u8>,
    chance: Chance,
}

impl Smith {
    fn new() -> Smith {
        let folder = TempDir::new().expect("a folder");
        let text = folder.path().join("outside.wat");
        std::fs::write(&text, OUTSIDE).expect("written");
        let outside = wat::parse_file(&text).expect("a module");
        Smith {
            folder,
            outside,
            chance: Chance::new(),
        }
    }

    fn bytes(&mut self, range: std::ops::Range<usize>) -> Vec<u8> {
        let length = self.chance.among(range);
        (0..length)
            .map(|_| self.chance.among(0..256) as u8)
            .collect()
    }

    /// A component of which only the outside is not made up; none when the made up one does not fit the world.
    fn made_up(&mut self) -> Option<Vec<u8>> {
        let seed = self.bytes(200..6_000);
        let config = Config {
            exports: Some(self.outside.clone()),
            max_imports: 0,
            max_memories: 1,
            min_funcs: 2,
            exceptions_enabled: false,
            gc_enabled: false,
            memory64_enabled: false,
            threads_enabled: false,
            relaxed_simd_enabled: false,
            allow_start_export: true,
            ..Config::default()
        };
        let mut seed = arbitrary::Unstructured::new(&seed);
        let module = Module::new(config, &mut seed).ok()?;
        let file = self.folder.path().join("module.wasm");
        std::fs::write(&file, module.to_bytes()).expect("written");
        let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
        wasmqtt_guest_build::wat_component(&file, wit, "task").ok()
    }

    /// A real guest with a few wrong bytes.
    fn spoilt(&mut self) -> Vec<u8> {
        let guests = [
            guests::ECHO,
            guests::BURN,
            guests::NAP,
            guests::STDOUT_FLOOD,
        ];
        let mut bytes = guests[self.chance.among(0..guests.len())].to_vec();
        for _ in 0..self.chance.among(1..6) {
            let at = self.chance.among(8..bytes.len());
            match self.chance.among(0..3) {
                0 => bytes[at] = self.chance.among(0..256) as u8,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, self.chance.among(0..256) as u8),
            }
        }
        bytes
    }

    fn next(&mut self) -> Vec<u8> {
        let made_up = (self.chance.among(0..4) > 0).then(|| self.made_up());
        made_up.flatten().unwrap_or_else(|| self.spoilt())
    }
}

/// Resident kilobytes of a process.
fn resident(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .expect("a number")
}

/// The slope of a line through points, by least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let (x, y) = points
        .iter()
        .fold((0.0, 0.0), |(x, y), p| (x + p.0, y + p.1));
    let (x, y) = (x / count, y / count);
    let (up, across) = points.iter().fold((0.0, 0.0), |(up, across), p| {
        (up + (p.0 - x) * (p.1 - y), across + (p.0 - x).powi(2))
    });
    up / across
}

pub(crate) async fn made_up_modules_disturb_nobody() {
    let text = std::env::var("WASMQTT_SMITH_MINUTES").ok();
    let minutes: f64 = text.map_or(0.5, |text| text.parse().expect("a number"));
    let length = Duration::from_secs_f64(minutes * 60.0);
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("wasmqtt.toml");
    let config = "[modules]\ncached = 20\n[tenants.evil]\n[tenants.evil.ceilings]\nfuel = 1_000_000_000\ntimeout_ms = 1000\n\
                  [tenants.honest]\n[limits]\ntimeout_ms = 1000\n[journal]\nmax_outcomes = 2000\n";
    std::fs::write(&file, config).expect("written");
    let serve = Serve::ready(&[
        "--config",
        file.to_str().expect("a path"),
        "--embedded-broker",
        "127.0.0.1:0",
    ])
    .await;
    let mut ear = Ear::connect(&serve.url()).await;
    let echo = retained("tenants/honest/modules/echo", guests::ECHO);
    ear.publisher.publish(echo).await.expect("a PUBACK");

    let publisher = ear.publisher.clone();
    let begun = Instant::now();
    let honest = tokio::spawn(async move {
        let mut asked = 0;
        while begun.elapsed() < length {
            let task = json!({"id": format!("honest-{asked}"), "module": "echo", "input": "x"});
            let topic = "tenants/honest/task_queue";
            let published = publisher.publish(Message::new(topic, task.to_string()));
            published.await.expect("a PUBACK");
            asked += 1;
            sleep(PACE).await;
        }
        asked
    });

    let mut smith = Smith::new();
    println!("made up modules: seed {}", smith.chance.seed);
    let (mut number, mut memory) = (0_usize, Vec::new());
    let mut codes = std::collections::BTreeMap::<String, usize>::new();
    while begun.elapsed() < length {
        let module = smith.next();
        let name = format!("m{}", number % NAMES);
        let topic = format!("tenants/evil/modules/{name}");
        let _ = ear.publisher.publish(retained(&topic, module)).await;
        let input = smith.chance.among(0..1 << 30).to_string();
        let id = format!("evil-{number}");
        let task = json!({"id": id, "module": name, "input": input, "retry": {"max_attempts": 1}});
        let topic = "tenants/evil/task_queue";
        let published = ear.publisher.publish(Message::new(topic, task.to_string()));
        published.await.expect("a PUBACK");
        let outcome = ear.outcome(&id).await;
        let code = outcome["error"]["code"].as_str();
        let ended = code.or(outcome["status"].as_str()).expect("an end");
        *codes.entry(ended.to_owned()).or_default() += 1;
        number += 1;
        if number % 20 == 0 {
            let minutes = begun.elapsed().as_secs_f64() / 60.0;
            memory.push((minutes, resident(serve.id()) as f64 / 1024.0));
        }
    }
    let asked: usize = honest.await.expect("no panic");
    for number in 0..asked {
        let outcome = ear.outcome(&format!("honest-{number}")).await;
        assert_eq!(outcome["status"], "succeeded", "{outcome}");
    }
    let warm = memory.len() / 4;
    let (first, last) = (memory[warm].1, memory[memory.len() - 1].1);
    println!(
        "{number} hostile modules in {minutes} minutes, {asked} honest tasks all succeeded; resident {first:.0} MiB after a \
         quarter of the time, {last:.0} MiB at the end, slope {:.2} MiB in ten minutes; ends {codes:?}",
        slope(&memory[warm..]) * 10.0,
    );
    assert!(last < first + 64.0, "memory grows: {memory:?}");
    assert!(codes.len() > 2, "the modules are all alike: {codes:?}");
    let strangers = ear.unasked(|i| json(i).is_none());
    assert!(strangers.is_empty());
    serve.end().await;
}
