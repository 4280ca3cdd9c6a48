//! Modules in a folder: `NAME.wasm`, read when asked for, read again when the file changes.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use moka::future::Cache;
use tracing::warn;

use crate::modules::Content;
use crate::modules::source::MAX_SIGNATURE;
use crate::stamp::Stamp;
use crate::task::outcome::{ErrorCode, TaskError};
use crate::task::{Digest, ModuleName};

/// The largest module file, in bytes: what MQTT could carry.
const MAX_BYTES: u64 = 256 << 20;
/// Bytes of files kept in memory; beyond it those go that were not asked for longest.
const KEPT_BYTES: u64 = 512 << 20;
/// Files whose digest is remembered, about 200 bytes each.
const KEPT_DIGESTS: u64 = 10_000;

pub(super) struct Directory {
    folder: PathBuf,
    contents: Cache<Version, Content>,
    /// Of all that was ever read, so that a look for a digest reads nothing twice.
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
            contents: Cache::builder()
                .weigher(|_, content: &Content| {
                    u32::try_from(content.bytes.len()).unwrap_or(u32::MAX)
                })
                .max_capacity(KEPT_BYTES)
                .build(),
            digests: Cache::new(KEPT_DIGESTS),
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The module of that name, if there is such a file.
    pub(super) async fn find(&self, name: &ModuleName) -> Result<Option<Content>, TaskError> {
        match self.version(name)? {
            Some(version) => self.read(version).await.map(Some),
            None => Ok(None),
        }
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

    /// However many ask at one moment, it is read once.
    async fn read(&self, version: Version) -> Result<Content, TaskError> {
        if let Some(known) = self.contents.get(&version).await {
            return Ok(known);
        }
        let (path, bytes) = (self.path(&version.name), version.stamp.bytes);
        if bytes > MAX_BYTES {
            let why = format!(
                "{} has {bytes} bytes, of at most {MAX_BYTES}",
                path.display()
            );
            return Err(TaskError::new(ErrorCode::ModuleInvalid, why));
        }
        let read = async {
            let file = path.clone();
            let read = move || std::fs::read(file).map(Content::new);
            let read = tokio::task::spawn_blocking(read).await;
            let content = read.map_err(std::io::Error::other).flatten();
            let content = content.map_err(|error| unreadable(&path, &error))?;
            self.digests.insert(version.clone(), content.digest).await;
            Ok(content)
        };
        let content = Box::pin(self.contents.try_get_with_by_ref(&version, read)).await;
        content.map_err(|error| TaskError::clone(&error))
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
    ) -> Result<Option<(ModuleName, Content)>, TaskError> {
        let files =
            std::fs::read_dir(&self.folder).map_err(|error| unreadable(&self.folder, &error))?;
        let names = files.flatten().filter_map(|file| {
            let name = file.file_name();
            ModuleName::parse(name.to_str()?.strip_suffix(".wasm")?).ok()
        });
        for name in names.collect::<Vec<_>>() {
            let found = async {
                let Some(version) = self.version(&name)? else {
                    return Ok(None);
                };
                match self.digests.get(&version).await {
                    Some(known) if known != *digest => Ok(None),
                    _ => self.read(version).await.map(Some),
                }
            };
            match found.await {
                Ok(Some(content)) if content.digest == *digest => {
                    return Ok(Some((name, content)));
                }
                Ok(_) => {}
                // One file that cannot be read is no reason not to find another.
                Err(error) => warn!(%name, %error, "module file left out"),
            }
        }
        Ok(None)
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> TaskError {
    TaskError::new(
        ErrorCode::ModuleUnavailable,
        format!("failed to read {}: {error}", path.display()),
    )
}
