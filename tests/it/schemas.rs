//! The contract's documents say what the types say: the same words, the same fields, the same topics. Tasks and
//! outcomes are `schema_of_tasks` and `schema_of_outcomes`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use wasmqtt::contract::{DOCUMENTS, find};
use wasmqtt::envelope::decode::{
    JSON_FIELDS, LIMIT_FIELDS, MAX_LABEL_BYTES, MAX_LABELS, PROPERTY_FIELDS, RETRY_FIELDS,
};
use wasmqtt::envelope::topics::{MAX_REPLY_TOPIC, Topics};
use wasmqtt::modules::source::chunks::MAX_CHUNKS;
use wasmqtt::task::outcome::{CacheHit, ErrorCode, Status};
use wasmqtt::task::tenant::TenantId;
use wasmqtt::task::{ModuleName, TaskId};

use crate::cli::Shell;
use crate::contract::wrong;
use crate::shown;

pub(crate) fn document(name: &str) -> Value {
    let text = find(name).expect("a document").text;
    serde_json::from_str(text).expect("JSON")
}

/// The strings of an array.
fn words(value: &Value) -> Vec<&str> {
    let words = value.as_array().expect("an array").iter();
    words.map(|word| word.as_str().expect("a word")).collect()
}

/// The names of an object.
pub(crate) fn names(value: &Value) -> BTreeSet<&str> {
    let names = value.as_object().expect("an object").keys();
    names.map(String::as_str).collect()
}

pub(crate) async fn words_agree() {
    let outcome = document("outcome");
    let enumerated = |name: &str| words(&outcome["$defs"][name]["enum"]);
    let statuses: Vec<&str> = Status::ALL.iter().map(|s| s.as_str()).collect();
    assert_eq!(enumerated("status"), statuses);
    let codes: Vec<&str> = ErrorCode::ALL.iter().map(|c| c.as_str()).collect();
    assert_eq!(enumerated("code"), codes);
    let hits: Vec<&str> = CacheHit::ALL.iter().map(|h| h.as_str()).collect();
    assert_eq!(enumerated("module_cache"), hits);

    let task = document("task");
    let fields = |of: &'static [&'static str]| of.iter().copied().collect::<BTreeSet<_>>();
    assert_eq!(names(&task["properties"]), fields(JSON_FIELDS));
    let within = |name: &str| names(&task["properties"][name]["properties"]);
    assert_eq!(within("limits"), fields(LIMIT_FIELDS));
    assert_eq!(within("retry"), fields(RETRY_FIELDS));
    let properties = document("task-properties");
    let mut flat = fields(PROPERTY_FIELDS);
    assert!(flat.remove("labels.NAME"));
    assert_eq!(names(&properties["properties"]), flat);

    let labels = &task["$defs"]["labels"];
    assert_eq!(labels["maxProperties"], MAX_LABELS);
    assert_eq!(labels["propertyNames"]["maxLength"], MAX_LABEL_BYTES);
    assert_eq!(task["$defs"]["reply_to"]["maxLength"], MAX_REPLY_TOPIC);
    let id = format!("^[A-Za-z0-9_-]{{1,{}}}$", TaskId::MAX_LEN);
    assert_eq!(task["$defs"]["id"]["pattern"], id);
    assert_eq!(outcome["$defs"]["id"]["pattern"], id);

    let manifest = document("module-manifest");
    assert_eq!(manifest["properties"]["chunks"]["maxItems"], MAX_CHUNKS);

    for document in DOCUMENTS.iter().filter(|d| d.name != "asyncapi") {
        let schema: Value = serde_json::from_str(document.text).expect("JSON");
        for example in schema["examples"].as_array().into_iter().flatten() {
            assert_eq!(wrong(document.name, example), [""; 0], "{example}");
        }
    }
}

