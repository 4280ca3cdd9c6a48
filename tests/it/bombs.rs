//! Modules that are dear to compile: refused by name, at a price that the runner itself does not pay, while an honest
//! tenant's tasks go on.
//!
//! In short form the compiler has few CPU seconds. `WASMQTT_BOMBS=long` runs under the default limits, every bomb also
//! past the counting, and prints what it does to the honest tenant's times.

mod corpus;
mod jailed;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};
use wasmqtt::envelope::Message;
use wasmqtt_tests::guests;

use self::corpus::{Bomb, CORPUS, End};
use self::jailed::Spent;
use crate::rig::{Ear, retained};
use crate::under_test::Serve;

/// What the runner itself may spend on one of them.
const OUTSIDE_CPU: Duration = Duration::from_secs(3);
const OUTSIDE_BYTES: u64 = 512 << 20;

/// As a runner has it, which is what the bounds are for.
const COUNTED: &str = "counted";
/// The status of one that was compiled after all.
const RUNS: &str = "succeeded";

/// Limits of the counting that let everything through: what is left is the jail.
const UNCOUNTED: &str = "\
    code_bytes = 1000000000000\nfunctions = 4000000000\nlocals = 1000000000000\ndata_segments = 1000000000000\n\
    component_parts = 1000000000000\nfunction_bytes = 1000000000000\noperands = 1000000000000\n\
    nesting = 4000000000\nlive_values = 1000000000000\nbranches = 1000000000000\n";

fn long() -> bool {
    std::env::var_os("WASMQTT_BOMBS").is_some()
}

/// What the compiler's process has; the default in long form.
fn granted() -> (u64, u64) {
    if long() { (60, 120) } else { (4, 60) }
}

/// The module is looked up and read, too.
fn longest() -> Duration {
    Duration::from_secs(granted().1 + 30)
}

/// A runner with an embedded broker, and a tenant `evil` with these limits.
async fn runner(evil: &str) -> (Serve, TempDir) {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("wasmqtt.toml");
    let (cpu_s, wall_s) = granted();
    let text = format!(
        "[tenants.evil.compile]\ncpu_s = {cpu_s}\nwall_s = {wall_s}\n{evil}\n\
         [tenants.roomy.compile]\ncpu_s = 60\n"
    );
    std::fs::write(&file, text).expect("a file");
    let file = file.to_str().expect("UTF-8");
    let serve = Serve::ready(&["--embedded-broker", "127.0.0.1:0", "--config", file]).await;
    (serve, folder)
}

/// Publishes a module of a tenant's.
async fn push(ear: &Ear, tenant: &str, name: &str, wasm: Vec<u8>) {
    let topic = format!("tenants/{tenant}/modules/{name}");
    let published = ear.publisher.publish(retained(&topic, wasm));
    published.await.expect("a PUBACK");
}

/// Submits a task of a tenant's; its outcome.
async fn task(ear: &mut Ear, tenant: &str, task: Value) -> Value {
    let id = task["id"].as_str().expect("an id").to_owned();
    let message = Message::new(format!("tenants/{tenant}/task_queue"), task.to_string());
    ear.publisher.publish(message).await.expect("a PUBACK");
    // In long form the compiler may compute for as long as an ear is patient.
    ear.outcome_within(longest(), &id).await
}

/// Tasks of the honest tenant that have ended.
type Ended = Arc<AtomicU32>;

/// Fifty tasks a second of an honest tenant, until told to stop; how long each took.
async fn honest(url: String, ended: Ended, mut stop: oneshot::Receiver<()>) -> Vec<Duration> {
    let mut ear = Ear::connect(&url).await;
    push(&ear, "honest", "echo", guests::ECHO.to_vec()).await;
    let warm = json!({"id": "honest-warm", "module": "echo"});
    task(&mut ear, "honest", warm).await;
    let (mut took, mut beat) = (Vec::new(), interval(Duration::from_millis(20)));
    beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            _ = &mut stop => break,
            _ = beat.tick() => {}
        }
        let id = format!("honest-{}", took.len());
        let asked = Instant::now();
        let outcome = task(
            &mut ear,
            "honest",
            json!({"id": id, "module": "echo", "input": "x"}),
        )
        .await;
        assert_eq!(outcome["output"], "x", "{outcome}");
        took.push(asked.elapsed());
        ended.fetch_add(1, Ordering::Relaxed);
    }
    ear.publisher.close().await;
    took
}

