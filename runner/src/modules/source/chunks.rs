//! Modules in pieces, for brokers whose packets are smaller: `modules/{name}` has a manifest, and each chunk is retained
//! on `modules/{name}/{hex}`, named by its own SHA-256.
//!
//! Nothing of a chunk counts before its digest fits, and nothing of the whole before the whole's does.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use moka::future::Cache;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::modules::source::retained::{News, Retained};
use crate::modules::source::{Found, MAX_SIGNATURE};
use crate::modules::{Content, small_enough};
use crate::task::outcome::{ErrorCode, TaskError};
use crate::task::tenant::TenantId;
use crate::task::{Digest, ModuleName};
use crate::tenants::TenantPolicy;

/// The most chunks of a module.
pub const MAX_CHUNKS: usize = 4_096;
/// The largest manifest, in bytes.
const MAX_MANIFEST: usize = 1 << 20;
/// Bytes of assembled modules kept; beyond it those go that were not asked for longest.
const MAX_BYTES: u64 = 256 << 20;
/// A manifest promises its chunks: so much longer is waited for one than for what may not be there.
const PATIENCE: u32 = 5;

/// What a module is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The SHA-256 of the whole.
    pub digest: Digest,
    /// Bytes of the whole.
    pub bytes: u64,
    /// Its pieces, in their order.
    pub chunks: Vec<Chunk>,
}

/// One piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// The SHA-256 of its bytes.
    pub digest: Digest,
    /// How many they are.
    pub bytes: u64,
}

/// As it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    digest: String,
    bytes: u64,
    chunks: Vec<WrittenChunk>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenChunk {
    digest: String,
    bytes: u64,
}

impl Manifest {
    /// Cuts a module into pieces of at most `chunk_bytes`, which is at least 1.
    pub fn cut(content: &Content, chunk_bytes: usize) -> (Manifest, Vec<Content>) {
        let bytes = &content.bytes;
        let pieces: Vec<Content> = (0..bytes.len())
            .step_by(chunk_bytes.max(1))
            .map(|at| bytes.slice(at..bytes.len().min(at + chunk_bytes)))
            .map(Content::new)
            .collect();
        let chunk = |piece: &Content| Chunk {
            digest: piece.digest,
            bytes: piece.bytes.len() as u64,
        };
        let manifest = Manifest {
            digest: content.digest,
            bytes: bytes.len() as u64,
            chunks: pieces.iter().map(chunk).collect(),
        };
        (manifest, pieces)
    }

    /// Whether a payload means to be a manifest: no module begins so.
    pub fn is_one(payload: &[u8]) -> bool {
        payload.first() == Some(&b'{')
    }

    /// Reads one.
    pub fn parse(payload: &[u8]) -> Result<Manifest, String> {
        if payload.len() > MAX_MANIFEST {
            let bytes = payload.len();
            return Err(format!("it has {bytes} bytes, of at most {MAX_MANIFEST}"));
        }
        let written: Written =
            serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        if !(1..=MAX_CHUNKS).contains(&written.chunks.len()) {
            let count = written.chunks.len();
            return Err(format!("it has {count} chunks, of 1 to {MAX_CHUNKS}"));
        }
        let digest = |text: &str| match text.strip_prefix("sha256:") {
            Some(hex) => Digest::parse_hex(hex),
            None => Err(format!("a digest is `sha256:` and 64 digits, got {text:?}")),
        };
        let chunk = |chunk: &WrittenChunk| {
            Ok(Chunk {
                digest: digest(&chunk.digest)?,
                bytes: chunk.bytes,
            })
        };
        let chunks: Vec<Chunk> = written
            .chunks
            .iter()
            .map(chunk)
            .collect::<Result<_, String>>()?;
        let sum = chunks
            .iter()
            .try_fold(0_u64, |sum, chunk| sum.checked_add(chunk.bytes));
        if sum != Some(written.bytes) {
            let bytes = written.bytes;
            return Err(format!("its chunks do not have {bytes} bytes in all"));
        }
        Ok(Manifest {
            digest: digest(&written.digest)?,
            bytes: written.bytes,
            chunks,
        })
    }

