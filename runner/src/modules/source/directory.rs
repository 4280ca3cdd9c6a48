//! Modules in a folder: `NAME.wasm`, read when asked for, read again when the file changes.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use tracing::warn;

use crate::modules::Content;
use crate::modules::source::MAX_SIGNATURE;
use crate::task::outcome::{ErrorCode, TaskError};
use crate::task::{Digest, ModuleName};

/// The largest module file, in bytes: what MQTT could carry.
const MAX_BYTES: u64 = 256 << 20;

pub(super) struct Directory {
    folder: PathBuf,
    read: Arc<Mutex<HashMap<ModuleName, (Stamp, Content)>>>,
}

/// What changes when a file is replaced or written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
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
            read: Arc::default(),
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The module of that name, if there is such a file.
    pub(super) async fn find(&self, name: &ModuleName) -> Result<Option<Content>, TaskError> {
        let path = self.folder.join(format!("{name}.wasm"));
        // A stat of a file that was just used is about a microsecond: cheaper than handing it to a thread.
        let stamp = match std::fs::metadata(&path) {
            Ok(meta) if meta.is_file() => Stamp {
                inode: meta.ino(),
                bytes: meta.len(),
                modified: (meta.mtime(), meta.mtime_nsec()),
            },
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(&path, &error)),
        };
        let known = self
            .read
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned();
        if let Some((_, content)) = known.filter(|(known, _)| *known == stamp) {
            return Ok(Some(content));
        }
        if stamp.bytes > MAX_BYTES {
            let why = format!(
                "{} has {} bytes, of at most {MAX_BYTES}",
                path.display(),
                stamp.bytes
            );
            return Err(TaskError::new(ErrorCode::ModuleInvalid, why));
        }
        let file = path.clone();
        let content =
            tokio::task::spawn_blocking(move || std::fs::read(&file).map(Content::new)).await;
        let content = content
            .map_err(std::io::Error::other)
            .and_then(|read| read)
            .map_err(|error| unreadable(&path, &error))?;
        self.read
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.clone(), (stamp, content.clone()));
        Ok(Some(content))
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
            match self.find(&name).await {
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
