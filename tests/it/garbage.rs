//! Random and mutated payloads on `task_queue`: the runner survives, each is answered, nothing is left behind.
//!
//! `WASMQTT_GARBAGE` says how many, `WASMQTT_GARBAGE_SEED` which.

use std::collections::HashSet;

use bytes::Bytes;
use serde_json::{Value, json};
use wasmqtt::envelope::{Message, Properties, Quality};
use wasmqtt::mqtt::settings::{Address, Settings};
use wasmqtt::mqtt::{self, Deliveries, Publisher};
use wasmqtt_tests::guests;

use crate::contract;
use crate::rig::{PATIENCE, retained, user, with_properties};
use crate::under_test::Serve;

/// As many as are on their way at one time: QoS 0 ones are not dropped then.
const BATCH: usize = 200;

pub(crate) async fn garbage() {
    let count = number("WASMQTT_GARBAGE", 3_000);
    let seed = number("WASMQTT_GARBAGE_SEED", 20_260_101);
    println!("garbage: {count} payloads, WASMQTT_GARBAGE_SEED={seed}");
    // A process of its own: what it holds in memory is its own too, and a panic shows in its log.
    let server = Serve::ready(&[
        "--embedded-broker",
        "127.0.0.1:0",
        "--default-module",
        "echo",
    ])
    .await;
    // Only the outcomes: each echoes the Correlation Data of its message. Whoever hears more than it reads
    // makes the broker, which is in the same process, keep it.
    let mut settings = Settings::new(Address::parse(&server.url()).expect("a URL"), "garbage");
    settings.filters = vec!["task_completed".to_owned()];
    let (mut outcomes, publisher) = mqtt::connect(settings);
    publisher.ready().await.expect("connected");
    let module = publisher.publish(retained("modules/echo", guests::ECHO));
    module.await.expect("a PUBACK");
    assert_alive(&publisher, &mut outcomes, "before").await;

    let before = resident_mib(server.id());
    let mut dice = Dice(seed);
    let mut answered: HashSet<Bytes> = HashSet::new();
    let numbers: Vec<usize> = (0..count as usize).collect();
    for batch in numbers.chunks(BATCH) {
        let mut waiting = HashSet::new();
        let mut published = Vec::new();
        for number in batch {
            let mut message = garbage_message(&mut dice, *number);
            let correlation = Bytes::from(number.to_string());
            message.properties.correlation_data = Some(correlation.clone());
            if number % 2 == 0 {
                message.quality = Quality::AtMostOnce;
            } else {
                waiting.insert(correlation);
            }
            contract::published(&message);
            published.push(publisher.publish(message));
        }
        for published in published {
            published.await.expect("published");
        }
        while !waiting.is_empty() {
            let outcome = tokio::time::timeout(PATIENCE, outcomes.recv()).await;
            let Ok(Some(outcome)) = outcome else {
                panic!("no answer to {waiting:?} of seed {seed}:\n{}", server.log())
            };
            outcome.token.expect("QoS 1").ack();
            contract::seen(&outcome.inbound);
            let correlation = outcome.inbound.properties.correlation_data;
            let correlation = correlation.expect("its Correlation Data");
            waiting.remove(&correlation);
            assert!(
                answered.insert(correlation),
                "answered twice: {:?}",
                outcome.inbound.payload
            );
        }
    }
    answered.extend(assert_alive(&publisher, &mut outcomes, "after").await);
    let after = resident_mib(server.id());
    println!(
        "garbage: {} of {count} answered; {before} MiB before, {after} MiB after",
        answered.len()
    );
    assert!(
        after < before + 200,
        "{before} MiB before, {after} MiB after"
    );
    let log = server.log();
    assert!(!log.contains("panicked"), "{log}");
    publisher.close().await;
    server.end().await;
}

/// That a task succeeds; the Correlation Data of the outcomes that came before its own.
async fn assert_alive(
    publisher: &Publisher,
    outcomes: &mut Deliveries,
    id: &'static str,
) -> Vec<Bytes> {
    let mut task = with_properties("alive", &[("module", "echo"), ("id", id)]);
    task.properties.correlation_data = Some(Bytes::from(id));
    publisher.publish(task).await.expect("a PUBACK");
    let mut before = Vec::new();
    loop {
        let outcome = tokio::time::timeout(PATIENCE, outcomes.recv()).await;
        let outcome = outcome.expect("an outcome in time").expect("connected");
        outcome.token.expect("QoS 1").ack();
        let inbound = outcome.inbound;
        let correlation = inbound.properties.correlation_data.clone();
        let correlation = correlation.expect("its Correlation Data");
        if correlation == id {
            assert_eq!(user(&inbound, "status"), Some("succeeded"), "{inbound:?}");
            assert_eq!(inbound.payload, "alive");
            return before;
        }
        before.push(correlation);
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// Memory that a process really has.
fn resident_mib(process: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{process}/statm")).expect("Linux");
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("a number") * 4096 / (1 << 20)
}

/// splitmix64: the same garbage for the same seed, everywhere.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1))
            .map(|_| self.next() as u8)
            .collect()
    }

    fn text(&mut self, most: usize) -> String {
        const LETTERS: &[char] = &[
            'a', 'Z', '0', '-', '_', '/', '.', '"', '\\', '{', '+', '#', '@', ':', ' ', 'ß', '語',
            '💥', '\u{202e}',
        ];
        (0..self.below(most + 1))
            .map(|_| self.pick(LETTERS))
            .collect()
    }
}

