//! AssemblyScript, with asc of npm: a core module by the canonical ABI, which `src/abi.ts` of the template keeps.

use anyhow::Result;

use crate::project::build::Workshop;
use crate::project::javascript::{NODE, NPM_INSTALL, npm_command};
use crate::project::language::{Language, Tool};

/// AssemblyScript.
pub(super) const LANGUAGE: Language = Language {
    name: "assemblyscript",
    also: &["as"],
    template: &[
        (
            "task.toml",
            include_str!("templates/assemblyscript/task.toml"),
        ),
        (
            "README.md",
            include_str!("templates/assemblyscript/README.md"),
        ),
        (
            "package.json",
            include_str!("templates/assemblyscript/package.json"),
        ),
        (
            "src/task.ts",
            include_str!("templates/assemblyscript/src/task.ts"),
        ),
        (
            "src/wasmqtt.ts",
            include_str!("templates/assemblyscript/src/wasmqtt.ts"),
        ),
        (
            "src/abi.ts",
            include_str!("templates/assemblyscript/src/abi.ts"),
        ),
        (
            "src/tsconfig.json",
            include_str!("templates/assemblyscript/src/tsconfig.json"),
        ),
        (
            "sample/input.txt",
            include_str!("templates/assemblyscript/sample/input.txt"),
        ),
        (
            "sample/output.txt",
            include_str!("templates/assemblyscript/sample/output.txt"),
        ),
    ],
    wit: false,
    made: &["node_modules", ".venv"],
    tools: &[&NODE, &ASC],
    build,
};

const ASC: Tool = Tool {
    name: "assemblyscript 0.28.20",
    programs: &["node_modules/.bin/asc", "asc"],
    install: NPM_INSTALL,
};

fn build(workshop: &Workshop<'_>) -> Result<Vec<u8>> {
    let core = workshop.made("task.core.wasm");
    let mut asc = npm_command(workshop, &ASC)?;
    asc.args(["src/abi.ts", "-O", "--outFile"]).arg(&core);
    // Nothing is freed: an instance runs one task. `throw` logs and traps; globals are set up before `run`.
    asc.args(["--runtime", "stub", "--exportStart", "_initialize"]);
    asc.args(["--use", "abort=src/abi/abort"]);
    workshop.run(asc)?;
    workshop.read(&core)
}
