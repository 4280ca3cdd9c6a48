//! Compiling in a child process: the same program, which limits itself before it reads a byte of the module.
//!
//! The parent gives it the module and a file for the machine code, waits no longer than the wall limit, and says by its
//! end what became of it. The child's half is in [`inside`].

pub mod inside;

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use tempfile::NamedTempFile;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};
use tracing::debug;

use crate::task::outcome::{ErrorCode, TaskError};
use crate::tenants::compile::CompileLimits;

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "compile-in-jail";
/// The program that runs now, also when its file has been replaced since.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// What the child may say.
const SAID_BYTES: u64 = 4 << 10;

/// Where modules are compiled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Compiler {
    /// In this process, without limits: for a library's user, who brings modules of their own.
    #[default]
    InProcess,
    /// In a child process that runs this program, which must be `wasmqtt`'s.
    Jail(PathBuf),
}

impl Compiler {
    /// A child process that runs the program that asks.
    pub fn jail() -> Compiler {
        Compiler::Jail(THIS_PROGRAM.into())
    }
}

/// Compiles a module into the draft, behind what is in it.
pub(super) async fn compile(
    program: &Path,
    module: &[u8],
    limits: &CompileLimits,
    draft: &NamedTempFile,
) -> Result<(), TaskError> {
    let mut child = start(program, limits, draft).map_err(|why| {
        TaskError::new(
            ErrorCode::Internal,
            format!("failed to start the compiler: {why:#}"),
        )
    })?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let all = async { tokio::join!(feed(stdin, module), listen(stderr), child.wait()) };
    let wall = Duration::from_secs(limits.wall_s);
    match tokio::time::timeout(wall, all).await {
        Ok(((), said, Ok(status))) => judge(status, &said, limits),
        Ok(((), _, Err(error))) => Err(TaskError::new(
            ErrorCode::Internal,
            format!("failed to wait for the compiler: {error}"),
        )),
        Err(_) => {
            // Waits for its end too: who comes next must not compile beside it.
            if let Err(error) = child.kill().await {
                debug!(%error, "the compiler had ended already");
            }
            Err(too_costly("seconds", "wall_s", limits.wall_s))
        }
    }
}

fn start(program: &Path, limits: &CompileLimits, draft: &NamedTempFile) -> Result<Child> {
    let output = draft.as_file().try_clone()?;
    let mut command = Command::new(program);
    command
        .arg0("wasmqtt")
        .arg(SUBCOMMAND)
        .args(["--cpu-s", &limits.cpu_s.to_string()])
        .args(["--memory-bytes", &limits.memory_bytes.to_string()])
        .args(["--artifact-bytes", &limits.artifact_bytes.to_string()])
        .env_clear()
        // Else the allocator takes a gigabyte at once, which counts as data.
        .env("MIMALLOC_ARENA_EAGER_COMMIT", "0")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::from(output))
        .stderr(Stdio::piped())
        // A flow that ends before its module is compiled takes the child with it.
        .kill_on_drop(true);
    let shown = program.display();
    command
        .spawn()
        .with_context(|| format!("failed to run {shown}"))
}

async fn feed(stdin: Option<ChildStdin>, module: &[u8]) {
    if let Some(mut stdin) = stdin
        && let Err(error) = stdin.write_all(module).await
    {
        // It has ended, and says by that why.
        debug!(%error, "the compiler did not read its module");
    }
}

async fn listen(stderr: Option<impl AsyncRead + Unpin>) -> String {
    let mut said = Vec::new();
    if let Some(mut stderr) = stderr {
        let heard = (&mut stderr).take(SAID_BYTES).read_to_end(&mut said).await;
        let rest = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
        if let Err(error) = heard.map(|_| ()).and(rest.map(|_| ())) {
            debug!(%error, "failed to hear the compiler out");
        }
    }
    String::from_utf8_lossy(&said).trim().to_owned()
}

/// What its end says.
fn judge(status: ExitStatus, said: &str, limits: &CompileLimits) -> Result<(), TaskError> {
    let is = |signal: Signal| status.signal() == Some(signal.as_raw());
    if status.success() {
        return Ok(());
    }
    if status.code() == Some(inside::INVALID.into()) {
        return Err(TaskError::new(ErrorCode::ModuleInvalid, said));
    }
    if status.code() == Some(inside::DENIED.into()) {
        return Err(TaskError::new(ErrorCode::ImportDenied, said));
    }
    if is(Signal::XCPU) {
        return Err(too_costly("CPU seconds", "cpu_s", limits.cpu_s));
    }
    if is(Signal::XFSZ) {
        let most = limits.artifact_bytes;
        return Err(too_costly("bytes of machine code", "artifact_bytes", most));
    }
    let aborted = is(Signal::ABORT);
    if aborted && said.contains("memory allocation of") {
        let most = limits.memory_bytes;
        return Err(too_costly("bytes of memory", "memory_bytes", most));
    }
    let crashed = [
        Signal::SEGV,
        Signal::BUS,
        Signal::ILL,
        Signal::FPE,
        Signal::TRAP,
    ];
    if aborted || crashed.into_iter().any(is) || status.code() == Some(inside::PANICKED) {
        // It would die of it again.
        let why = format!("the compiler died of it ({status}): {said}");
        return Err(TaskError::new(ErrorCode::ModuleInvalid, why));
    }
    Err(TaskError::new(
        ErrorCode::Internal,
        format!("the compiler was ended by something else ({status}): {said}"),
    ))
}

fn too_costly(what: &str, name: &str, most: u64) -> TaskError {
    let why = format!("compiling takes more than {most} {what} (the tenant's limit `{name}`)");
    TaskError::new(ErrorCode::ModuleTooCostly, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_says_what_became_of_it() {
        let limits = CompileLimits::default();
        let signal = |signal: Signal| ExitStatus::from_raw(signal.as_raw());
        let code = |code: i32| ExitStatus::from_raw(code << 8);
        for (status, said, expected, words) in [
            (code(3), "unknown type", ErrorCode::ModuleInvalid, "unknown"),
            (code(4), "imports x", ErrorCode::ImportDenied, "imports x"),
            (
                code(101),
                "panicked at x",
                ErrorCode::ModuleInvalid,
                "panicked at x",
            ),
            (code(1), "disk full", ErrorCode::Internal, "disk full"),
            (
                signal(Signal::XCPU),
                "",
                ErrorCode::ModuleTooCostly,
                "more than 60 CPU seconds",
            ),
            (
                signal(Signal::XFSZ),
                "",
                ErrorCode::ModuleTooCostly,
                "`artifact_bytes`",
            ),
            (
                signal(Signal::ABORT),
                "memory allocation of 16 bytes failed",
                ErrorCode::ModuleTooCostly,
                "`memory_bytes`",
            ),
            (
                signal(Signal::ABORT),
                "",
                ErrorCode::ModuleInvalid,
                "died of it",
            ),
            (
                signal(Signal::SEGV),
                "",
                ErrorCode::ModuleInvalid,
                "died of it",
            ),
            (signal(Signal::KILL), "", ErrorCode::Internal, "signal: 9"),
            (signal(Signal::TERM), "", ErrorCode::Internal, "signal: 15"),
        ] {
            let error = judge(status, said, &limits).expect_err("an end");
            assert_eq!(error.code, expected, "{status}: {error:?}");
            assert!(error.message.contains(words), "{status}: {error:?}");
        }
        assert!(judge(code(0), "", &limits).is_ok());
    }
}
