//! Builds the guests from source.

use wasmqtt_guest_build::{rust_guests, wat_guest};

fn main() -> anyhow::Result<()> {
    for path in [
        "echo/echo.wat",
        "endless/endless.wat",
        "greedy/greedy.wat",
        "shout/shout.wat",
    ] {
        wat_guest(path)?;
    }
    rust_guests(&["csv-stats", "markdown", "thumbnail", "wordcount"], &[])?;
    Ok(())
}
