//! From the bytes of the input to the argument of a task, and from its result to the bytes of the output.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::task::Output;

/// What a task can take as its input.
pub trait FromInput: Sized {
    /// Converts the input's bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Reject`] when the bytes are not what the type needs.
    fn from_input(input: Vec<u8>) -> Result<Self, Error>;
}

/// What a task can give back as its output.
pub trait IntoOutput {
    /// Converts into bytes and their media type.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when the value has no representation, such as a JSON map with keys that are no strings.
    fn into_output(self) -> Result<Output, Error>;
}

/// Input or output as JSON, where only one side of a task is: `task!(json run)` is short for both.
///
/// As output its media type is `application/json`, and the runner embeds it in the outcome as a JSON value.
///
/// ```
/// use std::collections::BTreeMap;
/// use wasmqtt_guest::{Context, Error, Json, task};
///
/// task!(count);
///
/// fn count(_ctx: &Context, input: String) -> Result<Json<BTreeMap<char, u32>>, Error> {
///     let mut counts = BTreeMap::new();
///     for letter in input.chars() {
///         *counts.entry(letter).or_default() += 1;
///     }
///     Ok(Json(counts))
/// }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Json<T>(
    /// The value.
    pub T,
);

impl FromInput for Vec<u8> {
    fn from_input(input: Vec<u8>) -> Result<Self, Error> {
        Ok(input)
    }
}

impl FromInput for String {
    fn from_input(input: Vec<u8>) -> Result<Self, Error> {
        String::from_utf8(input)
            .map_err(|error| Error::reject(format_args!("the input is not text: {error}")))
    }
}

impl<T: DeserializeOwned> FromInput for Json<T> {
    fn from_input(input: Vec<u8>) -> Result<Self, Error> {
        serde_json::from_slice(&input)
            .map(Self)
            .map_err(|error| Error::reject(format_args!("the input does not parse: {error}")))
    }
}

impl IntoOutput for Output {
    fn into_output(self) -> Result<Output, Error> {
        Ok(self)
    }
}

impl IntoOutput for Vec<u8> {
    fn into_output(self) -> Result<Output, Error> {
        Ok(Output {
            data: self,
            content_type: None,
        })
    }
}

impl IntoOutput for String {
    fn into_output(self) -> Result<Output, Error> {
        self.into_bytes().into_output()
    }
}

impl IntoOutput for &'static str {
    fn into_output(self) -> Result<Output, Error> {
        self.to_owned().into_output()
    }
}

/// A task that is done for its effects: no bytes, no media type.
impl IntoOutput for () {
    fn into_output(self) -> Result<Output, Error> {
        Vec::new().into_output()
    }
}

impl<T: Serialize> IntoOutput for Json<T> {
    fn into_output(self) -> Result<Output, Error> {
        let data = serde_json::to_vec(&self.0)
            .map_err(|error| Error::failed(format_args!("the output has no JSON: {error}")))?;
        Ok(Output::new(data, "application/json"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn input_that_does_not_parse_is_rejected() {
        let error = Json::<Vec<u8>>::from_input(b"[1, 2".to_vec()).expect_err("it is cut off");
        let message = "the input does not parse: EOF while parsing a list at line 1 column 5";
        assert_eq!(error, Error::reject(message));

        let error = String::from_input(vec![b'a', 0xff]).expect_err("0xff is never UTF-8");
        assert!(
            matches!(error, Error::Reject(message) if message.starts_with("the input is not text: "))
        );
    }

    #[test]
    fn json_names_its_media_type() {
        let output = Json([1, 2]).into_output().expect("an array has JSON");
        assert_eq!(output, Output::new("[1,2]", "application/json"));
    }

    #[test]
    fn output_without_json_is_a_failure() {
        let error = Json(HashMap::from([((1, 2), 3)]))
            .into_output()
            .expect_err("keys are strings");
        assert_eq!(
            error,
            Error::failed("the output has no JSON: key must be a string")
        );
    }
}
