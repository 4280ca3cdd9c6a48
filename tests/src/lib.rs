//! The guests that the tests run, built from source by `build.rs`. What each one does is in `guests/README.md`.

/// The components. Each constant is named like the test that runs it.
pub mod guests {
    macro_rules! guest {
        ($name:literal) => {
            include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".wasm"))
        };
    }

    /// Allocates and touches as many bytes as the decimal number in the input says; answers `done`.
    pub const ALLOC: &[u8] = guest!("alloc");

    /// Burns about as many units of fuel as the decimal number in the input says; answers `done`.
    pub const BURN: &[u8] = guest!("burn");

    /// Burns about 700,000 units of fuel and divides by zero.
    pub const BURN_AND_TRAP: &[u8] = guest!("burn_and_trap");

    /// Answers random bytes, and what its clocks show.
    pub const CHANCE: &[u8] = guest!("chance");

    /// Divides by zero.
    pub const DIVIDE_BY_ZERO: &[u8] = guest!("divide_by_zero");

    /// Answers its input, with its media type: the no-op.
    pub const ECHO: &[u8] = guest!("echo");

    /// Loops for ever.
    pub const ENDLESS_LOOP: &[u8] = guest!("endless_loop");

    /// Calls itself for ever.
    pub const ENDLESS_RECURSION: &[u8] = guest!("endless_recursion");

    /// A command that exits with code 3.
    pub const EXIT_CODE: &[u8] = guest!("exit_code");

    /// Sends the requests that its input says, and answers what came of each.
    pub const FETCH: &[u8] = guest!("fetch");

    /// Ends in the error that the input names: `reject`, `retry` (after 250 ms) or `failed`.
    pub const GUEST_ERROR: &[u8] = guest!("guest_error");

    /// A command that calls the host for ever, for much at a time: for random bytes if its input is `random`, else it
    /// writes to stderr.
    pub const HOST_CALLS: &[u8] = guest!("host_calls");

    /// Answers with 16 MiB of zeroes.
    pub const HUGE_OUTPUT: &[u8] = guest!("huge_output");

    /// Does with keys and values what its input says.
    pub const KEEPS: &[u8] = guest!("keeps");

    /// Logs lines of 1 KiB for ever.
    pub const LOG_FLOOD: &[u8] = guest!("log_flood");

    /// Grows sixteen memories by 16 MiB each; succeeds with no bytes if it may.
    pub const MANY_MEMORIES: &[u8] = guest!("many_memories");

    /// Grows its memory until it gets no more, then traps.
    pub const MEMORY_BOMB: &[u8] = guest!("memory_bomb");

    /// A command that sleeps for as many milliseconds as the decimal number in the input says; answers `done`.
    pub const NAP: &[u8] = guest!("nap");

    /// A Rust panic with the input as its message.
    pub const PANIC: &[u8] = guest!("panic");

    /// Publishes the messages that its input says.
    pub const PUBLISHES: &[u8] = guest!("publishes");

    /// Reads the value of the key in its input, and tells it to everybody.
    pub const READS_CONFIG: &[u8] = guest!("reads_config");

    /// A command that reaches for files, sockets, names and the environment, and prints what it got.
    pub const READS_FILES: &[u8] = guest!("reads_files");

    /// Does with files what its input says.
    pub const SCRATCH: &[u8] = guest!("scratch");

    /// A command that sleeps for an hour in the host.
    pub const SLEEPING_HOST_CALL: &[u8] = guest!("sleeping_host_call");

    /// A command that writes to stdout for ever.
    pub const STDOUT_FLOOD: &[u8] = guest!("stdout_flood");

    /// Grows a table until it gets no more, then traps.
    pub const TABLE_BOMB: &[u8] = guest!("table_bomb");

    /// Traps at once (`unreachable`).
    pub const TRAP: &[u8] = guest!("trap");

    /// Imports `wasi:blobstore/blobstore@0.2.0-draft`, which no runner offers.
    pub const WANTS_BLOBSTORE: &[u8] = guest!("wants_blobstore");

    /// Imports `wasi:http/outgoing-handler@0.2.0`.
    pub const WANTS_HTTP: &[u8] = guest!("wants_http");
}
