//! The `wasmqtt` binary: see [`wasmqtt::cli`].

fn main() -> std::process::ExitCode {
    wasmqtt::cli::main()
}
