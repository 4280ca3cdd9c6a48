//! The task: bytes in, bytes out, called once in a fresh sandbox.

use wasmqtt_guest::{Context, Error, info, task};

task!(run);

fn run(ctx: &Context, input: String) -> Result<String, Error> {
    if input.is_empty() {
        return Err(Error::reject("the input is empty"));
    }
    info!("{} bytes for task {}", input.len(), ctx.id);
    Ok(input.to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_case() {
        let output = run(&Context::default(), "hello, 2".to_owned());
        assert_eq!(output.expect("an output"), "HELLO, 2");
    }
}
