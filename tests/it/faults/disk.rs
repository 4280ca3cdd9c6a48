//! A disk that can be full.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command as StdCommand, Stdio};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tempfile::TempDir;
use tokio::process::Command;

/// Ignored, so that a write over the limit is an error as on a full disk, instead of the end of the process; that stays
/// so over `exec`.
const IGNORE_SIGXFSZ: &str = r#"trap "" XFSZ; exec "$0" "$@""#;

/// A small file system where this user may mount one, else a limit on the size of files.
pub(crate) struct Disk {
    folder: TempDir,
    mounted: bool,
}

impl Disk {
    pub(crate) fn new() -> Disk {
        let folder = TempDir::new().expect("a folder");
        let mounted = StdCommand::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64m,mode=0700", "wasmqtt-faults"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        Disk { folder, mounted }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Nothing can be written any more by these processes.
    pub(crate) fn fill(&self, processes: &[u32]) {
        if !self.mounted {
            return limit(processes, Some(0));
        }
        let mut file = File::create(self.filler()).expect("a file");
        let block = [0; 4096];
        while file.write_all(&block).is_ok() {}
    }

    /// There is room again.
    pub(crate) fn free(&self, processes: &[u32]) {
        if !self.mounted {
            return limit(processes, None);
        }
        std::fs::remove_file(self.filler()).expect("the filler");
    }

    fn filler(&self) -> std::path::PathBuf {
        self.path().join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a process that is just being killed may have files open.
            let unmounted = StdCommand::new("umount")
                .arg("-l")
                .arg(self.path())
                .status();
            let well = unmounted.is_ok_and(|status| status.success());
            if !well {
                eprintln!("failed to unmount {}", self.path().display());
            }
        }
    }
}

/// Starts a process so that it survives [`limit`].
pub(crate) fn limitable(command: &Command) -> Command {
    let command = command.as_std();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", IGNORE_SIGXFSZ])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

fn limit(processes: &[u32], bytes: Option<u64>) {
    for process in processes {
        let process = i32::try_from(*process).ok().and_then(Pid::from_raw);
        let limits = Rlimit {
            current: bytes,
            maximum: None,
        };
        prlimit(process, Resource::Fsize, limits).expect("it is ours");
    }
}
