//! The values of fields: JSON text or a user property's text → a typed value, or an error that names the
//! field.

use std::borrow::Cow;
use std::fmt;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::task::quoted;

/// The fields of a JSON object in order, their values not yet read.
pub(super) struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Object<'a> {
    /// The object that the bytes are, if they are one.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Object<'a>> {
        // A cheap look first: raw input for a default module need not be read to its end.
        let start = bytes.iter().find(|b| !b.is_ascii_whitespace())?;
        if *start != b'{' {
            None
        } else {
            serde_json::from_slice(bytes).ok()
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = (&str, Value<'a>)> {
        self.0
            .iter()
            .map(|(name, raw)| (name.as_ref(), Value::Json(raw)))
    }

    /// The first name that appears more than once.
    pub(super) fn duplicate(&self) -> Option<&str> {
        let mut names: Vec<&str> = self.0.iter().map(|(name, _)| name.as_ref()).collect();
        names.sort_unstable();
        names
            .windows(2)
            .find(|pair| pair[0] == pair[1])
            .map(|pair| pair[0])
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::with_capacity(8);
                while let Some(Name(name)) = map.next_key()? {
                    fields.push((name, map.next_value()?));
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Fields).map(Object)
    }
}

/// A field's name: borrowed unless it has escapes (serde's own `Cow` always copies).
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }
        deserializer.deserialize_str(Text).map(Name)
    }
}

/// A value as it travelled.
pub(super) enum Value<'a> {
    /// JSON text.
    Json(&'a RawValue),
    /// The text of a user property.
    Text(&'a str),
}

impl<'a> Value<'a> {
    /// In an error message: a string in quotes, anything else as it was written, so that 7 and "7" differ.
    fn shown(&self) -> String {
        match self {
            Value::Text(text) => quoted(text),
            Value::Json(raw) => match serde_json::from_str::<String>(raw.get()) {
                Ok(text) => quoted(&text),
                Err(_) => unquoted(raw.get()),
            },
        }
    }

    fn wrong<T>(&self, name: &str, what: impl fmt::Display) -> Result<T, String> {
        Err(format!("`{name}` must be {what}, got {}", self.shown()))
    }

    pub(super) fn string(&self, name: &str) -> Result<String, String> {
        match self {
            Value::Text(text) => Ok((*text).to_owned()),
            Value::Json(raw) => match serde_json::from_str(raw.get()) {
                Ok(text) => Ok(text),
                Err(_) => self.wrong(name, "a string"),
            },
        }
    }

    pub(super) fn boolean(&self, name: &str) -> Result<bool, String> {
        match self.text() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => self.wrong(name, "true or false"),
        }
    }

    pub(super) fn integer(&self, name: &str, least: u64, most: u64) -> Result<u64, String> {
        // `parse` would take a sign.
        let digits = Some(self.text()).filter(|text| !text.starts_with('+'));
        match digits.and_then(|digits| digits.parse().ok()) {
            Some(number) if (least..=most).contains(&number) => Ok(number),
            _ if most == u64::MAX => {
                self.wrong(name, format_args!("an integer of at least {least}"))
            }
            _ => self.wrong(name, format_args!("an integer from {least} to {most}")),
        }
    }

    pub(super) fn number(&self, name: &str, least: f64, most: f64) -> Result<f64, String> {
        match self.text().parse() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => self.wrong(name, format_args!("a number from {least} to {most}")),
        }
    }

    pub(super) fn time(&self, name: &str) -> Result<SystemTime, String> {
        match self
            .string(name)
            .ok()
            .and_then(|text| text.parse::<jiff::Timestamp>().ok())
        {
            Some(time) => Ok(time.into()),
            None => self.wrong(name, "an RFC 3339 time such as \"2026-01-31T12:00:00Z\""),
        }
    }

    pub(super) fn object(&self, name: &str) -> Result<Object<'a>, String> {
        let object = match self {
            Value::Json(raw) => Object::parse(raw.get().as_bytes()),
            Value::Text(_) => None,
        };
        let Some(object) = object else {
            return self.wrong(name, "an object");
        };
        match object.duplicate() {
            Some(field) => Err(format!(
                "field `{}` appears twice in `{name}`",
                short(field)
            )),
            None => Ok(object),
        }
    }

    /// `input`: a string is its UTF-8 bytes, any other JSON value is its JSON text.
    pub(super) fn input(&self) -> Result<Bytes, String> {
        let text = self.text();
        if text.starts_with('"') {
            return self.string("input").map(Bytes::from);
        }
        Ok(Bytes::copy_from_slice(text.as_bytes()))
    }

    pub(super) fn base64(&self, name: &str) -> Result<Bytes, String> {
        match STANDARD.decode(self.string(name)?) {
            Ok(bytes) => Ok(Bytes::from(bytes)),
            Err(why) => Err(format!("`{name}` must be base64 with padding: {why}")),
        }
    }

    fn text(&self) -> &'a str {
        match self {
            Value::Json(raw) => raw.get(),
            Value::Text(text) => text,
        }
    }
}

/// JSON text in an error message: cut where it is long, and what is not plain ASCII escaped.
fn unquoted(json: &str) -> String {
    const SHOWN: usize = 80;
    let mut shown = String::new();
    for letter in json.chars().take(SHOWN) {
        match letter {
            ' '..='~' => shown.push(letter),
            _ => shown.extend(letter.escape_default()),
        }
    }
    if json.chars().nth(SHOWN).is_some() {
        shown += &format!("… ({} bytes)", json.len());
    }
    shown
}

/// A name in an error message: escaped, and cut where it is long.
pub(super) fn short(name: &str) -> String {
    name.chars()
        .take(64)
        .flat_map(char::escape_default)
        .collect()
}

/// The error for a name that nobody knows, with the likeliest intention.
pub(super) fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let shown = short(name);
    match crate::suggest::closest(name, known) {
        Some(close) => format!("unknown {what} `{shown}`, did you mean `{close}`?"),
        None => format!(
            "unknown {what} `{shown}`, expected one of {}",
            known.join(", ")
        ),
    }
}