    /// As it is published.
    pub fn to_json(&self) -> String {
        let chunk = |chunk: &Chunk| WrittenChunk {
            digest: chunk.digest.to_string(),
            bytes: chunk.bytes,
        };
        let written = Written {
            digest: self.digest.to_string(),
            bytes: self.bytes,
            chunks: self.chunks.iter().map(chunk).collect(),
        };
        serde_json::to_string(&written).unwrap_or_default()
    }
}

/// What is published, whole or in pieces.
pub(super) struct Chunked {
    retained: Retained,
    /// By topic, and the digest of the manifest.
    assembled: Cache<(String, Digest), Content>,
    assembling: Semaphore,
}

impl Chunked {
    pub(super) fn new(retained: Retained) -> Chunked {
        let weigh = |_: &(String, Digest), content: &Content| {
            u32::try_from(content.bytes.len()).unwrap_or(u32::MAX)
        };
        let assembled = Cache::builder().weigher(weigh).max_capacity(MAX_BYTES);
        Chunked {
            retained,
            assembled: assembled.build(),
            assembling: Semaphore::new(1),
        }
    }

    /// How long to wait for what may not be there.
    pub(super) fn lookup(&self) -> Duration {
        self.retained.lookup()
    }

    /// What comes under a name that is followed, if the tenant may wait for that too.
    pub(super) fn news(&self, tenant: &TenantId, name: &ModuleName) -> Option<News> {
        self.retained.news(tenant, &self.topic(tenant, name))
    }

    pub(super) fn topic(&self, tenant: &TenantId, name: &ModuleName) -> String {
        self.retained.topics().module(tenant, name)
    }

    /// The module that is published under that name, if one is.
    pub(super) async fn find(
        &self,
        tenant: &TenantId,
        policy: &TenantPolicy,
        name: &ModuleName,
    ) -> Result<Option<Found>, TaskError> {
        let topic = self.topic(tenant, name);
        let Some(published) = self.retained.find(tenant, &topic).await? else {
            return Ok(None);
        };
        let content = match Manifest::is_one(&published.bytes) {
            false => published,
            true => self.whole(tenant, policy, topic, &published).await?,
        };
        let signature = match policy.signed_by.is_empty() {
            true => None,
            false => {
                let topic = self.retained.topics().module_signature(tenant, name);
                let found = self.retained.find(tenant, &topic).await?;
                // What is longer is none.
                let found = found.filter(|found| found.bytes.len() as u64 <= MAX_SIGNATURE);
                found.map(|found| found.bytes)
            }
        };
        Ok(Some(Found::in_memory(content, signature)))
    }

    async fn whole(
        &self,
        tenant: &TenantId,
        policy: &TenantPolicy,
        topic: String,
        published: &Content,
    ) -> Result<Content, TaskError> {
        let key = (topic.clone(), published.digest);
        if let Some(assembled) = self.assembled.get(&key).await {
            return Ok(assembled);
        }
        let manifest = Manifest::parse(&published.bytes).map_err(|why| {
            let why = format!("{topic} is neither a module nor a manifest of chunks: {why}");
            TaskError::new(ErrorCode::ModuleInvalid, why)
        })?;
        small_enough(&manifest.digest, manifest.bytes, policy)?;
        let assemble = async {
            let assembled = self.assemble(tenant, &topic, &manifest).await;
            for chunk in &manifest.chunks {
                self.retained.forget(&chunk_topic(&topic, &chunk.digest));
            }
            assembled
        };
        let assembled = self.assembled.try_get_with(key, assemble).await;
        assembled.map_err(|error| TaskError::clone(&error))
    }

