//! The engine: what is compiled how, where instances live, and the clock that stops spinning wasm.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use wasmtime::component::{Component, Linker};
use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    WasmBacktraceDetails,
};

use crate::sandbox::guest::Guest;
use crate::sandbox::limiter::MAX_TABLE_ELEMENTS;
use crate::sandbox::{config, host, http, keyvalue, publish, scratch, wasi};

/// The epoch clock's tick. 1 to 10 ms cost nothing measurable.
const TICK: Duration = Duration::from_millis(10);
/// How much later than the timeout the epochs stop a guest: the timeout, which names the limit, is to come first.
pub(super) const GRACE: Duration = Duration::from_millis(100);
/// Instances of core modules in one component: a Rust component has 4, CPython's about 30.
const MAX_CORE_INSTANCES: u32 = 100;
/// Linear memories in one component.
const MAX_MEMORIES: u32 = 4;
/// Tables in one component.
const MAX_TABLES: u32 = 16;
/// More guests at one time than this would need `vm.max_map_count` raised: past it the process dies.
pub const MAX_GUESTS: usize = 4_000;

/// What is linked besides WASI; the last of it takes functions of WASI over. It is there for every module, and each
/// function asks for itself what its guest was granted: which module may import what is decided before it is compiled.
const CAPABILITIES: [(&str, AddToLinker); 6] = [
    ("the host functions", host::add_to_linker),
    ("wasi:http", http::add_to_linker),
    ("wasi:config", config::add_to_linker),
    ("wasi:keyvalue", keyvalue::add_to_linker),
    ("wasmqtt:task/publish", publish::add_to_linker),
    ("the scratch folder", scratch::add_to_linker),
];

type AddToLinker = fn(&mut Linker<Guest>) -> wasmtime::Result<()>;

/// The sizes of the pool.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Guests at one time.
    pub guests: usize,
    /// The most linear memory of one guest, in bytes.
    pub memory_bytes: u64,
}

/// wasmtime, set up for strangers' code, and the linker with all that a guest may import.
pub struct Engine {
    engine: wasmtime::Engine,
    linker: Linker<Guest>,
    _epochs: Epochs,
}

impl Engine {
    /// Sets up the pool, the linker and the epoch clock.
    pub fn new(sizes: Sizes) -> Result<Engine> {
        let engine = wasmtime::Engine::new(&settings(sizes))
            .map_err(anyhow::Error::from)
            .context("failed to set up the wasm engine")?;
        let mut linker = Linker::new(&engine);
        wasi::add_to_linker(&mut linker)
            .map_err(anyhow::Error::from)
            .context("failed to link WASI")?;
        for (what, add_to_linker) in CAPABILITIES {
            add_to_linker(&mut linker)
                .map_err(anyhow::Error::from)
                .with_context(|| format!("failed to link {what}"))?;
        }
        let epochs = Epochs::start(engine.clone())?;
        Ok(Engine {
            engine,
            linker,
            _epochs: epochs,
        })
    }

    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.engine
    }

    pub(super) fn linker(&self) -> &Linker<Guest> {
        &self.linker
    }

    /// Compiles a component's bytes. Takes about 2 CPU-seconds per megabyte.
    pub fn compile(&self, bytes: &[u8]) -> Result<Component> {
        Ok(Component::from_binary(&self.engine, bytes)?)
    }
}

/// Compiles a component's bytes to what an [`Engine`] loads, on this thread alone and without a pool.
pub(crate) fn precompile(bytes: &[u8]) -> Result<Vec<u8>> {
    Ok(compiler()?.precompile_component(bytes)?)
}

fn compiler() -> Result<wasmtime::Engine> {
    let mut config = code_config();
    config.parallel_compilation(false);
    Ok(wasmtime::Engine::new(&config)?)
}

fn settings(sizes: Sizes) -> Config {
    let guests = sizes.guests as u32;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(guests)
        .total_core_instances(guests.saturating_mul(MAX_CORE_INSTANCES))
        .total_memories(guests.saturating_mul(MAX_MEMORIES))
        .total_tables(guests.saturating_mul(MAX_TABLES))
        .total_stacks(guests)
        .max_core_instances_per_component(MAX_CORE_INSTANCES)
        .max_memories_per_component(MAX_MEMORIES)
        .max_tables_per_component(MAX_TABLES)
        .table_elements(MAX_TABLE_ELEMENTS)
        .max_memory_size(
            usize::try_from(sizes.memory_bytes)
                .unwrap_or(usize::MAX)
                .next_multiple_of(64 << 10),
        )
        // Keeping touched pages resident between guests (zeroed by memset, found by PAGEMAP_SCAN) makes a
        // task of a Rust guest three times as fast as giving them back, and lets threads scale.
        .linear_memory_keep_resident(1 << 20)
        .table_keep_resident(16 << 10)
        .pagemap_scan(Enabled::Auto)
        .decommit_batch_size(16);

    let mut config = code_config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// All that shapes machine code, and nothing of where it runs.
fn code_config() -> Config {
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .epoch_interruption(true)
        .max_wasm_stack(512 << 10)
        .async_stack_size(1 << 20)
        .memory_may_move(false)
        .cranelift_opt_level(OptLevel::Speed)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .concurrency_support(false);
    // What no toolchain needs is off: each proposal is code that a stranger's module would reach.
    config
        .wasm_component_model(true)
        .wasm_tail_call(true)
        .wasm_memory64(false)
        // What copies from one part of a component to another has the memories of both: without it QuickJS's and
        // composed components make the compiler panic.
        .wasm_multi_memory(true)
        .wasm_relaxed_simd(false)
        .wasm_wide_arithmetic(false)
        .wasm_custom_page_sizes(false)
        .wasm_function_references(false)
        .wasm_gc(false)
        .wasm_exceptions(false)
        .shared_memory(false);
    config
}

/// The thread that ticks; it ends with its owner.
struct Epochs(Arc<AtomicBool>);

impl Epochs {
    fn start(engine: wasmtime::Engine) -> Result<Epochs> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let tick = move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(TICK);
                engine.increment_epoch();
            }
        };
        std::thread::Builder::new()
            .name("epochs".to_owned())
            .spawn(tick)
            .context("failed to start the epoch clock")?;
        Ok(Epochs(stop))
    }
}

impl Drop for Epochs {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};

    use super::*;

    /// Else what the compiler's process makes could not be loaded.
    #[test]
    fn the_compiler_makes_what_the_pool_loads() {
        let hash = |engine: &wasmtime::Engine| {
            let mut hasher = DefaultHasher::new();
            engine.precompile_compatibility_hash().hash(&mut hasher);
            hasher.finish()
        };
        let sizes = Sizes {
            guests: 2,
            memory_bytes: 256 << 20,
        };
        let pooled = Engine::new(sizes).expect("an engine");
        assert_eq!(
            hash(&compiler().expect("a compiler")),
            hash(pooled.wasmtime())
        );
    }
}
