use proptest::prelude::*;

use super::*;

/// A component with these parts.
fn component(parts: &str) -> Vec<u8> {
    wat::parse_str(format!("(component {parts})")).expect("a component")
}

fn module(fields: &str) -> Vec<u8> {
    component(&format!("(core module {fields})"))
}

fn counted(bytes: &[u8]) -> Cost {
    count(bytes).expect("a module")
}

#[test]
fn what_is_on_the_outside_is_bounded() {
    let field = "(import \"some\" \"name\" (func))";
    // What is inside has names of its own.
    let inside = format!("(core module {})", field.repeat(20_000));
    assert_eq!(check_outside(&component(&inside)), Ok(()));
    let core = wat::parse_str(format!("(module {})", field.repeat(20_000)));
    let import = |number| format!("(import \"a{number}\" (func))");
    let many = component(&(0..10_000).map(import).collect::<String>());
    let long = component(&format!("(import \"{}\" (func))", "a".repeat(90_000)));
    for bytes in [core.expect("a module"), many, long] {
        let error = check_outside(&bytes).expect_err("too much");
        assert_eq!(error.code, ErrorCode::ModuleTooCostly);
        assert!(error.message.contains("of at most 65536"), "{error:?}");
    }
}

#[test]
fn functions_are_counted() {
    let cost = counted(&module(
        "(import \"a\" \"b\" (func)) (memory 1) (data (i32.const 0) \"x\")
         (func (param i32 i64) (local f32) (drop (i32.add (local.get 0) (i32.const 1))))
         (func)",
    ));
    let expected = Cost {
        code_bytes: 12,
        functions: 2,
        locals: 3,
        data_segments: 1,
        component_parts: 0,
        function_bytes: 10,
        // local.get, i32.const, i32.add, drop
        operands: 1 + 1 + 3 + 1,
        nesting: 1,
        live_values: 0,
        branches: 0,
    };
    assert_eq!(cost, expected);
}

#[test]
fn what_lives_at_the_beginning_of_a_block_is_counted() {
    for (body, live) in [
        // Two locals, and nothing on the stack.
        ("(block)", 2),
        // A loop's header and what is behind it.
        ("(loop)", 4),
        // And two values on the stack.
        ("i32.const 1 i32.const 2 (block) drop drop", 4),
        // The condition is gone.
        ("i32.const 1 (if (i32.const 1) (then) (else)) drop", 3 * 3),
        // A block's own value is not below it, but behind it.
        ("(block (result i32) i32.const 1) (block) drop", 2 + 3),
        // What cannot be reached takes from no block around it.
        ("i32.const 1 (block unreachable drop drop) (block) drop", 6),
    ] {
        let bytes = module(&format!("(func (param i32) (local i32) {body})"));
        assert_eq!(counted(&bytes).live_values, live, "{body}");
    }
}

#[test]
fn targets_of_tables_are_counted_by_blocks() {
    let bytes = module("(func (param i32) (block (block (br_table 0 1 0 (local.get 0)))))");
    // Two blocks, and what is behind the table.
    assert_eq!(counted(&bytes).branches, 3 * 3);
}

#[test]
fn components_are_counted_as_often_as_they_are_instantiated() {
    let parts = "
        (component $a (core module $m) (core instance (instantiate $m)) (core instance (instantiate $m)))
        (component $b (instance (instantiate $a)) (instance (instantiate $a)))
        (instance (instantiate $b)) (instance (instantiate $b))";
    // Of $b, beside its own two aliases of $a or one: (1 + 2) for each $a, and the instance itself.
    let inner = counted(&component(&parts.replace(
        "(instance (instantiate $b)) (instance (instantiate $b))",
        "(instance (instantiate $b))",
    )));
    let cost = counted(&component(parts));
    assert_eq!(cost.component_parts, 2 * inner.component_parts);
    assert!(inner.component_parts > 6, "{inner:?}");
}

