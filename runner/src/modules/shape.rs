//! Core modules → components, by wit-component and the adapters of wasip1.
//!
//! Pure: bytes to bytes. wit-component reads what a stranger wrote: in a runner only the jail's child calls this.

use std::borrow::Cow;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context as _, Result, bail};
use tracing::debug;
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME as WASI_P1, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
    WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::modules::structure::{self, Shape};
use crate::task::outcome::{ErrorCode, TaskError};

/// The package of the worlds, as one file.
const WIT: &str = concat!(
    include_str!("../../../wit/world.wit"),
    include_str!("../../../wit/types.wit"),
    include_str!("../../../wit/host.wit"),
    include_str!("../../../wit/publish.wit"),
);
/// Counts up when the same module becomes another component than before.
const RECIPE: u32 = 1;

/// A module as a component: a core module is made one, a component is taken as it is. What became of it is checked as a
/// component that came from outside would be: its metadata may say anything.
pub fn component(bytes: &[u8]) -> Result<Cow<'_, [u8]>, TaskError> {
    let structure = structure::check(bytes)?;
    if !structure.shape.is_core() {
        return Ok(Cow::Borrowed(bytes));
    }
    let wasi = structure.imports.iter().any(|import| import == WASI_P1);
    let component = caught(|| encode(bytes, structure.shape, wasi)).map_err(|why| {
        let why = format!("failed to make a component of a core module: {why:#}");
        TaskError::new(ErrorCode::ModuleInvalid, why)
    })?;
    structure::check(&component).map_err(|error| TaskError {
        message: format!("as a component: {}", error.message),
        ..error
    })?;
    Ok(Cow::Owned(component))
}

/// Adds the metadata of a world of `wasmqtt:task` to a core module that has none: what it imports and exports by the
/// canonical ABI. `world` is `task` or `publishing-task`, strings are UTF-8.
///
/// # Errors
///
/// When there is no such world, or the bytes are no core module. That the module fits the world is for [`component`] to
/// say.
pub fn embed(module: &[u8], world: &str) -> Result<Vec<u8>> {
    // Sections are added behind it: a component's would be too.
    let core = module.starts_with(b"\0asm\x01\0\0\0");
    anyhow::ensure!(core, "not a core module");
    let mut resolve = Resolve::default();
    let package = resolve
        .push_str("wasmqtt-task.wit", WIT)
        .context("failed to read the worlds")?;
    let world = resolve.select_world(&[package], Some(world))?;
    let mut module = module.to_vec();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .context("failed to embed the world")?;
    Ok(module)
}

/// Another number when what a core module becomes is another: for whoever keeps what was compiled.
pub(super) fn recipe() -> impl std::hash::Hash {
    (
        RECIPE,
        WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
        WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
    )
}

thread_local! {
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// wit-component and what it stands on take some metadata for impossible, and panic: that is the module's fault.
fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    CAUGHT.set(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    CAUGHT.set(false);
    let panic = match done {
        Ok(done) => return done,
        Err(panic) => panic,
    };
    let literal = panic.downcast_ref::<&str>().copied();
    let said = literal.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    debug!(said, "wit-component panicked");
    bail!("its metadata contradicts itself")
}

/// From now on nothing is printed of a panic that is caught here and told as an error. For programs.
pub fn quiet() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !CAUGHT.get() {
            before(panic);
        }
    }));
}

