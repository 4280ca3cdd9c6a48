//! Reads the value of the key that is its input, says it in its log, in its progress and on stderr, and ends in an error
//! that has it too; with no input, answers the keys that there are.

use wasmqtt_guest::{Context, Error, info, progress, task};
use wasmqtt_hostile::config::store;

task!(run);

fn run(_ctx: &Context, key: String) -> Result<String, Error> {
    let failed = |error: store::Error| Error::failed(format_args!("{error:?}"));
    if key.is_empty() {
        let mut pairs = store::get_all().map_err(failed)?;
        pairs.sort();
        let pairs = pairs
            .iter()
            .map(|(key, value)| format!("{key}={}", value.len()));
        return Ok(pairs.collect::<Vec<_>>().join(" "));
    }
    let Some(value) = store::get(&key).map_err(failed)? else {
        return Ok("none".to_owned());
    };
    info!("the value is {value}");
    progress(1, 2, &format!("with {value}"));
    eprintln!("stderr has {value}");
    Err(Error::reject(format_args!("refused with {value}")))
}
