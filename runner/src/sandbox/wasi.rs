//! What a guest gets of WASI 0.2 when nobody granted it anything.
//!
//! Interfaces that toolchains import without using (filesystem, sockets) are linked but empty: no
//! preopened folder, every socket and every name look-up denied.

use std::time::{Duration, Instant, SystemTime};

use wasmtime::component::Linker;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiView};

use crate::sandbox::Job;
use crate::sandbox::stdio::{Sink, Stream};

/// What the clocks show is a multiple of this: a finer clock is an instrument for timing attacks.
const CLOCK_STEP: Duration = Duration::from_millis(1);

pub(super) fn add_to_linker<T: WasiView>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)
}

/// The context of one guest. `command` says that it is a WASI command: its input is on stdin and its task's
/// fields are in the environment.
pub(super) fn context(job: &Job, command: bool, stdout: impl Sink, stderr: impl Sink) -> WasiCtx {
    let mut wasi = WasiCtx::builder();
    wasi.allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .wall_clock(CoarseWallClock)
        .monotonic_clock(CoarseMonotonicClock(Instant::now()))
        .stdout(Stream(stdout))
        .stderr(Stream(stderr));
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
    wasi.build()
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
