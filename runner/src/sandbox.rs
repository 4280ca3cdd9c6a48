//! Runs one guest, once, in a fresh sandbox limited in fuel, memory and time.
//!
//! Owns the engine and the threads that guests run on. It must know neither MQTT nor where modules come
//! from: a prepared module and its input go in, what came of it comes out.

pub mod engine;
pub mod host;
pub mod log;
pub mod prepared;
pub mod publish;
pub mod services;

mod classify;
mod config;
mod cpu;
mod entropy;
mod guest;
mod http;
mod keyvalue;
mod limiter;
mod scratch;
mod stdio;
mod turns;
mod wasi;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::oneshot;
use wasmtime::{Store, UpdateDeadline};

use crate::grants::Grants;
use crate::hardening;
use crate::relay::Relay;
use crate::sandbox::classify::Failure;
use crate::sandbox::engine::Engine;
use crate::sandbox::guest::Guest;
use crate::sandbox::log::GuestEvents;
use crate::sandbox::prepared::{Prepared, Shape};
use crate::sandbox::publish::GuestMessages;
use crate::sandbox::scratch::Scratch;
use crate::sandbox::services::Services;
use crate::sandbox::turns::{Fresh, Turns};
use crate::task::limits::Limits;
use crate::task::outcome::{ErrorCode, Output, TaskError, Usage};
use crate::task::tenant::TenantId;

/// How often a guest makes room for others, in units of fuel: about half a millisecond.
const YIELD_EVERY: u64 = 1_000_000;
/// Handles of resources (streams, pollables) that a guest may hold at one time.
const MAX_HANDLES: usize = 1_000;
/// What a guest may pass to one host call besides its output, in bytes.
const HOST_CALL_BYTES: u64 = 1 << 20;

/// What a guest is given.
#[derive(Clone)]
pub struct Job {
    /// What it is told about its task.
    pub context: host::types::Context,
    /// Its input.
    pub input: Bytes,
    /// How much it may use.
    pub limits: Limits,
    /// Whose it is.
    pub tenant: TenantId,
    /// The tenant's share of the computing, beside the others'.
    pub weight: u32,
    /// What else it may use.
    pub grants: Arc<Grants>,
    /// Takes what it publishes, if it may.
    pub messages: Option<Arc<dyn GuestMessages>>,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The guest's output, or why there is none.
    pub result: Result<Output, TaskError>,
    /// Fuel, memory and time used, also by a run that failed.
    pub usage: Usage,
    /// When the guest started.
    pub started_at: SystemTime,
}

/// Runs guests on threads of its own, so that a spinning guest delays nobody's network.
pub struct Sandbox {
    engine: Arc<Engine>,
    turns: Arc<Turns>,
    services: Arc<Services>,
    threads: Option<tokio::runtime::Runtime>,
}

impl Sandbox {
    /// `threads` guests' threads over an engine.
    pub fn new(engine: Arc<Engine>, threads: usize) -> anyhow::Result<Sandbox> {
        let turns = Arc::new(Turns::new(threads));
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("guest")
            .on_thread_start(hardening::step_back)
            // A task that comes from outside is looked for before every poll, else a short task waits behind
            // long ones; and timers are looked at often, else a deadline fires late under load.
            .global_queue_interval(1)
            .event_interval(7)
            .enable_time()
            .build()?;
        Ok(Sandbox {
            engine,
            turns,
            services: Arc::default(),
            threads: Some(threads),
        })
    }

    /// With services of its own, instead of such that keep nothing.
    pub fn with_services(mut self, services: Services) -> Sandbox {
        self.services = Arc::new(services);
        self
    }

