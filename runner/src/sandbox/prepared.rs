//! A compiled component that is linked and ready to be instantiated.

use wasmtime::component::Component;
use wasmtime_wasi::p2::bindings::CommandPre;

use crate::sandbox::engine::Engine;
use crate::sandbox::guest::Guest;
use crate::sandbox::host::TaskPre;
use crate::task::outcome::{ErrorCode, TaskError};

/// Ready to run, any number of times, each in a fresh store.
pub struct Prepared {
    pub(super) shape: Shape,
    imports: Vec<String>,
}

pub(super) enum Shape {
    /// Exports `run` of the world `task`.
    Typed(TaskPre<Guest>),
    /// Exports `wasi:cli/run`.
    Command(CommandPre<Guest>),
}

impl Prepared {
    /// Links a component. What it lacks or wants in excess is the module's fault: the error says what.
    pub fn new(engine: &Engine, component: &Component) -> Result<Prepared, TaskError> {
        let invalid =
            |why: wasmtime::Error| TaskError::new(ErrorCode::ModuleInvalid, format!("{why:#}"));
        let pre = engine
            .linker()
            .instantiate_pre(component)
            .map_err(|why| TaskError::new(ErrorCode::ImportDenied, format!("{why:#}")))?;
        let typed = component.get_export_index(None, "run").is_some();
        let shape = if typed {
            Shape::Typed(TaskPre::new(pre).map_err(invalid)?)
        } else {
            Shape::Command(CommandPre::new(pre).map_err(invalid)?)
        };
        let ty = component.component_type();
        let imports = ty.imports(engine.wasmtime());
        let imports = imports.map(|(name, _)| name.to_owned()).collect();
        Ok(Prepared { shape, imports })
    }

    /// What it imports, as the component that was compiled.
    pub fn imports(&self) -> &[String] {
        &self.imports
    }
}
