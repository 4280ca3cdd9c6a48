//! The child's half of the jail: limits itself, reads a module from stdin, writes machine code to stdout.
//!
//! It has no descriptors of the runner's but these and stderr (all others are closed on exec), no environment, and its
//! parent's death is its own.

use std::io::{Read as _, Write as _};

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, Signal};

use crate::modules::shape;
use crate::sandbox::engine;
use crate::task::outcome::ErrorCode;

/// The module does not compile: stderr says why.
pub const INVALID: u8 = 3;
/// As a component, it imports what no runner offers: stderr says what.
pub const DENIED: u8 = 4;
/// What Rust's runtime ends a panic with.
pub(super) const PANICKED: i32 = 101;
/// Behind whatever serves tasks.
const NICE: i32 = 10;
/// Stdin, stdout, stderr and what the allocator and the engine look up in /proc.
const DESCRIPTORS: u64 = 16;
/// More would not fit in an outcome.
const SAID_BYTES: usize = 2 << 10;

/// What the parent grants.
#[derive(Debug, Clone, Copy)]
pub struct Grant {
    /// CPU seconds.
    pub cpu_s: u64,
    /// Bytes of data.
    pub memory_bytes: u64,
    /// Bytes of the file behind stdout.
    pub artifact_bytes: u64,
}

/// Compiles stdin to stdout; the process's exit code.
pub fn compile(grant: &Grant) -> Result<u8> {
    confine(grant).context("failed to confine the compiler")?;
    let mut module = Vec::new();
    std::io::stdin()
        .read_to_end(&mut module)
        .context("failed to read the module")?;
    let component = match shape::component(&module) {
        Ok(component) => component,
        Err(why) => {
            let denied = why.code == ErrorCode::ImportDenied;
            return Ok(refuse(why.message, if denied { DENIED } else { INVALID }));
        }
    };
    let artifact = match engine::precompile(&component) {
        Ok(artifact) => artifact,
        Err(why) => return Ok(refuse(format!("{why:#}"), INVALID)),
    };
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(&artifact)
        .and_then(|()| stdout.flush())
        .context("failed to write the machine code")?;
    Ok(0)
}

fn refuse(mut why: String, code: u8) -> u8 {
    why.truncate(why.floor_char_boundary(SAID_BYTES));
    eprintln!("{why}");
    code
}

fn confine(grant: &Grant) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::thread::set_no_new_privs(true)?;
    for (resource, most) in [
        (Resource::Cpu, grant.cpu_s),
        // Not address space, which engines reserve without using it.
        (Resource::Data, grant.memory_bytes),
        (Resource::Fsize, grant.artifact_bytes),
        (Resource::Core, 0),
        (Resource::Nofile, DESCRIPTORS),
        // Neither threads nor processes of its own.
        (Resource::Nproc, 0),
    ] {
        lower(resource, most).with_context(|| format!("failed to limit {resource:?}"))?;
    }
    rustix::process::nice(NICE)?;
    // If memory runs out, this process is the one to go.
    std::fs::write("/proc/self/oom_score_adj", "1000")
        .context("failed to volunteer for the OOM killer")
}

/// Both limits, not above what there was.
fn lower(resource: Resource, most: u64) -> rustix::io::Result<()> {
    let before = rustix::process::getrlimit(resource);
    let most = most.min(before.maximum.unwrap_or(u64::MAX));
    let (current, maximum) = (Some(most), Some(most));
    // With a hard limit alone the kernel's signal is SIGKILL, which says nothing.
    let maximum = match resource {
        Resource::Cpu => maximum.map(|most| most.saturating_add(1)),
        _ => maximum,
    };
    let maximum = maximum.min(before.maximum.or(maximum));
    rustix::process::setrlimit(resource, Rlimit { current, maximum })
}
