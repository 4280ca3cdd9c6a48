//! Why a module is none of the shapes that run: what was seen, and what to do about it.

use crate::modules::structure::{Outside, WASI_P1, list, shown};

/// Whose an import is, by how its name begins, and what to do.
const FOREIGN: &[(&str, &str)] = &[
    (
        "wasi_unstable ",
        "WASI's snapshot 0 of 2019; build it with a toolchain that targets wasip1 or wasip2",
    ),
    (
        "wasi thread-spawn",
        "threads, which no task has; build it without them",
    ),
    ("__wbindgen", WASM_BINDGEN),
    ("wbg ", WASM_BINDGEN),
    ("./", WASM_BINDGEN),
    ("env emscripten", EMSCRIPTEN),
    ("env _emscripten", EMSCRIPTEN),
    ("env invoke_", EMSCRIPTEN),
    ("env __syscall", EMSCRIPTEN),
    ("env __cxa_", EMSCRIPTEN),
    ("a ", EMSCRIPTEN),
    ("go ", GO_JS),
    ("gojs ", GO_JS),
    ("env abort", ASSEMBLY_SCRIPT),
    ("env seed", ASSEMBLY_SCRIPT),
    ("env trace", ASSEMBLY_SCRIPT),
    (
        "env memory",
        "a task's memory is its own; build it without an imported memory",
    ),
    ("GOT.", LIBRARY),
    ("env __memory_base", LIBRARY),
    (
        "env ",
        "a symbol that the linker did not find; link what defines it",
    ),
];

const WASM_BINDGEN: &str = "wasm-bindgen's glue to JavaScript; build it for wasm32-wasip2 or wasm32-wasip1, without wasm-bindgen";
const EMSCRIPTEN: &str = "Emscripten's glue to JavaScript; build it with -sSTANDALONE_WASM, or with wasi-sdk or `zig cc -target wasm32-wasi`";
const GO_JS: &str = "Go's glue to JavaScript; build it with GOOS=wasip1 GOARCH=wasm";
const ASSEMBLY_SCRIPT: &str =
    "AssemblyScript's glue to JavaScript; build it with `asc --use abort=`";
const LIBRARY: &str = "what a shared library needs of its main module; link it statically";

/// Where WASI would read and write.
pub(super) const NO_MEMORY: &str =
    "a core module with `_start` must export its memory as `memory`; this one does not";

/// What a foreign import is, and what to do.
pub(super) fn hint(import: &str) -> Option<&'static str> {
    if import.starts_with("wasi:") && import.contains("@0.3.") {
        return Some("WASI 0.3; build it for WASI 0.2");
    }
    let known = FOREIGN
        .iter()
        .find(|(beginning, _)| import.starts_with(beginning));
    known.map(|(_, hint)| *hint)
}

/// Why it is none of the shapes.
pub(super) fn why(outside: &Outside) -> String {
    let exports = list(&outside.exports.kept);
    if outside.component {
        let todo = of_component(outside);
        return format!(
            "a component must export `run` of wasmqtt:task/task or `wasi:cli/run@0.2`; this one exports {exports}{todo}"
        );
    }
    let todo = of_module(outside);
    format!(
        "a core module must export `_start` (wasip1) or, with metadata of its world, `run`; this one exports \
         {exports}: {todo}"
    )
}

fn of_component(outside: &Outside) -> &'static str {
    let exports = |beginning: &str| {
        let names = &mut outside.exports.kept.iter();
        names.any(|name| name.starts_with(beginning))
    };
    if exports("wasi:cli/run@0.3") {
        ": a command of WASI 0.3; build it for WASI 0.2 (wasm32-wasip2)"
    } else if exports("wasi:cli/run@") {
        ": a command of a draft of WASI; build it for WASI 0.2 (wasm32-wasip2)"
    } else if exports("wasi:http/") {
        ": an HTTP server; what a task does is in `run`"
    } else if exports("wasmqtt:task/") {
        ": `run` is a function of the world, not of an interface"
    } else {
        ""
    }
}

fn of_module(outside: &Outside) -> String {
    let mut imports = outside.imports.kept.iter();
    if let Some((import, hint)) = imports.find_map(|import| Some((import, hint(import)?))) {
        return format!("it imports {}, {hint}", shown(import));
    }
    let wasi = outside.imports.kept.iter().any(|import| import == WASI_P1);
    let todo = if outside.library {
        "it is a shared library; link it statically"
    } else if outside.run {
        "it has a `run`, but no metadata that says of which world; `wasmqtt build` adds it, or `wasm-tools component \
         embed --world task`"
    } else if outside.metadata {
        "its metadata is of another world; bind it to wasmqtt:task/task"
    } else if wasi {
        "it is a library (a reactor) of wasip1; build it as a command, or export `run` of wasmqtt:task/task"
    } else {
        "build it for wasm32-wasip2, or as a command for wasip1"
    };
    todo.to_owned()
}
