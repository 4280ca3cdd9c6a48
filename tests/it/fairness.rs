//! No tenant disturbs another: shares of fuel by weight, and a neighbour of a flood.
//!
//! The long form, which the bars are measured with: `WASMQTT_FAIR_SCALE=8 cargo test --test it fairness -- --nocapture`.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::time::{Instant, sleep_until};
use wasmqtt::config::tenants::Tenant;
use wasmqtt::envelope::{Message, answer};
use wasmqtt::task::outcome::Status;
use wasmqtt::task::tenant::TenantId;
use wasmqtt_tests::guests;

use crate::rig::{Ear, Rig, json, retained};

fn scale() -> u32 {
    let text = std::env::var("WASMQTT_FAIR_SCALE").ok();
    text.map_or(1, |text| text.parse().expect("a number"))
}

fn listed(weight: u32) -> Tenant {
    Tenant {
        weight,
        ..Tenant::default()
    }
}

/// Publishes burning tasks of a tenant; `numbers` are their ids.
async fn queue(rig: &Rig, tenant: &str, fuel: u64, numbers: std::ops::Range<u32>) {
    let published: Vec<_> = numbers
        .map(|number| {
            let id = format!("{tenant}-{number}");
            let task = json!({"id": id, "module": "burn", "input": fuel.to_string()});
            let topic = format!("tenants/{tenant}/task_queue");
            let message = Message::new(topic, task.to_string());
            rig.ear.publisher.publish(message)
        })
        .collect();
    for published in published {
        published.await.expect("a PUBACK");
    }
}

async fn with_tenants(tenants: &[(&str, u32)]) -> Rig {
    let rig = Rig::with(|config| {
        config.runner.concurrency = 32;
        for (name, weight) in tenants {
            config.tenants.insert((*name).to_owned(), listed(*weight));
        }
    })
    .await;
    for (name, _) in tenants {
        let topic = format!("tenants/{name}/modules/burn");
        rig.publish(retained(&topic, guests::BURN)).await;
    }
    rig
}

/// When a guest ran, and what it burnt.
struct Run {
    began: SystemTime,
    took: Duration,
    fuel: u64,
}

impl Run {
    /// What it burnt between two moments, taken to burn evenly.
    fn fuel_between(&self, from: SystemTime, to: SystemTime) -> f64 {
        let ended = self.began + self.took;
        let (from, to) = (self.began.max(from), ended.min(to));
        let within = to.duration_since(from).unwrap_or_default();
        self.fuel as f64 * within.as_secs_f64() / self.took.as_secs_f64().max(f64::EPSILON)
    }
}

/// Hears the outcomes of a tenant's tasks with these numbers, each once: while a lane is new, a copy of a task comes by
/// another, and may be answered too.
async fn runs(rig: &mut Rig, tenant: &str, numbers: std::ops::Range<u32>) -> Vec<Run> {
    let topic = format!("tenants/{tenant}/task_completed");
    let mut missing: BTreeSet<_> = numbers.map(|number| format!("{tenant}-{number}")).collect();
    let tenant = TenantId::parse(tenant).expect("a tenant");
    let mut runs = Vec::new();
    while !missing.is_empty() {
        let inbound = rig.ear.hear(|i| i.topic == topic).await;
        let outcome = answer::outcome(&tenant, &inbound).expect("an outcome");
        assert_eq!(outcome.status, Status::Succeeded, "{outcome:?}");
        if missing.remove(outcome.id.as_str()) {
            runs.push(Run {
                began: outcome.started_at.expect("a start"),
                took: Duration::from_secs_f64(outcome.usage.run_ms / 1e3),
                fuel: outcome.usage.fuel,
            });
        }
    }
    runs
}

