//! What a guest can call: log, progress, is-cancelled, fuel-remaining.

use std::time::{Duration, Instant};

use wasmtime::component::Linker;
use wasmtime::{StoreContextMut, Trap};

use crate::sandbox::guest::Guest;

#[expect(
    missing_docs,
    reason = "generated from wit/, which documents every item"
)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "task",
        exports: { default: async },
    });
}

pub use bindings::wasmqtt::task::types;

pub(super) use bindings::TaskPre;
use bindings::wasmqtt::task::host::Level;

/// A host call burns this much fuel: 24 to 35 times what a plain instruction costs in time, and the
/// bookkeeping behind it.
const CALL_FUEL: u64 = 500;
/// Progress is passed on at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Links `wasmqtt:task`. The functions are written by hand because they charge fuel to the store.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    // Only types, but a component that uses them names the instance.
    linker.instance("wasmqtt:task/types@0.1.0")?;
    let mut host = linker.instance("wasmqtt:task/host@0.1.0")?;
    host.func_wrap(
        "log",
        |mut store: StoreContextMut<'_, Guest>, (level, message): (Level, String)| {
            charge(&mut store, message.len())?;
            store.data().log.line(word(level), "log", &message);
            Ok(())
        },
    )?;
    host.func_wrap(
        "progress",
        |mut store: StoreContextMut<'_, Guest>, (done, total, message): (u64, u64, String)| {
            charge(&mut store, message.len())?;
            let guest = store.data_mut();
            let due = guest
                .last_progress
                .is_none_or(|last| last.elapsed() >= PROGRESS_EVERY);
            if let Some(events) = guest.events.as_ref().filter(|_| due) {
                let message = guest.grants.redact(&message).unwrap_or(message);
                let message: String = message.chars().take(256).collect();
                events.progress(done, total, &message);
                guest.last_progress = Some(Instant::now());
            }
            Ok(())
        },
    )?;
    host.func_wrap(
        "is-cancelled",
        |mut store: StoreContextMut<'_, Guest>, (): ()| {
            charge(&mut store, 0)?;
            Ok((store
                .data()
                .events
                .as_ref()
                .is_some_and(|events| events.is_cancelled()),))
        },
    )?;
    host.func_wrap(
        "fuel-remaining",
        |mut store: StoreContextMut<'_, Guest>, (): ()| {
            charge(&mut store, 0)?;
            Ok((store.get_fuel()?,))
        },
    )?;
    Ok(())
}

/// Burns the fuel of a host call; out of it, the guest ends as it would in its own code.
pub(super) fn charge(store: &mut StoreContextMut<'_, Guest>, bytes: usize) -> wasmtime::Result<()> {
    let cost = CALL_FUEL.saturating_add(bytes as u64);
    match store.get_fuel()?.checked_sub(cost) {
        Some(left) => store.set_fuel(left),
        None => {
            store.set_fuel(0)?;
            Err(Trap::OutOfFuel.into())
        }
    }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Trace => "trace",
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    }
}
