//! The compiler's process from outside: what it costs, what it has, and what becomes of its task when it is killed.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tokio::time::sleep;

use super::corpus::CORPUS;
use super::{code, push, runner, task};
use crate::rig::{Ear, PATIENCE};
use crate::stock;

/// What a process has spent so far.
#[derive(Debug)]
pub(super) struct Spent {
    pub(super) cpu: Duration,
    /// Of children that it has waited for.
    pub(super) children_cpu: Duration,
    /// Their page faults: no process has none.
    pub(super) children_faults: u64,
    /// The most that was resident since it was looked at.
    pub(super) peak_bytes: u64,
}

impl Spent {
    /// Begins a new peak.
    pub(super) fn of(process: u32) -> Spent {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("Linux");
        // Behind the name, which may hold spaces: from the third field on.
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .expect("a name")
            .split_whitespace()
            .collect();
        let ticks = |at: usize| {
            let ticks: u64 = fields[at - 3].parse().expect("a number");
            Duration::from_millis(ticks * 10)
        };
        let faults: u64 = fields[11 - 3].parse().expect("a number");
        let status = fs::read_to_string(format!("/proc/{process}/status")).expect("Linux");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
        let peak: u64 = peak.expect("a peak").trim().parse().expect("a number");
        fs::write(format!("/proc/{process}/clear_refs"), "5").expect("our process");
        Spent {
            cpu: ticks(14) + ticks(15),
            children_cpu: ticks(16) + ticks(17),
            children_faults: faults,
            peak_bytes: peak << 10,
        }
    }

    /// What was spent since.
    pub(super) fn since(&self, before: &Spent) -> Spent {
        Spent {
            cpu: self.cpu - before.cpu,
            children_cpu: self.children_cpu - before.children_cpu,
            children_faults: self.children_faults - before.children_faults,
            peak_bytes: self.peak_bytes,
        }
    }
}

/// The compilers that a runner has started and that have not ended.
fn compilers(of: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("Linux");
    let numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers
        .filter(|process: &u32| {
            let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
            let command = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            status.contains(&format!("PPid:\t{of}\n"))
                && String::from_utf8_lossy(&command).contains("compile-in-jail")
        })
        .collect()
}

