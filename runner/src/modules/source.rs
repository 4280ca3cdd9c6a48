//! Where a module's bytes come from, chosen by the reference's form.
//!
//! A source says only what a module is and where its bytes are: what is behind [`Found`] is the same for all of them.

pub mod chunks;
pub mod web;

mod credentials;
mod directory;
mod get;
mod https;
mod oci;
mod retained;
mod slots;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::envelope::topics::Topics;
use crate::modules::Content;
use crate::modules::source::chunks::Chunked;
use crate::modules::source::directory::Directory;
use crate::modules::source::retained::Retained;
use crate::modules::source::web::Web;
use crate::mqtt::{Deliveries, Publisher};
use crate::task::outcome::{ErrorCode, TaskError};
use crate::task::tenant::TenantId;
use crate::task::{Digest, ModuleName, ModuleRef};
use crate::tenants::{Source, TenantPolicy};

/// The largest detached signature, in bytes: minisign's have four lines.
const MAX_SIGNATURE: u64 = 4096;

/// A module as its source has it: what it is, and where its bytes are.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// The SHA-256 of its bytes, which we computed.
    pub(super) digest: Digest,
    /// How many they are.
    pub(super) bytes: u64,
    /// What stands beside it as its signature; looked for only where the tenant wants one.
    pub(super) signature: Option<Bytes>,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Memory(Bytes),
    /// Read again when its bytes are wanted: what is compiled already needs none of them.
    File(PathBuf),
}

impl Found {
    fn in_memory(content: Content, signature: Option<Bytes>) -> Found {
        Found {
            digest: content.digest,
            bytes: content.bytes.len() as u64,
            signature,
            place: Place::Memory(content.bytes),
        }
    }

    /// Its bytes; none when it is another file by now.
    pub(super) async fn content(&self) -> Result<Option<Content>, TaskError> {
        match &self.place {
            Place::Memory(bytes) => Ok(Some(Content {
                digest: self.digest,
                bytes: bytes.clone(),
            })),
            Place::File(path) => {
                let content = directory::read(path, self.bytes).await?;
                Ok(content.filter(|content| content.digest == self.digest))
            }
        }
    }
}

/// Whether a published module that is not yet what a task pins is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    ForPins,
    None,
}

/// All sources of a runner.
#[derive(Default)]
pub(super) struct Sources {
    directory: Option<Directory>,
    /// Hashing the directory's files before they are asked for.
    ahead: JoinSet<()>,
    published: Option<Chunked>,
    web: Option<Web>,
}

impl Sources {
    pub(super) fn open_directory(&mut self, folder: &Path) -> Result<()> {
        let directory = Directory::open(folder)?;
        self.ahead.spawn(directory.clone().read_ahead());
        self.directory = Some(directory);
        Ok(())
    }

    pub(super) fn follow(
        &mut self,
        topics: Topics,
        connection: (Deliveries, Publisher),
        lookup: Duration,
    ) {
        self.published = Some(Chunked::new(Retained::start(topics, connection, lookup)));
    }

    pub(super) fn fetch(&mut self, settings: web::Settings) -> Result<()> {
        self.web = Some(Web::new(settings)?);
        Ok(())
    }

    /// What a reference means for a tenant.
    pub(super) async fn find(
        &self,
        tenant: &TenantId,
        policy: &TenantPolicy,
        reference: &ModuleRef,
        patience: Patience,
    ) -> Result<Found, TaskError> {
        match reference {
            ModuleRef::Name(name) => self.named(tenant, policy, name).await,
            ModuleRef::Pinned(name, pin) => {
                match fits(self.named(tenant, policy, name).await, name, pin) {
                    Err((refused, true)) if patience == Patience::ForPins => {
                        Box::pin(self.awaited(tenant, policy, (name, pin), refused)).await
                    }
                    found => found.map_err(|(refused, _)| refused),
                }
            }
            ModuleRef::Digest(digest) => self.by_digest(policy, digest).await,
            ModuleRef::Https(_) | ModuleRef::Oci(_) => match &self.web {
                Some(web) => Box::pin(web.find(tenant, policy, reference)).await,
                None => Err(TaskError::new(
                    ErrorCode::Unsupported,
                    format!("this runner does not fetch modules: {reference}"),
                )),
            },
        }
    }

    /// What was found is not what was signed: where both are from elsewhere, they are fetched anew next time.
    pub(super) async fn doubt(
        &self,
        tenant: &TenantId,
        policy: &TenantPolicy,
        reference: &ModuleRef,
    ) {
        if let Some(web) = &self.web {
            Box::pin(web.doubt(tenant, policy, reference)).await;
        }
    }

