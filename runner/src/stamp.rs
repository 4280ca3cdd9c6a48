//! What tells whether a file was replaced or written to.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::time::SystemTime;

/// Of a file as it was at one moment: one that differs is of another content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp {
    inode: u64,
    /// The file's length.
    pub bytes: u64,
    /// When it was written last.
    pub modified: Option<SystemTime>,
}

impl Stamp {
    /// Of a file's metadata.
    #[must_use]
    pub fn of(meta: &Metadata) -> Stamp {
        Stamp {
            inode: meta.ino(),
            bytes: meta.len(),
            modified: meta.modified().ok(),
        }
    }
}
