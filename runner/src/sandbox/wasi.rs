//! What a guest gets of WASI 0.2.
//!
//! Interfaces that toolchains import without using are linked for everybody. Sockets and name look-ups are denied, and
//! so are files but for the folder of a task that was granted one. Clocks and random bytes are needed by a standard
//! library (a map's hasher draws some): without a grant the clocks are coarse, and the bytes are the task's own stream.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use wasmtime::StoreContextMut;
use wasmtime::component::Linker;
use wasmtime_wasi::filesystem::FsPerms;
use wasmtime_wasi::p2::bindings::random::insecure::Host as _;
use wasmtime_wasi::p2::bindings::random::random::Host as _;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiView};

use crate::sandbox::Job;
use crate::sandbox::entropy::Seed;
use crate::sandbox::guest::Guest;
use crate::sandbox::host::charge;
use crate::sandbox::stdio::{Sink, Stream};

/// What the clocks show is a multiple of this: a finer clock is an instrument for timing attacks.
const CLOCK_STEP: Duration = Duration::from_millis(1);
/// Random bytes that one call may ask for; the host makes them all at once.
const RANDOM_BYTES: u64 = 1 << 20;

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    linker.allow_shadowing(true);
    let mut random = linker.instance("wasi:random/random@0.2.12")?;
    random.func_wrap(
        "get-random-bytes",
        |mut store: StoreContextMut<'_, Guest>, (bytes,): (u64,)| {
            charge(&mut store, usize::try_from(bytes).unwrap_or(usize::MAX))?;
            let random = store.data_mut().ctx().ctx.random();
            Ok((random.get_random_bytes(bytes)?,))
        },
    )?;
    let mut insecure = linker.instance("wasi:random/insecure@0.2.12")?;
    insecure.func_wrap(
        "get-insecure-random-bytes",
        |mut store: StoreContextMut<'_, Guest>, (bytes,): (u64,)| {
            charge(&mut store, usize::try_from(bytes).unwrap_or(usize::MAX))?;
            let random = store.data_mut().ctx().ctx.random();
            Ok((random.get_insecure_random_bytes(bytes)?,))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// The context of one guest. `command` says that it is a WASI command: its input is on stdin and its task's
/// fields are in the environment.
pub(super) fn context(
    job: &Job,
    command: bool,
    scratch: Option<&Path>,
    stdout: impl Sink,
    stderr: impl Sink,
) -> wasmtime::Result<WasiCtx> {
    let mut wasi = WasiCtx::builder();
    wasi.allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .max_random_size(RANDOM_BYTES)
        .stdout(Stream(stdout))
        .stderr(Stream(stderr));
    if !job.grants.clock {
        wasi.wall_clock(CoarseWallClock)
            .monotonic_clock(CoarseMonotonicClock(Instant::now()));
    }
    if !job.grants.entropy {
        let seed = Seed::of(&job.context);
        wasi.secure_random(seed.stream())
            .insecure_random(seed.stream())
            .insecure_random_seed(seed.number());
    }
    if let Some(folder) = scratch {
        wasi.preopened_dir(folder, "/scratch", FsPerms::ReadWrite)?;
    }
    if command {
        let task = &job.context;
        wasi.stdin(MemoryInputPipe::new(job.input.clone()))
            .arg(&task.module)
            .env("TASK_ID", &task.id)
            .env("TASK_TENANT", &task.tenant)
            .env("TASK_MODULE", &task.module)
            .env("TASK_ATTEMPT", task.attempt.to_string())
            .env("TASK_DEADLINE_MS", task.deadline_ms.to_string());
        if let Some(content_type) = &task.content_type {
            wasi.env("TASK_CONTENT_TYPE", content_type);
        }
        if !task.labels.is_empty() {
            let labels: std::collections::BTreeMap<_, _> = task.labels.iter().cloned().collect();
            wasi.env(
                "TASK_LABELS",
                serde_json::to_string(&labels).unwrap_or_default(),
            );
        }
    }
    Ok(wasi.build())
}

fn coarse(time: Duration) -> Duration {
    let step = CLOCK_STEP.as_nanos() as u64;
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(nanos - nanos % step)
}

struct CoarseWallClock;

impl HostWallClock for CoarseWallClock {
    fn resolution(&self) -> Duration {
        CLOCK_STEP
    }

    fn now(&self) -> Duration {
        coarse(
            SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default(),
        )
    }
}

struct CoarseMonotonicClock(Instant);

impl HostMonotonicClock for CoarseMonotonicClock {
    fn resolution(&self) -> u64 {
        CLOCK_STEP.as_nanos() as u64
    }

    fn now(&self) -> u64 {
        coarse(self.0.elapsed()).as_nanos() as u64
    }
}
