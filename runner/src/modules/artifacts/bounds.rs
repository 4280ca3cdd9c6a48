//! What is in a cache folder, and what goes when it is too much.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use tracing::debug;

use crate::modules::artifacts::{Artifacts, DRAFT};
use crate::task::Digest;

/// Nobody compiles for so long: what a killed runner left.
const ABANDONED: Duration = Duration::from_secs(2 * 86_400);

/// A compiled module on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Of the module that it was compiled from.
    pub digest: Digest,
    /// Whether this program's engine made it: another's is never loaded.
    pub current: bool,
    /// Of the file.
    pub bytes: u64,
    /// When it was loaded last, or compiled; of one that a runner has in memory, to the hour.
    pub used: SystemTime,
    path: PathBuf,
}

impl Artifacts {
    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All compiled modules, the last used first.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = self.files()?.filter_map(|path| self.entry(path)).collect();
        entries.sort_by(|a, b| (b.used, &a.path).cmp(&(a.used, &b.path)));
        Ok(entries)
    }

    /// Removes what killed runners left and, when the modules are over the bound, so many that they are an eighth below it.
    /// A module that runs goes on running.
    pub fn prune(&self) -> Result<()> {
        self.sweep()?;
        let mut bytes: u64 = self.entries()?.iter().map(|entry| entry.bytes).sum();
        if bytes > self.max_bytes {
            let removed = self.prune_to(self.max_bytes - self.max_bytes / 8)?;
            bytes -= removed
                .iter()
                .map(|entry| entry.bytes)
                .sum::<u64>()
                .min(bytes);
        }
        // Half of it: other runners fill it too.
        let room = self.max_bytes.saturating_sub(bytes) / 2;
        let room = i64::try_from(room).unwrap_or(i64::MAX);
        self.room.store(room, Ordering::Relaxed);
        Ok(())
    }

    /// The same when a module was added, if the folder may be over the bound with it: to read thousands of names for each
    /// one costs more than compiling it.
    pub fn prune_after(&self, added: &Digest) -> Result<()> {
        let bytes = fs::metadata(self.path(added)).map_or(0, |meta| meta.len());
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        match self.room.fetch_sub(bytes, Ordering::Relaxed) > bytes {
            true => Ok(()),
            false => self.prune(),
        }
    }

    /// Removes what is over a bound, with 0 everything; what it removed.
    pub fn prune_to(&self, max_bytes: u64) -> Result<Vec<Entry>> {
        let entries = self.entries()?;
        let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        let (current, others): (Vec<_>, Vec<_>) = entries.into_iter().partition(|it| it.current);
        let oldest_first = others.into_iter().rev().chain(current.into_iter().rev());
        remove(oldest_first.take_while(|entry| {
            let over = bytes > max_bytes;
            bytes -= entry.bytes;
            over
        }))
    }

    /// Removes what this program's engine did not make.
    pub fn remove_others(&self) -> Result<Vec<Entry>> {
        let entries = self.entries()?.into_iter();
        remove(entries.filter(|entry| !entry.current))
    }

    fn files(&self) -> Result<impl Iterator<Item = PathBuf> + use<>> {
        let folder = self.folder.display();
        let files = fs::read_dir(&self.folder)
            .with_context(|| format!("failed to read the cache folder {folder}"))?;
        Ok(files.flatten().map(|file| file.path()))
    }

    fn entry(&self, path: PathBuf) -> Option<Entry> {
        let name = path.file_name()?.to_str()?.strip_suffix(".cwasm")?;
        let (digest, engine) = stem(name)?;
        let meta = fs::metadata(&path).ok()?;
        Some(Entry {
            digest,
            current: engine == self.engine,
            bytes: meta.len(),
            used: meta.modified().ok()?,
            path,
        })
    }

    /// Removes the drafts and locks of killed runners: how many, and their bytes.
    pub fn sweep(&self) -> Result<(usize, u64)> {
        let (mut files, mut bytes) = (0, 0);
        for path in self.files()? {
            let name = path.file_name().and_then(|name| name.to_str());
            if !name.is_some_and(is_temporary) {
                continue;
            }
            let Ok(meta) = fs::metadata(&path) else {
                continue;
            };
            let age = meta.modified().ok().and_then(|then| then.elapsed().ok());
            if age.is_none_or(|age| age <= ABANDONED) {
                continue;
            }
            match fs::remove_file(&path) {
                Ok(()) => {
                    files += 1;
                    bytes += meta.len();
                }
                Err(error) => debug!(path = %path.display(), %error, "not swept"),
            }
        }
        Ok((files, bytes))
    }
}

