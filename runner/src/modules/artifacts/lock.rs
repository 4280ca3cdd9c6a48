//! One process on this machine compiles a module; a lock that its holder died with is free.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use anyhow::Result;

/// Until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes it, if nobody has it.
    pub(super) fn take(path: PathBuf) -> Result<Option<Lock>> {
        loop {
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
            // Whoever had it may have removed it between our opening and our locking: then it is nobody's.
            let (ours, there) = (file.metadata()?, fs::metadata(&path));
            if there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
                return Ok(Some(Lock { _file: file, path }));
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is ours: who waits finds that it is gone, and takes the next.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_nothing_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.lock");
        let take = || Lock::take(path.clone()).expect("a folder to lock in");
        let held = take().expect("free");
        assert!(take().is_none());
        drop(held);
        assert!(!path.exists());
        drop(take().expect("free again"));
        // A process that was killed leaves its file, and nobody who holds it.
        fs::write(&path, "").expect("written");
        drop(take().expect("free"));
        assert!(!path.exists());
    }

    #[test]
    fn threads_take_turns() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.lock");
        let inside = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut taken = 0;
                    while taken < 200 {
                        let Some(_held) = Lock::take(path.clone()).expect("a folder") else {
                            std::thread::yield_now();
                            continue;
                        };
                        let others = inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        assert_eq!(others, 0, "two at one time");
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        taken += 1;
                    }
                });
            }
        });
    }
}
