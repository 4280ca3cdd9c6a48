//! The contract, machine-readable: an AsyncAPI document, and a JSON Schema (2020-12) of each message that is JSON or
//! user properties.
//!
//! The documents are the files of `runner/contract/`. `tests/it/schema*.rs` hold them to the types that are read and
//! written, `tests/it/contract.rs` every message of the integration tests to them.

/// A document of the contract.
#[derive(Debug, Clone, Copy)]
pub struct Document {
    /// What it is asked for by, such as `task`.
    pub name: &'static str,
    /// Its file's name, by which the others refer to it.
    pub file: &'static str,
    /// What it describes.
    pub about: &'static str,
    /// The document, JSON.
    pub text: &'static str,
}

macro_rules! documents {
    ($($name:literal, $file:literal, $about:literal;)*) => {
        /// All of them.
        pub const DOCUMENTS: &[Document] = &[$(Document {
            name: $name,
            file: $file,
            about: $about,
            text: include_str!(concat!("../contract/", $file)),
        }),*];
    };
}

documents! {
    "asyncapi", "asyncapi.json", "AsyncAPI 3.0: the topics, and which messages travel there";
    "task", "task.schema.json", "a task as JSON";
    "task-properties", "task-properties.schema.json", "a task as user properties";
    "outcome", "outcome.schema.json", "an outcome as JSON";
    "outcome-properties", "outcome-properties.schema.json", "an outcome as user properties";
    "status", "status.schema.json", "an event of a task's lifecycle";
    "log", "log.schema.json", "a line of a task's log";
    "control", "control.schema.json", "what a producer says of a task";
    "dead-letter", "dead-letter.schema.json", "a task that was given up";
    "module-manifest", "module-manifest.schema.json", "what a module is made of that is published in chunks";
    "runner-status", "runner-status.schema.json", "a runner's presence";
}

/// The document of that name.
pub fn find(name: &str) -> Option<&'static Document> {
    DOCUMENTS.iter().find(|document| document.name == name)
}
