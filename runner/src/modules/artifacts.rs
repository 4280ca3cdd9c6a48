//! Compiled modules on disk: found again after a restart, loaded only if we wrote them.
//!
//! Loading machine code is running it, so an artifact is loaded only from a folder that is ours alone
//! (0700), and only if its authentication code, made with a key that lies in that folder, fits its bytes and
//! its name. A flipped byte means compiling again. What was authenticated is mapped, not copied: files here are
//! written under another name, renamed, and never written again.

pub mod bounds;
pub(super) mod lock;

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicI64;
use std::time::SystemTime;

use anyhow::{Context as _, Result, anyhow, ensure};
use tempfile::{NamedTempFile, TempDir};
use tracing::{debug, warn};
use wasmtime::component::Component;

use crate::modules::artifacts::lock::Lock;
use crate::modules::shape;
use crate::sandbox::engine::Engine;
use crate::task::Digest;
use crate::task::outcome::{ErrorCode, TaskError};

const KEY_BYTES: usize = 32;
/// At the end of a file: wasmtime's part begins where the mapping does.
const CODE_BYTES: usize = 32;
/// What the key in the folder is used for.
const PURPOSE: &str = "wasmqtt 2026-11-23 authentication of compiled modules";
const PURPOSE_OF_PIECES: &str = "wasmqtt 2026-11-23 authentication of pieces of compiled modules";
/// Each has a code of its own; CPython's 40 MB are five.
const PIECE_BYTES: u64 = 8 << 20;
const MAX_THREADS: usize = 4;
/// How the name of a draft begins and ends.
const DRAFT: (&str, &str) = ("draft-", ".wasmqtt");

/// A folder of compiled modules.
pub struct Artifacts {
    folder: PathBuf,
    /// Removes the folder in the end, if it is ours alone.
    _temporary: Option<TempDir>,
    key: [u8; KEY_BYTES],
    pieces: [u8; KEY_BYTES],
    /// Of wasmtime's version, every setting that shapes code, and what core modules become: another engine's artifacts
    /// are not ours.
    engine: u64,
    /// What all artifacts together may have.
    max_bytes: u64,
    /// Bytes that may be added before the folder is read again.
    room: AtomicI64,
}

