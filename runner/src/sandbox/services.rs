//! What the host functions of all guests share.

use std::path::PathBuf;

use crate::keyvalue;
use crate::sandbox::http::Client;

/// What lies behind capabilities; nothing of it is opened before a guest that was granted it asks.
#[derive(Default)]
pub struct Services {
    pub(super) http: Client,
    pub(super) keyvalue: keyvalue::Store,
    /// Where the folders of tasks are made; the system's temporary folder when there is none.
    pub(super) scratch: Option<PathBuf>,
}

impl Services {
    /// Services that keep what they keep in a file, and folders of tasks in a folder that is emptied now.
    pub fn new(keyvalue: Option<PathBuf>, scratch: Option<PathBuf>) -> Services {
        if let Some(left_behind) = &scratch {
            // A process that died could not.
            let _ = std::fs::remove_dir_all(left_behind);
        }
        Services {
            http: Client::default(),
            keyvalue: keyvalue::Store::new(keyvalue),
            scratch,
        }
    }
}
