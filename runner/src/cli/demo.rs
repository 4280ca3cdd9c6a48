//! `wasmqtt demo`: broker, runner and every example on its sample input, in one process.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use wasmqtt_examples::{Example, Expect};

use crate::cli::report::{bytes, count};
use crate::cli::together::Together;
use crate::cli::{FAILED, OK, network_runtime};
use crate::client::Update;
use crate::envelope::answer::Request;
use crate::task::ModuleName;
use crate::task::ModuleRef;
use crate::task::outcome::{Outcome, Status};

/// How long one example may take. Compiling all of them with a slow machine's one core is the most of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// See it work: a broker, a runner and the examples, all in this process
///
/// Starts the embedded broker on a free port, publishes the example modules, submits each on its sample
/// input over MQTT and shows what becomes of it. Two of them misbehave on purpose and are stopped by their
/// limits. Exits with 0 only if every outcome is the expected one.
#[derive(Debug, Args)]
pub(super) struct Demo {}

impl Demo {
    pub(super) fn run(self) -> Result<u8> {
        let unexpected = network_runtime()?.block_on(demo())?;
        if unexpected == 0 {
            println!(
                "\nevery outcome as expected; next: wasmqtt serve --embedded-broker, and README.md"
            );
            return Ok(OK);
        }
        println!("\n{unexpected} outcomes were not as expected");
        Ok(FAILED)
    }
}

async fn demo() -> Result<usize> {
    let together = Together::start("demo").await?;
    println!(
        "broker at {}, {} modules, {} guests at one time\n",
        together.url(),
        wasmqtt_examples::ALL.len(),
        together.concurrency
    );

    for example in wasmqtt_examples::ALL {
        let name = ModuleName::parse(example.name).map_err(anyhow::Error::msg)?;
        together.push(&name, example.wasm).await?;
    }
    let table = Table::new();
    let mut tasks = JoinSet::new();
    for example in wasmqtt_examples::ALL {
        let mut request = Request::new(
            ModuleRef::parse(example.name).map_err(anyhow::Error::msg)?,
            example.input,
        );
        request.content_type = Some(example.content_type.to_owned());
        request.events = true;
        let (_, updates) = together.client.submit(&request).await?;
        let row = table.row(example, &request);
        tasks.spawn(async move {
            let outcome = tokio::time::timeout(PATIENCE, watch(updates, &row))
                .await
                .ok()
                .flatten();
            row.end(outcome.as_ref())
        });
    }
    let unexpected = tasks
        .join_all()
        .await
        .into_iter()
        .filter(|expected| !expected)
        .count();
    together.end().await?;
    Ok(unexpected)
}

async fn watch(mut updates: mpsc::UnboundedReceiver<Update>, row: &Row) -> Option<Outcome> {
    while let Some(update) = updates.recv().await {
        match update {
            Update::Ended(outcome) => return Some(*outcome),
            Update::Status(status) => row.show(&status),
            Update::Progress {
                done,
                total,
                message,
            } => row.show(&format!("{done}/{total} {message}")),
            Update::Log { .. } | Update::Unheard => {}
        }
    }
    None
}

/// One line a task: live on a terminal, printed at its end elsewhere.
struct Table {
    bars: MultiProgress,
}

struct Row {
    bar: ProgressBar,
    example: Example,
    id: String,
}

impl Table {
    fn new() -> Table {
        println!(
            "{:<12} {:<36} {:<28} {:>8} {:>10} {:>9}",
            "module", "id", "status", "fuel", "memory", "run"
        );
        Table {
            bars: MultiProgress::new(),
        }
    }

    fn row(&self, example: &Example, request: &Request) -> Row {
        let bar = self.bars.add(ProgressBar::no_length());
        bar.set_style(
            ProgressStyle::with_template("{msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        let row = Row {
            bar,
            example: *example,
            id: request.id.to_string(),
        };
        row.show("published");
        row
    }
}

impl Row {
    fn show(&self, status: &str) {
        self.bar.set_message(format!(
            "{:<12} {:<36} {status}",
            self.example.name, self.id
        ));
    }

    /// The last word on a task; whether it is the expected one.
    fn end(&self, outcome: Option<&Outcome>) -> bool {
        let Some(outcome) = outcome else {
            self.print(format!(
                "{:<12} {:<36} no outcome",
                self.example.name, self.id
            ));
            return false;
        };
        let code = outcome
            .error
            .as_ref()
            .map(|error| format!(" ({})", error.code));
        let line = format!(
            "{:<12} {:<36} {:<28} {:>8} {:>10} {:>6.1} ms",
            self.example.name,
            self.id,
            format!("{}{}", outcome.status, code.unwrap_or_default()),
            count(outcome.usage.fuel),
            bytes(outcome.usage.peak_memory_bytes),
            outcome.usage.run_ms
        );
        let surprise = surprise(&self.example.expect, outcome);
        let line = match &surprise {
            None => line,
            Some(why) => format!("{line}\n  NOT AS EXPECTED: {why}"),
        };
        self.print(line);
        surprise.is_none()
    }

    fn print(&self, line: String) {
        if self.bar.is_hidden() {
            println!("{line}");
        } else {
            self.bar.finish_with_message(line);
        }
    }
}

/// What is not as expected of an outcome.
fn surprise(expect: &Expect, outcome: &Outcome) -> Option<String> {
    let error = outcome.error.as_ref();
    if let Expect::Error(code) = expect {
        let same = error.is_some_and(|error| error.code.as_str() == *code);
        return (!same).then(|| {
            format!(
                "wanted the error {code}, got {}",
                error.map_or("none".to_owned(), ToString::to_string)
            )
        });
    }
    let output = match (outcome.status, &outcome.output) {
        (Status::Succeeded, Some(output)) => &output.data,
        (status, _) => {
            return Some(format!(
                "{status}: {}",
                error.map_or(String::new(), ToString::to_string)
            ));
        }
    };
    match expect {
        Expect::Output(wanted) => {
            (output != wanted).then(|| format!("another output, of {} bytes", output.len()))
        }
        Expect::Png { width, height } => {
            // The header's chunk comes first and holds both as big-endian numbers.
            let size = output
                .get(16..24)
                .filter(|_| output.starts_with(b"\x89PNG"));
            let wanted = [width.to_be_bytes(), height.to_be_bytes()].concat();
            (size != Some(&wanted[..])).then(|| format!("no PNG of {width}x{height}"))
        }
        Expect::Error(_) => None,
    }
}
