//! Reads the configuration again on SIGHUP, and when its file changes.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info};

use crate::config::Config;
use crate::runner::Reloader;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What makes the configuration be read again.
pub(super) struct Reloads {
    hangup: Signal,
}

impl Reloads {
    /// From now on SIGHUP does not end the process.
    pub(super) fn listen() -> Result<Reloads> {
        let hangup = signal(SignalKind::hangup()).context("failed to listen for signals")?;
        Ok(Reloads { hangup })
    }

    /// Hands every configuration that can be read to the runner, for as long as this is awaited. One that cannot is
    /// reported, and the last one stays.
    pub(super) async fn follow(
        mut self,
        reloader: &Reloader,
        file: Option<&Path>,
        load: impl Fn() -> Result<Config>,
    ) {
        let mut known = file.and_then(stamp);
        loop {
            tokio::select! {
                _ = self.hangup.recv() => info!("asked to read the configuration again"),
                () = tokio::time::sleep(LOOK) => {
                    let now = file.and_then(stamp);
                    // A file that is away is about to be replaced.
                    if now.is_none() || now == known {
                        continue;
                    }
                    info!("the configuration file has changed");
                }
            }
            known = file.and_then(stamp);
            let reloaded = match load() {
                Ok(config) => reloader.reload(&config).await,
                Err(why) => Err(why),
            };
            if let Err(why) = reloaded {
                error!(
                    error = format!("{why:#}"),
                    "the configuration cannot be read, the last one stays"
                );
            }
        }
    }
}

fn stamp(file: &Path) -> Option<(u64, u64, i64, i64)> {
    let meta = std::fs::metadata(file).ok()?;
    Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}
