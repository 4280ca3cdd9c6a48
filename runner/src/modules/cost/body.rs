//! What one function's body costs: blocks, what lives at their beginnings, branches, operands.

use wasmparser::{
    BlockType, BrTable, ContType, FrameKind, FuncType, FunctionBody, ModuleArity, Operator,
    RefType, SubType,
};

use crate::modules::cost::{Module, invalid, within};
use crate::task::outcome::TaskError;
use crate::tenants::compile::CompileLimits;

/// What was counted in a body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) bytes: u64,
    pub(super) locals: u64,
    pub(super) operands: u64,
    pub(super) nesting: u64,
    pub(super) blocks: u64,
    pub(super) live_values: u64,
    pub(super) targets: u64,
}

impl Body {
    /// Reads a body; stops at the first count that is over its limit.
    pub(super) fn read(
        body: &FunctionBody<'_>,
        module: &Module,
        number: usize,
        limits: &CompileLimits,
    ) -> Result<Body, TaskError> {
        let ty = module.functions.get(number).copied().unwrap_or(u32::MAX);
        let mut stack = Stack {
            module,
            frames: Vec::new(),
            height: 0,
        };
        let block = BlockType::FuncType(ty);
        let (params, _) = stack.block_type_arity(block).unwrap_or_default();
        let mut counted = Body {
            bytes: body.range().len() as u64,
            locals: params.into(),
            ..Body::default()
        };
        let has = |count: u64, what: &str| format!("function {number} has {count} {what}");
        let bytes = counted.bytes;
        within(|| has(bytes, "bytes"), bytes, limits.function_bytes)?;
        for local in body.get_locals_reader().map_err(invalid)? {
            counted.locals += u64::from(local.map_err(invalid)?.0);
        }
        let locals = counted.locals;
        within(|| has(locals, "locals"), locals, limits.locals)?;
        stack.enter(block, FrameKind::Block);

        let mut operators = body.get_operators_reader().map_err(invalid)?;
        while !operators.eof() {
            let operator = operators.read().map_err(invalid)?;
            counted.operator(&operator, &mut stack);
            let count = counted;
            let nesting = || format!("function {number} nests {} blocks", count.nesting);
            within(nesting, count.nesting, limits.nesting)?;
            let live = || {
                format!(
                    "function {number} has {} blocks x the values that live at each ({} locals and the operand \
                     stack) = {}",
                    count.blocks, count.locals, count.live_values
                )
            };
            within(live, count.live_values, limits.live_values)?;
            let branches = || {
                format!(
                    "function {number} has {} targets of br_table x {} blocks = {}",
                    count.targets,
                    count.blocks,
                    count.branches()
                )
            };
            within(branches, count.branches(), limits.branches)?;
            let operands = count.operands;
            within(|| has(operands, "operands"), operands, limits.operands)?;
        }
        Ok(counted)
    }

    pub(super) fn branches(&self) -> u64 {
        self.targets.saturating_mul(self.blocks)
    }

    fn operator(&mut self, operator: &Operator<'_>, stack: &mut Stack<'_>) {
        // What has no arity is of a proposal that is off: the compiler will say so.
        let (takes, gives) = operator.operator_arity(stack).unwrap_or_default();
        let moved = u64::from(takes) + u64::from(gives);
        self.operands = self.operands.saturating_add(moved);
        stack.take(takes);
        let mut begins = 0;
        match operator {
            Operator::Block { blockty } => {
                stack.enter(*blockty, FrameKind::Block);
                begins = 1;
            }
            Operator::Loop { blockty } => {
                stack.enter(*blockty, FrameKind::Loop);
                begins = 2;
            }
            Operator::If { blockty } => {
                stack.enter(*blockty, FrameKind::If);
                begins = 2;
            }
            Operator::Else => {
                stack.rebase();
                begins = 1;
            }
            Operator::End => {
                stack.leave();
            }
            Operator::BrIf { .. } => begins = 1,
            Operator::BrTable { targets } => begins = self.table(targets, stack),
            _ => {}
        }
        stack.give(gives);
        self.nesting = self.nesting.max(stack.frames.len() as u64);
        self.blocks = self.blocks.saturating_add(begins);
        let live = self.locals.saturating_add(stack.height);
        let live = live.saturating_mul(begins);
        self.live_values = self.live_values.saturating_add(live);
    }

    /// Every target is an edge of its own, which the values that it carries are moved along.
    fn table(&mut self, table: &BrTable<'_>, stack: &Stack<'_>) -> u64 {
        let targets = u64::from(table.len()) + 1;
        let carried = stack.label_block(table.default());
        let carried = carried.and_then(|(ty, _)| stack.block_type_arity(ty));
        let (takes, gives) = carried.unwrap_or_default();
        let carried = targets.saturating_mul(takes.max(gives).into());
        self.targets = self.targets.saturating_add(targets);
        self.operands = self.operands.saturating_add(carried);
        1
    }
}

/// The blocks that are open, and how high the operand stack is: an upper bound where code cannot be reached.
struct Stack<'a> {
    module: &'a Module,
    frames: Vec<Open>,
    height: u64,
}

struct Open {
    ty: BlockType,
    kind: FrameKind,
    /// The height below the block's own values.
    base: u64,
}

impl Stack<'_> {
    fn enter(&mut self, ty: BlockType, kind: FrameKind) {
        let base = self.height;
        self.frames.push(Open { ty, kind, base });
    }

    fn leave(&mut self) {
        if let Some(open) = self.frames.pop() {
            self.height = open.base;
        }
    }

    fn rebase(&mut self) {
        if let Some(open) = self.frames.last_mut() {
            open.kind = FrameKind::Else;
            self.height = open.base;
        }
    }

    fn take(&mut self, values: u32) {
        let base = self.frames.last().map_or(0, |open| open.base);
        self.height = self.height.saturating_sub(values.into()).max(base);
    }

    fn give(&mut self, values: u32) {
        self.height = self.height.saturating_add(values.into());
    }
}

impl ModuleArity for Stack<'_> {
    fn sub_type_at(&self, index: u32) -> Option<&SubType> {
        self.module.types.get(index as usize)
    }

    fn tag_type_arity(&self, _: u32) -> Option<(u32, u32)> {
        None
    }

    fn type_index_of_function(&self, function: u32) -> Option<u32> {
        self.module.functions.get(function as usize).copied()
    }

    fn func_type_of_cont_type(&self, _: &ContType) -> Option<&FuncType> {
        None
    }

    fn sub_type_of_ref_type(&self, _: &RefType) -> Option<&SubType> {
        None
    }

    fn control_stack_height(&self) -> u32 {
        u32::try_from(self.frames.len()).unwrap_or(u32::MAX)
    }

    fn label_block(&self, depth: u32) -> Option<(BlockType, FrameKind)> {
        let open = self.frames.iter().rev().nth(depth as usize)?;
        Some((open.ty, open.kind))
    }
}
