//! What tells whether a file was replaced or written to.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Of a file as it was at one moment: one that differs is of another content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp {
    device: u64,
    inode: u64,
    /// The file's length.
    pub bytes: u64,
    /// When it was written last.
    pub modified: Option<SystemTime>,
    /// Seconds and nanoseconds of the kernel's own note of a change, which nobody can set: the same length and time of
    /// writing can be given to another content.
    changed: (i64, i64),
}

impl Stamp {
    /// Of a file's metadata.
    #[must_use]
    pub fn of(meta: &Metadata) -> Stamp {
        Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: meta.modified().ok(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether what is written to the file from now on gives it another stamp: the kernel's clock for files is a coarse one.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        const TICKS: Duration = Duration::from_millis(20);
        let (seconds, nanoseconds) = self.changed;
        let changed = Duration::new(
            u64::try_from(seconds).unwrap_or_default(),
            u32::try_from(nanoseconds).unwrap_or_default(),
        );
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.is_ok_and(|now| now > changed + TICKS)
    }
}