/// Its channels are the topics, and what it refers to is there.
pub(crate) async fn the_asyncapi_document() {
    let api = document("asyncapi");
    assert_eq!(api["info"]["version"], env!("CARGO_PKG_VERSION"));
    let topics = Topics::default();
    let id = TaskId::parse("ID").expect("an id");
    let name = ModuleName::parse("name").expect("a name");
    let mut real = BTreeSet::from([topics.runner("RUNNER")]);
    for tenant in ["default", "tenant"].map(|t| TenantId::parse(t).expect("a tenant")) {
        real.extend([
            topics.queue(&tenant),
            topics.completed(&tenant),
            topics.status(&tenant, &id),
            topics.log(&tenant, &id),
            topics.control(&tenant, &id),
            topics.dead_letter(&tenant),
            topics.module(&tenant, &name),
            format!("{}/HEX", topics.module(&tenant, &name)),
            topics.module_signature(&tenant, &name),
        ]);
    }
    let channels = api["channels"].as_object().expect("channels");
    let address = |channel: &Value| {
        let address = channel["address"].as_str()?;
        for parameter in names(
            &channel["parameters"]
                .as_object()
                .cloned()
                .unwrap_or_default()
                .into(),
        ) {
            assert!(address.contains(&format!("{{{parameter}}}")), "{address}");
        }
        let address = address.replace("{id}", "ID").replace("{name}", "name");
        Some(
            address
                .replace("{tenant}", "tenant")
                .replace("{runner}", "RUNNER")
                .replace("{hex}", "HEX"),
        )
    };
    let addresses: BTreeSet<String> = channels.values().filter_map(address).collect();
    assert_eq!(addresses, real);
    // Each channel but that of the answers has its operation.
    let operations = api["operations"].as_object().expect("operations").values();
    let used: BTreeSet<&str> = operations
        .map(|operation| operation["channel"]["$ref"].as_str().expect("a reference"))
        .collect();
    assert_eq!(used.len(), channels.len() - 1);

    let mut files = BTreeSet::new();
    for document in DOCUMENTS {
        let text: Value = serde_json::from_str(document.text).expect("JSON");
        for reference in references(&text) {
            let (file, pointer) = reference
                .split_once('#')
                .unwrap_or((reference.as_str(), ""));
            let target = match file {
                "" => Some(document),
                _ => DOCUMENTS.iter().find(|d| d.file == file),
            };
            let target = target.unwrap_or_else(|| panic!("{}: no {reference}", document.file));
            let target: Value = serde_json::from_str(target.text).expect("JSON");
            let found = target.pointer(pointer).is_some();
            assert!(found, "{}: no {reference}", document.file);
            if document.name == "asyncapi" && !file.is_empty() {
                files.insert(file.to_owned());
            }
        }
    }
    // It leaves no schema out.
    assert_eq!(files.len(), DOCUMENTS.len() - 1, "{files:?}");
}

fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(object) => {
            let own = object
                .get("$ref")
                .and_then(Value::as_str)
                .map(str::to_owned);
            own.into_iter()
                .chain(object.values().flat_map(references))
                .collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

/// The document is AsyncAPI 3.0, says the schema that its makers publish.
pub(crate) async fn the_official_schema() {
    let path = "node_modules/@asyncapi/specs/schemas/3.0.0.json";
    let path = crate::clients::installed_folder().join(path);
    let text = std::fs::read_to_string(&path);
    let official: Value =
        serde_json::from_str(&text.expect("npm's @asyncapi/specs")).expect("JSON");
    let official = jsonschema::options().offline().build(&official);
    let official = official.expect("a schema");
    let mut api = document("asyncapi");
    let wrong = |api: &Value| -> Vec<String> {
        let errors = official.iter_errors(api);
        errors.map(|error| format!("{error}")).collect()
    };
    assert_eq!(wrong(&api), [""; 0]);
    api["channels"]["taskQueue"]["topic"] = json!("task_queue");
    assert_ne!(wrong(&api), [""; 0]);
}

/// `wasmqtt schema`.
pub(crate) async fn printed() {
    let shell = Shell::new();
    shown::exactly("schema", shell.call(&["schema"]).await.code(0).text());
    for document in DOCUMENTS {
        let printed = shell.call(&["schema", document.name]).await.code(0);
        assert_eq!(printed.text(), document.text);
    }
    shell.call(&["schema", "--out", "a/b"]).await.code(0);
    let written = std::fs::read_dir(shell.path().join("a/b")).expect("a folder");
    let written: BTreeSet<PathBuf> = written.map(|entry| entry.expect("a file").path()).collect();
    assert_eq!(written.len(), DOCUMENTS.len());
    for document in DOCUMENTS {
        let path = shell.path().join("a/b").join(document.file);
        assert_eq!(read(&path), document.text);
    }
    shell.call(&["schema", "outcomes"]).await.code(2);
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a file")
}