    /// The engine that modules are compiled for.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Runs a guest on the guests' threads, from now on, and answers by the caller's relay; when that is gone the run is
    /// an `internal` error. Dropping the future stops the guest.
    pub fn run(
        &self,
        module: Arc<Prepared>,
        job: Job,
        events: Option<Arc<dyn GuestEvents>>,
        answers: &Relay<Ran>,
    ) -> impl Future<Output = Ran> + Send + use<> {
        let (waiter, answer) = oneshot::channel();
        let guest = self.threads.as_ref().map(|threads| {
            let (engine, services) = (self.engine.clone(), self.services.clone());
            let (turns, answers) = (self.turns.clone(), answers.clone());
            // Boxed: two kilobytes would be moved by every layer of the spawning. And spawned here: the future below would
            // keep room for them.
            AbortOnDrop(threads.spawn(Box::pin(async move {
                let ran = in_turns(&engine, &services, &module, job, events, turns).await;
                answers.answer(waiter, ran);
            })))
        });
        async move {
            let Some(mut guest) = guest else {
                return Ran::internal("the sandbox is closed");
            };
            if let Ok(ran) = answer.await {
                return ran;
            }
            match (&mut guest.0).await {
                Err(died) => Ran::internal(format!("the host failed while the guest ran: {died}")),
                Ok(()) => Ran::internal("the guest's answer was lost: its relay is gone"),
            }
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            // Guests are stopped at their next yield; nobody waits for them.
            threads.shutdown_background();
        }
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Ran {
    fn internal(why: impl Into<String>) -> Ran {
        Ran {
            result: Err(TaskError::new(ErrorCode::Internal, why)),
            usage: Usage::default(),
            started_at: SystemTime::now(),
        }
    }
}

/// Runs a guest on the calling task, with nobody beside it: what [`Sandbox::run`] does on the guests' threads.
pub async fn execute(
    engine: &Engine,
    services: &Arc<Services>,
    module: &Prepared,
    job: Job,
    events: Option<Arc<dyn GuestEvents>>,
) -> Ran {
    let turns = Arc::new(Turns::new(1));
    in_turns(engine, services, module, job, events, turns).await
}

async fn in_turns(
    engine: &Engine,
    services: &Arc<Services>,
    module: &Prepared,
    job: Job,
    events: Option<Arc<dyn GuestEvents>>,
    turns: Arc<Turns>,
) -> Ran {
    let started_at = SystemTime::now();
    let started = Instant::now();
    let limits = job.limits;
    let scratch = match job.grants.scratch_bytes {
        None => None,
        Some(bytes) => match Scratch::make(services.scratch.as_deref(), bytes).await {
            Ok(scratch) => Some(scratch),
            Err(error) => return Ran::internal(format!("{error:#}")),
        },
    };
    let command = matches!(module.shape, Shape::Command(_));
    let guest = match Guest::new(&job, services, scratch, events, command) {
        Ok(guest) => guest,
        Err(error) => return Ran::internal(format!("{error:#}")),
    };
    let output = guest.stdout();
    let mut store = Store::new(engine.wasmtime(), guest);
    let fresh = Fresh::default();
    let prepared = prepare_store(&mut store, &limits, started, fresh.clone());

    let timeout = Duration::from_millis(limits.timeout_ms.value);
    // The call's future ends inside: dropping it unwinds a guest that was stopped in the middle.
    let (result, cpu, bill) = {
        let call = call(&mut store, module, &job);
        let mut call = Turns::gate(turns, job.tenant.clone(), job.weight, fresh, call);
        let result = match prepared {
            Err(error) => Err(Failure::Wasmtime(error)),
            // Epochs stop wasm that never yields; this stops a guest that waits in a host call.
            Ok(()) => match tokio::time::timeout(timeout, &mut call).await {
                Ok(result) => result,
                Err(_) => Err(Failure::Deadline),
            },
        };
        (result, call.spent(), call.bill())
    };

    let fuel_left = store.get_fuel().unwrap_or(0);
    let guest = store.data_mut();
    let result = result.map(|output_of_run| {
        output_of_run.unwrap_or_else(|| Output {
            data: output.take(),
            content_type: None,
        })
    });
    let result = result
        .and_then(|output| {
            let (bytes, limit) = (output.data.len() as u64, limits.output_bytes);
            if bytes > limit.value {
                Err(Failure::OutputTooLarge { bytes: Some(bytes) })
            } else {
                Ok(output)
            }
        })
        .map_err(|failure| {
            let mut error = classify::classify(failure, &limits, &guest.limiter);
            // It is logged, and kept with the task.
            if let Some(redacted) = job.grants.redact(&error.message) {
                error.message = redacted;
            }
            error
        });
    let burnt = limits.fuel.value - fuel_left.min(limits.fuel.value);
    // A unit takes a third of a nanosecond or more.
    let by_time = u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX);
    let fuel = match &result {
        // What is left of the fuel when it ran out is less than one basic block needs.
        Err(error) if error.code == ErrorCode::FuelExhausted => limits.fuel.value,
        // wasmtime loses what was burnt since it last looked when the processor traps (its issue 13802).
        Err(error) if error.code == ErrorCode::Trap => burnt.max(by_time).min(limits.fuel.value),
        _ => burnt,
    };
    // The computing that was had counts, host calls too.
    bill.settle(fuel.max(by_time));
    guest.finish();
    Ran {
        result,
        usage: Usage {
            fuel,
            peak_memory_bytes: guest.limiter.peak_bytes(),
            queued_ms: 0.0,
            run_ms: started.elapsed().as_secs_f64() * 1e3,
            cpu_ms: cpu.as_secs_f64() * 1e3,
            module_cache: None,
        },
        started_at,
    }
}

fn prepare_store(
    store: &mut Store<Guest>,
    limits: &Limits,
    started: Instant,
    fresh: Fresh,
) -> wasmtime::Result<()> {
    store.limiter(|guest| &mut guest.limiter);
    // Before instantiation: start functions burn fuel too.
    store.set_fuel(limits.fuel.value)?;
    store.fuel_async_yield_interval(Some(YIELD_EVERY))?;
    // Host calls take time and next to no fuel: who makes many gives its turn up at the second tick in it.
    let stop = started + Duration::from_millis(limits.timeout_ms.value) + engine::GRACE;
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| {
        Ok(if Instant::now() >= stop {
            UpdateDeadline::Interrupt
        } else if fresh.tick() {
            UpdateDeadline::Yield(1)
        } else {
            UpdateDeadline::Continue(1)
        })
    });
    store.set_max_component_handles(MAX_HANDLES);
    // The largest list that is lifted from a guest is its output; a little more lets the check after the run
    // name the exact size.
    let lifted = limits.output_bytes.value.saturating_add(HOST_CALL_BYTES);
    store.set_hostcall_fuel(usize::try_from(lifted).unwrap_or(usize::MAX));
    Ok(())
}

/// The guest's output; `None` when it is what the guest wrote to stdout.
async fn call(
    store: &mut Store<Guest>,
    module: &Prepared,
    job: &Job,
) -> Result<Option<Output>, Failure> {
    match &module.shape {
        Shape::Typed(pre) => {
            let task = pre.instantiate_async(&mut *store).await?;
            let returned = task.call_run(&mut *store, &job.context, &job.input).await?;
            match returned {
                Ok(output) => Ok(Some(Output {
                    data: output.data.into(),
                    content_type: output.content_type,
                })),
                Err(error) => Err(Failure::Guest(error)),
            }
        }
        Shape::Command(pre) => {
            let command = pre.instantiate_async(&mut *store).await?;
            match command.wasi_cli_run().call_run(&mut *store).await {
                Ok(Ok(())) => Ok(None),
                Ok(Err(())) => Err(Failure::Exit(1)),
                Err(error) => match error.downcast_ref::<wasmtime_wasi::I32Exit>() {
                    Some(exit) if exit.0 == 0 => Ok(None),
                    Some(exit) => Err(Failure::Exit(exit.0)),
                    None => Err(Failure::Wasmtime(error)),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests;
