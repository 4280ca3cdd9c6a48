//! From a project's sources to a checked component in its `build` folder.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use tempfile::NamedTempFile;

use crate::config::Config;
use crate::modules::structure::{self, Shape, Structure};
use crate::modules::{self, Content, shape};
use crate::project::Project;
use crate::project::create::WIT;
use crate::project::language::Tool;
use crate::project::manifest::World;
use crate::project::watch::Files;
use crate::task::ModuleName;
use crate::task::tenant::TenantId;

/// The folder of what is built, in a project.
pub const FOLDER: &str = "build";

const NO_TASK: &str = "what was built is no task";

/// A project's module.
#[derive(Debug)]
pub struct Built {
    /// Where it is.
    pub file: PathBuf,
    /// Its bytes.
    pub content: Content,
    /// What it is.
    pub structure: Structure,
}

/// Runs the toolchain of a project, makes a component of what comes out, checks it and keeps it as
/// [`Project::module`]. What the toolchain says goes to stderr as it is.
///
/// # Errors
///
/// When a tool is missing: the message has the line that installs it. When the toolchain fails, or what it made
/// is not the task that the manifest says.
pub fn build(project: &Project) -> Result<Built> {
    let workshop = Workshop { project };
    let absent = project.missing();
    if !absent.is_empty() {
        bail!(missing(&absent));
    }
    let folder = project.folder.join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
    let began = now_in(&folder)
        .with_context(|| format!("failed to make a file in {}", folder.display()))?;
    let bytes = (project.language.build)(&workshop)?;
    let world = project.manifest.world;
    let content = Content::new(component(bytes, world).context(NO_TASK)?);
    let structure = check(&content, world).context(NO_TASK)?;
    let file = project.module();
    // What is saved while the toolchain runs is younger.
    write(&file, &content.bytes, began)
        .with_context(|| format!("failed to write {}", file.display()))?;
    Ok(Built {
        file,
        content,
        structure,
    })
}

/// The module's file; built before, unless it is younger than every file that it may be made from.
///
/// # Errors
///
/// As those of [`build`].
pub fn current(project: &Project) -> Result<PathBuf> {
    let file = project.module();
    let built = fs::metadata(&file).and_then(|meta| meta.modified()).ok();
    if built.is_none() || built <= Files::sources(project).youngest() {
        build(project)?;
    }
    Ok(file)
}

/// A component as it is; a core module as a component, of the manifest's world if it does not say which it fits.
fn component(bytes: Vec<u8>, world: World) -> Result<Vec<u8>> {
    let structure = structure::read(&bytes).map_err(anyhow::Error::msg)?;
    let (name, export) = match world {
        World::Task => ("task", "run"),
        World::PublishingTask => ("publishing-task", "run"),
        World::Command => ("command", "_start"),
    };
    let bytes = if structure.shape != Shape::OtherModule {
        bytes
    } else if structure.exports.iter().any(|it| it == export) {
        shape::embed(&bytes, name)?
    } else {
        let exports = match &structure.exports[..] {
            [] => "nothing".to_owned(),
            exports => exports.join(", "),
        };
        bail!(
            "`world` in task.toml, `{name}`, asks for an export `{export}`; it exports {exports}"
        );
    };
    let component = shape::component(&bytes).map_err(anyhow::Error::msg)?;
    Ok(component.into_owned())
}

/// What a runner would refuse, whatever it grants, and what is not what the manifest says.
fn check(content: &Content, world: World) -> Result<Structure> {
    let policy = Config::default().policy_of(&TenantId::default())?;
    let structure = modules::check(content, &policy).map_err(anyhow::Error::msg)?;
    let wanted = match world {
        World::Task | World::PublishingTask => Shape::Typed,
        World::Command => Shape::Command,
    };
    if structure.shape != wanted {
        bail!(
            "it is a {}, and `world` in task.toml asks for a {}",
            structure.shape.describe(),
            wanted.describe()
        );
    }
    Ok(structure)
}

/// The time by the clock of the file system, which is behind the system's.
fn now_in(folder: &Path) -> Result<SystemTime> {
    let file = NamedTempFile::new_in(folder)?;
    Ok(file.as_file().metadata()?.modified()?)
}

