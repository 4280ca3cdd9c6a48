//! What a module is before anything is compiled: its shape, imports and exports.

mod unfit;

use std::collections::HashSet;

use wasmparser::{
    BinaryReaderError, ComponentExternalKind, ComponentTypeRef, Encoding, ExternalKind, Parser,
    Payload, TypeRef,
};

use crate::grants::{Capability, Grants};
use crate::task::outcome::{ErrorCode, TaskError};

/// What a wasip1 module imports; the adapter that it gets offers all of it.
pub(super) const WASI_P1: &str = "wasi_snapshot_preview1";
/// Names of a module that are kept, and their bytes: CPython's component has 40.
const MAX_NAMES: usize = 1_000;
const MAX_NAMES_BYTES: usize = 64 << 10;

/// What interfaces need, by how their names begin; of those that fit the first counts.
const OFFERED: &[(&str, Need)] = &[
    ("wasmqtt:task/publish@", Need::Grant(Capability::Publish)),
    ("wasmqtt:task/", Need::Nothing),
    (WASI_P1, Need::Nothing),
    ("wasi:cli/", Need::Nothing),
    ("wasi:io/", Need::Nothing),
    ("wasi:clocks/", Need::LessWithout(Capability::Clock)),
    ("wasi:random/", Need::LessWithout(Capability::Entropy)),
    ("wasi:filesystem/", Need::DeniedWithout(Capability::Scratch)),
    ("wasi:sockets/", Need::Denied),
    ("wasi:http/types@0.2.", Need::Grant(Capability::Http)),
    (
        "wasi:http/outgoing-handler@0.2.",
        Need::Grant(Capability::Http),
    ),
    (
        "wasi:config/store@0.2.0-rc.1",
        Need::Grant(Capability::Config),
    ),
    (
        "wasi:keyvalue/store@0.2.0-draft",
        Need::Grant(Capability::KeyValue),
    ),
    (
        "wasi:keyvalue/atomics@0.2.0-draft",
        Need::Grant(Capability::KeyValue),
    ),
    (
        "wasi:keyvalue/batch@0.2.0-draft",
        Need::Grant(Capability::KeyValue),
    ),
];

/// What a module is, recognised from what it exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A component that exports `run` of the world `task`.
    Typed,
    /// A component that exports `wasi:cli/run`.
    Command,
    /// A core module that exports `run` by the canonical ABI, and says so in `component-type` metadata.
    CoreTyped,
    /// A core module that exports `_start`: wasip1.
    CoreCommand,
    /// A component that exports neither.
    OtherComponent,
    /// A core module that exports neither.
    OtherModule,
}

impl Shape {
    /// For a program.
    pub fn as_str(self) -> &'static str {
        match self {
            Shape::Typed => "typed",
            Shape::Command => "command",
            Shape::CoreTyped => "core_typed",
            Shape::CoreCommand => "core_command",
            Shape::OtherComponent => "other_component",
            Shape::OtherModule => "core_module",
        }
    }

    /// For a person.
    pub fn describe(self) -> &'static str {
        match self {
            Shape::Typed => "typed component (world wasmqtt:task/task)",
            Shape::Command => "WASI command component (wasi:cli/run)",
            Shape::CoreTyped => {
                "core module with metadata (`run` by the canonical ABI), made a component when it is loaded"
            }
            Shape::CoreCommand => {
                "core module with `_start` (wasip1), made a WASI command when it is loaded"
            }
            Shape::OtherComponent => "component that exports neither `run` nor `wasi:cli/run`",
            Shape::OtherModule => {
                "core module that exports neither `_start` nor a `run` with metadata"
            }
        }
    }

    /// Whether it is made a component before it is compiled.
    pub fn is_core(self) -> bool {
        matches!(self, Shape::CoreTyped | Shape::CoreCommand)
    }
}

/// A module's outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Structure {
    /// What it is.
    pub shape: Shape,
    /// The names that it imports; of a core module, interfaces as they are, all of wasip1 as one, and what is neither as
    /// `module name`.
    pub imports: Vec<String>,
    /// The names that it exports, the first 1,000.
    pub exports: Vec<String>,
    /// Why it is none of the shapes that run, and what to do about that.
    pub unfit: Option<String>,
}

/// What an import needs before a module that has it may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Every guest has it.
    Nothing,
    /// Every guest has it; with the capability it is more.
    LessWithout(Capability),
    /// It is linked for everybody, and without the capability every call of it is denied.
    DeniedWithout(Capability),
    /// It is linked, and every call of it is denied.
    Denied,
    /// A tenant without the capability may not run what imports it.
    Grant(Capability),
    /// No runner links it.
    NotOffered,
}

