//! Tenants on one broker: who can hear, say and take what. Judged by effect, not by what the broker answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::access_cases::{CASES, Case, Do};
use crate::fenced::{Fenced, Kind};
use crate::rig::PATIENCE;
use crate::stranger::Stranger;

/// After the last message that is expected: how long nothing else comes.
const QUIET: Duration = Duration::from_millis(500);
/// Tasks of each tenant while everybody listens.
const TASKS: usize = 10;

pub(crate) async fn matrix_on_mosquitto() {
    matrix(Kind::Mosquitto).await;
}

pub(crate) async fn matrix_on_the_embedded_broker() {
    matrix(Kind::Embedded).await;
}

/// The whole table, in both versions of MQTT, at one time.
async fn matrix(kind: Kind) {
    let fenced = Fenced::start(kind, "").await;
    let mut canary = fenced.stranger("operator", 5).await;
    assert!(canary.subscribe("#").await && canary.subscribe("$SYS/#").await);
    let versions: Vec<(usize, u8, &Case)> = CASES
        .iter()
        .flat_map(|case| [(5, case), (4, case)])
        .enumerate()
        .map(|(number, (version, case))| (number, version, case))
        .collect();
    // Ears first, and they stay; then everything that is said.
    let mut ears = Vec::new();
    for (number, version, case) in &versions {
        if case.does == Do::Subscribe {
            let mut ear = fenced.stranger(case.who, *version).await;
            let granted = ear.subscribe(case.topic).await;
            ears.push((*number, *version, *case, ear, granted));
        }
    }
    for (number, version, case) in &versions {
        say(&fenced, *number, *version, case).await;
    }
    let tasks = submit_for_everybody(&fenced).await;
    let outcomes = outcomes(&canary, &tasks).await;
    secrets(&fenced).await;
    sleep(QUIET).await;

    let mut retained = fenced.stranger("operator", 5).await;
    assert!(retained.subscribe("#").await);
    sleep(QUIET).await;
    let mut wrong: Vec<String> = Vec::new();
    for (number, version, case) in &versions {
        let happened = match case.does {
            Do::Subscribe => continue,
            // Kept, or replaced by the same case's in the other version. Wills of two connections
            // come in either order.
            Do::Retain | Do::RetainedWill => {
                let other = if *version == 5 {
                    number + 1
                } else {
                    number - 1
                };
                said(&retained, *number) || said(&canary, *number) && said(&retained, other)
            }
            Do::Reply => answered(&canary, *number, case.topic),
            Do::Publish | Do::Will => said(&canary, *number),
        };
        if happened != case.allowed {
            wrong.push(format!("MQTT {version}: {case:?} happened: {happened}"));
        }
    }
    let mut leaks = 0;
    for (_, version, case, ear, granted) in &ears {
        let heard = ear.heard();
        let foreign: BTreeSet<&str> = heard
            .iter()
            .map(|(topic, _)| topic.as_str())
            .filter(|topic| !is_own(case.who, topic))
            .collect();
        leaks += foreign.len();
        if !foreign.is_empty() || heard.is_empty() == case.allowed {
            let own = heard.len() - foreign.len();
            wrong.push(format!("MQTT {version}: {case:?} granted: {granted}, heard {own} of its own and {foreign:?}"));
        }
    }
    let stolen = tasks.len() - outcomes;
    println!(
        "{kind:?}: {} cases, {} of them denied; {leaks} leaks, {stolen} of {} tasks stolen",
        versions.len(),
        versions.iter().filter(|(_, _, case)| !case.allowed).count(),
        tasks.len()
    );
    assert!(wrong.is_empty(), "{:#?}\n{}", wrong, fenced.serve.log());
    assert_eq!(stolen, 0, "{}", fenced.serve.log());
    assert!(CASES.len() >= 60, "{}", CASES.len());
    fenced.serve.end().await;
}

