//! The `wasmqtt` binary: see [`wasmqtt::cli`].

/// What one thread allocates another frees, at every hop of a task: the system's allocator does not like that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    wasmqtt::cli::main()
}
