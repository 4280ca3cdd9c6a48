//! Wall clocks that jump, each runner's by itself.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::process::Command;

use crate::faults::fleet::Wrap;

/// Stands between a process and its clock.
const SHIM: &str = include_str!("clock.c");

pub(crate) struct Clocks(TempDir);

impl Clocks {
    /// Compiles the shim, with the compiler that links Rust programs.
    pub(crate) async fn new(runners: usize) -> Arc<Clocks> {
        let clocks = Clocks(TempDir::new().expect("a folder"));
        let source = clocks.0.path().join("clock.c");
        std::fs::write(&source, SHIM).expect("a file");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&clocks.shim(), &source])
            .output()
            .await
            .expect("cc runs");
        assert!(compiled.status.success(), "{compiled:?}");
        for runner in 0..runners {
            std::fs::write(clocks.file(runner), 0_i64.to_ne_bytes()).expect("a file");
        }
        Arc::new(clocks)
    }

    /// Puts runners under these clocks.
    pub(crate) fn wrap(self: &Arc<Self>) -> Wrap {
        let clocks = self.clone();
        Box::new(move |runner, mut command| {
            command
                .env("LD_PRELOAD", clocks.shim())
                .env("FAULTS_CLOCK", clocks.file(runner));
            command
        })
    }

    /// From now on a runner's clock is so many seconds off.
    pub(crate) fn set(&self, runner: usize, seconds: i64) {
        // In place: the file is mapped.
        let file = File::options().write(true).open(self.file(runner));
        let file = file.expect("a clock");
        file.write_all_at(&seconds.to_ne_bytes(), 0)
            .expect("written");
    }

    fn shim(&self) -> PathBuf {
        self.0.path().join("clock.so")
    }

    fn file(&self, runner: usize) -> PathBuf {
        self.0.path().join(format!("clock-{runner}"))
    }
}