impl Need {
    /// For a program.
    pub fn as_str(self) -> &'static str {
        match self {
            Need::Nothing | Need::LessWithout(_) => "nothing",
            Need::Denied | Need::DeniedWithout(_) => "denied",
            Need::Grant(_) => "grant",
            Need::NotOffered => "not_offered",
        }
    }

    /// The capability that it takes, or would be more with.
    pub fn capability(self) -> Option<Capability> {
        match self {
            Need::LessWithout(it) | Need::DeniedWithout(it) | Need::Grant(it) => Some(it),
            Need::Nothing | Need::Denied | Need::NotOffered => None,
        }
    }
}

/// What an import needs.
pub fn need(import: &str) -> Need {
    // A core module names versions that are compatible with each other by what they have in common.
    let begins = |beginning: &str| {
        import.starts_with(beginning) || beginning.strip_suffix('.') == Some(import)
    };
    // Of WASI itself, 0.2 is linked.
    let (_, version) = import.split_once('@').unwrap_or_default();
    if import.starts_with("wasi:") && !version.starts_with("0.2") {
        return Need::NotOffered;
    }
    let offered = OFFERED.iter().find(|(beginning, _)| begins(beginning));
    offered.map_or(Need::NotOffered, |(_, need)| *need)
}

impl Structure {
    /// The memory that it takes, about.
    pub fn bytes(&self) -> usize {
        let names = self.imports.iter().chain(&self.exports).chain(&self.unfit);
        names.map(|name| name.len() + size_of::<String>()).sum()
    }

    /// Refuses a module for a tenant that was not granted what it imports, by name.
    pub fn admit(&self, grants: &Grants) -> Result<(), TaskError> {
        admit(&self.imports, grants)
    }
}

/// Refuses imports that a tenant was not granted, by name.
pub fn admit(imports: &[String], grants: &Grants) -> Result<(), TaskError> {
    let missing = |import: &&String| match need(import) {
        Need::Grant(capability) => !grants.has(capability),
        _ => false,
    };
    let missing: Vec<String> = imports
        .iter()
        .filter(missing)
        .map(|import| {
            let capability = need(import).capability();
            let capability = capability.map_or("", Capability::as_str);
            format!("{} (capability `{capability}`)", shown(import))
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!("imports {}, not granted to the tenant", list(&missing));
    Err(TaskError::new(ErrorCode::CapabilityDenied, why))
}

/// Reads a module's outermost layer, without compiling or validating what is inside.
pub fn read(bytes: &[u8]) -> Result<Structure, TaskError> {
    if !bytes.starts_with(b"\0asm") {
        return Err(invalid(format!(
            "not a wasm module: {} bytes that do not begin with \\0asm",
            bytes.len()
        )));
    }
    let mut outside = Outside::default();
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(malformed)? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) if depth > 0 => depth -= 1,
            payload if depth == 0 => outside.read(payload)?,
            _ => {}
        }
    }
    let shape = outside.shape();
    let unfit = match shape {
        Shape::OtherComponent | Shape::OtherModule => Some(unfit::why(&outside)),
        Shape::CoreCommand if !outside.memory => Some(unfit::NO_MEMORY.to_owned()),
        _ => None,
    };
    Ok(Structure {
        shape,
        imports: outside.imports.kept,
        exports: outside.exports.kept,
        unfit,
    })
}

/// Refuses what cannot run here, by name, before it is compiled.
pub fn check(bytes: &[u8]) -> Result<Structure, TaskError> {
    let structure = read(bytes)?;
    if let Some(why) = &structure.unfit {
        return Err(invalid(why.clone()));
    }
    let mut imports = structure.imports.iter();
    if let Some(import) = imports.find(|import| need(import) == Need::NotOffered) {
        let hint = unfit::hint(import).map_or_else(String::new, |hint| format!(": {hint}"));
        return Err(TaskError::new(
            ErrorCode::ImportDenied,
            format!("imports {}, which no runner offers{hint}", shown(import)),
        ));
    }
    Ok(structure)
}

