//! `wasmqtt push`: publishes a module, whole or in chunks.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::Args;

use crate::cli::args::{Connection, parse_bytes, parse_tenant};
use crate::cli::build::module;
use crate::cli::{OK, keygen, network_runtime};
use crate::config::Config;
use crate::envelope::Message;
use crate::modules::source::chunks::{MAX_CHUNKS, Manifest, chunk_topic};
use crate::modules::{self, Content};
use crate::mqtt::{self, BrokerLimits, Deliveries, Publisher};
use crate::runner::start::base_settings;
use crate::sandbox::engine::{Engine, Sizes};
use crate::task::tenant::TenantId;
use crate::task::{Digest, ModuleName, TaskId};
use crate::tenants::TenantPolicy;

/// How long what was published before may take to come.
const BEFORE: Duration = Duration::from_millis(500);
/// How long the broker may take to let us in.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a packet has beside a chunk's topic and bytes, and then some.
const HEAD: usize = 256;

/// Publish a module, so that tasks can name it
///
/// The module is checked and compiled as a runner would, but for what the tenant must have been granted, then published
/// retained on `modules/NAME`. Runners that use a module of that name take the new one from then on. Of a project it
/// publishes the module, and builds it before when a source is newer. Where the broker takes no packet that large, the module
/// is published in chunks on `modules/NAME/HEX`, and those of the module before are deleted.
///
/// Example: wasmqtt push upper.wasm
#[derive(Debug, Args)]
pub(super) struct Push {
    /// The component, or a project's folder [default: the project in this folder]
    #[arg(value_name = "FILE|DIR")]
    file: Option<PathBuf>,
    /// Its name [default: the project's, or the file's name without .wasm]
    #[arg(long)]
    name: Option<String>,
    /// The tenant whose module it is
    #[arg(long, value_parser = parse_tenant, default_value = TenantId::DEFAULT)]
    tenant: TenantId,
    /// Sign it with this secret key, and publish the signature on `modules/NAME/signature`
    #[arg(long, value_name = "KEY")]
    sign: Option<PathBuf>,
    /// Publish in chunks of at most so many bytes, such as 1MiB [default: in one piece, where the broker takes it]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    chunk_bytes: Option<u64>,
    /// Print name, digest, size and topic as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Push {
    pub(super) fn run(self) -> Result<u8> {
        let config = self.connection.load(&[])?;
        let (file, _) = module(self.file.as_deref())?;
        let shown = file.display();
        // Of a project it is the project's.
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        let name = ModuleName::parse(self.name.as_deref().unwrap_or(&stem))
            .map_err(anyhow::Error::msg)
            .context("name the module with --name")?;
        let bytes = std::fs::read(&file).with_context(|| format!("failed to read {shown}"))?;
        let content = Content::new(bytes);
        let policy = config.policy_of(&self.tenant)?;
        check(&content, &policy, config.ceilings.memory_bytes)
            .with_context(|| shown.to_string())?;
        let key = self.sign.as_deref().map(keygen::key).transpose()?;
        let signature = key.map(|key| key.sign(&content)).transpose()?;
        let topics = config.topics()?;
        let topic = topics.module(&self.tenant, &name);
        let signature = signature.map(|text| (topics.module_signature(&self.tenant, &name), text));
        let chunks = network_runtime()?.block_on(async {
            let mut broker = Broker::connect(&config).await?;
            let pushed = broker.push(&topic, &content, signature, self.chunk_bytes);
            let chunks = pushed.await?;
            broker.publisher.close().await;
            Ok::<_, anyhow::Error>(chunks)
        })?;
        let (digest, bytes) = (content.digest, content.bytes.len());
        if self.json {
            println!(
                "{}",
                serde_json::json!({"name": name.as_str(), "digest": digest.to_string(), "bytes": bytes, "topic": topic, "chunks": chunks})
            );
        } else {
            let pieces = match chunks {
                0 => String::new(),
                count => format!(" in {count} chunks"),
            };
            println!("{name}@{digest} ({bytes} bytes) on {topic}{pieces}");
        }
        Ok(OK)
    }
}

/// The broker, as somebody who publishes modules.
struct Broker {
    publisher: Publisher,
    deliveries: Deliveries,
    limits: BrokerLimits,
}

