//! C: clang, as `zig cc` with the C library of WASI, makes a core module.

use anyhow::Result;

use crate::project::build::Workshop;
use crate::project::language::Language;
use crate::project::manifest::World;
use crate::project::zig::{STACK_BYTES, ZIG};

/// C, with the world as a header that wit-bindgen made.
pub(super) const LANGUAGE: Language = Language {
    name: "c",
    also: &[],
    template: &[
        ("task.toml", include_str!("templates/c/task.toml")),
        ("README.md", include_str!("templates/c/README.md")),
        (
            "requirements.txt",
            include_str!("templates/c/requirements.txt"),
        ),
        (
            "compile_flags.txt",
            include_str!("templates/c/compile_flags.txt"),
        ),
        ("src/task.c", include_str!("templates/c/src/task.c")),
        (
            "bindings/task.h",
            include_str!("templates/c/bindings/task.h"),
        ),
        (
            "bindings/component_type.c",
            include_str!("templates/c/bindings/component_type.c"),
        ),
        (
            "bindings/task.c",
            include_str!("templates/c/bindings/task.c"),
        ),
        (
            "sample/input.txt",
            include_str!("templates/c/sample/input.txt"),
        ),
        (
            "sample/output.txt",
            include_str!("templates/c/sample/output.txt"),
        ),
        ("sample/empty.txt", ""),
    ],
    wit: false,
    made: &[".venv"],
    tools: &[&ZIG],
    build,
};

/// One flag a line, as clangd reads it too.
const FLAGS: &str = "compile_flags.txt";

fn build(workshop: &Workshop<'_>) -> Result<Vec<u8>> {
    let made = workshop.made("task.core.wasm");
    let mut cc = workshop.command(&ZIG)?;
    cc.args(["cc", "-target", "wasm32-wasi", "-Os", "-s"])
        .arg(format!("-Wl,-z,stack-size={STACK_BYTES}"));
    if workshop.world() != World::Command {
        // No `main`: the task's `run` is called.
        cc.arg("-mexec-model=reactor");
        cc.args(workshop.sources("bindings", ".c")?);
    }
    let flags = std::fs::read_to_string(workshop.folder().join(FLAGS)).unwrap_or_default();
    cc.args(flags.lines().map(str::trim).filter(|flag| !flag.is_empty()))
        .args(workshop.sources("src", ".c")?)
        .args(["-lm", "-o"])
        .arg(&made);
    workshop.run(cc)?;
    workshop.read(&made)
}
