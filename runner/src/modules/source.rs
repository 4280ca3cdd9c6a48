//! Where a module's bytes come from, chosen by the reference's form.
//!
//! A source says only where bytes come from: what is behind [`Found`] is the same for all of them.

pub mod chunks;
pub mod web;

mod credentials;
mod directory;
mod get;
mod https;
mod oci;
mod retained;
mod slots;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;

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

/// A module's bytes, as its source has them.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) content: Content,
    /// What stands beside it as its signature; looked for only where the tenant wants one.
    pub(super) signature: Option<Bytes>,
}

/// All sources of a runner.
#[derive(Default)]
pub(super) struct Sources {
    directory: Option<Directory>,
    published: Option<Chunked>,
    web: Option<Web>,
}

impl Sources {
    pub(super) fn open_directory(&mut self, folder: &Path) -> Result<()> {
        self.directory = Some(Directory::open(folder)?);
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
    ) -> Result<Found, TaskError> {
        match reference {
            ModuleRef::Name(name) => self.named(tenant, policy, name).await,
            ModuleRef::Pinned(name, pin) => {
                let found = self.named(tenant, policy, name).await?;
                if found.content.digest != *pin {
                    let digest = found.content.digest;
                    let why = format!("module `{name}` is {digest}, the task pins {pin}");
                    return Err(TaskError::new(ErrorCode::DigestMismatch, why));
                }
                Ok(found)
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

    async fn by_digest(&self, policy: &TenantPolicy, digest: &Digest) -> Result<Found, TaskError> {
        // Only what the operator gave to everybody: a digest that one tenant's module has is printed in outcomes
        // and logs, and must not be a key to it for the others.
        if let Some(directory) = self.directory(policy)
            && let Some((name, content)) = Box::pin(directory.find_digest(digest)).await?
        {
            return with_signature(directory, policy, &name, content);
        }
        Err(TaskError::new(
            ErrorCode::ModuleNotFound,
            format!(
                "no module {digest} in the module folder; a published one is named as `name@{digest}`"
            ),
        ))
    }

    /// The bytes that a name stands for: the operator's folder first, which nobody can shadow.
    async fn named(
        &self,
        tenant: &TenantId,
        policy: &TenantPolicy,
        name: &ModuleName,
    ) -> Result<Found, TaskError> {
        let directory = self.directory(policy);
        let published = self.published.as_ref();
        let published = published.filter(|_| policy.sources.contains(&Source::Published));
        if let Some(directory) = directory
            && let Some(content) = directory.find(name).await?
        {
            return with_signature(directory, policy, name, content);
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

    /// The operator's folder, if the tenant may have modules from there.
    fn directory(&self, policy: &TenantPolicy) -> Option<&Directory> {
        let directory = self.directory.as_ref();
        directory.filter(|_| policy.sources.contains(&Source::Directory))
    }
}

fn with_signature(
    directory: &Directory,
    policy: &TenantPolicy,
    name: &ModuleName,
    content: Content,
) -> Result<Found, TaskError> {
    let signature = match policy.signed_by.is_empty() {
        true => None,
        false => directory.signature(name)?,
    };
    Ok(Found { content, signature })
}
