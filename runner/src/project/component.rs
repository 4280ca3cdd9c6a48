//! Core modules → components, for `build`.

use anyhow::{Context as _, Result};
use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::{Resolve, SourceMap};

use wasi_preview1_component_adapter_provider as adapters;

use crate::project::create::WIT;
use crate::project::manifest::World;

/// A component as it is; a core module as a component of the world.
pub(super) fn component(mut module: Vec<u8>, world: World) -> Result<Vec<u8>> {
    // The preamble's last two bytes are the layer: 0 for a core module, 1 for a component.
    if module.get(6..8) != Some(&[0, 0]) {
        return Ok(module);
    }
    let (name, adapter) = match world {
        World::Task => ("task", adapters::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER),
        World::PublishingTask => (
            "publishing-task",
            adapters::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
        ),
        World::Command => ("command", adapters::WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER),
    };
    let in_world = || format!("failed to fit the core module into the world `{name}`");
    if world != World::Command {
        embed(&mut module, name).with_context(in_world)?;
    }
    ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.adapter(adapters::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter))
        .and_then(|encoder| encoder.validate(true).encode())
        .with_context(in_world)
}

/// Writes what the world is into the module.
fn embed(module: &mut Vec<u8>, world: &str) -> Result<()> {
    let mut sources = SourceMap::default();
    for (path, text) in WIT {
        sources.push_str(path, *text);
    }
    let mut resolve = Resolve::default();
    let group = sources.parse().map_err(|(_, why)| why)?;
    let package = resolve.push_group(group)?;
    let world = resolve.select_world(&[package], Some(world))?;
    wit_component::embed_component_metadata(module, &resolve, world, StringEncoding::UTF8)
}
