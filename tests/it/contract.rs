//! Every message that the tests see is held to the contract's documents (`wasmqtt schema`).
//!
//! A task that the runner's decoder takes must fit the schema of tasks, and whatever a runner publishes its own. Schemas
//! of what runners publish leave room for fields to come; here it is closed, so that no field is without a description.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::SystemTime;

use jsonschema::{Registry, Validator};
use serde_json::{Map, Value};
use wasmqtt::contract::DOCUMENTS;
use wasmqtt::envelope::decode::{Rules, decode};
use wasmqtt::envelope::topics::Topics;
use wasmqtt::envelope::{Inbound, Message};
use wasmqtt::modules::source::chunks::Manifest;
use wasmqtt::task::Shape;

/// Holds a message to its document, whoever published it; panics when it does not fit. Topics without a meaning, and
/// payloads on a queue that are no task, may be anything.
#[track_caller]
pub(crate) fn seen(inbound: &Inbound) {
    let topic = match inbound.topic.split_once("tenants/") {
        Some((_, tail)) => tail.split_once('/').map_or("", |(_, name)| name),
        None => &inbound.topic,
    };
    let mut levels = topic.rsplit('/');
    let (last, above) = (levels.next().unwrap_or_default(), levels.next());
    let first = topic.split('/').next();
    match (last, above) {
        ("task_queue", _) => return task(inbound),
        ("task_completed", _) => return outcome(inbound),
        ("task_dead_letter", _) => return fits("dead-letter", &json(inbound)),
        // Guests may publish there, too.
        _ if matches!(first, Some("replies" | "task_reply")) && is_outcome(inbound) => {
            return outcome(inbound);
        }
        _ => {}
    }
    match above {
        // Or a module's bytes.
        Some("modules") if Manifest::parse(&inbound.payload).is_ok() => {
            fits("module-manifest", &json(inbound));
        }
        Some("task_status") => fits("status", &json(inbound)),
        Some("task_log") => fits("log", &json(inbound)),
        Some("task_control") => fits("control", &json(inbound)),
        // Cleared is cleared.
        Some("runner_status") if !inbound.payload.is_empty() => {
            fits("runner-status", &json(inbound));
        }
        _ => {}
    }
}

/// The same for what a test publishes: only what a producer may is looked at.
#[track_caller]
pub(crate) fn published(message: &Message) {
    let by_producers = ["task_queue", "task_control/", "modules/"];
    if by_producers.iter().any(|it| message.topic.contains(it)) {
        seen(&Inbound {
            topic: message.topic.clone(),
            payload: message.payload.clone(),
            properties: message.properties.clone(),
        });
    }
}

/// An outcome as JSON, however it was heard.
#[track_caller]
pub(crate) fn outcome_json(outcome: &Value) {
    fits("outcome", outcome);
}

/// What is wrong with a value, by the document of that name.
pub(crate) fn wrong(name: &str, value: &Value) -> Vec<String> {
    let validator = &VALIDATORS[name];
    let errors = validator.iter_errors(value);
    errors
        .map(|error| format!("{} at {:?}", error, error.instance_path().to_string()))
        .collect()
}

#[track_caller]
fn fits(name: &str, value: &Value) {
    let wrong = wrong(name, value);
    assert!(
        wrong.is_empty(),
        "breaks the contract, {name}.schema.json: {wrong:#?}: {value:#}"
    );
}

#[track_caller]
fn task(inbound: &Inbound) {
    // Below a root, perhaps.
    let start = inbound.topic.find("tenants/").unwrap_or_else(|| {
        let name = "task_queue".len();
        inbound.topic.len() - name
    });
    let inbound = Inbound {
        topic: inbound.topic[start..].to_owned(),
        ..inbound.clone()
    };
    let topics = Topics::default();
    let Ok(task) = decode(&topics, &inbound, |_| Rules::default(), SystemTime::now()) else {
        return;
    };
    // What is no topic is refused by admission, not by the decoder.
    let any = ["#".to_owned()];
    if let Some(topic) = &task.reply.topic
        && topics.check_reply(&task.tenant, topic, &any).is_err()
    {
        return;
    }
    match task.shape {
        Shape::Json => fits("task", &json(&inbound)),
        Shape::Properties => fits("task-properties", &properties(&inbound)),
        Shape::Plain => {}
    }
}

fn is_outcome(inbound: &Inbound) -> bool {
    let json = inbound.properties.content_type.as_deref() == Some("application/json");
    json || has_status(inbound)
}

fn has_status(inbound: &Inbound) -> bool {
    let mut user = inbound.properties.user.iter();
    user.any(|(name, _)| name == "status")
}

#[track_caller]
fn outcome(inbound: &Inbound) {
    if has_status(inbound) {
        fits("outcome-properties", &properties(inbound));
    } else {
        fits("outcome", &json(inbound));
    }
}

#[track_caller]
fn json(inbound: &Inbound) -> Value {
    match serde_json::from_slice(&inbound.payload) {
        Ok(value) => value,
        Err(error) => panic!("breaks the contract, no JSON: {error}: {inbound:?}"),
    }
}

/// User properties as the documents describe them: an object, whose one name that may appear more than once is an array.
#[track_caller]
pub(crate) fn properties(inbound: &Inbound) -> Value {
    let mut object = Map::new();
    for (name, value) in &inbound.properties.user {
        let value = Value::String(value.clone());
        if name == "error_backtrace" {
            let frames = object.entry(name).or_insert_with(|| Value::Array(vec![]));
            frames.as_array_mut().expect("an array").push(value);
        } else {
            let before = object.insert(name.clone(), value);
            assert!(before.is_none(), "{name} appears twice: {inbound:?}");
        }
    }
    Value::Object(object)
}

/// By the document's name.
static VALIDATORS: LazyLock<BTreeMap<&str, Validator>> = LazyLock::new(|| {
    let mut schemas = Vec::new();
    for document in DOCUMENTS.iter().filter(|d| d.name != "asyncapi") {
        let mut schema: Value = serde_json::from_str(document.text).expect("JSON");
        close(&mut schema);
        schemas.push((document, schema));
    }
    let uri = |file: &str| format!("json-schema:///{file}");
    let mut registry = Registry::new();
    for (document, schema) in &schemas {
        registry = registry.add(uri(document.file), schema).expect("a schema");
    }
    let registry = registry.prepare().expect("references that lead somewhere");
    let validator = |(document, _): &(&wasmqtt::contract::Document, Value)| {
        let whole = serde_json::json!({ "$ref": uri(document.file) });
        let options = jsonschema::options().should_validate_formats(true);
        let built = options.with_registry(&registry).offline().build(&whole);
        (document.name, built.expect("a schema"))
    };
    schemas.iter().map(validator).collect()
});

/// No object of a schema has other properties than those that it describes.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.values_mut().for_each(close);
            let describes = object.get("type").is_some_and(|t| t == "object");
            if describes && object.contains_key("properties") {
                object
                    .entry("additionalProperties")
                    .or_insert(Value::Bool(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}