/// Three tenants of weights 1, 2 and 4, with tasks of different fuel, who all have tasks waiting all the time.
pub(crate) async fn fuel_follows_the_weights() {
    let tenants = [("one", 1), ("two", 2), ("four", 4)];
    // So many tasks last about as long for each of them.
    let fuel = |weight| 16_000_000 * u64::from(weight);
    let mut rig = with_tenants(&tenants).await;
    // So many that the schedule knows what a tenant's tasks burn, which it charges when they start.
    let (first, all) = (24, 24 + 300 * scale());
    for (tenant, weight) in tenants {
        queue(&rig, tenant, fuel(weight), 0..first).await;
        runs(&mut rig, tenant, 0..first).await;
    }
    for (tenant, weight) in tenants {
        queue(&rig, tenant, fuel(weight), first..all).await;
    }
    // Everybody has tasks waiting from when all are published until somebody's last one starts. Told by when guests
    // ran, not by when it was heard: each tenant's outcomes come over a connection of their own.
    let full = SystemTime::now();
    let mut ran = Vec::new();
    for (tenant, _) in tenants {
        ran.push(runs(&mut rig, tenant, first..all).await);
    }
    rig.end().await;
    let last = |runs: &Vec<Run>| runs.iter().map(|run| run.began).max();
    let end = ran.iter().filter_map(last).min().expect("tenants");
    let lasted = end.duration_since(full).expect("tasks of all");
    let burnt = ran.iter().map(|runs| -> f64 {
        let within = runs.iter().map(|run| run.fuel_between(full, end));
        within.sum()
    });
    let burnt: Vec<f64> = burnt.collect();
    let all: f64 = burnt.iter().sum();
    println!("{all:.0} fuel in {:.1} s", lasted.as_secs_f64());
    // Of what is due.
    let shares = tenants.iter().zip(burnt).map(|((_, weight), burnt)| {
        let (share, due) = (burnt / all, f64::from(*weight) / 7.0);
        println!("weight {weight}: {share:.3} of the fuel, due {due:.3}");
        share / due
    });
    let shares: Vec<f64> = shares.collect();
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|x| x * x).sum();
    let jain = sum * sum / (3.0 * squares);
    println!("Jain's index {jain:.4}");
    // Runs that the ends of the time cut are taken to burn evenly, and are more of the short form.
    let most = if scale() >= 8 { 0.05 } else { 0.15 };
    let off = shares.iter().map(|share| (share - 1.0).abs());
    let off = off.fold(0.0, f64::max);
    assert!(off <= most, "shares off by {off}");
}

/// How long B's tasks take, one at a time, heard by an ear that hears nothing else.
async fn latencies(
    rig: &Rig,
    ear: &mut Ear,
    numbers: std::ops::Range<u32>,
    pace: Duration,
) -> Vec<f64> {
    let mut due = Instant::now();
    let mut latencies = Vec::new();
    for number in numbers {
        due += pace;
        sleep_until(due).await;
        let asked = Instant::now();
        queue(rig, "b", 20_000_000, number..number + 1).await;
        let outcome = ear.outcome(&format!("b-{number}")).await;
        assert_eq!(outcome["status"], "succeeded", "{outcome}");
        latencies.push(asked.elapsed().as_secs_f64() * 1e3);
    }
    latencies.sort_by(f64::total_cmp);
    latencies
}

/// A queues thousands of tasks, B sends one now and then.
pub(crate) async fn a_flood_delays_no_neighbour() {
    let mut rig = with_tenants(&[("a", 1), ("b", 1)]).await;
    let mut ear = Ear::hearing(&rig.config.mqtt.url, &["tenants/b/task_completed"]).await;
    let (pace, count) = (Duration::from_millis(200), 10 * scale());
    latencies(&rig, &mut ear, 0..2, pace).await;
    let alone = latencies(&rig, &mut ear, 100..100 + count, pace).await;
    // Each about as long as one of B's: the whole flood is more than B's time takes.
    let flood = 2500 * scale();
    queue(&rig, "a", 5_000_000, 0..flood).await;
    let beside = latencies(&rig, &mut ear, 1000..1000 + count, pace).await;
    let ended = Instant::now();
    let p95 = |sorted: &[f64]| sorted[(sorted.len() * 95 / 100).min(sorted.len() - 1)];
    println!(
        "B's p95 alone {:.1} ms, beside a flood of {flood} of A's {:.1} ms: {:.2} times",
        p95(&alone),
        p95(&beside),
        p95(&beside) / p95(&alone),
    );
    // The flood is whole, and was there until the end.
    let (mut answered, mut last) = (BTreeSet::new(), Instant::now());
    while answered.len() < flood as usize {
        let inbound = rig
            .ear
            .hear(|i| i.topic == "tenants/a/task_completed")
            .await;
        let outcome = json(&inbound).expect("JSON");
        assert_eq!(outcome["status"], "succeeded", "{outcome}");
        answered.insert(outcome["id"].to_string());
        last = Instant::now();
    }
    println!(
        "A's last task ended {:.1} s after B's last",
        (last - ended).as_secs_f64()
    );
    rig.end().await;
}
