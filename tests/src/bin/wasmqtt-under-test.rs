//! The `wasmqtt` binary, where the tests find it.

fn main() -> std::process::ExitCode {
    wasmqtt::cli::main()
}
