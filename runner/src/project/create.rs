//! `new`: a project's folder from a language's template.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::project::build;
use crate::project::language::Language;
use crate::task::ModuleName;

/// A file of a template: its path in the project, and its content.
pub type Template = (&'static str, &'static str);

/// What stands for the module's name in a template.
const NAME: &str = "@NAME@";

/// The world, as projects have it and as core modules are fitted into it.
pub(super) const WIT: &[Template] = &[
    ("wit/world.wit", include_str!("../../../wit/world.wit")),
    ("wit/types.wit", include_str!("../../../wit/types.wit")),
    ("wit/host.wit", include_str!("../../../wit/host.wit")),
    ("wit/publish.wit", include_str!("../../../wit/publish.wit")),
];

/// Writes a project; the paths of its files, in the order of the template.
///
/// # Errors
///
/// When the folder is there and not empty: nothing is overwritten.
pub fn create(folder: &Path, name: &ModuleName, language: &Language) -> Result<Vec<PathBuf>> {
    let in_folder = || format!("failed to make the folder {}", folder.display());
    fs::create_dir_all(folder).with_context(in_folder)?;
    if fs::read_dir(folder)
        .with_context(in_folder)?
        .next()
        .is_some()
    {
        bail!("{} is not empty; nothing was written", folder.display());
    }
    let mut files: Vec<(&str, String)> = language
        .template
        .iter()
        .map(|(path, text)| (*path, text.replace(NAME, name.as_str())))
        .collect();
    if language.wit {
        files.extend(WIT.iter().map(|(path, text)| (*path, (*text).to_owned())));
    }
    let made = [&[build::FOLDER], language.made].concat();
    let ignored: String = made.iter().map(|made| format!("/{made}/\n")).collect();
    files.push((".gitignore", ignored));
    let mut written = Vec::new();
    for (path, text) in files {
        let file = folder.join(path);
        let in_file = || format!("failed to write {}", file.display());
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).with_context(in_file)?;
        }
        fs::write(&file, text).with_context(in_file)?;
        written.push(PathBuf::from(path));
    }
    Ok(written)
}
