//! What a slot remembers of its lanes, in its folder: for which the broker may have a session, and which have everything.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::warn;

const FILE: &str = "lanes.json";

/// By the lanes' names, whether everything that was published before a lane was there has come over the others' lane.
/// Survives the process: else each start would begin in doubt, and a lane that nobody wants any more would leave its
/// session, with the tasks in it, to nobody.
#[derive(Clone)]
pub(super) struct Memory {
    file: Option<PathBuf>,
    lanes: Arc<Mutex<BTreeMap<String, bool>>>,
}

impl Memory {
    pub(super) fn read(folder: Option<PathBuf>) -> Memory {
        let file = folder.map(|folder| folder.join(FILE));
        let read = file.as_ref().and_then(|file| std::fs::read(file).ok());
        let lanes = read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Memory {
            file,
            lanes: Arc::new(Mutex::new(lanes.unwrap_or_default())),
        }
    }

    /// The lanes that may have a session.
    pub(super) fn names(&self) -> Vec<String> {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.keys().cloned().collect()
    }

    pub(super) fn has_everything(&self, lane: &str) -> bool {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.get(lane).copied().unwrap_or_default()
    }

    /// There is one, or is about to be.
    pub(super) fn add(&self, lane: &str) {
        let everything = self.has_everything(lane);
        self.set(lane, everything);
    }

    pub(super) fn set(&self, lane: &str, everything: bool) {
        self.change(|lanes| lanes.insert(lane.to_owned(), everything) != Some(everything));
    }

    /// Its session has ended.
    pub(super) fn forget(&self, lane: &str) {
        self.change(|lanes| lanes.remove(lane).is_some());
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, bool>) -> bool) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if !change(&mut lanes) {
            return;
        }
        let Some(file) = &self.file else { return };
        let written = serde_json::to_vec(&*lanes)
            .map_err(std::io::Error::from)
            .and_then(|bytes| {
                let beside = file.with_extension("new");
                std::fs::write(&beside, bytes)?;
                std::fs::rename(&beside, file)
            });
        if let Err(error) = written {
            // Not remembered, the next start begins in doubt; remembered wrongly is worse.
            let _ = std::fs::remove_file(file);
            warn!(%error, file = %file.display(), "lanes not remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_there_after_a_restart() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let read = || Memory::read(Some(folder.path().to_owned()));
        let memory = read();
        memory.set("acme", true);
        memory.add("acme");
        memory.add("globex");
        memory.add("initech");
        memory.forget("initech");
        let memory = read();
        assert_eq!(memory.names(), ["acme", "globex"]);
        assert!(memory.has_everything("acme") && !memory.has_everything("globex"));
        memory.set("acme", false);
        assert!(!read().has_everything("acme"));
    }
}
