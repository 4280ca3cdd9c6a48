//! `wasi:keyvalue`: the tenant's own keys and values. There is one bucket, `default`, also called by no name.

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, Lower, Resource, ResourceType};

use crate::keyvalue::{Found, Refused, Space};
use crate::sandbox::guest::Guest;
use crate::sandbox::host::charge;

/// What a call burns besides a host call: a thread, a lock, a transaction.
const STORE_FUEL: usize = 20_000;

/// `wasi:keyvalue/store.bucket`
struct Bucket;

/// `wasi:keyvalue/store.error`
#[derive(Debug, Clone, ComponentType, Lift, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "no-such-store")]
    NoSuchStore,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "other")]
    Other(String),
}

/// `wasi:keyvalue/store.key-response`
#[derive(Debug, Clone, ComponentType, Lift, Lower)]
#[component(record)]
struct KeyResponse {
    keys: Vec<String>,
    cursor: Option<u64>,
}

type Store<'a> = StoreContextMut<'a, Guest>;
type Pairs = Vec<(String, Vec<u8>)>;

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    store(linker)?;
    let mut atomics = linker.instance("wasi:keyvalue/atomics@0.2.0-draft")?;
    atomics.func_wrap_async(
        "increment",
        |store: Store<'_>, (_, key, delta): (Resource<Bucket>, String, u64)| {
            Box::new(act(
                store,
                key.len(),
                |_| 0,
                move |space| space.increment(&key, delta),
            ))
        },
    )?;
    let mut batch = linker.instance("wasi:keyvalue/batch@0.2.0-draft")?;
    batch.func_wrap_async(
        "get-many",
        |store: Store<'_>, (_, keys): (Resource<Bucket>, Vec<String>)| {
            let found = |found: &Vec<Found>| {
                found
                    .iter()
                    .flatten()
                    .map(|(key, value)| key.len() + value.len())
                    .sum()
            };
            Box::new(act(store, total(&keys), found, move |space| {
                space.get_many(&keys)
            }))
        },
    )?;
    batch.func_wrap_async(
        "set-many",
        |store: Store<'_>, (_, pairs): (Resource<Bucket>, Pairs)| {
            let bytes = pairs
                .iter()
                .map(|(key, value)| key.len() + value.len())
                .sum();
            Box::new(act(
                store,
                bytes,
                |()| 0,
                move |space| space.set_many(&pairs),
            ))
        },
    )?;
    batch.func_wrap_async(
        "delete-many",
        |store: Store<'_>, (_, keys): (Resource<Bucket>, Vec<String>)| {
            Box::new(act(
                store,
                total(&keys),
                |()| 0,
                move |space| space.delete_many(&keys),
            ))
        },
    )
}

fn store(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut instance = linker.instance("wasi:keyvalue/store@0.2.0-draft")?;
    let bucket = ResourceType::host::<Bucket>();
    instance.resource("bucket", bucket, |mut store, handle| {
        let bucket = Resource::<Bucket>::new_own(handle);
        store.data_mut().table.delete(bucket)?;
        Ok(())
    })?;
    instance.func_wrap("open", |mut store: Store<'_>, (name,): (String,)| {
        charge(&mut store, name.len())?;
        let guest = store.data_mut();
        let opened = match name.as_str() {
            _ if guest.grants.keyvalue.is_none() => Err(Error::AccessDenied),
            "" | "default" => Ok(guest.table.push(Bucket)?),
            _ => Err(Error::NoSuchStore),
        };
        Ok((opened,))
    })?;
    instance.func_wrap_async(
        "[method]bucket.get",
        |store: Store<'_>, (_, key): (Resource<Bucket>, String)| {
            let found = |value: &Option<Vec<u8>>| value.as_ref().map_or(0, Vec::len);
            Box::new(act(store, key.len(), found, move |space| space.get(&key)))
        },
    )?;
    instance.func_wrap_async(
        "[method]bucket.set",
        |store: Store<'_>, (_, key, value): (Resource<Bucket>, String, Vec<u8>)| {
            let bytes = key.len() + value.len();
            Box::new(act(
                store,
                bytes,
                |()| 0,
                move |space| space.set(&key, &value),
            ))
        },
    )?;
    instance.func_wrap_async(
        "[method]bucket.delete",
        |store: Store<'_>, (_, key): (Resource<Bucket>, String)| {
            Box::new(act(
                store,
                key.len(),
                |()| 0,
                move |space| space.delete(&key),
            ))
        },
    )?;
    instance.func_wrap_async(
        "[method]bucket.exists",
        |store: Store<'_>, (_, key): (Resource<Bucket>, String)| {
            Box::new(act(
                store,
                key.len(),
                |_| 0,
                move |space| space.exists(&key),
            ))
        },
    )?;
    instance.func_wrap_async(
        "[method]bucket.list-keys",
        |store: Store<'_>, (_, cursor): (Resource<Bucket>, Option<u64>)| {
            let found = |response: &KeyResponse| total(&response.keys);
            let list = move |space: &Space<'_>| {
                let page = space.keys(cursor)?;
                Ok(KeyResponse {
                    keys: page.keys,
                    cursor: page.next,
                })
            };
            Box::new(act(store, 0, found, list))
        },
    )
}

fn total(keys: &[String]) -> usize {
    keys.iter().map(String::len).sum()
}

/// Does something with the tenant's keys; `given` bytes go in, `found` says how many come out.
async fn act<T: Send + 'static>(
    mut store: Store<'_>,
    given: usize,
    found: impl FnOnce(&T) -> usize + Send,
    work: impl FnOnce(&Space<'_>) -> Result<T, Refused> + Send + 'static,
) -> wasmtime::Result<(Result<T, Error>,)> {
    charge(&mut store, STORE_FUEL + given)?;
    let guest = store.data();
    // An import without the grant is refused long before; nobody is to depend on that.
    let Some(quota) = guest.grants.keyvalue else {
        return Ok((Err(Error::AccessDenied),));
    };
    let keyvalue = guest.services.keyvalue.clone();
    let done = keyvalue.act(guest.tenant.clone(), quota, work).await;
    if let Ok(done) = &done {
        charge(&mut store, found(done))?;
    }
    Ok((done.map_err(|refused| Error::Other(refused.0)),))
}