impl Artifacts {
    /// Opens or creates the folder; refuses one that others may write to. Together the compiled modules in it have at most
    /// `max_bytes`: those of other engines go first, then those that were not used for the longest time.
    pub fn open(folder: &Path, engine: &Engine, max_bytes: u64) -> Result<Artifacts> {
        let shown = folder.display();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("failed to create the cache folder {shown}"))?;
        is_private(folder)?;
        let key = key(folder).with_context(|| format!("no key in the cache folder {shown}"))?;
        let artifacts = Artifacts::new(folder, &key, engine, max_bytes);
        // The bound may be a smaller one than before.
        if let Err(error) = artifacts.prune() {
            warn!(error = format!("{error:#}"), "cache folder not pruned");
        }
        Ok(artifacts)
    }

    /// Opens a folder that a runner made, and changes nothing in it; refuses any other.
    pub fn open_existing(folder: &Path, engine: &Engine, max_bytes: u64) -> Result<Artifacts> {
        let key = read_key(folder)
            .with_context(|| format!("{} is no cache folder of wasmqtt's", folder.display()))?;
        is_private(folder)?;
        Ok(Artifacts::new(folder, &key, engine, max_bytes))
    }

    fn new(folder: &Path, key: &[u8], engine: &Engine, max_bytes: u64) -> Artifacts {
        let mut hasher = DefaultHasher::new();
        engine
            .wasmtime()
            .precompile_compatibility_hash()
            .hash(&mut hasher);
        shape::recipe().hash(&mut hasher);
        Artifacts {
            folder: folder.to_owned(),
            _temporary: None,
            key: blake3::derive_key(PURPOSE, key),
            pieces: blake3::derive_key(PURPOSE_OF_PIECES, key),
            engine: hasher.finish(),
            max_bytes,
            room: AtomicI64::new(0),
        }
    }

    /// A folder that nobody else knows, and that goes with its owner.
    pub fn temporary(engine: &Engine, max_bytes: u64) -> Result<Artifacts> {
        let folder = tempfile::Builder::new()
            .prefix("wasmqtt-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir()
            .context("failed to create a temporary folder")?;
        let artifacts = Artifacts::open(folder.path(), engine, max_bytes)?;
        Ok(Artifacts {
            _temporary: Some(folder),
            ..artifacts
        })
    }

    /// The compiled module of that content, if we wrote it and it is whole.
    ///
    /// # Errors
    ///
    /// `module_invalid` when it does not fit in the engine's pool, `internal` when it cannot be mapped.
    pub fn load(&self, engine: &Engine, digest: &Digest) -> Result<Option<Component>, TaskError> {
        let path = self.path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    warn!(path = %path.display(), %error, "compiled module not readable");
                }
                return Ok(None);
            }
        };
        if !self.is_ours(&file, digest) {
            warn!(path = %path.display(), "compiled module is not as we wrote it: compiling again");
            // Whatever it is, it must not be found again.
            let _ = fs::remove_file(&path);
            return Ok(None);
        }
        let component = map(engine, &path);
        // Another runner may have put its own in the same place meanwhile: as good, but not what was authenticated.
        let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        let still = (fs::metadata(&path).ok()).zip(file.metadata().ok());
        if !still.is_some_and(|(now, then)| same(&now, &then)) {
            return Ok(None);
        }
        used(&file);
        component.map(Some).map_err(|error| {
            if error.is::<std::io::Error>() || error.is::<rustix::io::Errno>() {
                warn!(path = %path.display(), error = format!("{error:#}"), "compiled module not mapped");
                let why = error.root_cause();
                let why = format!("failed to map a compiled module: {why}");
                return TaskError::new(ErrorCode::Internal, why);
            }
            TaskError::new(ErrorCode::ModuleInvalid, format!("{error:#}"))
        })
    }

    /// Notes that a module is used, which may be in memory for a long time.
    pub fn touch(&self, digest: &Digest) {
        if let Ok(file) = File::open(self.path(digest)) {
            used(&file);
        }
    }

    /// Keeps a module that was compiled in this process.
    pub fn store(&self, digest: &Digest, component: &Component) -> Result<()> {
        let mut draft = self.draft()?;
        draft
            .write_all(&component.serialize()?)
            .context("failed to write")?;
        self.keep(digest, draft)
    }

    /// A file for a compiled module.
    pub fn draft(&self) -> Result<NamedTempFile> {
        draft(&self.folder).context("failed to create a file in the cache folder")
    }

    /// Keeps what was written to a draft. Another runner may do the same at the same time: the rename is atomic.
    pub fn keep(&self, digest: &Digest, mut draft: NamedTempFile) -> Result<()> {
        let file = draft.as_file_mut();
        let bytes = file.seek(SeekFrom::End(0))?;
        let code = self.code(digest, file, bytes).context("failed to read")?;
        file.write_all(code.as_bytes()).context("failed to write")?;
        draft
            .persist(self.path(digest))
            .context("failed to rename")?;
        Ok(())
    }

    /// The right to compile a module, if no other process on this machine has it.
    pub fn lock(&self, digest: &Digest) -> Result<Option<Lock>> {
        Lock::take(self.path(digest).with_extension("lock"))
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder
            .join(format!("{}-{:016x}.cwasm", digest.hex(), self.engine))
    }

    /// Whether the file holds what we wrote under that name.
    fn is_ours(&self, file: &File, digest: &Digest) -> bool {
        let bytes = file.metadata().map_or(0, |meta| meta.len());
        let Some(bytes) = bytes.checked_sub(CODE_BYTES as u64) else {
            return false;
        };
        let Ok(code) = self.code(digest, file, bytes) else {
            return false;
        };
        let mut written = [0; CODE_BYTES];
        // Compared in constant time.
        file.read_exact_at(&mut written, bytes).is_ok() && code == blake3::Hash::from_bytes(written)
    }

    /// The authentication code of the first `bytes` of a file: keyed BLAKE3 over the module, the engine, the length and the
    /// codes of its pieces, which are taken on several threads: it is what a restart waits for.
    fn code(&self, digest: &Digest, file: &File, bytes: u64) -> Result<blake3::Hash> {
        let pieces = usize::try_from(bytes.div_ceil(PIECE_BYTES)).context("too large")?;
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let threads = cores.min(MAX_THREADS).min(pieces).max(1);
        let every = |first: usize| -> std::io::Result<Vec<(usize, blake3::Hash)>> {
            let mut chunk = vec![0; 256 << 10];
            (first..pieces)
                .step_by(threads)
                .map(|piece| Ok((piece, self.piece(file, piece as u64, bytes, &mut chunk)?)))
                .collect()
        };
        let taken = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads)
                .map(|first| scope.spawn(move || every(first)))
                .collect();
            let mut taken = vec![every(0)];
            let died = |_| Err(std::io::Error::other("a thread died"));
            taken.extend(
                others
                    .into_iter()
                    .map(|other| other.join().unwrap_or_else(died)),
            );
            taken
        });
        let mut codes = taken
            .into_iter()
            .collect::<std::io::Result<Vec<_>>>()?
            .concat();
        codes.sort_unstable_by_key(|(piece, _)| *piece);
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(digest.hex().as_bytes());
        hasher.update(&self.engine.to_le_bytes());
        hasher.update(&bytes.to_le_bytes());
        for (_, code) in codes {
            hasher.update(code.as_bytes());
        }
        Ok(hasher.finalize())
    }

    fn piece(
        &self,
        file: &File,
        piece: u64,
        bytes: u64,
        chunk: &mut [u8],
    ) -> std::io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new_keyed(&self.pieces);
        let mut at = piece * PIECE_BYTES;
        let end = bytes.min(at + PIECE_BYTES);
        while at < end {
            let most = (end - at).min(chunk.len() as u64);
            let part = &mut chunk[..most as usize];
            file.read_exact_at(part, at)?;
            hasher.update(part);
            at += most;
        }
        Ok(hasher.finalize())
    }
}

