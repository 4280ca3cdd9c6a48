//! Reads the configuration again on SIGHUP, and when its file changes.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info};

use crate::config::Config;
use crate::runner::Reloader;
use crate::stamp::Stamp;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What makes the configuration be read again.
pub(super) struct Reloads {
    hangup: Signal,
    seen: Option<Stamp>,
}

/// None of a file that is away.
pub(super) fn stamp(file: &Path) -> Option<Stamp> {
    Some(Stamp::of(&std::fs::metadata(file).ok()?))
}

impl Reloads {
    /// From now on SIGHUP does not end the process. `seen` is from before the configuration was read: a change since then
    /// is one.
    pub(super) fn listen(seen: Option<Stamp>) -> Result<Reloads> {
        let hangup = signal(SignalKind::hangup()).context("failed to listen for signals")?;
        Ok(Reloads { hangup, seen })
    }

    /// Hands every configuration that can be read to the runner, for as long as this is awaited. One that cannot is
    /// reported, and the last one stays.
    pub(super) async fn follow(
        mut self,
        reloader: &Reloader,
        file: Option<&Path>,
        load: impl Fn() -> Result<Config>,
    ) {
        let mut known = self.seen;
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
