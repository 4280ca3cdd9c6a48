//! Panics, with the input as its message.

use wasmqtt_guest::{Context, Error, task};

task!(run);

fn run(_ctx: &Context, input: String) -> Result<(), Error> {
    panic!("{input}");
}