/// Whole or not at all: `dev` may be reading it.
fn write(file: &Path, bytes: &[u8], modified: SystemTime) -> Result<()> {
    let folder = file.parent().context("it is in no folder")?;
    let mut draft = NamedTempFile::new_in(folder)?;
    draft.write_all(bytes)?;
    draft.as_file().set_modified(modified)?;
    draft.persist(file)?;
    Ok(())
}

/// What a language's build works with.
#[derive(Debug)]
pub struct Workshop<'a> {
    project: &'a Project,
}

impl Workshop<'_> {
    /// The project's folder, absolute; every command runs there.
    pub fn folder(&self) -> &Path {
        &self.project.folder
    }

    /// The module's name.
    pub fn name(&self) -> &ModuleName {
        &self.project.manifest.name
    }

    /// What the module is to be.
    pub fn world(&self) -> World {
        self.project.manifest.world
    }

    /// A file in the `build` folder, for what lies between sources and module.
    pub fn made(&self, name: &str) -> PathBuf {
        self.folder().join(FOLDER).join(name)
    }

    /// The world for a typed component, by its name.
    ///
    /// # Errors
    ///
    /// When the manifest asks for a command.
    pub fn typed_world(&self) -> Result<&'static str> {
        match self.world() {
            World::Task => Ok("task"),
            World::PublishingTask => Ok("publishing-task"),
            World::Command => bail!(
                "{} builds typed components only: write `world = \"task\"` in task.toml",
                self.project.language.name
            ),
        }
    }

    /// A folder with the world, for tools that read it: it is that of this wasmqtt.
    pub fn wit(&self) -> Result<PathBuf> {
        let folder = self.made("wit");
        let in_folder = || format!("failed to write {}", folder.display());
        fs::create_dir_all(&folder).with_context(in_folder)?;
        for (path, text) in WIT {
            fs::write(self.made(path), text).with_context(in_folder)?;
        }
        Ok(folder)
    }

    /// The files below a folder of the project whose names end so, such as `.c`, in the order of their paths.
    pub fn sources(&self, folder: &str, ending: &str) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder().join(folder)];
        while let Some(folder) = folders.pop() {
            let in_folder = || format!("failed to read the folder {}", folder.display());
            for entry in fs::read_dir(&folder).with_context(in_folder)? {
                let path = entry.with_context(in_folder)?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.to_string_lossy().ends_with(ending) {
                    found.push(path);
                }
            }
        }
        if found.is_empty() {
            bail!("no file {folder}/*{ending} to build");
        }
        found.sort();
        Ok(found)
    }

    /// A command of a tool, in the project's folder.
    pub fn command(&self, tool: &Tool) -> Result<Command> {
        let program = tool.find(self.folder());
        let program = program.with_context(|| missing(&[tool]))?;
        let mut command = Command::new(program);
        // stdout is for what a task answers.
        command
            .current_dir(self.folder())
            .stdin(Stdio::null())
            .stdout(std::io::stderr());
        Ok(command)
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    ///
    /// When it fails; why, it has said on stderr.
    pub fn run(&self, mut command: Command) -> Result<()> {
        let name = Path::new(command.get_program()).file_name();
        let name = name.unwrap_or_default().to_string_lossy().into_owned();
        let status = command
            .status()
            .with_context(|| format!("failed to start {name}"))?;
        if !status.success() {
            bail!("{name} failed ({status}); why is said above");
        }
        Ok(())
    }

    /// A file that a command should have made.
    pub fn read(&self, file: &Path) -> Result<Vec<u8>> {
        fs::read(file).with_context(|| format!("the toolchain made no {}", file.display()))
    }
}

/// What is missing, where it was looked for, and the lines that install it.
fn missing(tools: &[&Tool]) -> String {
    let mut text = "the toolchain is not complete".to_owned();
    for tool in tools {
        let places: Vec<String> = tool
            .programs
            .iter()
            .map(|program| match program.contains('/') {
                true => (*program).to_owned(),
                false => format!("`{program}` on PATH"),
            })
            .collect();
        text += &format!("\n  missing: {} ({})", tool.name, places.join(", "));
    }
    let line = install(tools).unwrap_or_default();
    text + &format!("\nto install it, in the project's folder:\n  {line}")
}

/// The line that installs tools, each once.
pub fn install(tools: &[&Tool]) -> Option<String> {
    let mut lines: Vec<&str> = Vec::new();
    for tool in tools {
        if !lines.contains(&tool.install) {
            lines.push(tool.install);
        }
    }
    (!lines.is_empty()).then(|| lines.join(" && "))
}
