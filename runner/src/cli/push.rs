//! `wasmqtt push`: publishes a module.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::cli::args::{Connection, parse_tenant};
use crate::cli::submit::connect;
use crate::cli::{OK, network_runtime};
use crate::envelope::Message;
use crate::modules::{self, Content};
use crate::sandbox::engine::{Engine, Sizes};
use crate::task::ModuleName;
use crate::task::tenant::TenantId;

/// Publish a module, so that tasks can name it
///
/// The module is checked and compiled as a runner would, then published retained on `modules/NAME`. Runners
/// that use a module of that name take the new one from then on.
///
/// Example: wasmqtt push upper.wasm
#[derive(Debug, Args)]
pub(super) struct Push {
    /// The component
    file: PathBuf,
    /// Its name [default: the file's name without .wasm]
    #[arg(long)]
    name: Option<String>,
    /// The tenant whose module it is
    #[arg(long, value_parser = parse_tenant, default_value = TenantId::DEFAULT)]
    tenant: TenantId,
    /// Print name, digest, size and topic as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Push {
    pub(super) fn run(self) -> Result<u8> {
        let config = self.connection.load(&[])?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => self
                .file
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
        };
        let name = ModuleName::parse(&name)
            .map_err(anyhow::Error::msg)
            .context("name the module with --name")?;
        let content = check(&self.file, config.ceilings.memory_bytes)?;
        let published = network_runtime()?.block_on(async {
            let client = connect(&config, self.tenant.clone()).await?;
            let topic = client.topics().module(&self.tenant, &name);
            let message = Message {
                retain: true,
                ..Message::new(topic.clone(), content.bytes.clone())
            };
            if let Some(limits) = client.limits()
                && message.packet_bytes() > limits.max_packet_bytes
            {
                bail!(
                    "{} bytes do not fit a packet of the broker, which takes {}",
                    message.packet_bytes(),
                    limits.max_packet_bytes
                );
            }
            client
                .publish(message)
                .await
                .context("failed to publish the module")?;
            client.close().await;
            Ok(topic)
        });
        let topic = published?;
        if self.json {
            println!(
                "{}",
                serde_json::json!({"name": name.as_str(), "digest": content.digest.to_string(), "bytes": content.bytes.len(), "topic": topic})
            );
        } else {
            println!(
                "{name}@{} ({} bytes) on {topic}",
                content.digest,
                content.bytes.len()
            );
        }
        Ok(OK)
    }
}

/// The checks that a runner makes; returns the bytes and their hash.
fn check(file: &std::path::Path, memory_bytes: u64) -> Result<Content> {
    let bytes =
        std::fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
    let engine = Engine::new(Sizes {
        guests: 1,
        memory_bytes,
    })?;
    if let Err(error) = modules::compile(&engine, &bytes) {
        bail!("{}: {error}", file.display());
    }
    Ok(Content::new(bytes))
}