/// The least recently used ones go first when there are too many.
fn used(file: &File) {
    if let Err(error) = file.set_modified(SystemTime::now()) {
        debug!(%error, "failed to note that a compiled module is used");
    }
}

/// # Soundness
///
/// `Component::deserialize_file` runs whatever code the file holds, and maps it: the file must neither be another's nor
/// change while it is mapped. What lies at the path carried, a moment ago, an authentication code
/// under a key that only this user can read, in a folder that only this user can write, bound to this
/// engine's version and settings: it is what the
/// compiler gave us, in this process or in its jail. Nobody of ours writes to such a file again: it is replaced by a rename
/// or removed, which a mapping survives. Who has this user's rights could write to it; they could as well to this program.
#[expect(unsafe_code, reason = "the API for loading our own compiled artifact")]
fn map(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: see above.
    unsafe { Component::deserialize_file(engine.wasmtime(), path) }
}

/// Whether a folder is ours, and closed to others.
fn is_private(folder: &Path) -> Result<()> {
    let shown = folder.display();
    let meta =
        fs::metadata(folder).with_context(|| format!("failed to open the cache folder {shown}"))?;
    ensure!(
        meta.uid() == rustix::process::geteuid().as_raw(),
        "the cache folder {shown} belongs to user {}, not to us",
        meta.uid()
    );
    ensure!(
        meta.mode() & 0o077 == 0,
        "the cache folder {shown} is open to others (mode {:o}): it must be 0700",
        meta.mode() & 0o777
    );
    Ok(())
}

