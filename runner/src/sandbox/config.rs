//! `wasi:config/store`: the tenant's values and secrets.

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, Lower};

use crate::grants::Values;
use crate::sandbox::guest::Guest;
use crate::sandbox::host::charge;

/// `wasi:config/store.error`
#[derive(Debug, Clone, ComponentType, Lift, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

type Pairs = Vec<(String, String)>;

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut store = linker.instance("wasi:config/store@0.2.0-rc.1")?;
    store.func_wrap(
        "get",
        |mut store: StoreContextMut<'_, Guest>, (key,): (String,)| {
            let value = values(&store).map(|values| {
                let secret = values.secrets.get(&key).map(|secret| secret.expose());
                let value = values.values.get(&key).map(String::as_str).or(secret);
                value.map(str::to_owned)
            });
            let bytes = value.as_ref().ok().and_then(|value| value.as_ref());
            let bytes = key.len() + bytes.map_or(0, String::len);
            charge(&mut store, bytes)?;
            Ok((value,))
        },
    )?;
    store.func_wrap(
        "get-all",
        |mut store: StoreContextMut<'_, Guest>, (): ()| {
            let pairs: Result<Pairs, Error> = values(&store).map(|values| {
                let secrets = values.secrets.iter();
                let secrets =
                    secrets.map(|(key, secret)| (key.clone(), secret.expose().to_owned()));
                let plain = values.values.iter();
                let plain = plain.map(|(key, value)| (key.clone(), value.clone()));
                plain.chain(secrets).collect()
            });
            let pair = |(key, value): &(String, String)| key.len() + value.len();
            let bytes = pairs.iter().flatten().map(pair).sum();
            charge(&mut store, bytes)?;
            Ok((pairs,))
        },
    )?;
    Ok(())
}

fn values<'a>(store: &'a StoreContextMut<'_, Guest>) -> Result<&'a Values, Error> {
    let values = store.data().grants.config.as_ref();
    values.ok_or_else(|| Error::Upstream("the tenant was not granted `config`".to_owned()))
}
