//! What compiling a module would cost, counted from its bytes: refused before anything is compiled.
//!
//! One pass over the bytes, without validating them: what it keeps is bounded by the limits, and only readers that do
//! not recurse are used (a component's types are not read: they nest). What it counts is right for valid modules; of
//! others the compiler says what is wrong with them.

mod body;

use serde::Serialize;
use wasmparser::{
    BinaryReaderError, ComponentAlias, ComponentExternalKind, ComponentInstance,
    ComponentOuterAliasKind, ComponentTypeRef, Encoding, Instance, Parser, Payload, SubType,
    TypeRef,
};

use crate::modules::cost::body::Body;
use crate::task::outcome::{ErrorCode, TaskError};
use crate::tenants::compile::CompileLimits;

/// Types of one core module, and their parameters and results: the only tables that are kept. An ordinary module has some
/// hundreds.
const MAX_TYPES: usize = 20_000;
const MAX_TYPE_VALUES: usize = 1_000_000;
/// Components and core modules in one file, and how deep they nest. CPython's has 40.
const MAX_PARTS: usize = 1_000;
const MAX_DEPTH: usize = 20;
/// Bytes of what a module imports and exports: the names are kept as long as the module is known. CPython's has 1,500.
const MAX_OUTSIDE: u64 = 64 << 10;

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Bytes of function bodies.
    pub code_bytes: u64,
    /// Functions with a body.
    pub functions: u64,
    /// Their locals and parameters.
    pub locals: u64,
    /// Data segments.
    pub data_segments: u64,
    /// Parts of components, as often as they are instantiated.
    pub component_parts: u64,
    /// The largest body.
    pub function_bytes: u64,
    /// The most values that a function's operators take and give.
    pub operands: u64,
    /// The deepest block.
    pub nesting: u64,
    /// The most live values of a function.
    pub live_values: u64,
    /// The most branches of a function.
    pub branches: u64,
}

/// What making a component of a core module adds, at most: the adapter of wasip1 and what joins them.
pub(super) const ADAPTED: Cost = Cost {
    code_bytes: 40 << 10,
    functions: 250,
    locals: 2_000,
    data_segments: 4,
    component_parts: 400,
    function_bytes: 0,
    operands: 0,
    nesting: 0,
    live_values: 0,
    branches: 0,
};
/// And for each function that it imports: a shim, what it stands for, and their joints.
const PARTS_OF_AN_IMPORT: u64 = 8;

/// Counts a module; the first count that is over its limit is the error. A core module is counted with what makes a
/// component of it.
pub fn check(bytes: &[u8], limits: &CompileLimits) -> Result<Cost, TaskError> {
    let mut reading = Reading {
        limits,
        cost: Cost::default(),
        frames: Vec::new(),
        parts: 0,
    };
    for payload in Parser::new(0).parse_all(bytes) {
        reading.payload(payload.map_err(invalid)?)?;
    }
    Ok(reading.cost)
}

/// Refuses a module with more on its outside than is kept of one; reads nothing of that.
pub fn check_outside(bytes: &[u8]) -> Result<(), TaskError> {
    let (mut depth, mut outside) = (0_usize, 0);
    for payload in Parser::new(0).parse_all(bytes) {
        // What is no module: whoever reads it says why, and gets no further.
        let Ok(payload) = payload else { break };
        let section = match payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                depth += 1;
                continue;
            }
            Payload::End(_) => {
                depth = depth.saturating_sub(1);
                continue;
            }
            _ if depth > 0 => continue,
            Payload::ComponentImportSection(section) => section.range(),
            Payload::ComponentExportSection(section) => section.range(),
            Payload::ImportSection(section) => section.range(),
            Payload::ExportSection(section) => section.range(),
            _ => continue,
        };
        outside += section.len() as u64;
        let what = || format!("it imports and exports {outside} bytes of names");
        within(what, outside, MAX_OUTSIDE)?;
    }
    Ok(())
}

/// Counts a module, however costly: for its author.
pub fn count(bytes: &[u8]) -> Result<Cost, TaskError> {
    const ANY: u64 = u64::MAX;
    let limits = CompileLimits {
        code_bytes: ANY,
        functions: ANY,
        locals: ANY,
        data_segments: ANY,
        component_parts: ANY,
        function_bytes: ANY,
        operands: ANY,
        nesting: ANY,
        live_values: ANY,
        branches: ANY,
        ..CompileLimits::default()
    };
    check(bytes, &limits)
}