/// The median and the 99th percentile, in milliseconds.
fn percentiles(took: &mut [Duration]) -> (f64, f64) {
    took.sort();
    let at =
        |share: usize| took[(took.len() * share / 100).min(took.len() - 1)].as_secs_f64() * 1e3;
    (at(50), at(99))
}

/// What an honest task costs the runner, and how many have ended.
struct Honest {
    cpu: Duration,
    ended: Ended,
}

/// What became of a bomb, and what it cost: what the honest tenant's tasks take meanwhile is not the bomb's.
async fn explode(serve: &Serve, ear: &mut Ear, honest: &Honest, bomb: &Bomb, form: &str) -> Value {
    let wasm = bomb.wasm();
    let bytes = wasm.len();
    let name = format!("{}-{form}", bomb.name.replace('_', "-"));
    push(ear, "evil", &name, wasm).await;
    let before = Spent::of(serve.id());
    let beside = honest.ended.load(Ordering::Relaxed);
    let asked = Instant::now();
    let outcome = task(ear, "evil", json!({"id": name, "module": name})).await;
    let (took, mut spent) = (asked.elapsed(), Spent::of(serve.id()).since(&before));
    let beside = honest.ended.load(Ordering::Relaxed) - beside;
    spent.cpu = spent.cpu.saturating_sub(honest.cpu * beside);
    println!(
        "{name:<34} {bytes:>8} bytes  {:<18} {:6.2} s  outside {:5.2} CPU-s {:>4} MiB  inside {:6.2} CPU-s  {}",
        code(&outcome),
        took.as_secs_f64(),
        spent.cpu.as_secs_f64(),
        spent.peak_bytes >> 20,
        spent.children_cpu.as_secs_f64(),
        outcome["error"]["message"]
            .as_str()
            .unwrap_or_default()
            .chars()
            .take(110)
            .collect::<String>(),
    );
    if form == COUNTED {
        assert!(spent.cpu < OUTSIDE_CPU, "{name}: {spent:?}");
        assert!(spent.peak_bytes < OUTSIDE_BYTES, "{name}: {spent:?}");
    }
    assert!(took < longest(), "{name}: {took:?}");
    outcome
}

/// The error's code, or the status of what has none.
fn code(outcome: &Value) -> &str {
    let code = outcome["error"]["code"].as_str();
    code.or(outcome["status"].as_str()).expect("an outcome")
}

/// Beside an honest tenant.
async fn explode_all(bombs: &[&Bomb], evil: &str, form: &str) -> Vec<(Value, &'static str)> {
    let (serve, _folder) = runner(evil).await;
    let mut ear = Ear::connect(&serve.url()).await;
    let (mut calm, alone) = in_peace(&serve).await;
    let (stop, stopped) = oneshot::channel();
    let honest = tokio::spawn(honest(serve.url(), alone.ended.clone(), stopped));
    let mut outcomes = Vec::new();
    for bomb in bombs {
        outcomes.push((
            explode(&serve, &mut ear, &alone, bomb, form).await,
            bomb.name,
        ));
    }
    stop.send(()).expect("it runs");
    let mut took = honest.await.expect("every honest task succeeded");
    let (calm, under) = (percentiles(&mut calm), percentiles(&mut took));
    println!(
        "the honest tenant's {} tasks: p50 {:.2} ms, p99 {:.2} ms; without bombs p50 {:.2} ms, p99 {:.2} ms",
        took.len(),
        under.0,
        under.1,
        calm.0,
        calm.1
    );
    ear.publisher.close().await;
    serve.end().await;
    outcomes
}

/// The honest tenant's times when nobody else is there, and what they cost.
async fn in_peace(serve: &Serve) -> (Vec<Duration>, Honest) {
    let (stop, stopped) = oneshot::channel();
    let ended = Ended::default();
    let before = Spent::of(serve.id());
    let honest = tokio::spawn(honest(serve.url(), ended.clone(), stopped));
    tokio::time::sleep(Duration::from_secs(if long() { 60 } else { 2 })).await;
    stop.send(()).expect("it runs");
    let took = honest.await.expect("every honest task succeeded");
    let cpu = Spent::of(serve.id()).since(&before).cpu / ended.load(Ordering::Relaxed).max(1);
    (took, Honest { cpu, ended })
}