impl Broker {
    async fn connect(config: &Config) -> Result<Broker> {
        let settings = base_settings(config, &format!("wasmqtt-{}", TaskId::generate()))?;
        let (deliveries, publisher) = mqtt::connect(settings);
        let ready = tokio::time::timeout(PATIENCE, publisher.ready()).await;
        let limits = match ready {
            Ok(ready) => ready.map_err(|why| anyhow!(why).context("failed to connect"))?,
            Err(_) => bail!("no broker at {} within 10 s", config.mqtt.url),
        };
        Ok(Broker {
            publisher,
            deliveries,
            limits,
        })
    }

    /// Into how many chunks; 0 is in one piece.
    async fn push(
        &mut self,
        topic: &str,
        content: &Content,
        signature: Option<(String, String)>,
        chunk_bytes: Option<u64>,
    ) -> Result<usize> {
        let before = self.chunks_before(topic).await;
        // Beside the module before it the signature is wrong for a moment; without it, the module would be.
        if let Some((topic, text)) = signature {
            self.publish(&topic, text)
                .await
                .context("failed to publish the signature")?;
        }
        let whole = retained(topic, content.bytes.clone());
        let most = self.limits.max_packet_bytes;
        let size = match chunk_bytes {
            Some(bytes) => Some(usize::try_from(bytes).unwrap_or(usize::MAX).max(1)),
            None if whole.packet_bytes() <= most => None,
            None => Some(most.saturating_sub(HEAD + topic.len() + 64)),
        };
        let mut now = HashSet::new();
        match size {
            None => {
                let published = self.publisher.publish(whole).await;
                published.context("failed to publish the module; --chunk-bytes cuts it")?;
            }
            Some(size) => {
                let least = content.bytes.len().div_ceil(MAX_CHUNKS).max(1);
                ensure!(
                    size >= least,
                    "{} bytes do not fit {MAX_CHUNKS} chunks of {size} bytes",
                    content.bytes.len()
                );
                let (manifest, pieces) = Manifest::cut(content, size);
                for piece in &pieces {
                    let topic = chunk_topic(topic, &piece.digest);
                    if now.insert(piece.digest) {
                        let published = self.publish(&topic, piece.bytes.clone()).await;
                        published.with_context(|| format!("failed to publish {topic}"))?;
                    }
                }
                self.publish(topic, manifest.to_json())
                    .await
                    .context("failed to publish the manifest")?;
            }
        }
        for old in before.difference(&now) {
            let deleted = self.publish(&chunk_topic(topic, old), "").await;
            deleted.context("failed to delete a chunk of the module before")?;
        }
        Ok(now.len())
    }

    async fn publish(&self, topic: &str, payload: impl Into<bytes::Bytes>) -> Result<()> {
        self.publisher.publish(retained(topic, payload)).await?;
        Ok(())
    }

    /// What the module that is there is made of. Nothing where nothing is there, or where we may not look.
    async fn chunks_before(&mut self, topic: &str) -> HashSet<Digest> {
        let mut chunks = HashSet::new();
        let looked = tokio::time::timeout(PATIENCE, self.publisher.subscribe(topic)).await;
        if !matches!(looked, Ok(Ok(()))) {
            return chunks;
        }
        let coming = tokio::time::timeout(BEFORE, self.deliveries.recv()).await;
        if let Ok(Some(delivery)) = coming {
            let payload = &delivery.inbound.payload;
            if Manifest::is_one(payload)
                && let Ok(manifest) = Manifest::parse(payload)
            {
                chunks.extend(manifest.chunks.iter().map(|chunk| chunk.digest));
            }
            if let Some(token) = delivery.token {
                token.ack();
            }
        }
        self.publisher.unsubscribe(topic);
        chunks
    }
}

fn retained(topic: &str, payload: impl Into<bytes::Bytes>) -> Message {
    Message {
        retain: true,
        ..Message::new(topic, payload)
    }
}

/// The checks that a runner makes, under the limits that the configuration has for the tenant. What the tenant was granted
/// may be elsewhere.
fn check(content: &Content, policy: &TenantPolicy, memory_bytes: u64) -> Result<()> {
    modules::check(content, policy).map_err(anyhow::Error::msg)?;
    let engine = Engine::new(Sizes {
        guests: 1,
        memory_bytes,
    })?;
    modules::compile(&engine, &content.bytes).map_err(anyhow::Error::msg)?;
    Ok(())
}
