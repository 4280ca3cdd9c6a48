//! Builds the hostile guests, and the echo of the examples, from source.

use wasmqtt_guest_build::{rust_guests, wat_guest};

const WAT: [&str; 14] = [
    "../examples/echo/echo.wat",
    "guests/burn.wat",
    "guests/burn_and_trap.wat",
    "guests/divide_by_zero.wat",
    "guests/endless_loop.wat",
    "guests/endless_recursion.wat",
    "guests/huge_output.wat",
    "guests/log_flood.wat",
    "guests/many_memories.wat",
    "guests/memory_bomb.wat",
    "guests/table_bomb.wat",
    "guests/trap.wat",
    "guests/wants_blobstore.wat",
    "guests/wants_http.wat",
];

fn main() -> anyhow::Result<()> {
    for path in WAT {
        wat_guest(path)?;
    }
    rust_guests(&["wasmqtt-hostile"], &["--bins", "--examples"])?;
    Ok(())
}
