//! `LEDGER.md`: what is promised, and what was measured of it, broker by broker and fault by fault.
//!
//! `WASMQTT_LEDGER=write cargo test --workspace --test it -- ledger --nocapture` measures and writes the table; without the
//! variable the trial only looks whether the table is complete.

use std::path::PathBuf;

use tokio::time::sleep;

use crate::faults::{Fault, Kind, Load, Run, cluster, strike};

const BEGIN: &str = "<!-- measured -->";
const END: &str = "<!-- /measured -->";

/// The columns.
const BROKERS: &[(&str, Kind)] = &[
    ("embedded", Kind::Embedded),
    ("mosquitto 2.0 as installed", Kind::Installed),
    ("mosquitto 2.0 saving every change", Kind::Saving),
    ("rmqtt 0.24, a cluster of three", Kind::Cluster),
];

/// The rows: how many strikes, and in which words.
const FAULTS: &[(&str, Fault, usize)] = &[
    (
        "runner killed (kill -9), started again",
        Fault::RunnerKilled,
        2,
    ),
    ("runner stopped for 12 s (SIGSTOP)", Fault::RunnerStopped, 1),
    (
        "runner restarted cleanly (SIGTERM)",
        Fault::RunnerRestarted,
        2,
    ),
    ("link between runner and broker cut", Fault::LinkCut, 5),
    (
        "broker killed (kill -9), started again",
        Fault::BrokerKilled,
        1,
    ),
    ("broker restarted cleanly", Fault::BrokerRestarted, 1),
    ("submitter killed (kill -9)", Fault::SubmitterKilled, 2),
];

/// In each cell.
const TASKS: usize = 400;

/// What a cell says of a broker that is not here.
const NOT_MEASURED: &str = "not measured here";

pub(crate) async fn the_table_is_complete() {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../LEDGER.md"));
    let text = std::fs::read_to_string(&path).expect("LEDGER.md");
    let (before, rest) = text.split_once(BEGIN).expect("the table's beginning");
    let (table, after) = rest.split_once(END).expect("the table's end");
    if std::env::var_os("WASMQTT_LEDGER").is_some_and(|wish| wish == "write") {
        let table = measure().await;
        let text = format!("{before}{BEGIN}\n\n{table}\n{END}{after}");
        return std::fs::write(&path, text).expect("LEDGER.md");
    }
    for (words, ..) in FAULTS {
        let row = table.lines().find(|line| line.contains(words));
        let filled = |cell: &&str| cell.contains(" lost") || cell.contains(NOT_MEASURED);
        let cells = row.map(|row| row.split('|').filter(filled).count());
        assert_eq!(cells, Some(BROKERS.len()), "{words}: measure it anew");
    }
}

async fn measure() -> String {
    let names: Vec<&str> = BROKERS.iter().map(|(name, _)| *name).collect();
    let mut table = format!("| fault | {} |\n", names.join(" | "));
    table += &format!("| --- |{}\n", " --- |".repeat(names.len()));
    for (words, fault, strikes) in FAULTS {
        table += &format!("| {words} |");
        for (_, kind) in BROKERS {
            table += &format!(" {} |", cell(words, *kind, *fault, *strikes).await);
        }
        table.push('\n');
    }
    table
}

async fn cell(words: &'static str, kind: Kind, fault: Fault, strikes: usize) -> String {
    let of_the_broker = matches!(fault, Fault::BrokerKilled | Fault::BrokerRestarted);
    match kind {
        Kind::Cluster if cluster::binary().is_none() => {
            let left_out = format!("{NOT_MEASURED}: `{}`", cluster::BUILD);
            println!("{kind:?}: {words}: {left_out}");
            left_out
        }
        // It makes a difference whose node it is.
        Kind::Cluster if of_the_broker => {
            let mut nodes = Vec::new();
            for (node, whose) in cluster::NODES.iter().enumerate() {
                let measured = measured(words, kind, node, fault, strikes).await;
                nodes.push(format!("{whose}: {measured}"));
            }
            nodes.join("<br>")
        }
        // It ends with its process only, which is a runner's.
        Kind::Embedded if of_the_broker => measured(words, Kind::Serving, 0, fault, strikes).await,
        kind => measured(words, kind, 0, fault, strikes).await,
    }
}

async fn measured(
    words: &'static str,
    kind: Kind,
    node: usize,
    fault: Fault,
    strikes: usize,
) -> String {
    println!("{kind:?}:");
    let mut run = Run::new(words, kind).await;
    run.broker.aim(node);
    run.load(Load::of(TASKS));
    for _ in 0..strikes {
        sleep(run.chance.time(500..1500)).await;
        strike(&mut run, fault).await;
    }
    run.submitted().await;
    let report = run.finish().await;
    let verdict = &report.verdict;
    assert!(verdict.is_consistent(), "{verdict}");
    let lost = report.lost.iter();
    let lost = lost.map(|(seen, ids)| format!("{} {seen}", ids.len()));
    let lost: Vec<String> = lost.collect();
    let lost = match lost.is_empty() {
        true => String::new(),
        false => format!(" ({})", lost.join("; ")),
    };
    format!(
        "{} of {} delivered, {} lost{lost}, {} duplicated",
        verdict.acknowledged - verdict.lost.len(),
        verdict.acknowledged,
        verdict.lost.len(),
        verdict.duplicated()
    )
}
