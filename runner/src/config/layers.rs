//! File, environment and flags, laid over each other; every unknown key is refused with a suggestion.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Map, Value};

use crate::config::Config;
use crate::suggest;

/// In front of every variable: `WASMQTT_RUNNER_CONCURRENCY` is `runner.concurrency`.
const PREFIX: &str = "WASMQTT_";
/// Variables of that prefix that are not configuration.
const NOT_KEYS: &[&str] = &["WASMQTT_CONFIG", "WASMQTT_LOG"];

/// Lays `flags` (dotted key and value) over `environment` over the file over the defaults, and validates.
pub fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: &[(&str, String)],
) -> Result<Config> {
    let mut values = match file {
        None => Value::Object(Map::new()),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("failed to read {}", path.display()))?;
            let table: toml::Table = text
                .parse()
                .map_err(|error: toml::de::Error| {
                    // Not the error's own text: it shows the line, which may hold a password.
                    let line = error
                        .span()
                        .map_or(0, |span| text[..span.start].matches('\n').count() + 1);
                    anyhow!("line {line}: {}", error.message())
                })
                .with_context(|| format!("failed to parse {}", path.display()))?;
            let values = serde_json::to_value(table).context("failed to read the configuration")?;
            // Read alone first, so that an error is the file's and says so.
            read(values.clone()).with_context(|| format!("failed to read {}", path.display()))?;
            values
        }
    };
    let known = serde_json::to_value(Config::default())
        .context("failed to list the configuration's keys")?;
    for (name, text) in environment
        .filter(|(name, _)| name.starts_with(PREFIX) && !NOT_KEYS.contains(&name.as_str()))
    {
        let key = key_of_variable(&name, &known)?;
        put(&mut values, &known, &key, &text)
            .with_context(|| format!("failed to read the variable {name}"))?;
    }
    for (key, text) in flags {
        put(&mut values, &known, key, text)?;
    }
    let config = read(values)?;
    config.validate()?;
    Ok(config)
}

fn read(values: Value) -> Result<Config> {
    serde_path_to_error::deserialize(values).map_err(|error| {
        let path = error.path().to_string();
        anyhow!(
            "`{path}`: {}",
            with_suggestion(&error.into_inner().to_string())
        )
    })
}

/// serde lists what it expected; a reader wants the one name that was meant.
fn with_suggestion(message: &str) -> String {
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match names.split_first() {
        Some((unknown, known)) if message.starts_with("unknown field") => {
            match suggest::closest(unknown, known) {
                Some(close) => format!("unknown key `{unknown}`, did you mean `{close}`?"),
                None => message.replacen("unknown field", "unknown key", 1),
            }
        }
        _ => message.to_owned(),
    }
}

/// `WASMQTT_SECTION_KEY` → `section.key`; sections are single words.
fn key_of_variable(name: &str, known: &Value) -> Result<String> {
    let lower = name[PREFIX.len()..].to_lowercase();
    let key = lower.replacen('_', ".", 1);
    let keys: Vec<String> = known
        .as_object()
        .into_iter()
        .flatten()
        .flat_map(|(section, keys)| {
            keys.as_object()
                .into_iter()
                .flat_map(move |keys| keys.keys().map(move |key| format!("{section}.{key}")))
        })
        .collect();
    if keys.contains(&key) {
        return Ok(key);
    }
    // Without the prefix, which is alike in all of them.
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    match suggest::closest(&key, &keys) {
        Some(close) => bail!(
            "unknown variable {name}, did you mean {PREFIX}{}?",
            close.replace('.', "_").to_uppercase()
        ),
        None => bail!(
            "unknown variable {name}: a variable is {PREFIX}SECTION_KEY, as in {PREFIX}RUNNER_CONCURRENCY"
        ),
    }
}

/// Puts a text where the default says what type it has; keys without a default are texts.
fn put(values: &mut Value, known: &Value, key: &str, text: &str) -> Result<()> {
    let (section, name) = key
        .split_once('.')
        .with_context(|| format!("{key:?} is not a key"))?;
    let value = match &known[section][name] {
        Value::Number(number) if number.is_f64() => Value::from(
            text.parse::<f64>()
                .with_context(|| format!("`{key}` must be a number, got {text:?}"))?,
        ),
        Value::Number(_) => Value::from(
            text.parse::<u64>()
                .with_context(|| format!("`{key}` must be a number, got {text:?}"))?,
        ),
        Value::Bool(_) => Value::from(
            text.parse::<bool>()
                .with_context(|| format!("`{key}` must be true or false, got {text:?}"))?,
        ),
        _ => Value::from(text),
    };
    values[section][name] = value;
    Ok(())
}
