//! Compiled modules on disk: found again after a restart, loaded only if we wrote them.
//!
//! Loading machine code is running it, so an artifact is loaded only from a folder that is ours alone
//! (0700), and only if its authentication code, made with a key that lies in that folder, fits its bytes and
//! its name. A flipped byte means compiling again.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tempfile::{NamedTempFile, TempDir};
use tracing::warn;
use wasmtime::component::Component;

use crate::sandbox::engine::Engine;
use crate::task::Digest;

const KEY_BYTES: usize = 32;
const CODE_BYTES: usize = 32;

/// A folder of compiled modules.
pub struct Artifacts {
    folder: PathBuf,
    /// Removes the folder in the end, if it is ours alone.
    _temporary: Option<TempDir>,
    key: [u8; KEY_BYTES],
    /// Of wasmtime's version and every setting that shapes code: another engine's artifacts are not ours.
    engine: u64,
}

impl Artifacts {
    /// Opens or creates the folder; refuses one that others may write to.
    pub fn open(folder: &Path, engine: &Engine) -> Result<Artifacts> {
        let shown = folder.display();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("failed to create the cache folder {shown}"))?;
        let meta = fs::metadata(folder)
            .with_context(|| format!("failed to open the cache folder {shown}"))?;
        let ours = meta.uid() == rustix::process::geteuid().as_raw();
        ensure!(
            ours,
            "the cache folder {shown} belongs to user {}, not to us",
            meta.uid()
        );
        ensure!(
            meta.mode() & 0o077 == 0,
            "the cache folder {shown} is open to others (mode {:o}): it must be 0700",
            meta.mode() & 0o777
        );
        let key = key(&folder.join("key"))
            .with_context(|| format!("failed to make a key in the cache folder {shown}"))?;
        let mut hasher = DefaultHasher::new();
        engine
            .wasmtime()
            .precompile_compatibility_hash()
            .hash(&mut hasher);
        Ok(Artifacts {
            folder: folder.to_owned(),
            _temporary: None,
            key,
            engine: hasher.finish(),
        })
    }

    /// A folder that nobody else knows, and that goes with its owner.
    pub fn temporary(engine: &Engine) -> Result<Artifacts> {
        let folder = tempfile::Builder::new()
            .prefix("wasmqtt-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir()
            .context("failed to create a temporary folder")?;
        let artifacts = Artifacts::open(folder.path(), engine)?;
        Ok(Artifacts {
            _temporary: Some(folder),
            ..artifacts
        })
    }

    /// The compiled module of that content, if we wrote it and it is whole. An error is that it is, and does not fit in
    /// the engine's pool.
    pub fn load(&self, engine: &Engine, digest: &Digest) -> Result<Option<Component>> {
        let path = self.path(digest);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    warn!(path = %path.display(), %error, "compiled module not readable");
                }
                return Ok(None);
            }
        };
        let mut bytes = Vec::new();
        let whole = file.read_to_end(&mut bytes).is_ok() && bytes.len() > CODE_BYTES;
        let (code, artifact) = bytes.split_at(CODE_BYTES.min(bytes.len()));
        if !whole
            || self
                .mac(digest)
                .chain_update(artifact)
                .verify_slice(code)
                .is_err()
        {
            warn!(path = %path.display(), "compiled module is not as we wrote it: compiling again");
            // Whatever it is, it must not be found again.
            let _ = fs::remove_file(&path);
            return Ok(None);
        }
        deserialize(engine, artifact).map(Some)
    }

    /// Keeps a module that was compiled in this process.
    pub fn store(&self, digest: &Digest, component: &Component) -> Result<()> {
        let mut draft = self.draft()?;
        draft
            .write_all(&component.serialize()?)
            .context("failed to write")?;
        self.keep(digest, draft)
    }

    /// A file for a compiled module, to be written from where it stands.
    pub fn draft(&self) -> Result<NamedTempFile> {
        let mut draft = NamedTempFile::new_in(&self.folder)
            .context("failed to create a file in the cache folder")?;
        draft
            .write_all(&[0; CODE_BYTES])
            .context("failed to write")?;
        Ok(draft)
    }

    /// Keeps what was written to a draft. Another runner may do the same at the same time: the rename is atomic.
    pub fn keep(&self, digest: &Digest, mut draft: NamedTempFile) -> Result<()> {
        let file = draft.as_file_mut();
        let mut mac = self.mac(digest);
        file.seek(SeekFrom::Start(CODE_BYTES as u64))?;
        let mut chunk = vec![0; 64 << 10];
        loop {
            let read = file.read(&mut chunk).context("failed to read")?;
            if read == 0 {
                break;
            }
            mac.update(&chunk[..read]);
        }
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&mac.finalize().into_bytes())
            .context("failed to write")?;
        draft
            .persist(self.path(digest))
            .context("failed to rename")?;
        Ok(())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder
            .join(format!("{}-{:016x}.cwasm", digest.hex(), self.engine))
    }

    fn mac(&self, digest: &Digest) -> Hmac<Sha256> {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("a key");
        mac.update(digest.hex().as_bytes());
        mac.update(&self.engine.to_le_bytes());
        mac
    }
}

/// # Soundness
///
/// `Component::deserialize` runs whatever code the bytes hold. These bytes carried an authentication code
/// under a key that only this user can read, over a folder that only this user can write, bound to this
/// engine's version and settings: they are what the
/// compiler gave us, in this process or in its jail.
#[expect(unsafe_code, reason = "the API for loading our own compiled artifact")]
fn deserialize(engine: &Engine, artifact: &[u8]) -> Result<Component> {
    // SAFETY: see above.
    Ok(unsafe { Component::deserialize(engine.wasmtime(), artifact) }?)
}

/// Reads the key, or makes one. Two runners that start together must end with the same.
fn key(path: &Path) -> Result<[u8; KEY_BYTES]> {
    let read = || -> Result<[u8; KEY_BYTES]> {
        let mut file = File::open(path)?;
        let mut key = [0; KEY_BYTES];
        file.read_exact(&mut key).context("the key is too short")?;
        Ok(key)
    };
    if !path.exists() {
        let mut key = [0; KEY_BYTES];
        File::open("/dev/urandom")?.read_exact(&mut key)?;
        let folder = path.parent().context("the key has no folder")?;
        let draft = folder.join(format!("key.{}", std::process::id()));
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(&key)?;
        file.sync_all()?;
        // Fails if another runner was first, whose key it then is.
        let linked = fs::hard_link(&draft, path);
        fs::remove_file(&draft)?;
        if let Err(error) = linked
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(error.into());
        }
    }
    read()
}
