//! The `wasmqtt` binary, where the tests find it.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    wasmqtt::cli::main()
}