/// What the names of compiled modules and their locks begin with: the module's digest, the engine.
fn stem(name: &str) -> Option<(Digest, u64)> {
    let (digest, engine) = name.split_once('-')?;
    let whole = engine.len() == 16 && engine.bytes().all(|it| it.is_ascii_hexdigit());
    let engine = whole.then(|| u64::from_str_radix(engine, 16).ok())??;
    Some((Digest::parse_hex(digest).ok()?, engine))
}

/// Whether a file of that name is a draft or a lock of ours.
fn is_temporary(name: &str) -> bool {
    let (prefix, suffix) = DRAFT;
    let random = name.strip_prefix(prefix);
    let random = random.and_then(|rest| rest.strip_suffix(suffix));
    random.is_some_and(|it| it.bytes().all(|it| it.is_ascii_alphanumeric()))
        || name.strip_suffix(".lock").and_then(stem).is_some()
}

fn remove(entries: impl Iterator<Item = Entry>) -> Result<Vec<Entry>> {
    let mut removed = Vec::new();
    for entry in entries {
        match fs::remove_file(&entry.path) {
            Ok(()) => {
                debug!(path = %entry.path.display(), bytes = entry.bytes, "compiled module removed");
                removed.push(entry);
            }
            // Another runner was first.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                let path = entry.path.display();
                return Err(error).with_context(|| format!("failed to remove {path}"));
            }
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::artifacts::tests::engine;

    #[test]
    fn other_engines_go_first_then_the_least_recently_used() {
        let engine = engine();
        let artifacts = Artifacts::temporary(&engine, 250).expect("a folder");
        let name = |number: u8| Digest::new([number; 32]);
        let write = |path: PathBuf, age: u64| {
            fs::write(&path, [0; 100]).expect("written");
            let file = fs::File::options().write(true).open(&path).expect("opened");
            let then = SystemTime::now() - Duration::from_secs(age);
            file.set_modified(then).expect("set");
        };
        for (number, age) in [(1, 30), (2, 20), (3, 10)] {
            write(artifacts.path(&name(number)), age);
        }
        let another = format!("{}-{:016x}.cwasm", name(4).hex(), artifacts.engine ^ 1);
        write(artifacts.folder.join(another), 0);
        let drafts = [0; 2].map(|_| artifacts.draft().expect("a draft"));
        let [new, old] = drafts.map(|draft| draft.keep().expect("kept").1);
        write(new.clone(), 0);
        write(old, 3 * 86_400);
        write(artifacts.path(&name(1)).with_extension("lock"), 3 * 86_400);
        // Of others, however old.
        let others = ["draft-then", "draft-a b.wasmqtt", "others.txt", "yarn.lock"];
        for other in others {
            write(artifacts.folder.join(other), 3 * 86_400);
        }

        let numbers = |entries: Vec<Entry>| -> Vec<Digest> {
            entries.into_iter().map(|entry| entry.digest).collect()
        };
        let all = artifacts.entries().expect("read");
        assert_eq!(numbers(all), [4, 3, 2, 1].map(name));
        assert_eq!(artifacts.sweep().expect("swept"), (2, 200));
        let removed = artifacts.prune_to(250).expect("pruned");
        assert_eq!(numbers(removed), [4, 1].map(name));
        assert_eq!(artifacts.remove_others().expect("removed"), []);
        artifacts.touch(&name(2));
        let removed = artifacts.prune_to(100).expect("pruned");
        assert_eq!(numbers(removed), [3].map(name));
        let mut left: Vec<_> = artifacts
            .files()
            .expect("read")
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect();
        left.sort();
        let kept = [artifacts.path(&name(2)), new];
        let kept = kept.iter().map(|path| path.file_name()?.to_str());
        let kept = kept.map(|name| name.expect("a name"));
        let mut expected: Vec<_> = kept.chain(["key"]).chain(others).collect();
        expected.sort_unstable();
        assert_eq!(left, expected);
        assert_eq!(
            numbers(artifacts.prune_to(0).expect("pruned")),
            [2].map(name)
        );
    }

    #[test]
    fn never_over_the_bound_however_seldom_it_is_read() {
        let engine = engine();
        let artifacts = Artifacts::temporary(&engine, 1_000).expect("a folder");
        let mut reads = 0;
        for number in 0..40 {
            let name = Digest::new([number; 32]);
            fs::write(artifacts.path(&name), [0; 100]).expect("written");
            let before = artifacts.room.load(Ordering::Relaxed);
            artifacts.prune_after(&name).expect("pruned");
            reads += u32::from(artifacts.room.load(Ordering::Relaxed) != before - 100);
            let left = artifacts.entries().expect("read");
            assert!(left.len() <= 10, "{number}: {left:?}");
            assert!(left.iter().any(|entry| entry.digest == name), "{number}");
        }
        assert!(reads < 40, "{reads}");
    }
}
