//! `wasmqtt:task/publish`: messages below the tenant's own prefix.

use bytes::Bytes;
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, Lower};

use crate::sandbox::guest::Guest;
use crate::sandbox::host::charge;

/// What a message burns besides a call and its bytes: a packet, and its acknowledgement.
const MESSAGE_FUEL: usize = 20_000;

/// Takes what a guest publishes.
#[async_trait::async_trait]
pub trait GuestMessages: Send + Sync {
    /// Publishes on a topic that is named below the tenant's prefix; resolves when the broker has it.
    async fn publish(
        &self,
        topic: String,
        payload: Bytes,
        content_type: Option<String>,
    ) -> Result<(), Unpublished>;
}

/// Why a message was not published: `wasmqtt:task/publish.publish-error`.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(variant)]
pub enum Unpublished {
    /// It may not be.
    #[component(name = "denied")]
    Denied(String),
    /// The broker does not have it.
    #[component(name = "failed")]
    Failed(String),
}

type Message = (String, Vec<u8>, Option<String>);

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut instance = linker.instance("wasmqtt:task/publish@0.1.0")?;
    instance.func_wrap_async(
        "publish",
        |store: StoreContextMut<'_, Guest>, message: Message| Box::new(publish(store, message)),
    )
}

async fn publish(
    mut store: StoreContextMut<'_, Guest>,
    (topic, payload, content_type): Message,
) -> wasmtime::Result<(Result<(), Unpublished>,)> {
    let bytes = topic.len() + payload.len() + content_type.as_ref().map_or(0, String::len);
    charge(&mut store, MESSAGE_FUEL + bytes)?;
    let guest = store.data_mut();
    let denied = |why: String| Ok((Err(Unpublished::Denied(why)),));
    // An import without the grant is refused long before; nobody is to depend on that.
    let (Some(grant), Some(messages)) = (guest.grants.publish, guest.messages.clone()) else {
        return denied("the tenant was not granted `publish`".to_owned());
    };
    let (count, total) = (guest.published.0 + 1, guest.published.1 + bytes as u64);
    if count > grant.max_messages {
        return denied(format!(
            "a task may publish {} messages",
            grant.max_messages
        ));
    }
    if total > grant.max_bytes {
        return denied(format!("a task may publish {} bytes", grant.max_bytes));
    }
    guest.published = (count, total);
    Ok((messages.publish(topic, payload.into(), content_type).await,))
}
