//! Modules in a folder: `NAME.wasm`. What a file is, is known by its stamp; its bytes are read when they are wanted.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use moka::future::Cache;
use sha2::{Digest as _, Sha256};
use tracing::warn;

use crate::modules::Content;
use crate::modules::source::{Found, MAX_SIGNATURE, Place};
use crate::stamp::Stamp;
use crate::task::outcome::{ErrorCode, TaskError};
use crate::task::{Digest, ModuleName};

/// The largest module file, in bytes: what MQTT could carry.
const MAX_BYTES: u64 = 256 << 20;
/// Files whose digest is remembered, about 200 bytes each.
const KEPT_DIGESTS: u64 = 10_000;
/// Bytes read at a time to be hashed: of a module that is compiled already, no more is in memory.
const PIECE_BYTES: usize = 256 << 10;

/// Bytes of files that are hashed before a task asks for them: 19 MB are 20 ms that the first task after a restart
/// would wait.
const AHEAD_BYTES: u64 = 256 << 20;
/// What a small one counts: 8,192 files at most.
const AHEAD_EACH: u64 = 32 << 10;
/// A file that was another each time it was read is left to be written.
const READS: usize = 3;

#[derive(Clone)]
pub(super) struct Directory {
    folder: PathBuf,
    /// No file is read twice to know what it is.
    digests: Cache<Version, Digest>,
}

/// A file as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Version {
    name: ModuleName,
    stamp: Stamp,
}

impl Directory {
    pub(super) fn open(folder: &Path) -> Result<Directory> {
        let meta = std::fs::metadata(folder)
            .with_context(|| format!("failed to open the module folder {}", folder.display()))?;
        ensure!(
            meta.is_dir(),
            "the module folder {} is not a folder",
            folder.display()
        );
        Ok(Directory {
            folder: folder.to_owned(),
            digests: Cache::new(KEPT_DIGESTS),
        })
    }

    /// Hashes files until there are none or it has been much. What fails is told to the task that wants it.
    pub(super) async fn read_ahead(self) {
        let (mut left, this) = (AHEAD_BYTES, self.clone());
        let names = tokio::task::spawn_blocking(move || this.names()).await;
        for name in names.ok().and_then(Result::ok).unwrap_or_default() {
            let Ok(Some(version)) = self.version(&name) else {
                continue;
            };
            let Some(less) = left.checked_sub(version.stamp.bytes.max(AHEAD_EACH)) else {
                return;
            };
            left = less;
            let _ = self.found(version).await;
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The module of that name, if there is such a file.
    pub(super) async fn find(&self, name: &ModuleName) -> Result<Option<Found>, TaskError> {
        for _ in 0..READS {
            let Some(version) = self.version(name)? else {
                return Ok(None);
            };
            if let Some(found) = self.found(version).await? {
                return Ok(Some(found));
            }
        }
        let path = self.path(name);
        let why = format!("{} is written to while it is read", path.display());
        Err(TaskError::new(ErrorCode::ModuleUnavailable, why))
    }

    /// A stat of a file that was just used is about a microsecond: cheaper than handing it to a thread.
    fn version(&self, name: &ModuleName) -> Result<Option<Version>, TaskError> {
        let path = self.path(name);
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_file() => Ok(Some(Version {
                name: name.clone(),
                stamp: Stamp::of(&meta),
            })),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(&path, &error)),
        }
    }

    /// What a file is, if it is still that version; however many ask at one moment, it is read once.
    async fn found(&self, version: Version) -> Result<Option<Found>, TaskError> {
        let (path, stamp) = (self.path(&version.name), version.stamp);
        let digest = match self.digests.get(&version).await {
            Some(known) => known,
            None => match Box::pin(self.digest(version, &path)).await? {
                Some(digest) => digest,
                None => return Ok(None),
            },
        };
        Ok(Some(Found {
            digest,
            bytes: stamp.bytes,
            signature: None,
            place: Place::File(path),
        }))
    }

