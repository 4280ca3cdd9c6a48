//! No tenant disturbs another: shares of fuel by weight, and a neighbour of a flood.
//!
//! The long form, which the bars are measured with: `WASMQTT_FAIR_SCALE=8 cargo test --test it fairness -- --nocapture`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::time::{Instant, sleep_until};
use wasmqtt::config::tenants::Tenant;
use wasmqtt::envelope::Message;
use wasmqtt::envelope::encode::rfc3339;
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

/// Three tenants of weights 1, 2 and 4, with tasks of different fuel, who all have tasks waiting all the time.
pub(crate) async fn fuel_follows_the_weights() {
    let tenants = [("one", 1), ("two", 2), ("four", 4)];
    // So many tasks last about as long for each of them.
    let tasks = [("one", 2_000_000), ("two", 4_000_000), ("four", 8_000_000)];
    let count = 300 * scale();
    let mut rig = with_tenants(&tenants).await;
    for (tenant, _) in tenants {
        queue(&rig, tenant, 1, 0..1).await;
        rig.ear.outcome(&format!("{tenant}-0")).await;
    }
    for (tenant, fuel) in tasks {
        queue(&rig, tenant, fuel, 1..count + 1).await;
    }
    // From when all of them have all their tasks here, until one of them has run out.
    let full = rfc3339(SystemTime::now());
    let mut before = BTreeMap::<&str, u32>::new();
    let mut burnt = BTreeMap::<&str, (u32, u64)>::new();
    let ended = |before: &BTreeMap<&str, u32>, burnt: &BTreeMap<&str, (u32, u64)>, name| {
        before.get(name).copied().unwrap_or(0) + burnt.get(name).map_or(0, |(ended, _)| *ended)
    };
    while tenants
        .iter()
        .all(|(name, _)| ended(&before, &burnt, name) < count)
    {
        let inbound = rig.ear.hear(|i| i.topic.ends_with("task_completed")).await;
        let outcome = json(&inbound).expect("JSON");
        assert_eq!(outcome["status"], "succeeded", "{outcome}");
        let id = outcome["id"].as_str().expect("an id");
        let (tenant, _) = id.split_once('-').expect("a tenant");
        let (name, _) = tenants
            .iter()
            .find(|(name, _)| *name == tenant)
            .expect("ours");
        if outcome["finished_at"].as_str() < Some(&full) {
            *before.entry(name).or_default() += 1;
            continue;
        }
        let entry = burnt.entry(name).or_default();
        entry.0 += 1;
        entry.1 += outcome["usage"]["fuel"].as_u64().expect("fuel");
    }
    let all: u64 = burnt.values().map(|(_, fuel)| fuel).sum();
    let mut normalised = Vec::new();
    for (tenant, weight) in tenants {
        let (ended, fuel) = burnt[tenant];
        let due = f64::from(weight) / 7.0;
        let share = fuel as f64 / all as f64;
        println!("weight {weight}: {ended} tasks, {share:.3} of the fuel, due {due:.3}");
        normalised.push(share / due);
    }
    let sum: f64 = normalised.iter().sum();
    let squares: f64 = normalised.iter().map(|x| x * x).sum();
    let jain = sum * sum / (3.0 * squares);
    println!("Jain's index {jain:.4}, {all} fuel");
    // What has begun and not ended is not counted, which is more in the short form.
    let most = if scale() >= 8 { 0.05 } else { 0.3 };
    let off = normalised
        .iter()
        .map(|share| (share - 1.0).abs())
        .fold(0.0, f64::max);
    assert!(off <= most && jain >= 0.95, "shares off by {off}");
    rig.end().await;
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
