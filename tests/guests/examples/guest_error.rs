//! Ends in the error that the input names: `reject`, `retry` or `failed`.

use std::time::Duration;

use wasmqtt_guest::{Context, Error, task};

task!(run);

fn run(ctx: &Context, input: String) -> Result<String, Error> {
    match input.trim() {
        "reject" => Err(Error::reject("the input is wrong")),
        "retry" => Err(Error::retry_after("not now", Duration::from_millis(250))),
        "failed" => Err(Error::failed("it did not work")),
        _ => Ok(format!("attempt {}", ctx.attempt)),
    }
}
