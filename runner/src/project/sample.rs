//! Samples: reading them, and telling whether an outcome is what they say.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use bytes::Bytes;

use crate::project::Project;
use crate::project::difference;
use crate::project::manifest::Sample;
use crate::task::limits::RequestedLimits;
use crate::task::outcome::{Outcome, Status};

/// What a sample's run is given.
#[derive(Debug)]
pub struct Input {
    /// The bytes of its file.
    pub input: Bytes,
    /// Their media type.
    pub content_type: Option<String>,
    /// The project's limits.
    pub limits: RequestedLimits,
}

impl Sample {
    /// Reads the input.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn read(&self, project: &Project) -> Result<Input> {
        Ok(Input {
            input: read(project, &self.input)?.into(),
            content_type: self.content_type.clone(),
            limits: project.manifest.limits.requested(),
        })
    }

    /// What of an outcome is not as the sample says. One that says nothing is to succeed.
    ///
    /// # Errors
    ///
    /// When the file of the expected output cannot be read.
    pub fn surprise(&self, project: &Project, outcome: &Outcome) -> Result<Option<String>> {
        let error = outcome.error.as_ref();
        let came = error.map_or("none".to_owned(), ToString::to_string);
        if let Some(wanted) = &self.error {
            let same = error.is_some_and(|error| error.code.as_str() == wanted);
            return Ok((!same).then(|| format!("the error {wanted} was expected, and {came} came")));
        }
        if outcome.status != Status::Succeeded {
            return Ok(Some(format!("{}: {came}", outcome.status)));
        }
        let Some(wanted) = &self.output else {
            return Ok(None);
        };
        let output = outcome.output.as_ref().map_or(&[][..], |it| &it.data);
        let difference = difference::lines(&read(project, wanted)?, output);
        Ok(difference.map(|lines| {
            let wanted = wanted.display();
            format!("the output is not that of {wanted} (-):\n{lines}")
        }))
    }
}

fn read(project: &Project, path: &Path) -> Result<Vec<u8>> {
    let path = project.folder.join(path);
    fs::read(&path).with_context(|| format!("failed to read the sample {}", path.display()))
}
