//! What compiling a tenant's modules may cost.
//!
//! What grows with the module's size is charged: the child that compiles has so much CPU time, memory and output.
//! What grows faster is refused from the module's bytes, before anything is compiled. Where the defaults come from:
//! ARCHITECTURE.md, "Of strangers' modules".

use serde::{Deserialize, Serialize};

/// The limits of one compilation: of the child process, and of what is counted in the module before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompileLimits {
    /// CPU seconds of the child.
    pub cpu_s: u64,
    /// Seconds until the child is killed.
    pub wall_s: u64,
    /// Bytes of data of the child.
    pub memory_bytes: u64,
    /// Bytes of machine code and what belongs to it.
    pub artifact_bytes: u64,
    /// Bytes of function bodies, in all.
    pub code_bytes: u64,
    /// Functions, in all.
    pub functions: u64,
    /// Locals and parameters of functions, in all.
    pub locals: u64,
    /// Data segments, in all.
    pub data_segments: u64,
    /// Parts of components (instances, lifted and lowered functions, aliases), each as often as its component is
    /// instantiated.
    pub component_parts: u64,
    /// Bytes of one function's body.
    pub function_bytes: u64,
    /// Of one function: values that its operators take and give.
    pub operands: u64,
    /// Blocks within blocks.
    pub nesting: u64,
    /// Of one function: the values that live at the beginning of a block (its locals and the operand stack), summed
    /// over its blocks.
    pub live_values: u64,
    /// Of one function: targets of its `br_table`s, in all, times the blocks that they may lead to.
    pub branches: u64,
}

impl Default for CompileLimits {
    fn default() -> CompileLimits {
        CompileLimits {
            cpu_s: 60,
            wall_s: 120,
            memory_bytes: 1 << 30,
            artifact_bytes: 64 << 20,
            code_bytes: 16 << 20,
            functions: 50_000,
            locals: 1_000_000,
            data_segments: 10_000,
            component_parts: 10_000,
            function_bytes: 1 << 20,
            operands: 1_000_000,
            nesting: 2_000,
            live_values: 1_000_000,
            branches: 10_000_000,
        }
    }
}