/// What is seen from outside.
#[derive(Default)]
struct Outside {
    component: bool,
    imports: Names,
    exports: Names,
    /// Exports a function `run`.
    run: bool,
    /// Exports `wasi:cli/run` of 0.2.
    command: bool,
    /// A core module that exports `_start`.
    start: bool,
    /// A core module that exports its memory, or imports one.
    memory: bool,
    /// Has `component-type` sections.
    metadata: bool,
    /// Is a shared library.
    library: bool,
}

impl Outside {
    fn read(&mut self, payload: Payload<'_>) -> Result<(), TaskError> {
        match payload {
            Payload::Version { encoding, .. } => self.component = encoding == Encoding::Component,
            Payload::ComponentImportSection(section) => {
                for import in section {
                    let import = import.map_err(malformed)?;
                    // A type that the world uses: nothing that could be called.
                    if !matches!(import.ty, ComponentTypeRef::Type(_)) {
                        self.import(import.name.name)?;
                    }
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let export = export.map_err(malformed)?;
                    let name = export.name.name;
                    self.run |= export.kind == ComponentExternalKind::Func && name == "run";
                    self.command |= name.starts_with("wasi:cli/run@0.2.");
                    self.exports.add(name);
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import.map_err(malformed)?;
                    // An imported one is denied by its name.
                    self.memory |= matches!(import.ty, TypeRef::Memory(_));
                    self.core_import(import.module, import.name)?;
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export.map_err(malformed)?;
                    let function = export.kind == ExternalKind::Func;
                    // The second is how tools are to write it from 2025 on.
                    self.run |= function && ["run", "cm32p2||run"].contains(&export.name);
                    self.start |= function && export.name == "_start";
                    self.memory |= export.kind == ExternalKind::Memory && export.name == "memory";
                    self.exports.add(export.name);
                }
            }
            Payload::CustomSection(section) => {
                self.metadata |= section.name().starts_with("component-type");
                self.library |= section.name() == "dylink.0";
            }
            _ => {}
        }
        Ok(())
    }

    fn core_import(&mut self, module: &str, name: &str) -> Result<(), TaskError> {
        let interface = module.strip_prefix("cm32p2|").unwrap_or(module);
        if module.starts_with("[export]") || interface.starts_with("_ex_") {
            // Of its own exports: nothing that the host has.
            return Ok(());
        }
        match interface == WASI_P1 || interface.contains(':') {
            true => self.import(interface),
            false => self.import(&format!("{module} {name}")),
        }
    }

    fn import(&mut self, name: &str) -> Result<(), TaskError> {
        match self.imports.add(name) {
            true => Ok(()),
            false => Err(invalid(format!(
                "it imports more than {MAX_NAMES} names, or more than {MAX_NAMES_BYTES} bytes of names"
            ))),
        }
    }

    fn shape(&self) -> Shape {
        match self.component {
            true if self.run => Shape::Typed,
            true if self.command => Shape::Command,
            true => Shape::OtherComponent,
            false if self.run && self.metadata => Shape::CoreTyped,
            false if self.start => Shape::CoreCommand,
            false => Shape::OtherModule,
        }
    }
}

/// Names, each once, in the order of their coming.
#[derive(Default)]
struct Names {
    kept: Vec<String>,
    seen: HashSet<String>,
    bytes: usize,
}

impl Names {
    /// Whether there was room for it.
    fn add(&mut self, name: &str) -> bool {
        if self.seen.contains(name) {
            return true;
        }
        self.bytes = self.bytes.saturating_add(name.len());
        if self.kept.len() == MAX_NAMES || self.bytes > MAX_NAMES_BYTES {
            return false;
        }
        self.seen.insert(name.to_owned());
        self.kept.push(name.to_owned());
        true
    }
}

fn invalid(why: String) -> TaskError {
    TaskError::new(ErrorCode::ModuleInvalid, why)
}

fn malformed(why: BinaryReaderError) -> TaskError {
    invalid(why.to_string())
}

fn list(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let more = names.len().saturating_sub(SHOWN);
    let names: Vec<String> = names.iter().take(SHOWN).map(|name| shown(name)).collect();
    match (names.len(), more) {
        (0, _) => "nothing".to_owned(),
        (_, 0) => names.join(", "),
        (_, more) => format!("{} and {more} more", names.join(", ")),
    }
}

/// A name that a stranger chose, for a terminal or an outcome.
pub fn shown(name: &str) -> String {
    const SHOWN: usize = 200;
    let cut = &name[..name.floor_char_boundary(SHOWN)];
    let more = if cut.len() < name.len() { "…" } else { "" };
    format!("{}{more}", cut.escape_debug())
}

#[cfg(test)]
mod tests;