    async fn assemble(
        &self,
        tenant: &TenantId,
        topic: &str,
        manifest: &Manifest,
    ) -> Result<Content, TaskError> {
        let count = manifest.chunks.len();
        let patience = self.retained.lookup() * PATIENCE;
        // As the broker's client has them: a piece that is named often is there once.
        let mut pieces: HashMap<Digest, Bytes> = HashMap::new();
        let mut in_order = Vec::with_capacity(count);
        for (number, chunk) in manifest.chunks.iter().enumerate() {
            let piece = match pieces.get(&chunk.digest) {
                Some(piece) => piece.clone(),
                None => {
                    let topic = chunk_topic(topic, &chunk.digest);
                    let found = self.retained.find_within(tenant, &topic, patience).await?;
                    let found = found.ok_or_else(|| {
                        let why = format!("chunk {} of {count} is not on {topic}", number + 1);
                        TaskError::new(ErrorCode::ModuleUnavailable, why)
                    })?;
                    let bytes = found.bytes.len() as u64;
                    if (found.digest, bytes) != (chunk.digest, chunk.bytes) {
                        let (got, number) = (found.digest, number + 1);
                        let (meant, of) = (chunk.digest, chunk.bytes);
                        let why = format!(
                            "chunk {number} of {count} on {topic} is {got} of {bytes} bytes, its manifest says {meant} of {of}"
                        );
                        return Err(TaskError::new(ErrorCode::DigestMismatch, why));
                    }
                    pieces.insert(chunk.digest, found.bytes.clone());
                    found.bytes
                }
            };
            in_order.push(piece);
        }
        drop(pieces);
        // One at a time: what few pieces make may be large.
        let _one = self.assembling.acquire().await;
        let hashed = tokio::task::spawn_blocking(move || Content::new(in_order.concat())).await;
        let content = hashed.map_err(|died| {
            TaskError::new(ErrorCode::Internal, format!("failed to hash: {died}"))
        })?;
        if content.digest != manifest.digest {
            let (got, meant) = (content.digest, manifest.digest);
            let why =
                format!("the {count} chunks of {topic} make {got}, their manifest says {meant}");
            return Err(TaskError::new(ErrorCode::DigestMismatch, why));
        }
        Ok(content)
    }
}

/// Where a chunk is retained, below its module's topic.
pub fn chunk_topic(module: &str, digest: &Digest) -> String {
    format!("{module}/{}", digest.hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_is_read_again() {
        let content = Content::new((0..=255).cycle().take(1000).collect::<Vec<u8>>());
        for size in [1, 7, 999, 1000, 5000] {
            let (manifest, pieces) = Manifest::cut(&content, size);
            let read = Manifest::parse(manifest.to_json().as_bytes());
            assert_eq!(read.as_ref(), Ok(&manifest));
            let whole: Vec<u8> = pieces
                .iter()
                .flat_map(|piece| piece.bytes.to_vec())
                .collect();
            assert_eq!(Content::new(whole).digest, manifest.digest);
        }
    }

    #[test]
    fn what_is_no_manifest() {
        let hex = "ab".repeat(32);
        let chunk = format!(r#"{{"digest":"sha256:{hex}","bytes":3}}"#);
        let with = |bytes: &str, chunks: &str| {
            format!(r#"{{"digest":"sha256:{hex}","bytes":{bytes},"chunks":[{chunks}]}}"#)
        };
        assert!(Manifest::parse(with("3", &chunk).as_bytes()).is_ok());
        let many = vec![chunk.as_str(); MAX_CHUNKS + 1].join(",");
        let huge = chunk.replace(":3}", &format!(":{}}}", u64::MAX));
        for bad in [
            "{".to_owned(),
            "{}".to_owned(),
            with("0", ""),
            with("4", &chunk),
            with("-1", &chunk),
            with("2", &format!("{huge},{chunk}")),
            with(&(3 * (MAX_CHUNKS + 1)).to_string(), &many),
            with("3", &chunk.replace("sha256:", "")),
            with("3", &chunk.replace("\"bytes\"", "\"byte\"")),
            with("3", &chunk).replace("ab\",\"bytes\":3,\"c", "a\",\"bytes\":3,\"c"),
        ] {
            assert!(Manifest::parse(bad.as_bytes()).is_err(), "{bad:.200}");
        }
    }
}