/// Each ends as the corpus says.
pub(crate) async fn the_corpus() {
    let all: Vec<&Bomb> = CORPUS.iter().collect();
    for (outcome, name) in explode_all(&all, "", COUNTED).await {
        let bomb = CORPUS
            .iter()
            .find(|bomb| bomb.name == name)
            .expect("a bomb");
        let message = outcome["error"]["message"].as_str().unwrap_or_default();
        let as_said = match (bomb.ends, code(&outcome)) {
            (End::Counted(words), "module_too_costly") => message.contains(words),
            (End::Charged, "module_too_costly") => message.starts_with("compiling takes more than"),
            // With seconds enough it compiles, and is larger than an instance may be.
            (End::Charged, "module_invalid") => message.contains("does not fit in pooling"),
            (End::Charged, code) => code == RUNS,
            (End::Invalid(words), "module_invalid") => message.contains(words),
            _ => false,
        };
        assert!(as_said, "{name}: {outcome}");
    }
}

/// Without the counting in front of it the jail holds, too.
pub(crate) async fn the_jail_alone() {
    let some = [
        "values_by_blocks",
        "tiny_functions",
        "multi_value",
        "nested_instances",
        "br_table_grid",
    ];
    let bombs: Vec<&Bomb> = CORPUS
        .iter()
        .filter(|bomb| long() || some.contains(&bomb.name))
        .collect();
    for (outcome, name) in explode_all(&bombs, UNCOUNTED, "uncounted").await {
        let code = code(&outcome);
        assert!(
            ["module_too_costly", "module_invalid", RUNS].contains(&code),
            "{name}: {outcome}"
        );
    }
}

/// A failure is remembered for the tenant's limits, and for nobody with larger ones.
pub(crate) async fn a_failure_is_remembered() {
    let (serve, _folder) = runner("functions = 1").await;
    let mut ear = Ear::connect(&serve.url()).await;
    for tenant in ["evil", "roomy"] {
        push(&ear, tenant, "alloc", guests::ALLOC.to_vec()).await;
    }
    for number in 0..3 {
        let task_of_evil =
            json!({"id": format!("small-{number}"), "module": "alloc", "input": "1"});
        let outcome = task(&mut ear, "evil", task_of_evil).await;
        assert_eq!(code(&outcome), "module_too_costly", "{outcome}");
        let message = outcome["error"]["message"].as_str().expect("a message");
        assert_eq!(message, "it has 2 functions, of at most 1");
    }
    let outcome = task(
        &mut ear,
        "roomy",
        json!({"id": "large", "module": "alloc", "input": "1"}),
    )
    .await;
    assert_eq!(code(&outcome), RUNS, "{outcome}");
    // It costs nothing any more.
    let outcome = task(
        &mut ear,
        "evil",
        json!({"id": "now", "module": "alloc", "input": "1"}),
    )
    .await;
    assert_eq!(code(&outcome), RUNS, "{outcome}");

    // Remembered too when it was the compiler that failed: the second time is at once.
    let bomb = CORPUS
        .iter()
        .find(|bomb| bomb.name == "nested_types")
        .expect("a bomb");
    push(&ear, "roomy", "types", bomb.wasm()).await;
    let mut said = Vec::new();
    for id in ["first", "second"] {
        let before = Spent::of(serve.id());
        let outcome = task(&mut ear, "roomy", json!({"id": id, "module": "types"})).await;
        assert_eq!(code(&outcome), "module_invalid", "{outcome}");
        said.push((
            outcome["error"]["message"].clone(),
            Spent::of(serve.id()).since(&before).children_faults,
        ));
    }
    assert_eq!(said[0].0, said[1].0);
    assert!(said[0].1 > 0 && said[1].1 == 0, "{said:?}");
    ear.publisher.close().await;
    serve.end().await;
}

pub(crate) use self::jailed::{a_killed_compiler, slow, the_jail_is_bare};
