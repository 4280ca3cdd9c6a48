//! Allocates as many bytes as the decimal number in the input says, and touches every page of them.

use wasmqtt_guest::{Context, Error, task};

task!(run);

fn run(_ctx: &Context, input: String) -> Result<&'static str, Error> {
    let len: usize = input.trim().parse().map_err(Error::reject)?;
    let mut block = vec![0_u8; len];
    for byte in block.iter_mut().step_by(4096) {
        *byte = 1;
    }
    // Otherwise the compiler sees that nobody reads the block and leaves it out.
    std::hint::black_box(&block);
    Ok("done")
}
