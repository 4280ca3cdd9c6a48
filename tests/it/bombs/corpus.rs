//! Modules that are small, valid as far as anybody can see, and dear to compile: each from a few lines of code.

use std::fmt::Write as _;

/// One of them.
pub(crate) struct Bomb {
    /// What it is made of.
    pub(crate) name: &'static str,
    /// What becomes of it.
    pub(crate) ends: End,
    text: fn() -> String,
}

impl Bomb {
    pub(crate) fn wasm(&self) -> Vec<u8> {
        let mut wasm = wat::parse_str((self.text)()).expect("a module");
        if self.name == "nested_types" {
            nest_types(&mut wasm);
        }
        wasm
    }
}

/// How a bomb ends under the default limits.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    /// Refused before it is compiled: the message has these words.
    Counted(&'static str),
    /// It is compiled for what it takes: refused where that is more than the tenant has, or it runs.
    Charged,
    /// The compiler, or the engine that loads what it made, does not take it: the message has these words.
    Invalid(&'static str),
}

use End::{Charged, Counted, Invalid};

macro_rules! corpus {
    ($($name:ident: $ends:expr;)*) => {
        /// All of them.
        pub(crate) const CORPUS: &[Bomb] = &[$(Bomb {
            name: stringify!($name),
            ends: $ends,
            text: $name,
        }),*];
    };
}

corpus! {
    locals_by_blocks: Counted("blocks x the values that live");
    values_by_blocks: Counted("blocks x the values that live");
    many_values_by_blocks: Charged;
    locals_by_loops: Counted("blocks x the values that live");
    ladder_of_ifs: Counted("blocks x the values that live");
    br_table_grid: Counted("targets of br_table x");
    br_tables_with_values: Counted("operands");
    one_large_br_table: Counted("targets of br_table x");
    tiny_functions: Counted("functions");
    many_locals: Counted("locals");
    deep_nesting: Counted("nests");
    nested_blocks: Charged;
    ssa_chain: Counted("operands");
    memory_operations: Charged;
    bulk_memory_operations: Charged;
    multi_value: Counted("operands");
    indirect_calls: Charged;
    wide_vectors: Charged;
    adapter_fan: Invalid("core module instances");
    nested_instances: Counted("parts");
    nested_types: Invalid("overflowed its stack");
    exported_functions: Charged;
    sparse_data: Counted("data segments");
}

/// A command whose core module has these fields besides its `run`.
fn command(fields: &str) -> String {
    component(&format!(
        "(core module $m {fields} (func (export \"run\") (result i32) i32.const 0))
         (core instance $i (instantiate $m))"
    ))
}

/// A command with these parts, one of which must be the core instance `$i`.
fn component(parts: &str) -> String {
    format!(
        "(component {parts}
           (func $run (result (result)) (canon lift (core func $i \"run\")))
           (instance $command (export \"run\" (func $run)))
           (export \"wasi:cli/run@0.2.0\" (instance $command)))"
    )
}

/// One line for each number.
fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).fold(String::new(), |mut text, number| {
        let _ = writeln!(text, "{}", line(number));
        text
    })
}

fn locals_by_blocks() -> String {
    const N: usize = 2_000;
    let set = lines(N, |n| {
        format!(
            "(local.set {} (i32.mul (local.get 0) (i32.const {n})))",
            n + 1
        )
    });
    let blocks = lines(N, |n| {
        format!(
            "(block (br_if 0 (local.get 0)) (local.set {} (i32.const 7)))",
            n + 1
        )
    });
    let sum = lines(N, |n| format!("(i32.xor (local.get {}))", n + 1));
    let locals = " i32".repeat(N);
    command(&format!(
        "(memory 1) (func (param i32) (result i32) (local{locals}) {set} {blocks} (i32.const 0) {sum})"
    ))
}

fn stacked(values: usize, blocks: usize) -> String {
    let push = lines(values, |n| format!("(i32.load offset={n} (local.get 0))"));
    let skip = "(block (br_if 0 (local.get 0)) (local.set 0 (i32.const 7)))\n".repeat(blocks);
    let add = "i32.xor\n".repeat(values - 1);
    format!("(func (param i32) (result i32) {push} {skip} {add})")
}

fn values_by_blocks() -> String {
    command(&format!("(memory 1) {}", stacked(4_000, 4_000)))
}

/// Below the limit of each function, a hundred times.
fn many_values_by_blocks() -> String {
    command(&format!("(memory 1) {}", stacked(600, 600).repeat(100)))
}

/// Every loop has a phi for every local.
fn locals_by_loops() -> String {
    const N: usize = 1_000;
    let set = lines(N, |n| {
        format!(
            "(local.set {} (i32.add (local.get {n}) (i32.const 1)))",
            n + 1
        )
    });
    let locals = " i32".repeat(N);
    let open = "(loop\n".repeat(N);
    let close = "(br_if 0 (local.get 1)))\n".repeat(N);
    command(&format!(
        "(func (param i32) (local{locals}) {open} {set} {close})"
    ))
}

fn ladder_of_ifs() -> String {
    const N: usize = 1_500;
    let open = lines(N, |n| {
        format!("(i32.mul (local.get 0) (i32.const {n})) (if (result i32) (local.get 0) (then")
    });
    let close = ") (else (i32.const 1))) i32.xor\n".repeat(N);
    command(&format!(
        "(func (param i32) (result i32) {open} (i32.const 2) {close})"
    ))
}

fn br_table_grid() -> String {
    let targets = lines(100, |n| n.to_string());
    let tables = format!("(block (br_table {targets} (local.get 0)))\n").repeat(1_000);
    let (open, close) = ("(block\n".repeat(100), ")".repeat(100));
    command(&format!("(func (param i32) {open} {tables} {close})"))
}

fn br_tables_with_values() -> String {
    const VALUES: usize = 100;
    let results = " i32".repeat(VALUES);
    let push = "local.get 0\n".repeat(VALUES);
    let targets = "0 ".repeat(1_000);
    let drop = "drop\n".repeat(VALUES);
    let one = format!("(block (result{results}) {push} local.get 0 br_table {targets}) {drop}");
    command(&format!("(func (param i32) {})", one.repeat(100)))
}

fn one_large_br_table() -> String {
    let (open, close) = ("(block\n".repeat(1_000), ")".repeat(1_000));
    let targets = lines(120_000, |n| (n * 7 % 1_000).to_string());
    command(&format!(
        "(func (param i32) {open} (br_table {targets} (local.get 0)) {close})"
    ))
}

fn tiny_functions() -> String {
    command(&"(func)\n".repeat(100_000))
}

fn many_locals() -> String {
    // Told by their count, so 8 KB: the text format cannot, so the type is what is repeated.
    let locals = " i64".repeat(49_999);
    command(&format!("(func (local{locals}))\n").repeat(100))
}

fn deep_nesting() -> String {
    let (open, close) = ("(block\n".repeat(50_000), ")".repeat(50_000));
    command(&format!(
        "(func (param i32) {open} (br_if 0 (local.get 0)) {close})"
    ))
}

fn nested_blocks() -> String {
    let open = "(block (br_if 0 (local.get 0))\n".repeat(100);
    let close = ")".repeat(100);
    command(&format!("(func (param i32) {open} {close})\n").repeat(1_000))
}

fn ssa_chain() -> String {
    let step = "i32.const 3 i32.mul local.get 0 i32.add i32.const 5 i32.rotl\n".repeat(100_000);
    command(&format!(
        "(func (param i32) (result i32) (local.get 0) {step})"
    ))
}

fn memory_operations() -> String {
    let step = lines(100, |n| {
        format!(
            "(i64.store offset={n} (local.get 0) (i64.load offset={} (local.get 1)))",
            n * 7
        )
    });
    let function = format!("(func (param i32 i32) {})\n", step.repeat(10));
    command(&format!("(memory 1) {}", function.repeat(100)))
}

fn bulk_memory_operations() -> String {
    let step = "(memory.copy (local.get 0) (local.get 1) (local.get 0))
                (memory.fill (local.get 1) (local.get 0) (local.get 1))
                (drop (memory.grow (local.get 0)))\n";
    let function = format!("(func (param i32 i32) {})\n", step.repeat(100));
    command(&format!("(memory 1) {}", function.repeat(100)))
}

fn multi_value() -> String {
    let many = " i64".repeat(500);
    let calls = "call $f\n".repeat(2_000);
    let push = "i64.const 1\n".repeat(500);
    command(&format!(
        "(type $t (func (param{many}) (result{many})))
         (func $f (type $t) unreachable)
         (func (result{many}) {push} {calls})"
    ))
}

fn indirect_calls() -> String {
    let calls =
        "(local.set 0 (call_indirect (type $t) (local.get 0) (local.get 0)))\n".repeat(1_000);
    let function = format!("(func (param i32) {calls})\n");
    command(&format!(
        "(type $t (func (param i32) (result i32))) (table 10 funcref) {}",
        function.repeat(100)
    ))
}

fn wide_vectors() -> String {
    let step = "i32x4.trunc_sat_f64x2_u_zero local.get 0 i64x2.mul f64x2.convert_low_i32x4_u\n";
    let function = format!(
        "(func (param v128) (result v128) local.get 0 {})\n",
        step.repeat(1_000)
    );
    command(&function.repeat(100))
}

/// Every user of every maker has an adapter of its own for every function, and what they hand over has many cases.
fn adapter_fan() -> String {
    const FUNCTIONS: usize = 20;
    const COPIES: usize = 40;
    let cases = lines(50, |n| format!("(case \"c{n}\" u64)"));
    let types = format!("(type $variant (variant {cases})) (export \"v\" (type $v (eq $variant)))");
    let own = format!("(type $variant (variant {cases})) (export $v \"v\" (type $variant))");
    let parameters = lines(8, |n| format!("(param \"p{n}\" $v)"));
    let flat = " i32 i64".repeat(8);
    let core = format!(
        "(core module $m (func (export \"f\") (param{flat}))) (core instance $c (instantiate $m))"
    );
    let lift = lines(FUNCTIONS, |n| {
        format!("(func (export \"f{n}\") {parameters} (canon lift (core func $c \"f\")))")
    });
    let imported = lines(FUNCTIONS, |n| {
        format!("(export \"f{n}\" (func {parameters}))")
    });
    let lower = lines(FUNCTIONS, |n| {
        format!("(core func $l{n} (canon lower (func $p \"f{n}\")))")
    });
    let used = lines(FUNCTIONS, |n| format!("(export \"f{n}\" (func $l{n}))"));
    let imports = lines(FUNCTIONS, |n| {
        format!("(import \"p\" \"f{n}\" (func (param{flat})))")
    });
    let instances = lines(COPIES, |n| {
        format!(
            "(instance $p{n} (instantiate $maker)) (instance (instantiate $user (with \"p\" (instance $p{n}))))"
        )
    });
    component(&format!(
        "(component $maker {own} {core} {lift})
         (component $user
           (import \"p\" (instance $p {types} {imported})) {lower}
           (core module $n {imports})
           (core instance (instantiate $n (with \"p\" (instance {used})))))
         {instances}
         (core module $run (func (export \"run\") (result i32) i32.const 0))
         (core instance $i (instantiate $run))"
    ))
}

/// Each level holds three of the one below.
fn nested_instances() -> String {
    let mut levels =
        "(component $c0 (core module $m) (core instance (instantiate $m)))\n".to_owned();
    for level in 1..14 {
        let three = format!("(instance (instantiate $c{}))", level - 1).repeat(3);
        let _ = writeln!(levels, "(component $c{level} {three})");
    }
    component(&format!(
        "{levels} (instance (instantiate $c13))
         (core module $run (func (export \"run\") (result i32) i32.const 0))
         (core instance $i (instantiate $run))"
    ))
}

/// Component types within component types: the text format's own parser gives up earlier.
fn nest_types(wasm: &mut Vec<u8>) {
    const DEPTH: usize = 200_000;
    // The type section: one type, a component type with one declaration, a type …
    let mut types = vec![1];
    types.extend([0x41, 1, 1].repeat(DEPTH));
    types.extend([0x41, 0]);
    wasm.push(7);
    leb128(wasm, types.len());
    wasm.extend(types);
}

fn nested_types() -> String {
    command("")
}

fn leb128(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn exported_functions() -> String {
    let functions = lines(40_000, |n| {
        format!("(func (export \"{n}\") (param i32 i64 f32 f64))")
    });
    command(&functions)
}

fn sparse_data() -> String {
    let data = lines(30_000, |n| {
        format!("(data (i32.const {}) \"x\")", n * 65_536 * 2 + 17)
    });
    command(&format!("(memory 65536) {data}"))
}
