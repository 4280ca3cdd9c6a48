//! What a module is before anything is compiled: its shape, imports and exports.

use wasmparser::{ComponentExternalKind, ComponentTypeRef, Encoding, Parser, Payload};

use crate::grants::{Capability, Grants};
use crate::task::outcome::{ErrorCode, TaskError};

/// What interfaces need, by how their names begin; of those that fit the first counts.
const OFFERED: &[(&str, Need)] = &[
    ("wasmqtt:task/publish@", Need::Grant(Capability::Publish)),
    ("wasmqtt:task/", Need::Nothing),
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
    /// A component that exports neither.
    OtherComponent,
    /// A core module.
    CoreModule,
}

impl Shape {
    /// For a program.
    pub fn as_str(self) -> &'static str {
        match self {
            Shape::Typed => "typed",
            Shape::Command => "command",
            Shape::OtherComponent => "other_component",
            Shape::CoreModule => "core_module",
        }
    }

    /// For a person.
    pub fn describe(self) -> &'static str {
        match self {
            Shape::Typed => "typed component (world wasmqtt:task/task)",
            Shape::Command => "WASI command component (wasi:cli/run)",
            Shape::OtherComponent => "component that exports neither `run` nor `wasi:cli/run`",
            Shape::CoreModule => "core module",
        }
    }
}

/// A module's outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Structure {
    /// What it is.
    pub shape: Shape,
    /// The names that it imports.
    pub imports: Vec<String>,
    /// The names that it exports.
    pub exports: Vec<String>,
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
    let offered = OFFERED
        .iter()
        .find(|(beginning, _)| import.starts_with(beginning));
    offered.map_or(Need::NotOffered, |(_, need)| *need)
}

impl Structure {
    /// Refuses a module for a tenant that was not granted what it imports, by name.
    pub fn admit(&self, grants: &Grants) -> Result<(), TaskError> {
        let missing = |import: &&String| match need(import) {
            Need::Grant(capability) => !grants.has(capability),
            _ => false,
        };
        let missing: Vec<String> = self
            .imports
            .iter()
            .filter(missing)
            .map(|import| {
                let capability = need(import).capability();
                let capability = capability.map_or("", Capability::as_str);
                format!("{import} (capability `{capability}`)")
            })
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let why = format!("imports {}, not granted to the tenant", list(&missing));
        Err(TaskError::new(ErrorCode::CapabilityDenied, why))
    }
}

/// Reads a module's outermost layer, without compiling or validating what is inside.
pub fn read(bytes: &[u8]) -> Result<Structure, TaskError> {
    let invalid = |why: String| TaskError::new(ErrorCode::ModuleInvalid, why);
    if !bytes.starts_with(b"\0asm") {
        return Err(invalid(format!(
            "not a wasm module: {} bytes that do not begin with \\0asm",
            bytes.len()
        )));
    }
    let (mut encoding, mut depth) = (Encoding::Module, 0);
    let (mut imports, mut exports, mut functions) = (Vec::new(), Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(bytes) {
        let read = |why: wasmparser::BinaryReaderError| invalid(why.to_string());
        match payload.map_err(read)? {
            Payload::Version {
                encoding: outer, ..
            } if depth == 0 => encoding = outer,
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) if depth > 0 => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    let import = import.map_err(read)?;
                    // A type that the world uses: nothing that could be called.
                    if !matches!(import.ty, ComponentTypeRef::Type(_)) {
                        imports.push(import.name.name.to_owned());
                    }
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    let export = export.map_err(read)?;
                    if export.kind == ComponentExternalKind::Func {
                        functions.push(export.name.name.to_owned());
                    }
                    exports.push(export.name.name.to_owned());
                }
            }
            Payload::ImportSection(section) if depth == 0 && encoding == Encoding::Module => {
                for import in section.into_imports() {
                    let import = import.map_err(read)?;
                    imports.push(format!("{} {}", import.module, import.name));
                }
            }
            Payload::ExportSection(section) if depth == 0 && encoding == Encoding::Module => {
                for export in section {
                    exports.push(export.map_err(read)?.name.to_owned());
                }
            }
            _ => {}
        }
    }
    let shape = match encoding {
        Encoding::Module => Shape::CoreModule,
        Encoding::Component if functions.iter().any(|name| name == "run") => Shape::Typed,
        Encoding::Component
            if exports
                .iter()
                .any(|name| name.starts_with("wasi:cli/run@0.2.")) =>
        {
            Shape::Command
        }
        Encoding::Component => Shape::OtherComponent,
    };
    Ok(Structure {
        shape,
        imports,
        exports,
    })
}

/// Refuses what cannot run here, by name, before it is compiled.
pub fn check(bytes: &[u8]) -> Result<Structure, TaskError> {
    let structure = read(bytes)?;
    let invalid = |why: String| Err(TaskError::new(ErrorCode::ModuleInvalid, why));
    match structure.shape {
        Shape::Typed | Shape::Command => {}
        Shape::OtherComponent => {
            return invalid(format!(
                "a component must export `run` of wasmqtt:task/task or `wasi:cli/run@0.2`; this one exports {}",
                list(&structure.exports)
            ));
        }
        Shape::CoreModule => {
            return invalid(format!(
                "a core module, which this runner does not run: make it a component (`wasm-tools component new`, or build for wasm32-wasip2); it exports {}",
                list(&structure.exports)
            ));
        }
    }
    if let Some(import) = structure
        .imports
        .iter()
        .find(|import| need(import) == Need::NotOffered)
    {
        return Err(TaskError::new(
            ErrorCode::ImportDenied,
            format!("imports {import}, which no runner offers"),
        ));
    }
    Ok(structure)
}

fn list(names: &[String]) -> String {
    const SHOWN: usize = 12;
    match names {
        [] => "nothing".to_owned(),
        names if names.len() <= SHOWN => names.join(", "),
        names => format!(
            "{} and {} more",
            names[..SHOWN].join(", "),
            names.len() - SHOWN
        ),
    }
}
