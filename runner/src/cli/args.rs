//! Arguments that several commands share, and how sizes, times and inputs are written.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;

use crate::config::{self, Config};
use crate::modules::jail::Compiler;
use crate::task::TaskId;
use crate::task::limits::RequestedLimits;
use crate::task::tenant::TenantId;

/// Which broker, and the configuration that says how to reach it.
#[derive(Debug, Args)]
pub(super) struct Connection {
    /// The broker: mqtt://host[:port], mqtts://…, ws://host:port/path or unix:///path
    #[arg(long, value_name = "URL")]
    pub(super) broker: Option<String>,
    /// The configuration file (credentials and TLS are under [mqtt]); every key is documented in
    /// examples/wasmqtt.toml
    #[arg(long, value_name = "FILE", env = "WASMQTT_CONFIG")]
    pub(super) config: Option<PathBuf>,
}

impl Connection {
    /// The configuration with this command's flags on top.
    pub(super) fn load(&self, more: &[(&str, Option<String>)]) -> Result<Config> {
        let mut flags = vec![];
        for (key, value) in [("mqtt.url", self.broker.clone())].iter().chain(more) {
            flags.extend(value.clone().map(|value| (*key, value)));
        }
        let mut config = config::load(self.config.as_deref(), std::env::vars(), &flags)?;
        config.modules.compiler = Compiler::jail();
        Ok(config)
    }

    pub(super) fn config_file(&self) -> Option<&Path> {
        self.config.as_deref()
    }
}

/// Which task is asked about, and how its outcome is shown.
#[derive(Debug, Args)]
pub(super) struct AskArgs {
    /// The task's id
    #[arg(value_parser = TaskId::parse)]
    pub(super) id: TaskId,
    /// The tenant whose task it is
    #[arg(long, value_parser = parse_tenant, default_value = TenantId::DEFAULT)]
    pub(super) tenant: TenantId,
    /// How long to wait for the outcome
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "5s")]
    pub(super) wait: Duration,
    /// Print the outcome as JSON to stdout
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) connection: Connection,
}

/// Limits of one task; what is left out is the runner's default.
#[derive(Debug, Args)]
pub(super) struct LimitArgs {
    /// The most fuel, in units of about one wasm instruction
    #[arg(long, value_name = "UNITS", value_parser = parse_count)]
    fuel: Option<u64>,
    /// The most memory, such as 64MiB
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    memory: Option<u64>,
    /// The longest that it may run, such as 10s or 500ms
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// The most output, such as 1MiB
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    output: Option<u64>,
}

impl LimitArgs {
    pub(super) fn requested(&self) -> RequestedLimits {
        RequestedLimits {
            fuel: self.fuel,
            memory_bytes: self.memory,
            timeout_ms: self
                .timeout
                .map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
            output_bytes: self.output,
        }
    }
}

/// What a task is given.
#[derive(Debug, Args)]
pub(super) struct InputArgs {
    /// The input: TEXT, @FILE, or - for standard input
    #[arg(long, value_name = "TEXT|@FILE|-")]
    input: Option<String>,
    /// The media type of the input
    #[arg(long, value_name = "TYPE")]
    pub(super) content_type: Option<String>,
    /// A label, which the guest sees and the outcome repeats; may be given more than once
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_label)]
    pub(super) labels: Vec<(String, String)>,
}

impl InputArgs {
    /// Whether no input was named.
    pub(super) fn is_left_out(&self) -> bool {
        self.input.is_none()
    }

    pub(super) fn read(&self) -> Result<Bytes> {
        let input = self.input.as_deref().unwrap_or_default();
        if input == "-" {
            let mut bytes = Vec::new();
            std::io::stdin()
                .lock()
                .read_to_end(&mut bytes)
                .context("failed to read standard input")?;
            return Ok(bytes.into());
        }
        match input.strip_prefix('@') {
            Some(path) => Ok(std::fs::read(path)
                .with_context(|| format!("failed to read {path}"))?
                .into()),
            None => Ok(input.to_owned().into()),
        }
    }
}

pub(super) fn parse_tenant(text: &str) -> Result<TenantId, String> {
    TenantId::parse(text)
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a label is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// `1000000`, `1_000_000` or `1M` (also k, G).
pub(super) fn parse_count(text: &str) -> Result<u64, String> {
    scaled(
        text,
        &[
            ("", 1),
            ("k", 1_000),
            ("K", 1_000),
            ("M", 1_000_000),
            ("G", 1_000_000_000),
        ],
    )
}

/// `65536`, `64KiB`, `64MiB`, `1GiB`, `64kB`, `64MB`, `1GB`.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    let units = [
        ("", 1),
        ("B", 1),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("kB", 1_000),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
    ];
    scaled(text, &units)
}

/// `500ms`, `10s`, `5m`, `1h`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    scaled(
        text,
        &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)],
    )
    .map(Duration::from_millis)
}

/// `2026-01-31T12:00:00Z`, or with an offset.
pub(super) fn parse_time(text: &str) -> Result<SystemTime, String> {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => Ok(time.into()),
        Err(_) => Err("expected an RFC 3339 time such as 2026-01-31T12:00:00Z".to_owned()),
    }
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '_')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = units
        .iter()
        .find(|(name, _)| *name == unit.trim())
        .map(|(_, factor)| *factor);
    let names: Vec<&str> = units
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !name.is_empty())
        .collect();
    let value = number.replace('_', "").parse::<u64>().ok().zip(factor);
    let value = value.and_then(|(number, factor)| number.checked_mul(factor));
    value.ok_or_else(|| {
        format!(
            "expected a whole number with a unit of {}",
            names.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_day() {
        let noon = parse_time("1970-01-01T12:00:00Z");
        assert_eq!(
            noon,
            Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(43_200))
        );
        assert_eq!(parse_time("1970-01-01T14:00:00+02:00"), noon);
        for bad in ["", "tomorrow", "12:00", "2026-01-31"] {
            assert!(parse_time(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_counts_and_times() {
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("10"), Ok(10));
        assert_eq!(parse_count("1_000"), Ok(1000));
        assert_eq!(parse_count("2M"), Ok(2_000_000));
        assert_eq!(parse_duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "10", "s", "1d", "-1s", "99999999999999999999s"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }
}
