//! Publishes a message for each line of its input, a topic and a text or a number of bytes (`TOPIC TEXT`, `TOPIC #BYTES`),
//! and answers a line for each.

use wasmqtt_guest::{Context, Error, publish, task};

task!(run);

fn run(_ctx: &Context, input: String) -> Result<String, Error> {
    let lines = input.lines().map(|line| {
        let (topic, text) = line.split_once(' ').unwrap_or((line, ""));
        let payload = match text.strip_prefix('#') {
            Some(bytes) => vec![b'x'; bytes.parse().unwrap_or(0)],
            None => text.as_bytes().to_vec(),
        };
        match publish(topic, &payload, Some("text/plain")) {
            Ok(()) => "published".to_owned(),
            Err(error) => error.to_string(),
        }
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}