/// One for each limit, and each names the count and the limit.
#[test]
fn what_is_over_a_limit_is_named() {
    let limits = CompileLimits {
        code_bytes: 100,
        functions: 10,
        locals: 100,
        data_segments: 3,
        component_parts: 5,
        function_bytes: 60,
        operands: 20,
        nesting: 6,
        live_values: 40,
        branches: 30,
        ..CompileLimits::default()
    };
    for (bytes, expected) in [
        (
            module(&"(func nop nop nop nop nop nop nop nop nop)".repeat(10)),
            "its functions up to number 9 have 110 bytes of code",
        ),
        (
            module(&"(func)".repeat(11)),
            "it has 11 functions, of at most 10",
        ),
        (
            module(&"(func (local i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32))".repeat(10)),
            "its functions up to number 9 have 110 locals, of at most 100",
        ),
        (
            module(&format!(
                "(memory 1) {}",
                "(data (i32.const 0) \"\")".repeat(4)
            )),
            "it has 4 data segments, of at most 3",
        ),
        (
            component(&format!(
                "(core module $m) {}",
                "(core instance (instantiate $m))".repeat(6)
            )),
            "a component has 6 parts when it is instantiated, of at most 5",
        ),
        (
            module(&format!("(func {})", "nop ".repeat(60))),
            "function 0 has 62 bytes, of at most 60",
        ),
        (
            module(&format!("(func {})", "(drop (i32.const 0))".repeat(11))),
            "function 0 has 21 operands, of at most 20",
        ),
        (
            module(&format!(
                "(func {} {})",
                "block ".repeat(6),
                "end ".repeat(6)
            )),
            "function 0 nests 7 blocks, of at most 6",
        ),
        (
            module(&format!(
                "(func (local i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) {})",
                "(block)".repeat(4)
            )),
            "function 0 has 4 blocks x the values that live at each (11 locals and the operand stack) = 44, of at most 40",
        ),
        (
            module("(func (block (block (block (br_table 0 1 2 0 1 2 0 1 (i32.const 0))))))"),
            "function 0 has 8 targets of br_table x 4 blocks = 32, of at most 30",
        ),
    ] {
        let error = check(&bytes, &limits).expect_err(expected);
        assert_eq!(error.code, ErrorCode::ModuleTooCostly, "{error}");
        assert!(error.message.contains(expected), "{expected:?}: {error}");
    }
}

#[test]
fn bytes_that_are_no_module_are_invalid() {
    for bytes in [
        &b"garbage"[..],
        b"",
        b"\0asm\x01\0\0\0\x0a\x05\x01\xff\xff\xff\x7f",
    ] {
        let error = check(bytes, &CompileLimits::default()).expect_err("no module");
        assert_eq!(error.code, ErrorCode::ModuleInvalid, "{error}");
    }
}

fn sample() -> Vec<u8> {
    component(
        "(core module $m
           (type $t (func (param i32 i64) (result i64 i32)))
           (table 3 funcref) (memory 1) (data (i32.const 3) \"abc\")
           (func $f (type $t) (block (br_if 0 (local.get 0)) (br_table 0 0 (local.get 0)))
             (loop (param) (br_if 0 (i32.const 0))) (if (local.get 0) (then nop) (else nop))
             (i64.const 1) (i32.const 1))
           (func (export \"run\") (result i32)
             (call_indirect (type $t) (i32.const 1) (i64.const 2) (i32.const 0)) (return) ))
         (core instance $i (instantiate $m))
         (component $c (core module $n) (core instance (instantiate $n)))
         (instance (instantiate $c))
         (func $run (result (result)) (canon lift (core func $i \"run\")))
         (instance $command (export \"run\" (func $run)))
         (export \"wasi:cli/run@0.2.0\" (instance $command))",
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever the bytes are, counting them ends, in a count or an error.
    #[test]
    fn garbage_is_counted_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let mut bytes = sample();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = check(&bytes, &CompileLimits::default());
        let _ = count(&bytes);
    }
}
