//! The slot that a runner fills: a name, and a folder that a lock keeps for it.
//!
//! A broker keeps the tasks of a client that is gone for the same client id, and the journal keeps its outcomes. So who
//! replaces a dead runner must come under its name and with its folder: the first slot whose lock is free.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::Mode;
use tracing::info;

use crate::config::Config;

/// Runners of one name on one machine.
const MAX_SLOTS: u16 = 256;

/// A slot that is ours while this lives.
pub(super) struct Slot {
    /// The runner's name: of slot 0 the configured one, of the others with their number.
    pub(super) name: String,
    /// Where its journal is; none when nothing is to survive.
    pub(super) folder: Option<PathBuf>,
    _lock: Option<File>,
}

impl Slot {
    /// Takes the configured slot, or the first that is free.
    pub(super) fn take(config: &Config) -> Result<Slot> {
        let wanted = config.slot()?;
        let Some(state) = &config.journal.directory else {
            return Ok(Slot {
                name: name(&config.runner.name, wanted.unwrap_or(0)),
                folder: None,
                _lock: None,
            });
        };
        let (first, last) = wanted.map_or((0, MAX_SLOTS - 1), |number| (number, number));
        for number in first..=last {
            let name = name(&config.runner.name, number);
            let folder = state.join(&config.mqtt.group).join(format!("slot-{name}"));
            make(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
            let path = folder.join("lock");
            let lock = File::create(&path)
                .with_context(|| format!("failed to create {}", path.display()))?;
            match lock.try_lock() {
                Ok(()) => {
                    info!(runner = name, folder = %folder.display(), "slot taken");
                    return Ok(Slot {
                        name,
                        folder: Some(folder),
                        _lock: Some(lock),
                    });
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(error)
                        .with_context(|| format!("failed to lock {}", path.display()));
                }
            }
        }
        let (name, state) = (&config.runner.name, state.display());
        match wanted {
            Some(number) => {
                bail!("slot {number} of {name:?} in {state} is taken by another process")
            }
            None => {
                bail!("all {MAX_SLOTS} slots of {name:?} in {state} are taken by other processes")
            }
        }
    }
}

fn name(name: &str, number: u16) -> String {
    match number {
        0 => name.to_owned(),
        number => format!("{name}.{number}"),
    }
}

/// What tasks said and got is in there: nobody else's business.
fn make(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    rustix::fs::chmod(folder, Mode::RWXU)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_one() {
        let state = tempfile::TempDir::new().expect("a folder");
        let mut config = Config::default();
        config.runner.name = "edge".to_owned();
        config.journal.directory = Some(state.path().to_owned());
        let first = Slot::take(&config).expect("a slot");
        let second = Slot::take(&config).expect("a slot");
        assert_eq!((&*first.name, &*second.name), ("edge", "edge.1"));
        drop(first);
        let again = Slot::take(&config).expect("a slot");
        assert_eq!(again.name, "edge");
        config.runner.slot = "1".to_owned();
        let taken = Slot::take(&config).err().expect("it is taken").to_string();
        assert!(taken.contains("slot 1 of \"edge\""), "{taken}");
        drop(second);
        assert_eq!(Slot::take(&config).expect("a slot").name, "edge.1");
    }
}
