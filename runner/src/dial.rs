//! Opens connections that strangers ask for: to an address that was checked, and never by name.
//!
//! A name is looked up once, and all its addresses must pass: of a name that has one inside, the others are bait. It must
//! not know what the connection is for.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{OnceLock, PoisonError, RwLock};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_native_tls::TlsConnector;
use tokio_native_tls::native_tls::{self, Certificate};

use crate::grants::addresses::{AddressPattern, not_public};
use crate::grants::hosts::Target;

/// Threads that look names up.
const RESOLVERS: usize = 16;

/// Which addresses are allowed beside the public ones.
#[derive(Debug, Clone, Copy)]
pub struct Reach<'a> {
    /// Names whose addresses are these, instead of what the resolver says.
    pub resolve: Option<&'a BTreeMap<String, Vec<IpAddr>>>,
    /// Addresses that are allowed though they are not public.
    pub private: &'a [AddressPattern],
    /// All of them: the operator named the host.
    pub anywhere: bool,
}

/// Why there is no connection. The address is for the operator's log only: names inside are not a stranger's to map.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The resolver says no.
    #[error("failed to look up {0:?}: {1}")]
    Lookup(String, io::Error),
    /// There is no such name.
    #[error("{0:?} has no address")]
    NoAddress(String),
    /// An address is none of those allowed.
    #[error("{0:?} has an address that is not public")]
    Inside(String),
    /// Nobody answers.
    #[error("no connection to {0:?}: {1}")]
    Connect(String, io::Error),
    /// The certificate, or the protocol.
    #[error("TLS with {0:?} failed: {1}")]
    Tls(String, native_tls::Error),
}

/// A connection, with or without TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The one place that opens a connection for a stranger.
pub async fn connect(
    reach: Reach<'_>,
    target: &Target,
    tls: &Tls,
) -> Result<Box<dyn Stream>, Failed> {
    let host = || target.host.clone();
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    let mut stream = None;
    for address in addresses(reach, target).await? {
        match TcpStream::connect(address).await {
            Ok(connected) => {
                stream = Some(connected);
                break;
            }
            Err(error) => last = error,
        }
    }
    let stream = stream.ok_or_else(|| Failed::Connect(host(), last))?;
    if !target.tls {
        return Ok(Box::new(stream));
    }
    let failed = |error| Failed::Tls(host(), error);
    let connector = tls.connector().map_err(failed)?;
    let stream = connector.connect(&target.host, stream).await;
    Ok(Box::new(stream.map_err(failed)?))
}

/// The addresses of a host, all of which are allowed.
async fn addresses(reach: Reach<'_>, target: &Target) -> Result<Vec<SocketAddr>, Failed> {
    let (host, port) = (target.host.as_str(), target.port);
    let of = |address| SocketAddr::new(address, port);
    let named = reach.resolve.and_then(|names| names.get(host));
    let found: Vec<SocketAddr> = if let Some(address) = target.address() {
        vec![of(address)]
    } else if let Some(addresses) = named {
        addresses.iter().copied().map(of).collect()
    } else {
        let found = tokio::net::lookup_host((host, port)).await;
        let failed = |error| Failed::Lookup(host.to_owned(), error);
        found.map_err(failed)?.collect()
    };
    let allowed = |address: &SocketAddr| {
        let mut excepted = reach.private.iter();
        reach.anywhere
            || not_public(address.ip()).is_none()
            || excepted.any(|pattern| pattern.matches(*address))
    };
    if let Some(inside) = found.iter().find(|address| !allowed(address)) {
        tracing::warn!(host, address = %inside, what = not_public(inside.ip()), "a connection to an address that is not public was refused");
        return Err(Failed::Inside(host.to_owned()));
    }
    if found.is_empty() {
        return Err(Failed::NoAddress(host.to_owned()));
    }
    Ok(found)
}

/// TLS as a client, set up by the first connection.
#[derive(Default)]
pub struct Tls {
    /// Besides the system's.
    authorities: Vec<Certificate>,
    made: OnceLock<TlsConnector>,
}

impl Tls {
    /// Trusts these authorities besides the system's.
    pub fn trusting(authorities: Vec<Certificate>) -> Tls {
        Tls {
            authorities,
            made: OnceLock::new(),
        }
    }

    fn connector(&self) -> Result<&TlsConnector, native_tls::Error> {
        if let Some(made) = self.made.get() {
            return Ok(made);
        }
        let mut builder = native_tls::TlsConnector::builder();
        builder.min_protocol_version(Some(native_tls::Protocol::Tlsv12));
        for authority in &self.authorities {
            builder.add_root_certificate(authority.clone());
        }
        let made = TlsConnector::from(builder.build()?);
        Ok(self.made.get_or_init(|| made))
    }
}

/// The certificates of a PEM file, at least one.
pub fn authorities(file: &Path) -> Result<Vec<Certificate>> {
    let shown = file.display();
    let pem = std::fs::read(file).with_context(|| format!("failed to read {shown}"))?;
    let pem = String::from_utf8(pem).with_context(|| format!("{shown} is not PEM"))?;
    let found = pem
        .split_inclusive("-----END CERTIFICATE-----")
        .filter(|text| text.contains("BEGIN CERTIFICATE"))
        .map(|text| Certificate::from_pem(text.as_bytes()))
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("{shown} holds no usable certificate"))?;
    ensure!(!found.is_empty(), "{shown} holds no certificate");
    Ok(found)
}

/// A thread for connections, started by the first: names, handshakes and bodies are to delay neither guests nor the
/// runner's network.
pub struct Thread {
    name: &'static str,
    running: RwLock<Option<Runtime>>,
}

impl Thread {
    /// Not started yet.
    pub fn named(name: &'static str) -> Thread {
        let running = RwLock::default();
        Thread { name, running }
    }

    /// Works there; dropping the task gives the work up.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> io::Result<AbortOnDrop<T>> {
        let running = self.running.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = &*running {
            return Ok(AbortOnDrop(running.spawn(work)));
        }
        drop(running);
        let mut running = self.running.write().unwrap_or_else(PoisonError::into_inner);
        let started = match running.take() {
            Some(running) => running,
            None => tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .max_blocking_threads(RESOLVERS)
                .thread_name(self.name)
                .enable_all()
                .build()?,
        };
        Ok(AbortOnDrop(running.insert(started).spawn(work)))
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        let running = self.running.get_mut();
        if let Some(running) = running.unwrap_or_else(PoisonError::into_inner).take() {
            running.shutdown_background();
        }
    }
}

/// A task that goes with its handle.
pub struct AbortOnDrop<T>(pub JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
