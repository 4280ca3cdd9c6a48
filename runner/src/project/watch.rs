//! Whether a project's files changed: by looking, which works on every file system.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::project::{Project, build, manifest};
use crate::stamp::Stamp;

/// More files than this are not looked at: a project has tens.
const MOST_FILES: usize = 10_000;
/// Written by toolchains wherever they like.
const MADE: &[&str] = &["node_modules", "target", "__pycache__"];

/// The files that somebody writes, and what tells whether they changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Files {
    files: BTreeMap<PathBuf, Stamp>,
}

impl Files {
    /// Those of a project as they are now: without what is built, hidden files and folders, and links.
    #[must_use]
    pub fn of(project: &Project) -> Files {
        let made = project.language.made;
        let mut files = BTreeMap::new();
        let mut folders = vec![project.folder.clone()];
        while let Some(folder) = folders.pop() {
            // What cannot be read changes nothing.
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            for entry in entries {
                let (path, name) = (entry.path(), entry.file_name());
                let name = name.to_string_lossy();
                let top = folder == project.folder;
                let is_made = top && (name == build::FOLDER || made.contains(&&*name));
                if is_made || MADE.contains(&&*name) || name.starts_with('.') {
                    continue;
                }
                let Ok(meta) = fs::symlink_metadata(&path) else {
                    continue;
                };
                if meta.is_dir() {
                    folders.push(path);
                } else if meta.is_file() && files.len() < MOST_FILES {
                    files.insert(path, Stamp::of(&meta));
                }
            }
        }
        Files { files }
    }

    /// Only the manifest of a folder, as it is now.
    #[must_use]
    pub fn manifest(folder: &Path) -> Files {
        let path = folder.join(manifest::FILE);
        let meta = fs::symlink_metadata(&path).ok();
        let files = meta.map(|meta| (path, Stamp::of(&meta)));
        Files {
            files: files.into_iter().collect(),
        }
    }

    /// Those that the module may be made from: samples and Markdown are not.
    #[must_use]
    pub fn sources(project: &Project) -> Files {
        let mut all = Files::of(project);
        for sample in &project.manifest.samples {
            let files = [Some(&sample.input), sample.output.as_ref()];
            for path in files.into_iter().flatten() {
                all.files.remove(&project.folder.join(path));
            }
        }
        let is_text = |path: &Path| path.extension().is_some_and(|it| it == "md");
        all.files.retain(|path, _| !is_text(path));
        all
    }

    /// The files that are not as they were, gone and new ones too.
    #[must_use]
    pub fn changed_since<'a>(&'a self, before: &'a Files) -> Vec<&'a Path> {
        let new = self.files.iter();
        let new = new.filter(|(path, stamp)| before.files.get(*path) != Some(stamp));
        let gone = before.files.keys();
        let gone = gone.filter(|path| !self.files.contains_key(*path));
        let changed = new.map(|(path, _)| path).chain(gone);
        changed.map(PathBuf::as_path).collect()
    }

    /// When the youngest was written.
    pub(super) fn youngest(&self) -> Option<SystemTime> {
        let stamps = self.files.values();
        stamps.filter_map(|stamp| stamp.modified).max()
    }
}
