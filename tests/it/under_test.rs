//! The real binary as a child process.

use std::ffi::OsStr;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::rig::PATIENCE;
use crate::stock;

/// `wasmqtt`, with nothing of the user's environment in its configuration.
pub(crate) fn command(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wasmqtt-under-test"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WASMQTT_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs it to its end.
pub(crate) async fn run(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    let cache = TempDir::new().expect("a folder");
    let output = command(args)
        .env("XDG_CACHE_HOME", cache.path())
        .env("XDG_STATE_HOME", cache.path().join("state"))
        .output();
    let output = timeout(PATIENCE, output).await.expect("an end in time");
    output.expect("it runs")
}

/// A running `wasmqtt serve`; killed when dropped.
pub(crate) struct Serve {
    child: Child,
    log: Arc<Mutex<String>>,
    /// Changes with every line of the log.
    lines: watch::Receiver<usize>,
    _cache: TempDir,
}

impl Serve {
    /// One that is connected and subscribed.
    pub(crate) async fn ready(args: &[&str]) -> Serve {
        let mut serve = Serve::start(args);
        serve.logs("serve: ready").await;
        serve
    }

    /// The same, with a say in how the process is started.
    pub(crate) async fn ready_with(
        args: &[&str],
        change: impl FnOnce(Command) -> Command,
    ) -> Serve {
        let mut serve = Serve::start_with(args, change);
        serve.logs("serve: ready").await;
        serve
    }

    pub(crate) fn start(args: &[&str]) -> Serve {
        Serve::start_with(args, |command| command)
    }

    /// The same, with a say in how the process is started: its environment, or what starts it.
    pub(crate) fn start_with(args: &[&str], change: impl FnOnce(Command) -> Command) -> Serve {
        let cache = TempDir::new().expect("a folder");
        let mut command = command([&["serve", "--concurrency", "4"], args].concat());
        command
            .env("XDG_CACHE_HOME", cache.path())
            .env("XDG_STATE_HOME", cache.path().join("state"));
        let mut child = change(command)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it runs");
        let mut stderr = BufReader::new(child.stderr.take().expect("its log")).lines();
        let log = Arc::new(Mutex::new(String::new()));
        let (sender, lines) = watch::channel(0);
        let shared = log.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = stderr.next_line().await {
                {
                    let mut log = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    log.push_str(&line);
                    log.push('\n');
                }
                // Not under the lock, which whoever waits takes under the channel's.
                sender.send_modify(|lines| *lines += 1);
            }
        });
        Serve {
            child,
            log,
            lines,
            _cache: cache,
        }
    }

    /// What it has written to stderr.
    pub(crate) fn log(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.clone()
    }

    /// Waits until its log has this.
    pub(crate) async fn logs(&mut self, text: &str) {
        let log = self.log.clone();
        let has = |_: &usize| {
            log.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(text)
        };
        let waited = timeout(PATIENCE, self.lines.wait_for(has)).await;
        let found = waited.is_ok_and(|line| line.is_ok());
        assert!(found, "no {text:?} in the log:\n{}", self.log());
    }

    /// Where its embedded broker listens.
    pub(crate) fn url(&self) -> String {
        let log = self.log();
        let address = log.split("embedded broker listens address=").nth(1);
        let address = address.and_then(|rest| rest.split_whitespace().next());
        format!("mqtt://{}", address.expect("an embedded broker"))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("running")
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.start_kill().expect("running");
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Any signal.
    pub(crate) fn signal(&self, signal: Signal) {
        stock::signal(self.id(), signal);
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let ended = timeout(PATIENCE, self.child.wait()).await;
        match ended {
            Ok(status) => status.expect("a status"),
            Err(_) => panic!("it goes on:\n{}", self.log()),
        }
    }

    /// SIGTERM, and it must end well.
    pub(crate) async fn end(mut self) {
        self.terminate();
        let status = self.ended().await;
        assert!(status.success(), "{status}:\n{}", self.log());
    }
}