    /// The same, when it may still come: who publishes a module and then a task cannot know which of the runner's
    /// connections hears first.
    async fn awaited(
        &self,
        tenant: &TenantId,
        policy: &TenantPolicy,
        (name, pin): (&ModuleName, &Digest),
        refused: TaskError,
    ) -> Result<Found, TaskError> {
        let published = self.published(policy);
        let news = published.and_then(|it| Some((it.lookup(), it.news(tenant, name)?)));
        let Some((lookup, mut news)) = news else {
            return Err(refused);
        };
        let until = Instant::now() + lookup;
        loop {
            match fits(self.named(tenant, policy, name).await, name, pin) {
                Ok(found) => return Ok(found),
                Err((refused, may_come)) => {
                    let come = may_come && timeout_at(until, news.next()).await == Ok(true);
                    if !come {
                        return Err(refused);
                    }
                }
            }
        }
    }

    async fn by_digest(&self, policy: &TenantPolicy, digest: &Digest) -> Result<Found, TaskError> {
        // Only what the operator gave to everybody: a digest that one tenant's module has is printed in outcomes
        // and logs, and must not be a key to it for the others.
        if let Some(directory) = self.directory(policy)
            && let Some((name, found)) = Box::pin(directory.find_digest(digest)).await?
        {
            return with_signature(directory, policy, &name, found);
        }
        Err(TaskError::new(
            ErrorCode::ModuleNotFound,
            format!(
                "no module {digest} in the module folder; a published one is named as `name@{digest}`"
            ),
        ))
    }

    /// What a name stands for: the operator's folder first, which nobody can shadow.
    async fn named(
        &self,
        tenant: &TenantId,
        policy: &TenantPolicy,
        name: &ModuleName,
    ) -> Result<Found, TaskError> {
        let directory = self.directory(policy);
        let published = self.published(policy);
        if let Some(directory) = directory
            && let Some(found) = directory.find(name).await?
        {
            return with_signature(directory, policy, name, found);
        }
        if let Some(published) = published
            && let Some(found) = Box::pin(published.find(tenant, policy, name)).await?
        {
            return Ok(found);
        }
        let places: Vec<String> = [
            directory.map(|d| format!("{}/{name}.wasm", d.folder().display())),
            published.map(|p| format!("the retained topic {}", p.topic(tenant, name))),
        ]
        .into_iter()
        .flatten()
        .collect();
        let places = match &places[..] {
            [] => "it has no source of modules".to_owned(),
            places => format!("looked at {}", places.join(" and ")),
        };
        Err(TaskError::new(
            ErrorCode::ModuleNotFound,
            format!("no module `{name}` for tenant {tenant}: {places}"),
        ))
    }

    /// What is published, if the tenant may have modules from there.
    fn published(&self, policy: &TenantPolicy) -> Option<&Chunked> {
        let published = self.published.as_ref();
        published.filter(|_| policy.sources.contains(&Source::Published))
    }

    /// The operator's folder, if the tenant may have modules from there.
    fn directory(&self, policy: &TenantPolicy) -> Option<&Directory> {
        let directory = self.directory.as_ref();
        directory.filter(|_| policy.sources.contains(&Source::Directory))
    }
}

/// What was found under a name, if it is the pin; else why not, and whether that may be published yet.
fn fits(
    found: Result<Found, TaskError>,
    name: &ModuleName,
    pin: &Digest,
) -> Result<Found, (TaskError, bool)> {
    match found {
        Ok(found) if found.digest == *pin => Ok(found),
        Ok(Found { digest, place, .. }) => {
            let why = format!("module `{name}` is {digest}, the task pins {pin}");
            let refused = TaskError::new(ErrorCode::DigestMismatch, why);
            // A file of the operator's is not replaced by what is published.
            Err((refused, matches!(place, Place::Memory(_))))
        }
        Err(error) => {
            let may_come = error.code == ErrorCode::ModuleNotFound;
            Err((error, may_come))
        }
    }
}

fn with_signature(
    directory: &Directory,
    policy: &TenantPolicy,
    name: &ModuleName,
    found: Found,
) -> Result<Found, TaskError> {
    let signature = match policy.signed_by.is_empty() {
        true => None,
        false => directory.signature(name)?,
    };
    Ok(Found { signature, ..found })
}