    async fn digest(&self, version: Version, path: &Path) -> Result<Option<Digest>, TaskError> {
        let bytes = version.stamp.bytes;
        if bytes > MAX_BYTES {
            let why = format!(
                "{} has {bytes} bytes, of at most {MAX_BYTES}",
                path.display()
            );
            return Err(TaskError::new(ErrorCode::ModuleInvalid, why));
        }
        let (file, stamp) = (path.to_owned(), version.stamp);
        let digest = async {
            let digest = blocking(path, move || digest(&file, stamp)).await;
            digest.map_err(Some)?.ok_or(None)
        };
        match self.digests.try_get_with(version.clone(), digest).await {
            Ok(digest) => {
                if !stamp.is_settled() {
                    self.digests.invalidate(&version).await;
                }
                Ok(Some(digest))
            }
            Err(failed) => Option::clone(&failed).map_or(Ok(None), Err),
        }
    }

    /// Of the files that are there now.
    fn names(&self) -> Result<Vec<ModuleName>, TaskError> {
        let files = std::fs::read_dir(&self.folder);
        let files = files.map_err(|error| unreadable(&self.folder, &error))?;
        let names = files.flatten().filter_map(|file| {
            let name = file.file_name();
            ModuleName::parse(name.to_str()?.strip_suffix(".wasm")?).ok()
        });
        Ok(names.collect())
    }

    fn path(&self, name: &ModuleName) -> PathBuf {
        self.folder.join(format!("{name}.wasm"))
    }

    /// What stands beside a module as `NAME.wasm.minisig`.
    pub(super) fn signature(&self, name: &ModuleName) -> Result<Option<Bytes>, TaskError> {
        let path = self.folder.join(format!("{name}.wasm.minisig"));
        // Some hundred bytes: cheaper than handing it to a thread.
        let read = File::open(&path).and_then(|file| {
            let mut text = Vec::new();
            file.take(MAX_SIGNATURE).read_to_end(&mut text)?;
            Ok(text)
        });
        match read {
            Ok(text) => Ok(Some(text.into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(&path, &error)),
        }
    }

    /// The module of that content, whatever its name.
    pub(super) async fn find_digest(
        &self,
        digest: &Digest,
    ) -> Result<Option<(ModuleName, Found)>, TaskError> {
        for name in self.names()? {
            match self.find(&name).await {
                Ok(Some(found)) if found.digest == *digest => return Ok(Some((name, found))),
                Ok(_) => {}
                // One file that cannot be read is no reason not to find another.
                Err(error) => warn!(%name, %error, "module file left out"),
            }
        }
        Ok(None)
    }
}

/// A file's bytes, and what they are; none when they are not as many as they were.
pub(super) async fn read(path: &Path, bytes: u64) -> Result<Option<Content>, TaskError> {
    let file = path.to_owned();
    let read = move || {
        let mut read = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
        File::open(&file)?.take(bytes + 1).read_to_end(&mut read)?;
        Ok((read.len() as u64 == bytes).then(|| Content::new(read)))
    };
    blocking(path, read).await
}

/// The SHA-256 of a file's bytes; none when it is not what it was, before or behind.
fn digest(path: &Path, stamp: Stamp) -> std::io::Result<Option<Digest>> {
    let file = File::open(path)?;
    let is_same = || file.metadata().map(|meta| Stamp::of(&meta) == stamp);
    if !is_same()? {
        return Ok(None);
    }
    let (mut reader, mut hasher) = (BufReader::with_capacity(PIECE_BYTES, &file), Sha256::new());
    loop {
        let piece = reader.fill_buf()?;
        if piece.is_empty() {
            return Ok(is_same()?.then(|| Digest::new(hasher.finalize().into())));
        }
        hasher.update(piece);
        let read = piece.len();
        reader.consume(read);
    }
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, TaskError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(std::io::Error::other).flatten();
    done.map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &std::io::Error) -> TaskError {
    TaskError::new(
        ErrorCode::ModuleUnavailable,
        format!("failed to read {}: {error}", path.display()),
    )
}