const FIELDS: &[&str] = &[
    "id",
    "module",
    "input",
    "input_base64",
    "content_type",
    "limits",
    "retry",
    "expires_at",
    "not_before",
    "priority",
    "reply_to",
    "correlation",
    "events",
    "logs",
    "labels",
    "fuel",
    "labels.x",
    "labels.",
    "",
    "Id",
];

/// The number is in id and input, so that no two are the same task.
fn garbage_message(dice: &mut Dice, number: usize) -> Message {
    let queue = |payload: Vec<u8>| Message::new("task_queue", payload);
    match dice.below(6) {
        0 => queue(dice.bytes(300)),
        1 => {
            let mut bytes = task(number).to_string().into_bytes();
            mutate(dice, &mut bytes);
            queue(bytes)
        }
        2 => {
            let mut fields = task(number);
            for _ in 0..=dice.below(4) {
                let field = dice.pick(FIELDS);
                fields[field] = value(dice, 3);
            }
            queue(fields.to_string().into_bytes())
        }
        3 => {
            let depth = dice.below(20_000);
            let bracket = dice.pick(&["[", "{\"a\":", "[[", "\"\\u"]);
            queue(format!(r#"{{"module":"echo","input":{}"#, bracket.repeat(depth)).into_bytes())
        }
        4 => Message {
            properties: properties(dice, number),
            ..queue([number.to_string().into_bytes(), dice.bytes(50)].concat())
        },
        _ => queue(task(number).to_string().into_bytes()),
    }
}

fn task(number: usize) -> Value {
    json!({
        "id": format!("g-{number}"), "module": "echo", "input": {"number": number, "nested": [1, 2.5, null]},
        "content_type": "application/json", "limits": {"fuel": 1_000_000, "timeout_ms": 1_000},
        "labels": {"a": "b"}, "priority": 3, "expires_at": "2999-01-01T00:00:00Z",
        "reply_to": "replies/garbage", "correlation": "c", "events": true, "logs": true
    })
}

fn mutate(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..=dice.below(6) {
        let at = dice.below(bytes.len().max(1));
        match dice.below(5) {
            _ if bytes.is_empty() => return,
            0 => bytes[at] ^= 1 << dice.below(8),
            1 => bytes[at] = dice.pick(b"\"{}[]:,\\09a\0\xff"),
            2 => bytes.truncate(at),
            3 => {
                let end = (at + dice.below(20)).min(bytes.len());
                drop(bytes.drain(at..end));
            }
            _ => {
                let end = (at + dice.below(40)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = dice.below(bytes.len());
                bytes.splice(to..to, copy);
            }
        }
    }
}

fn value(dice: &mut Dice, depth: usize) -> Value {
    match dice.below(if depth == 0 { 7 } else { 9 }) {
        0 => Value::Null,
        1 => json!(dice.below(2) == 0),
        2 => json!(dice.next()),
        3 => json!(-(dice.below(1000) as i64)),
        4 => json!(f64::MAX / (1.0 + dice.below(10) as f64)),
        5 => json!(dice.text(80)),
        6 => json!(dice.pick(&[
            "echo",
            "nobody",
            "sha256:00",
            "task_queue",
            "tenants/a/x",
            "replies/g",
            "AAAA",
            "2020-01-01T00:00:00Z"
        ])),
        7 => (0..dice.below(5)).map(|_| value(dice, depth - 1)).collect(),
        _ => (0..dice.below(5))
            .map(|_| (dice.text(8), value(dice, depth - 1)))
            .collect(),
    }
}

/// What a broker lets through: NUL and wildcards in a Response Topic are its business.
fn properties(dice: &mut Dice, number: usize) -> Properties {
    let mut user = vec![("id".to_owned(), format!("g-{number}"))];
    for _ in 0..dice.below(6) {
        let name = match dice.below(4) {
            0 => dice.text(12),
            _ => dice.pick(FIELDS).to_owned(),
        };
        let text = match dice.below(3) {
            0 => dice.text(40),
            1 => dice.below(100).to_string(),
            _ => dice
                .pick(&["echo", "true", "nobody", "replies/g"])
                .to_owned(),
        };
        user.push((name, text));
    }
    let topics = [
        None,
        Some("replies/g"),
        Some("task_queue"),
        Some("task_completed"),
        Some("tenants/a/task_queue"),
    ];
    Properties {
        content_type: (dice.below(2) == 0).then(|| dice.text(20)),
        response_topic: dice.pick(&topics).map(str::to_owned),
        message_expiry_s: (dice.below(2) == 0).then_some(1_000),
        user,
        ..Properties::default()
    }
}
