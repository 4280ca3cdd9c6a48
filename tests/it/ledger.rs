//! `LEDGER.md`: what is promised, and what was measured of it, broker by broker and fault by fault.
//!
//! `WASMQTT_LEDGER=write cargo test --workspace --test it -- ledger --nocapture` measures and writes the table; without the
//! variable the trial only looks whether the table is complete.

use std::path::PathBuf;

use tokio::time::sleep;

use crate::faults::{Fault, Kind, Load, Report, Run, strike};

const BEGIN: &str = "<!-- measured -->";
const END: &str = "<!-- /measured -->";

/// The columns.
const BROKERS: &[(&str, Kind)] = &[
    ("embedded", Kind::Embedded),
    ("mosquitto 2.0 as installed", Kind::Installed),
    ("mosquitto 2.0 saving every change", Kind::Saving),
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
        let cells = row.map(|row| row.matches(" lost").count());
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
            let report = cell(words, *kind, *fault, *strikes).await;
            let verdict = &report.verdict;
            assert!(verdict.is_consistent(), "{verdict}");
            let lost = report
                .lost
                .iter()
                .map(|(seen, ids)| format!("{} {seen}", ids.len()));
            let lost: Vec<String> = lost.collect();
            let lost = match lost.is_empty() {
                true => String::new(),
                false => format!(" ({})", lost.join("; ")),
            };
            table += &format!(
                " {} of {} delivered, {} lost{lost}, {} duplicated |",
                verdict.acknowledged - verdict.lost.len(),
                verdict.acknowledged,
                verdict.lost.len(),
                verdict.duplicated()
            );
        }
        table.push('\n');
    }
    table
}

async fn cell(words: &'static str, kind: Kind, fault: Fault, strikes: usize) -> Report {
    // The embedded broker ends with its process only, which is a runner's.
    let of_the_broker = matches!(fault, Fault::BrokerKilled | Fault::BrokerRestarted);
    let kind = match kind {
        Kind::Embedded if of_the_broker => Kind::Serving,
        kind => kind,
    };
    println!("{kind:?}:");
    let mut run = Run::new(words, kind).await;
    run.load(Load::of(TASKS));
    for _ in 0..strikes {
        sleep(run.chance.time(500..1500)).await;
        strike(&mut run, fault).await;
    }
    run.submitted().await;
    run.finish().await
}
