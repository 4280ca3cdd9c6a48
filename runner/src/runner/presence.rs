//! `runner_status/{runner}`: retained; online with what it can do, offline by itself or by Last Will.

use serde::Serialize;

use crate::config::Config;
use crate::envelope::topics::Topics;
use crate::envelope::{Message, Properties};
use crate::modules::structure::Shape;
use crate::task::limits::LimitValues;

#[derive(Serialize)]
struct Presence<'a> {
    status: &'a str,
    runner: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    can: Option<Can<'a>>,
}

#[derive(Serialize)]
struct Can<'a> {
    version: &'a str,
    group: &'a str,
    concurrency: usize,
    memory_budget_bytes: u64,
    shapes: [&'a str; 4],
    limits: LimitValues,
    ceilings: LimitValues,
}

pub(super) fn online(topics: &Topics, config: &Config) -> Message {
    let can = Can {
        version: env!("CARGO_PKG_VERSION"),
        group: &config.mqtt.group,
        concurrency: config.runner.concurrency,
        memory_budget_bytes: config.runner.memory_budget_bytes,
        shapes: [
            Shape::Typed,
            Shape::Command,
            Shape::CoreTyped,
            Shape::CoreCommand,
        ]
        .map(Shape::as_str),
        limits: config.limits(),
        ceilings: config.ceilings(),
    };
    message(
        topics,
        &Presence {
            status: "online",
            runner: &config.runner.name,
            can: Some(can),
        },
    )
}

pub(super) fn offline(topics: &Topics, runner: &str) -> Message {
    message(
        topics,
        &Presence {
            status: "offline",
            runner,
            can: None,
        },
    )
}

fn message(topics: &Topics, presence: &Presence<'_>) -> Message {
    Message {
        retain: true,
        properties: Properties {
            content_type: Some("application/json".to_owned()),
            ..Properties::default()
        },
        ..Message::new(
            topics.runner(presence.runner),
            serde_json::to_vec(presence).unwrap_or_default(),
        )
    }
}
