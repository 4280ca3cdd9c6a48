//! Compiled modules on disk: found again after a restart, loaded only if we wrote them.
//!
//! Loading machine code is running it, so an artifact is loaded only from a folder that is ours alone
//! (0700), and only if its authentication code, made with a key that lies in that folder, fits its bytes and
//! its name. A flipped byte means compiling again.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tracing::warn;
use wasmtime::component::Component;

use crate::sandbox::engine::Engine;
use crate::task::Digest;

const KEY_BYTES: usize = 32;
const CODE_BYTES: usize = 32;

/// A folder of compiled modules.
pub struct Artifacts {
    folder: PathBuf,
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
            key,
            engine: hasher.finish(),
        })
    }

    /// The compiled module of that content, if we wrote it and it is whole.
    pub fn load(&self, engine: &Engine, digest: &Digest) -> Option<Component> {
        let path = self.path(digest);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    warn!(path = %path.display(), %error, "compiled module not readable");
                }
                return None;
            }
        };
        let mut bytes = Vec::new();
        let whole = file.read_to_end(&mut bytes).is_ok() && bytes.len() > CODE_BYTES;
        let (code, artifact) = bytes.split_at(CODE_BYTES.min(bytes.len()));
        if !whole || self.mac(digest, artifact).verify_slice(code).is_err() {
            warn!(path = %path.display(), "compiled module is not as we wrote it: compiling again");
            // Whatever it is, it must not be found again.
            let _ = fs::remove_file(&path);
            return None;
        }
        match deserialize(engine, artifact) {
            Ok(component) => Some(component),
            Err(error) => {
                warn!(path = %path.display(), error = format!("{error:#}"), "compiled module not usable: compiling again");
                None
            }
        }
    }

    /// Keeps a compiled module. Another runner may do the same at the same time: the rename is atomic.
    pub fn store(&self, digest: &Digest, component: &Component) -> Result<()> {
        let artifact = component.serialize()?;
        let code = self.mac(digest, &artifact).finalize().into_bytes();
        let mut file =
            tempfile::NamedTempFile::new_in(&self.folder).context("failed to create a file")?;
        file.write_all(&code)
            .and_then(|()| file.write_all(&artifact))
            .context("failed to write")?;
        file.persist(self.path(digest))
            .context("failed to rename")?;
        Ok(())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder
            .join(format!("{}-{:016x}.cwasm", digest.hex(), self.engine))
    }

    fn mac(&self, digest: &Digest, artifact: &[u8]) -> Hmac<Sha256> {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("a key");
        mac.update(digest.hex().as_bytes());
        mac.update(&self.engine.to_le_bytes());
        mac.update(artifact);
        mac
    }
}

/// # Soundness
///
/// `Component::deserialize` runs whatever code the bytes hold. These bytes carried an authentication code
/// under a key that only this user can read, over a folder that only this user can write, bound to this
/// engine's version and settings: they are what `Component::serialize` gave us.
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
