//! Python, with componentize-py of PyPI: CPython, its standard library and the task in one component.

use anyhow::Result;

use crate::project::build::Workshop;
use crate::project::language::{Language, Tool};

/// Python.
pub(super) const LANGUAGE: Language = Language {
    name: "python",
    also: &["py"],
    template: &[
        ("task.toml", include_str!("templates/python/task.toml")),
        ("README.md", include_str!("templates/python/README.md")),
        (
            "requirements.txt",
            include_str!("templates/python/requirements.txt"),
        ),
        ("src/task.py", include_str!("templates/python/src/task.py")),
        (
            "src/wasmqtt.py",
            include_str!("templates/python/src/wasmqtt.py"),
        ),
        (
            "src/entry.py",
            include_str!("templates/python/src/entry.py"),
        ),
        (
            "sample/input.json",
            include_str!("templates/python/sample/input.json"),
        ),
        (
            "sample/output.json",
            include_str!("templates/python/sample/output.json"),
        ),
    ],
    wit: false,
    made: &[".venv"],
    tools: &[&COMPONENTIZE],
    build,
};

const COMPONENTIZE: Tool = Tool {
    name: "componentize-py 0.25.1",
    programs: &[".venv/bin/componentize-py", "componentize-py"],
    install: "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt",
};

fn build(workshop: &Workshop<'_>) -> Result<Vec<u8>> {
    let world = workshop.typed_world()?;
    let component = workshop.made("task.component.wasm");
    let mut componentize = workshop.command(&COMPONENTIZE)?;
    // What requirements.txt names is found there, whatever Python is on PATH.
    let packages = workshop.folder().join(".venv");
    if packages.is_dir() {
        componentize.env("VIRTUAL_ENV", packages);
    }
    componentize.arg("--quiet");
    componentize.arg("--wit-path").arg(workshop.wit()?);
    componentize.args(["--world", world]);
    componentize.args(["componentize", "entry", "--python-path", "src"]);
    componentize.arg("--output").arg(&component);
    // Else CPython's imports of WASI ask for what no tenant needs to grant.
    componentize.arg("--stub-wasi");
    workshop.run(componentize)?;
    workshop.read(&component)
}