/// Waits for a compiler that reads its module: its limits are in force then.
async fn compiler(of: u32) -> u32 {
    for _ in 0..2_000 {
        if let Some(process) = compilers(of).first() {
            let limits = fs::read_to_string(format!("/proc/{process}/limits"));
            let limits = limits.unwrap_or_default();
            if limits
                .lines()
                .any(|line| line.starts_with("Max processes") && line.contains(" 0 "))
            {
                return *process;
            }
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("no compiler was started");
}

/// A module that takes some seconds to compile, and then runs.
pub(crate) fn slow() -> Vec<u8> {
    let slow = CORPUS.iter().find(|bomb| bomb.name == "wide_vectors");
    slow.expect("it is there").wasm()
}

/// It has nothing of the runner's.
pub(crate) async fn the_jail_is_bare() {
    let (serve, _folder) = runner("").await;
    let mut ear = Ear::connect(&serve.url()).await;
    push(&ear, "roomy", "slow", slow()).await;
    let asked = task(&mut ear, "roomy", json!({"id": "slow", "module": "slow"}));
    let looked = async {
        let process = compiler(serve.id()).await;
        let of = |what: &str| format!("/proc/{process}/{what}");
        let read = |what: &str| fs::read_to_string(of(what)).expect("our process");
        // The last that it does before it reads the module; it is nice already, and on a busy machine that takes its time.
        let confined = async {
            while read("oom_score_adj").trim() != "1000" {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let confined = tokio::time::timeout(PATIENCE, confined).await;
        confined.expect("it volunteers for the OOM killer");
        let descriptors = fs::read_dir(of("fd")).expect("our process");
        for descriptor in descriptors {
            let number = descriptor.expect("an entry").file_name();
            let number = number.to_str().expect("a number");
            let link = |of: &str| fs::read_link(format!("/proc/{of}/fd/{number}")).ok();
            // What whoever started these tests left open for everybody is not the runner's.
            let given = link("self") == link(&process.to_string());
            assert!(
                ["0", "1", "2"].contains(&number) || given,
                "{number}: {:?}",
                link(&process.to_string())
            );
        }
        let environment = read("environ");
        assert!(
            environment.starts_with("MIMALLOC_") && !environment.contains("HOME"),
            "{environment:?}"
        );
        assert_eq!(
            fs::read_link(of("cwd")).expect("a folder").to_str(),
            Some("/")
        );
        assert!(
            read("status").contains("NoNewPrivs:\t1"),
            "{}",
            read("status")
        );
        let limits = read("limits");
        for (name, most) in [
            ("Max cpu time", "60"),
            ("Max data size", "1073741824"),
            ("Max file size", "67108864"),
            ("Max core file size", "0"),
            ("Max processes", "0"),
            ("Max open files", "16"),
        ] {
            let line = limits.lines().find(|line| line.starts_with(name));
            let soft = line.and_then(|line| line[name.len()..].split_whitespace().next());
            assert_eq!(soft, Some(most), "{name}: {limits}");
        }
    };
    let (outcome, ()) = tokio::join!(asked, looked);
    assert_eq!(code(&outcome), "succeeded", "{outcome}");

    // Its parent's death is its own.
    push(&ear, "evil", "slow", [slow(), vec![0, 2, 1, b'x']].concat()).await;
    let message = json!({"id": "orphan", "module": "slow"}).to_string();
    let message = wasmqtt::envelope::Message::new("tenants/evil/task_queue", message);
    ear.publisher.publish(message).await.expect("a PUBACK");
    let process = compiler(serve.id()).await;
    let mut serve = serve;
    serve.kill();
    serve.ended().await;
    for _ in 0..1_000 {
        let state = fs::read_to_string(format!("/proc/{process}/status"));
        if state.is_err() || state.is_ok_and(|state| state.contains("State:\tZ")) {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("the compiler goes on without its runner");
}

/// Whoever kills it, its task is tried again.
pub(crate) async fn a_killed_compiler() {
    let (serve, _folder) = runner("").await;
    let mut ear = Ear::connect(&serve.url()).await;
    push(&ear, "roomy", "slow", slow()).await;
    let retry = json!({"max_attempts": 20, "initial_delay_ms": 100, "max_delay_ms": 200});
    let kills = if super::long() { 15 } else { 4 };
    // Two that wait for the same compiler, and one of another tenant meanwhile.
    let message = json!({"id": "beside", "module": "slow", "retry": retry}).to_string();
    let message = wasmqtt::envelope::Message::new("tenants/roomy/task_queue", message);
    ear.publisher.publish(message).await.expect("a PUBACK");
    let asked = task(
        &mut ear,
        "roomy",
        json!({"id": "killed", "module": "slow", "retry": retry}),
    );
    let killing = async {
        for kill in 0..kills {
            let process = compiler(serve.id()).await;
            sleep(Duration::from_millis(kill * 97 % 400)).await;
            stock::signal(process, Signal::KILL);
            while compilers(serve.id()).contains(&process) {
                sleep(Duration::from_millis(5)).await;
            }
        }
    };
    let (outcome, ()) = tokio::join!(asked, killing);
    assert_eq!(code(&outcome), "succeeded", "{outcome}");
    let beside = ear.outcome("beside").await;
    assert_eq!(code(&beside), "succeeded", "{beside}");
    // Every kill failed an attempt of one of them, as an error of ours.
    let attempts = [&outcome, &beside]
        .map(|outcome| outcome["attempts"].as_array().cloned().unwrap_or_default());
    let attempts = attempts.concat();
    assert_eq!(attempts.len() as u64, kills, "{outcome} {beside}");
    for attempt in attempts {
        assert_eq!(attempt["code"], "internal", "{attempt}");
    }
    ear.publisher.close().await;
    serve.end().await;
}
