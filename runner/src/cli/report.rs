//! How an outcome is shown to a person.

use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};

use crate::cli::{OK, TASK_FAILED};
use crate::envelope::encode;
use crate::task::outcome::{Outcome, Status};

/// Output raw to stdout, summary to stderr; or the outcome as JSON to stdout. The exit code says whether the
/// task succeeded.
pub(super) fn outcome(outcome: &Outcome, json: bool) -> Result<u8> {
    let mut stdout = std::io::stdout().lock();
    let written = if json {
        stdout
            .write_all(&encode::as_json(outcome))
            .and_then(|()| stdout.write_all(b"\n"))
    } else {
        eprintln!("{}", summary(outcome));
        let output = outcome
            .output
            .as_ref()
            .map_or(&[][..], |output| &output.data);
        // The shell's prompt goes on a line of its own; a file or a pipe has what the guest said, to the byte.
        let end = match stdout.is_terminal() && !output.is_empty() && !output.ends_with(b"\n") {
            true => &b"\n"[..],
            false => b"",
        };
        stdout
            .write_all(output)
            .and_then(|()| stdout.write_all(end))
    };
    written
        .and_then(|()| stdout.flush())
        .context("failed to write the output")?;
    Ok(if outcome.status == Status::Succeeded {
        OK
    } else {
        TASK_FAILED
    })
}

fn summary(outcome: &Outcome) -> String {
    let usage = &outcome.usage;
    let mut text = format!("{} {}", outcome.id, outcome.status);
    if outcome.started_at.is_some() {
        text += &format!(
            " · fuel {} · memory {} · {:.1} ms · module {}",
            count(usage.fuel),
            bytes(usage.peak_memory_bytes),
            usage.run_ms,
            usage.module_cache.map_or("?", |hit| hit.as_str())
        );
    }
    if let Some(error) = &outcome.error {
        text += &format!("\n{error}");
        for frame in &error.backtrace {
            text += &format!("\n    {frame}");
        }
    }
    text
}

/// `1234567` as `1.23M`.
pub(super) fn count(number: u64) -> String {
    let scaled = |unit: f64, name| {
        let value = number as f64 / unit;
        let places = if value < 10.0 {
            2
        } else {
            usize::from(value < 100.0)
        };
        format!("{value:.places$}{name}")
    };
    match number {
        0..10_000 => number.to_string(),
        10_000..1_000_000 => scaled(1e3, "k"),
        1_000_000..1_000_000_000 => scaled(1e6, "M"),
        _ => scaled(1e9, "G"),
    }
}

/// `1114112` as `1.1 MiB`.
pub(super) fn bytes(number: u64) -> String {
    match number {
        0..1024 => format!("{number} B"),
        1024..1_048_576 => format!("{} KiB", number >> 10),
        _ => format!("{:.1} MiB", number as f64 / f64::from(1 << 20)),
    }
}