/// What a case publishes, one way or the other.
async fn say(fenced: &Fenced, number: usize, version: u8, case: &Case) {
    let payload = payload(number);
    let password = fenced.password(case.who);
    let mut papers = fenced.papers(case.who, &password, version);
    match case.does {
        Do::Subscribe => {}
        Do::Publish | Do::Retain => {
            let mut stranger = Stranger::connect(papers).await.expect("let in");
            let retain = case.does == Do::Retain;
            stranger.publish(case.topic, &payload, retain).await;
        }
        Do::Will | Do::RetainedWill => {
            papers.will = Some((case.topic, &payload, case.does == Do::RetainedWill));
            if let Ok(stranger) = Stranger::connect(papers).await {
                stranger.die().await;
            }
        }
        Do::Reply => {
            let mut stranger = Stranger::connect(papers).await.expect("let in");
            let task =
                json!({"id": payload, "module": "echo", "input": "x", "reply_to": case.topic});
            let queue = match case.who {
                "default" => "task_queue".to_owned(),
                tenant => format!("tenants/{tenant}/task_queue"),
            };
            assert!(stranger.publish(&queue, &task.to_string(), false).await);
        }
    }
}

fn payload(number: usize) -> String {
    format!("case-{number}")
}

fn said(canary: &Stranger, number: usize) -> bool {
    let payload = payload(number);
    canary
        .heard()
        .iter()
        .any(|(_, heard)| heard == payload.as_bytes())
}

/// Whether the outcome of the case's task came on its topic.
fn answered(canary: &Stranger, number: usize, reply: &str) -> bool {
    let id = payload(number);
    canary.heard().iter().any(|(topic, payload)| {
        let outcome: Option<Value> = serde_json::from_slice(payload).ok();
        topic == reply
            && outcome.is_some_and(|outcome| {
                outcome["id"] == id.as_str() && outcome["status"].is_string()
            })
    })
}

/// Tasks of every tenant, by their own users; their ids and where the outcomes come.
async fn submit_for_everybody(fenced: &Fenced) -> BTreeMap<String, String> {
    let mut tasks = BTreeMap::new();
    for (user, prefix) in [
        ("acme", "tenants/acme/"),
        ("globex", "tenants/globex/"),
        ("default", ""),
    ] {
        let mut producer = fenced.stranger(user, 5).await;
        for number in 0..TASKS {
            let id = format!("{user}-{number}");
            let task =
                json!({"id": id, "module": "echo", "input": "x", "events": true, "logs": true});
            let queue = format!("{prefix}task_queue");
            assert!(producer.publish(&queue, &task.to_string(), false).await);
            tasks.insert(id, format!("{prefix}task_completed"));
        }
    }
    tasks
}

/// How many of the tasks succeeded, when all have or patience is over.
async fn outcomes(canary: &Stranger, tasks: &BTreeMap<String, String>) -> usize {
    let deadline = Instant::now() + PATIENCE / 4;
    loop {
        let ended: BTreeSet<String> = canary
            .heard()
            .into_iter()
            .filter_map(|(topic, payload)| {
                let outcome: Value = serde_json::from_slice(&payload).ok()?;
                let id = outcome["id"].as_str()?.to_owned();
                (tasks.get(&id) == Some(&topic) && outcome["status"] == "succeeded").then_some(id)
            })
            .collect();
        if ended.len() == tasks.len() || Instant::now() > deadline {
            return ended.len();
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Something on every topic that has a meaning.
async fn secrets(fenced: &Fenced) {
    let mut operator = fenced.stranger("operator", 5).await;
    for prefix in ["", "tenants/acme/", "tenants/globex/"] {
        for topic in [
            "task_completed",
            "task_status/1",
            "task_log/1",
            "task_control/1",
            "task_dead_letter",
            "task_reply/1",
            "replies/default/1",
            "replies/other/1",
            "modules/secret",
        ] {
            let topic = format!("{prefix}{topic}");
            assert!(operator.publish(&topic, "secret", false).await, "{topic}");
        }
    }
    for topic in [
        "runner_ended/runners",
        "runner_recurring/runners/x",
        "runner_status/other",
        "elsewhere",
    ] {
        assert!(operator.publish(topic, "", false).await, "{topic}");
    }
}

/// Whether a user may hear of a topic.
fn is_own(user: &str, topic: &str) -> bool {
    const OF_DEFAULT: [&str; 7] = [
        "modules/",
        "task_completed",
        "task_status/",
        "task_log/",
        "task_dead_letter",
        "task_reply/",
        "replies/default/",
    ];
    match user {
        "operator" => true,
        "default" => OF_DEFAULT.iter().any(|own| topic.starts_with(own)),
        tenant => topic.starts_with(&format!("tenants/{tenant}/")),
    }
}
