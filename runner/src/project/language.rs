//! The languages: what each one's template is, which tools it needs and what they are told.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::project::build::Workshop;
use crate::project::{assemblyscript, c, go, javascript, python, rust, wat, zig};
use crate::suggest;

/// Every language, in the order in which they are listed.
pub const ALL: &[&Language] = &[
    &rust::LANGUAGE,
    &c::LANGUAGE,
    &zig::LANGUAGE,
    &assemblyscript::LANGUAGE,
    &javascript::TYPESCRIPT,
    &javascript::JAVASCRIPT,
    &python::LANGUAGE,
    &go::LANGUAGE,
    &wat::LANGUAGE,
];

/// A language that tasks are written in.
#[derive(Debug)]
pub struct Language {
    /// Its name, as `--lang` and the manifest take it.
    pub name: &'static str,
    /// Other names for it.
    pub also: &'static [&'static str],
    /// What `new` writes, as (path in the project, content); `@NAME@` stands for the module's name. `task.toml`,
    /// `README.md` and the samples are among them, `.gitignore` is not.
    pub template: &'static [(&'static str, &'static str)],
    /// Whether the toolchain reads the world: the project then has it in `wit/`.
    pub wit: bool,
    /// The folders that the toolchain writes: neither watched nor kept in git. `build` is always one.
    pub made: &'static [&'static str],
    /// What is needed; all of it is looked for before anything is run.
    pub tools: &'static [&'static Tool],
    /// Runs the toolchain: the bytes of a component or of a core module, which is made a component behind this.
    pub build: fn(&Workshop<'_>) -> Result<Vec<u8>>,
}

/// A program that a language needs.
#[derive(Debug)]
pub struct Tool {
    /// What it is called, such as `ziglang 0.17.1`.
    pub name: &'static str,
    /// Where it is looked for, in this order: a path with a `/` is one in the project's folder, any other a name on
    /// PATH.
    pub programs: &'static [&'static str],
    /// The line that installs it, to be pasted in the project's folder.
    pub install: &'static str,
}

/// The language of that name.
///
/// # Errors
///
/// There is none: the message names those that there are.
pub fn find(name: &str) -> Result<&'static Language, String> {
    let found = ALL
        .iter()
        .find(|language| language.name == name || language.also.contains(&name));
    if let Some(language) = found {
        return Ok(language);
    }
    let names: Vec<&str> = ALL.iter().map(|language| language.name).collect();
    let hint = suggest::closest(name, &names)
        .map_or(String::new(), |name| format!("did you mean `{name}`? "));
    Err(format!(
        "no language `{name}`; {hint}there are {}",
        names.join(", ")
    ))
}

impl Tool {
    /// Where it is.
    pub(super) fn find(&self, folder: &Path) -> Option<PathBuf> {
        self.programs.iter().find_map(|program| {
            if program.contains('/') {
                return Some(folder.join(program)).filter(|path| is_program(path));
            }
            let path = std::env::var_os("PATH")?;
            let mut places = std::env::split_paths(&path).map(|place| place.join(program));
            places.find(|path| is_program(path))
        })
    }
}

fn is_program(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
}
