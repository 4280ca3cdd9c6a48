//! WebAssembly text: assembled in this process, without any tool.

use anyhow::Result;

use crate::project::build::Workshop;
use crate::project::language::Language;

/// Hand-written WebAssembly.
pub(super) const LANGUAGE: Language = Language {
    name: "wat",
    also: &["wasm", "text"],
    template: &[
        ("task.toml", include_str!("templates/wat/task.toml")),
        ("README.md", include_str!("templates/wat/README.md")),
        ("src/task.wat", include_str!("templates/wat/src/task.wat")),
        (
            "sample/input.txt",
            include_str!("templates/wat/sample/input.txt"),
        ),
        (
            "sample/output.txt",
            include_str!("templates/wat/sample/output.txt"),
        ),
    ],
    wit: false,
    made: &[],
    tools: &[],
    build,
};

fn build(workshop: &Workshop<'_>) -> Result<Vec<u8>> {
    Ok(wat::parse_file(workshop.folder().join("src/task.wat"))?)
}
