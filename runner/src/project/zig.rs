//! Zig: one `zig build-exe` makes a core module.

use anyhow::Result;

use crate::project::build::Workshop;
use crate::project::language::{Language, Tool};
use crate::project::manifest::World;

/// Zig, with the world as a file of its own.
pub(super) const LANGUAGE: Language = Language {
    name: "zig",
    also: &[],
    template: &[
        ("task.toml", include_str!("templates/zig/task.toml")),
        ("README.md", include_str!("templates/zig/README.md")),
        (
            "requirements.txt",
            include_str!("templates/zig/requirements.txt"),
        ),
        ("src/main.zig", include_str!("templates/zig/src/main.zig")),
        (
            "src/wasmqtt.zig",
            include_str!("templates/zig/src/wasmqtt.zig"),
        ),
        (
            "sample/input.txt",
            include_str!("templates/zig/sample/input.txt"),
        ),
        (
            "sample/output.txt",
            include_str!("templates/zig/sample/output.txt"),
        ),
        ("sample/empty.txt", ""),
    ],
    wit: false,
    made: &[".venv", ".zig-cache", "zig-out"],
    tools: &[&ZIG],
    build,
};

/// Zig, which is a C compiler too. The language changes with every version, so the project's own comes first.
pub(super) static ZIG: Tool = Tool {
    name: "ziglang 0.17.1",
    programs: &[".venv/bin/python-zig", "python-zig", "zig"],
    install: "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt",
};

/// Zig's own default is 16 MiB, which a task would be billed for as memory.
pub(super) const STACK_BYTES: u32 = 65_536;

fn build(workshop: &Workshop<'_>) -> Result<Vec<u8>> {
    let made = workshop.made("task.core.wasm");
    let mut zig = workshop.command(&ZIG)?;
    zig.args(["build-exe", "src/main.zig", "-O", "ReleaseSmall"]);
    match workshop.world() {
        // No WASI: the module imports nothing but the world.
        World::Task | World::PublishingTask => {
            zig.args(["-target", "wasm32-freestanding", "-fno-entry", "-rdynamic"])
        }
        World::Command => zig.args(["-target", "wasm32-wasi"]),
    };
    zig.args(["--stack", &STACK_BYTES.to_string()])
        .arg(format!("-femit-bin={}", made.display()));
    workshop.run(zig)?;
    workshop.read(&made)
}
