use super::*;

fn of(text: &str) -> Structure {
    read(&wat::parse_str(text).expect("text")).expect("a module")
}

#[test]
fn the_shape_is_told_by_exports_and_metadata() {
    for (text, shape) in [
        (r#"(module (func (export "_start")))"#, "core_command"),
        (
            r#"(module (func (export "run")) (@custom "component-type" ""))"#,
            "core_typed",
        ),
        (
            r#"(module (func (export "cm32p2||run")) (@custom "component-type:x" ""))"#,
            "core_typed",
        ),
        // Both: its metadata says which `run` is meant.
        (
            r#"(module (func (export "run")) (func (export "_start")) (@custom "component-type" ""))"#,
            "core_typed",
        ),
        (
            r#"(module (func (export "run")) (func (export "_start")))"#,
            "core_command",
        ),
        (r#"(module (func (export "run")))"#, "core_module"),
        // Not functions.
        (
            r#"(module (memory (export "run") 1) (global (export "_start") i32 i32.const 0))"#,
            "core_module",
        ),
        ("(module)", "core_module"),
        ("(component)", "other_component"),
    ] {
        assert_eq!(of(text).shape.as_str(), shape, "{text}");
    }
}

#[test]
fn what_is_unfit_says_what_to_do() {
    for (text, words) in [
        (r#"(module (func (export "run")))"#, "no metadata"),
        (
            r#"(module (import "wasi_unstable" "fd_write" (func)) (func (export "go")))"#,
            "snapshot 0",
        ),
        (
            r#"(module (import "wbg" "__wbg_log" (func)) (func (export "go")))"#,
            "wasm-bindgen",
        ),
        (
            r#"(module (import "env" "emscripten_resize_heap" (func)) (func (export "main")))"#,
            "Emscripten",
        ),
        (
            r#"(module (import "gojs" "runtime.wasmExit" (func)) (func (export "run")))"#,
            "GOOS=wasip1",
        ),
        (
            r#"(module (import "env" "abort" (func)) (func (export "main")))"#,
            "--use abort=",
        ),
        (
            r#"(module (import "wasi_snapshot_preview1" "fd_write" (func)) (func (export "_initialize")))"#,
            "a reactor",
        ),
        (r#"(module (@custom "dylink.0" ""))"#, "shared library"),
        (r#"(module (@custom "component-type" ""))"#, "another world"),
        (r#"(module (func (export "add")))"#, "wasm32-wasip2"),
        (
            r#"(component (instance $i) (export "wasi:cli/run@0.3.0" (instance $i)))"#,
            "WASI 0.3",
        ),
        (
            r#"(component (instance $i) (export "wasi:http/incoming-handler@0.2.0" (instance $i)))"#,
            "an HTTP server",
        ),
    ] {
        let structure = of(text);
        let why = structure.unfit.expect("unfit");
        assert!(why.contains(words), "{text}: {why}");
    }
}

#[test]
fn imports_of_core_modules_are_interfaces_or_pairs_of_names() {
    let structure = of(r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func))
        (import "wasi_snapshot_preview1" "fd_read" (func))
        (import "wasmqtt:task/host@0.1.0" "log" (func))
        (import "cm32p2|wasi:http/types@0.2" "x" (func))
        (import "[export]wasmqtt:task/types@0.1.0" "[resource-new]x" (func))
        (import "env" "puts" (func))
        (func (export "_start")))"#);
    let expected = [
        "wasi_snapshot_preview1",
        "wasmqtt:task/host@0.1.0",
        "wasi:http/types@0.2",
        "env puts",
    ];
    assert_eq!(structure.imports, expected);
    let needs = structure.imports.iter().map(|import| need(import));
    let expected = [
        Need::Nothing,
        Need::Nothing,
        Need::Grant(Capability::Http),
        Need::NotOffered,
    ];
    assert!(needs.eq(expected));
}

#[test]
fn only_wasi_0_2_is_offered() {
    for (import, offered) in [
        ("wasi:cli/stdout@0.2.0", true),
        ("wasi:cli/stdout@0.2.12", true),
        ("wasi:cli/stdout@0.3.0", false),
        ("wasi:cli/stdout", false),
        ("wasi:config/store@0.2.0-rc.1", true),
        ("wasi:keyvalue/store@0.2.0-draft", true),
        ("wasmqtt:task/host@0.1.0", true),
        ("wasi_unstable fd_write", false),
    ] {
        assert_eq!(need(import) != Need::NotOffered, offered, "{import}");
    }
}

#[test]
fn names_are_bounded() {
    let imports = |count: usize, length: usize| {
        let imports = (0..count)
            .map(|number| format!("(import \"env\" \"{number:0length$}\" (func))"))
            .collect::<String>();
        read(&wat::parse_str(format!("(module {imports})")).expect("text"))
    };
    assert!(imports(MAX_NAMES, 1).is_ok());
    let refused = imports(MAX_NAMES + 1, 1).expect_err("refused");
    assert!(refused.message.contains("1000 names"), "{refused}");
    let refused = imports(10, 10_000).expect_err("refused");
    assert!(refused.message.contains("65536 bytes"), "{refused}");
    // Exports are only shown.
    let exports = (0..2 * MAX_NAMES)
        .map(|number| format!("(export \"{number}\" (func 0))"))
        .collect::<String>();
    let module = of(&format!("(module (func (export \"_start\")) {exports})"));
    assert_eq!(module.shape, Shape::CoreCommand);
    assert_eq!(module.exports.len(), MAX_NAMES);
    assert_eq!(shown("a\u{1b}[0m"), "a\\u{1b}[0m");
    assert!(shown(&"x".repeat(1000)).len() < 210);
}
