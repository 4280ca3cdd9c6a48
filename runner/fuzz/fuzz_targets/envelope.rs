//! Bytes in, a task or a precise error out, never a panic; and every outcome can be written.
//!
//! The first byte chooses the shape; for properties the next bytes are split into names and values.
#![no_main]

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pure::envelope::topics::Topics;
use pure::envelope::{Inbound, Properties, decode, encode};
use pure::task::outcome::{Outcome, Status};

fuzz_target!(|data: &[u8]| {
    let Some((&shape, rest)) = data.split_first() else { return };
    let mut properties = Properties::default();
    let mut payload = rest;
    if shape & 1 == 1 {
        let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
        payload = &rest[end..];
        let text = String::from_utf8_lossy(&rest[..end]);
        properties.user = text
            .split('\n')
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
    }
    if shape & 2 == 2 {
        properties.message_expiry_s = Some(u32::from(shape));
        properties.response_topic = Some(String::from_utf8_lossy(payload).chars().take(300).collect());
    }
    let topic = ["task_queue", "tenants/acme/task_queue", "tenants/A/task_queue", "x"][usize::from(shape >> 6)];
    let inbound = Inbound { topic: topic.to_owned(), payload: Bytes::copy_from_slice(payload), properties };
    let (topics, now) = (Topics::default(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    match decode::decode(&topics, &inbound, |_| Default::default(), now) {
        Ok(task) => {
            let _ = topics.check_reply(&task.tenant, task.reply.topic.as_deref().unwrap_or_default(), &[]);
            let outcome = Outcome::of(&task, Status::Failed, None, "fuzz", now);
            let _ = encode::outcome(&topics, &outcome);
        }
        Err(bytes) => {
            assert!(!bytes.error.message.is_empty(), "an error says what is wrong");
            assert!(bytes.error.message.len() < 4096, "and not at any length");
            let outcome = bytes.into_outcome("fuzz", now);
            let _ = encode::outcome(&topics, &outcome);
        }
    }
});