fn draft(folder: &Path) -> std::io::Result<NamedTempFile> {
    let (prefix, suffix) = DRAFT;
    let mut named = tempfile::Builder::new();
    named.prefix(prefix).suffix(suffix).tempfile_in(folder)
}

fn read_key(folder: &Path) -> Result<[u8; KEY_BYTES]> {
    let key = fs::read(folder.join("key")).context("failed to read its key")?;
    let bytes = key.len();
    key.try_into()
        .map_err(|_| anyhow!("its key has {bytes} bytes, not {KEY_BYTES}"))
}

/// Reads the key, or makes one. Two runners that start together must end with the same.
fn key(folder: &Path) -> Result<[u8; KEY_BYTES]> {
    let path = folder.join("key");
    if !path.exists() {
        let mut key = [0; KEY_BYTES];
        File::open("/dev/urandom")?.read_exact(&mut key)?;
        let mut draft = draft(folder)?;
        draft.write_all(&key)?;
        draft.as_file().sync_all()?;
        // Fails if another runner was first, whose key it then is.
        if let Err(failed) = draft.persist_noclobber(path)
            && failed.error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(failed.error.into());
        }
    }
    read_key(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::engine::Sizes;

    pub(super) fn engine() -> Engine {
        let sizes = Sizes {
            guests: 1,
            memory_bytes: 1 << 20,
        };
        Engine::new(sizes).expect("an engine")
    }

    /// Whatever is changed: a byte of any piece, the order of pieces, the length, the name.
    #[test]
    fn what_is_changed_is_not_ours() {
        let engine = engine();
        let artifacts = Artifacts::temporary(&engine, u64::MAX).expect("a folder");
        let (name, other) = (Digest::new([1; 32]), Digest::new([2; 32]));
        let piece = PIECE_BYTES as usize;
        let whole: Vec<u8> = (0..2 * piece + 5).map(|n| (n / piece) as u8).collect();
        for bytes in [&whole[..], &whole[..piece], &whole[..1], b""] {
            let mut draft = artifacts.draft().expect("a draft");
            draft.write_all(bytes).expect("written");
            artifacts.keep(&name, draft).expect("kept");
            let path = artifacts.path(&name);
            let written = fs::read(&path).expect("read");
            assert_eq!(written.len(), bytes.len() + CODE_BYTES);
            let is_ours = |digest: &Digest, bytes: &[u8]| {
                fs::write(&path, bytes).expect("written");
                artifacts.is_ours(&File::open(&path).expect("opened"), digest)
            };
            assert!(is_ours(&name, &written));
            assert!(!is_ours(&other, &written));
            for at in [0, piece, 2 * piece, written.len() - 1] {
                let mut flipped = written.clone();
                if let Some(byte) = flipped.get_mut(at) {
                    *byte ^= 1;
                    assert!(!is_ours(&name, &flipped), "{at} of {}", bytes.len());
                }
            }
            assert!(!is_ours(&name, &written[1..]));
            assert!(!is_ours(&name, &written[..written.len() - 1]));
            assert!(!is_ours(&name, b""));
            if bytes.len() > 2 * piece {
                let exchanged = [
                    &written[piece..2 * piece],
                    &written[..piece],
                    &written[2 * piece..],
                ];
                assert!(!is_ours(&name, &exchanged.concat()));
            }
        }
    }

    #[test]
    fn those_who_start_together_have_one_key() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(read_key(folder.path()).is_err());
        let keys: Vec<_> = std::thread::scope(|scope| {
            let start = |_| scope.spawn(|| key(folder.path()).expect("a key"));
            let started: Vec<_> = (0..8).map(start).collect();
            let joined = started.into_iter().map(|it| it.join().expect("joined"));
            joined.collect()
        });
        assert!(keys.iter().all(|it| *it == keys[0]));
        let files = fs::read_dir(folder.path()).expect("read").count();
        assert_eq!(files, 1, "drafts are left");
        let mode = fs::metadata(folder.path().join("key"))
            .expect("a key")
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