fn encode(module: &[u8], shape: Shape, wasi: bool) -> Result<Vec<u8>> {
    let encoder = ComponentEncoder::default().module(module)?;
    let mut encoder = match shape {
        Shape::CoreCommand => encoder.adapter(WASI_P1, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER)?,
        _ if wasi => encoder.adapter(WASI_P1, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)?,
        _ => encoder,
    };
    encoder.encode()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::cost::{self, ADAPTED};

    #[test]
    fn the_worlds_are_those_of_the_folder() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../wit");
        let files = std::fs::read_dir(folder).expect("a folder");
        for file in files {
            let path = file.expect("an entry").path();
            if path.extension().is_some_and(|it| it == "wit") {
                let text = std::fs::read_to_string(&path).expect("text");
                assert!(WIT.contains(&text), "{}", path.display());
            }
        }
        let module = wat::parse_str("(module)").expect("text");
        for world in ["task", "publishing-task"] {
            embed(&module, world).expect("a world");
        }
        assert!(embed(&module, "nobodys").is_err());
        assert!(embed(&wat::parse_str("(component)").expect("text"), "task").is_err());
    }

    /// A command that imports all that the adapter has.
    fn command(imports: &[&str]) -> Vec<u8> {
        let imports: String = imports
            .iter()
            .map(|import| format!("(import \"{WASI_P1}\" {import})"))
            .collect();
        let text =
            format!("(module {imports} (memory (export \"memory\") 1) (func (export \"_start\")))");
        wat::parse_str(text).expect("text")
    }

    /// What the runner counts before anything is made of a module is not less than what it becomes.
    #[test]
    fn what_adapting_adds_is_counted() {
        let few = command(&[]);
        let many = command(&[
            "\"args_get\" (func (param i32 i32) (result i32))",
            "\"clock_time_get\" (func (param i32 i64 i32) (result i32))",
            "\"environ_get\" (func (param i32 i32) (result i32))",
            "\"environ_sizes_get\" (func (param i32 i32) (result i32))",
            "\"fd_prestat_get\" (func (param i32 i32) (result i32))",
            "\"fd_read\" (func (param i32 i32 i32 i32) (result i32))",
            "\"fd_readdir\" (func (param i32 i32 i32 i64 i32) (result i32))",
            "\"fd_write\" (func (param i32 i32 i32 i32) (result i32))",
            "\"path_open\" (func (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32))",
            "\"path_rename\" (func (param i32 i32 i32 i32 i32 i32) (result i32))",
            "\"poll_oneoff\" (func (param i32 i32 i32 i32) (result i32))",
            "\"proc_exit\" (func (param i32))",
            "\"random_get\" (func (param i32 i32) (result i32))",
            "\"sock_shutdown\" (func (param i32 i32) (result i32))",
        ]);
        for module in [few, many] {
            let before = cost::count(&module).expect("counted");
            let made = component(&module).expect("a component");
            let after = cost::count(&made).expect("counted");
            assert!(before.functions >= after.functions, "{before:?} {after:?}");
            assert!(
                before.code_bytes >= after.code_bytes,
                "{before:?} {after:?}"
            );
            assert!(before.locals >= after.locals, "{before:?} {after:?}");
            assert!(
                before.data_segments >= after.data_segments,
                "{before:?} {after:?}"
            );
            assert!(
                before.component_parts >= after.component_parts,
                "{before:?} {after:?}"
            );
        }
        const { assert!(ADAPTED.functions < 1_000) };
    }

    #[test]
    fn a_panic_is_an_error() {
        let error = caught::<()>(|| panic!("impossible: {}", 1)).expect_err("an error");
        assert_eq!(error.to_string(), "its metadata contradicts itself");
        assert!(!CAUGHT.get());
        caught(|| Ok(())).expect("no error");
    }

    #[test]
    fn metadata_that_lies_is_refused() {
        // Of the world `task`, without its memory and with another `run`.
        for module in [
            r#"(module (func (export "run")))"#,
            r#"(module (memory (export "memory") 1) (func (export "run") (param i32) (result i32) i32.const 0))"#,
        ] {
            let module = embed(&wat::parse_str(module).expect("text"), "task").expect("embedded");
            let refused = component(&module).expect_err("refused");
            assert_eq!(refused.code, ErrorCode::ModuleInvalid, "{refused}");
            assert!(refused.message.contains("failed to make"), "{refused}");
        }
    }
}
