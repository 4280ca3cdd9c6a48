//! Does with its keys and values what the lines of its input say, and answers a line for each: `set K V`, `get K`,
//! `delete K`, `exists K`, `list`, `add K N`, `many K…`, `fill K BYTES`, `open NAME`.

use wasmqtt_guest::{Context, Error, task};
use wasmqtt_hostile::keyvalue::store::{Bucket, open};
use wasmqtt_hostile::keyvalue::{atomics, batch};

task!(run);

fn run(_ctx: &Context, input: String) -> Result<String, Error> {
    let bucket = open("default").map_err(|error| Error::failed(format_args!("{error:?}")))?;
    let lines = input.lines().map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        act(&bucket, &words).unwrap_or_else(|error| format!("{error:?}"))
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

type Outcome = Result<String, wasmqtt_hostile::keyvalue::store::Error>;

fn act(bucket: &Bucket, words: &[&str]) -> Outcome {
    let done = |()| "done".to_owned();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    match words {
        ["set", key, value] => bucket.set(key, value.as_bytes()).map(done),
        ["fill", key, bytes] => {
            let bytes = bytes.parse().unwrap_or(0);
            bucket.set(key, &vec![b'x'; bytes]).map(done)
        }
        ["get", key] => Ok(bucket.get(key)?.map_or("none".to_owned(), text)),
        ["delete", key] => bucket.delete(key).map(done),
        ["exists", key] => Ok(bucket.exists(key)?.to_string()),
        ["list"] => {
            let mut keys = Vec::new();
            let mut cursor = None;
            loop {
                let page = bucket.list_keys(cursor)?;
                keys.extend(page.keys);
                cursor = page.cursor;
                if cursor.is_none() {
                    break Ok(keys.join(" "));
                }
            }
        }
        ["add", key, delta] => {
            let delta = delta.parse().unwrap_or(0);
            Ok(atomics::increment(bucket, key, delta)?.to_string())
        }
        ["many", keys @ ..] => {
            let pairs: Vec<_> = keys
                .iter()
                .map(|key| (key.to_string(), b"m".to_vec()))
                .collect();
            batch::set_many(bucket, &pairs)?;
            let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
            let got = batch::get_many(bucket, &keys)?
                .into_iter()
                .flatten()
                .count();
            batch::delete_many(bucket, &keys[1..])?;
            Ok(got.to_string())
        }
        ["open", name] => open(name).map(|_| "opened".to_owned()),
        _ => Ok("what?".to_owned()),
    }
}