fn invalid(why: BinaryReaderError) -> TaskError {
    TaskError::new(ErrorCode::ModuleInvalid, why.to_string())
}

fn too_costly(why: String) -> TaskError {
    TaskError::new(ErrorCode::ModuleTooCostly, why)
}

/// The same words for every count.
fn within(what: impl FnOnce() -> String, count: u64, most: u64) -> Result<(), TaskError> {
    if count <= most {
        return Ok(());
    }
    Err(too_costly(format!("{}, of at most {most}", what())))
}

struct Reading<'a> {
    limits: &'a CompileLimits,
    cost: Cost,
    frames: Vec<Frame>,
    /// Modules and components so far.
    parts: usize,
}

/// A module or a component that is being read.
enum Frame {
    Module(Module),
    Component(Component),
}

/// Of a core module.
#[derive(Default)]
struct Module {
    types: Vec<SubType>,
    type_values: usize,
    /// The types of functions, imported ones first.
    functions: Vec<u32>,
    imported: usize,
    bodies: usize,
}

/// Of a component.
#[derive(Default)]
struct Component {
    /// The parts that one instance of it has.
    weight: u64,
    /// The weights of the components that it names.
    components: Vec<u64>,
}

impl Reading<'_> {
    fn payload(&mut self, payload: Payload<'_>) -> Result<(), TaskError> {
        match payload {
            Payload::Version { encoding, .. } => self.enter(encoding)?,
            Payload::End(_) => self.leave()?,
            Payload::TypeSection(section) => {
                let module = self.module()?;
                for group in section {
                    for ty in group.map_err(invalid)?.into_types() {
                        module.add_type(ty)?;
                    }
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    if let TypeRef::Func(ty) | TypeRef::FuncExact(ty) = import.map_err(invalid)?.ty
                    {
                        self.add_function(ty, true)?;
                    }
                }
            }
            Payload::FunctionSection(section) => {
                for ty in section {
                    self.add_function(ty.map_err(invalid)?, false)?;
                }
            }
            Payload::CodeSectionEntry(body) => self.body(&body)?,
            Payload::DataSection(section) => {
                self.cost.data_segments += u64::from(section.count());
                let count = self.cost.data_segments;
                let what = || format!("it has {count} data segments");
                within(what, count, self.limits.data_segments)?;
            }
            Payload::InstanceSection(section) => {
                for instance in section {
                    if let Instance::Instantiate { .. } = instance.map_err(invalid)? {
                        self.add_parts(1)?;
                    }
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section {
                    let weight = match instance.map_err(invalid)? {
                        ComponentInstance::Instantiate {
                            component_index, ..
                        } => self.weight(0, component_index),
                        ComponentInstance::FromExports(_) => 0,
                    };
                    self.add_parts(weight.saturating_add(1))?;
                }
            }
            Payload::ComponentCanonicalSection(section) => {
                self.add_parts(section.count().into())?;
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section {
                    self.alias(&alias.map_err(invalid)?)?;
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section {
                    if let ComponentTypeRef::Component(_) = import.map_err(invalid)?.ty {
                        return Err(component_value());
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn enter(&mut self, encoding: Encoding) -> Result<(), TaskError> {
        self.parts += 1;
        let parts = self.parts;
        let what = || format!("it has {parts} modules and components");
        within(what, parts as u64, MAX_PARTS as u64)?;
        let depth = self.frames.len();
        let what = || format!("its components nest {depth} deep");
        within(what, depth as u64, MAX_DEPTH as u64)?;
        if depth == 0 && encoding == Encoding::Module {
            self.cost = ADAPTED;
        }
        self.frames.push(match encoding {
            Encoding::Module => Frame::Module(Module::default()),
            Encoding::Component => Frame::Component(Component::default()),
        });
        Ok(())
    }

    fn leave(&mut self) -> Result<(), TaskError> {
        if let Some(Frame::Component(done)) = self.frames.pop() {
            match self.frames.last_mut() {
                Some(Frame::Component(outer)) => outer.components.push(done.weight),
                _ => self.cost.component_parts = done.weight,
            }
        }
        Ok(())
    }

    fn module(&mut self) -> Result<&mut Module, TaskError> {
        match self.frames.last_mut() {
            Some(Frame::Module(module)) => Ok(module),
            _ => Err(misplaced()),
        }
    }

    fn add_function(&mut self, ty: u32, imported: bool) -> Result<(), TaskError> {
        let most = self.limits.functions;
        let alone = self.frames.len() == 1;
        if !imported {
            self.cost.functions += 1;
        } else if alone {
            self.cost.functions += 1;
            self.cost.component_parts += PARTS_OF_AN_IMPORT;
            let parts = self.cost.component_parts;
            let what = || format!("as a component it has {parts} parts");
            within(what, parts, self.limits.component_parts)?;
        }
        let functions = self.cost.functions;
        let module = self.module()?;
        module.functions.push(ty);
        module.imported += usize::from(imported);
        // Imports cost less, but are kept in the same table.
        let count = functions.max(module.functions.len() as u64);
        within(|| format!("it has {count} functions"), count, most)
    }

    fn body(&mut self, body: &wasmparser::FunctionBody<'_>) -> Result<(), TaskError> {
        let limits = self.limits;
        let module = self.module()?;
        let number = module.imported + module.bodies;
        module.bodies += 1;
        let counted = Body::read(body, module, number, limits)?;
        let cost = &mut self.cost;
        cost.code_bytes += counted.bytes;
        cost.locals += counted.locals;
        cost.function_bytes = cost.function_bytes.max(counted.bytes);
        cost.operands = cost.operands.max(counted.operands);
        cost.nesting = cost.nesting.max(counted.nesting);
        cost.live_values = cost.live_values.max(counted.live_values);
        cost.branches = cost.branches.max(counted.branches());
        for (name, count, most) in [
            ("bytes of code", cost.code_bytes, limits.code_bytes),
            ("locals", cost.locals, limits.locals),
        ] {
            let what = || format!("its functions up to number {number} have {count} {name}");
            within(what, count, most)?;
        }
        Ok(())
    }

    /// The parts of a component that the one `outward` of the innermost names.
    fn weight(&self, outward: u32, index: u32) -> u64 {
        let frame = self.frames.iter().rev().nth(outward as usize);
        match frame {
            Some(Frame::Component(component)) => {
                let weight = component.components.get(index as usize);
                // The compiler will say that there is none.
                weight.copied().unwrap_or_default()
            }
            _ => 0,
        }
    }

    fn add_parts(&mut self, parts: u64) -> Result<(), TaskError> {
        let most = self.limits.component_parts;
        let Some(Frame::Component(component)) = self.frames.last_mut() else {
            return Err(misplaced());
        };
        component.weight = component.weight.saturating_add(parts);
        let count = component.weight;
        let what = || format!("a component has {count} parts when it is instantiated");
        within(what, count, most)
    }

    fn alias(&mut self, alias: &ComponentAlias<'_>) -> Result<(), TaskError> {
        match alias {
            ComponentAlias::InstanceExport {
                kind: ComponentExternalKind::Component,
                ..
            } => return Err(component_value()),
            ComponentAlias::Outer {
                kind: ComponentOuterAliasKind::Component,
                count,
                index,
            } => {
                let weight = self.weight(*count, *index);
                if let Some(Frame::Component(component)) = self.frames.last_mut() {
                    component.components.push(weight);
                }
            }
            _ => {}
        }
        self.add_parts(1)
    }
}

impl Module {
    fn add_type(&mut self, ty: SubType) -> Result<(), TaskError> {
        if let wasmparser::CompositeInnerType::Func(function) = &ty.composite_type.inner {
            self.type_values += function.params().len() + function.results().len();
        }
        self.types.push(ty);
        let (types, values) = (self.types.len(), self.type_values);
        let what = || format!("a module has {types} types");
        within(what, types as u64, MAX_TYPES as u64)?;
        let what = || format!("a module's types have {values} parameters and results");
        within(what, values as u64, MAX_TYPE_VALUES as u64)
    }
}

/// No toolchain makes these, and how often such a component is instantiated cannot be seen from here.
fn component_value() -> TaskError {
    too_costly(
        "a component is handed over as a value (imported, or aliased from an instance): 1, of at most 0"
            .to_owned(),
    )
}

fn misplaced() -> TaskError {
    TaskError::new(
        ErrorCode::ModuleInvalid,
        "a section where it does not belong",
    )
}

#[cfg(test)]
mod tests;
