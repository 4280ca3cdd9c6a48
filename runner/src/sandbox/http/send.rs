//! One request: look the name up once, check every address, connect to one of those, and bound what comes back.
//!
//! On a thread of its own: names, handshakes and bodies are to delay neither guests nor the runner's network.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use http::{Request, Response, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use hyper::client::conn::http1;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_native_tls::{TlsConnector, native_tls};
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use crate::grants::addresses::not_public;
use crate::grants::hosts::Target;
use crate::grants::{self, Grants};
use crate::sandbox::http::bodies::{Answer, Bound, Question};

/// What a response's head may have, in bytes; also what is read at once.
const HEAD: usize = 64 << 10;
/// Threads that look names up.
const RESOLVERS: usize = 16;

/// A response, and what drives its connection: nothing, for that is done here.
pub(super) type Sent = (
    Response<WasiBody>,
    Box<dyn Future<Output = Result<(), Error>> + Send>,
);

/// A request that may go out.
pub(super) struct Plan {
    pub(super) target: Target,
    pub(super) grants: Arc<Grants>,
    pub(super) slot: OwnedSemaphorePermit,
}

/// Why there is no response: what the guest's program is told, and what people are.
pub(super) struct Refused {
    pub(super) error: Error,
    pub(super) why: String,
}

fn failed(error: Error, why: impl Into<String>) -> Refused {
    Refused {
        error,
        why: why.into(),
    }
}

/// Sends requests of all guests. Clones share it.
#[derive(Clone, Default)]
pub(in crate::sandbox) struct Client(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Started by the first request: most runners never send one.
    thread: RwLock<Option<Runtime>>,
    tls: OnceLock<TlsConnector>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let thread = self
            .thread
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            thread.shutdown_background();
        }
    }
}

impl Client {
    /// Sends a request; dropping the future gives it up.
    pub(super) async fn send(
        self,
        plan: Plan,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
    ) -> Result<Sent, Refused> {
        let shared = self.0.clone();
        let sending = self.spawn(exchange(shared, plan, request, options));
        let mut sending = AbortOnDrop(sending.map_err(|error| {
            failed(
                Error::InternalError(None),
                format!("failed to start the thread for requests: {error}"),
            )
        })?);
        (&mut sending.0).await.unwrap_or_else(|_| {
            Err(failed(
                Error::InternalError(None),
                "the request was given up",
            ))
        })
    }

    fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        let thread = &self.0.thread;
        if let Some(running) = &*thread.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(running.spawn(work));
        }
        let mut thread = thread.write().unwrap_or_else(PoisonError::into_inner);
        let running = match thread.take() {
            Some(running) => running,
            None => tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .max_blocking_threads(RESOLVERS)
                .thread_name("requests")
                .enable_all()
                .build()?,
        };
        Ok(thread.insert(running).spawn(work))
    }
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn exchange(
    shared: Arc<Shared>,
    plan: Plan,
    request: Request<WasiBody>,
    options: Option<RequestOptions>,
) -> Result<Sent, Refused> {
    let Plan {
        target,
        grants,
        slot,
    } = plan;
    let Some(grant) = &grants.http else {
        return Err(failed(Error::HttpRequestDenied, "not granted"));
    };
    let now = Instant::now();
    let deadline = now + grant.timeout;
    let sooner = |asked: Option<std::time::Duration>| {
        asked.map_or(deadline, |asked| {
            deadline.min(now + asked.min(grant.timeout))
        })
    };
    let options = options.as_ref();
    let connected = sooner(options.and_then(|options| options.connect_timeout));
    let answered = deadline.min(
        connected
            + sooner(options.and_then(|options| options.first_byte_timeout)).duration_since(now),
    );
    let connection = timeout_at(connected, connect(&shared, grant, &target)).await;
    let connection = connection.map_err(|_| {
        failed(
            Error::ConnectionTimeout,
            format!("no connection to {:?} in time", target.host),
        )
    })??;
    let request = outgoing(request, grant)?;
    let responded = async {
        let (mut sender, driver) = http1::Builder::new()
            .max_buf_size(HEAD)
            .handshake(TokioIo::new(connection))
            .await?;
        let driver = AbortOnDrop(tokio::spawn(async {
            // What ends the connection early also ends the response, which says so.
            let _ = driver.await;
        }));
        let response = sender.send_request(request).await?;
        Ok::<_, hyper::Error>((response, driver))
    };
    let (response, driver) = timeout_at(answered, responded)
        .await
        .map_err(|_| {
            let why = format!("no answer from {:?} in time", target.host);
            failed(Error::ConnectionReadTimeout, why)
        })?
        .map_err(|error| {
            let cause = std::error::Error::source(&error);
            if let Some(Error::HttpRequestBodySize(most)) = cause.and_then(|it| it.downcast_ref()) {
                let why = format!(
                    "a request's body may have {} bytes",
                    most.unwrap_or_default()
                );
                return failed(Error::HttpRequestBodySize(*most), why);
            }
            let why = format!("the exchange with {:?} failed: {error}", target.host);
            failed(Error::Hyper(error), why)
        })?;
    let most = grant.max_response_bytes;
    if response.body().size_hint().lower() > most {
        return Err(failed(
            Error::HttpResponseBodySize(Some(most)),
            format!(
                "a response from {:?} has more than {most} bytes",
                target.host
            ),
        ));
    }
    let response = response.map(|body| {
        Answer {
            body,
            bytes: Bound::new(most),
            deadline: Box::pin(sleep_until(deadline)),
            _held: (driver, slot),
        }
        .boxed_unsync()
    });
    Ok((response, Box::new(async { Ok(()) })))
}

/// The request as it goes over the connection.
fn outgoing(
    mut request: Request<WasiBody>,
    grant: &grants::Http,
) -> Result<Request<WasiBody>, Refused> {
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    // `OPTIONS *` and the like are no business of a guest's.
    let path = if path.starts_with('/') { path } else { "/" };
    *request.uri_mut() = path
        .parse::<Uri>()
        .map_err(|error| failed(Error::HttpRequestUriInvalid, error.to_string()))?;
    let most = grant.max_request_bytes;
    if request.body().size_hint().lower() > most {
        return Err(failed(
            Error::HttpRequestBodySize(Some(most)),
            format!("a request's body may have {most} bytes"),
        ));
    }
    Ok(request.map(|body| {
        Question {
            body,
            bytes: Bound::new(most),
        }
        .boxed_unsync()
    }))
}

/// The one place that opens a connection: to an address that was checked, and never by name.
async fn connect(
    shared: &Shared,
    grant: &grants::Http,
    target: &Target,
) -> Result<Box<dyn Stream>, Refused> {
    let addresses = addresses(grant, target).await?;
    let host = &target.host;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    let mut stream = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(connected) => {
                stream = Some(connected);
                break;
            }
            Err(error) => last = error,
        }
    }
    let stream = stream.ok_or_else(|| {
        let why = format!("no connection to {host:?}: {last}");
        failed(Error::Connect(last), why)
    })?;
    if !target.tls {
        return Ok(Box::new(stream));
    }
    let tls = |error: native_tls::Error| {
        let why = format!("TLS with {host:?} failed: {error}");
        failed(Error::Tls(io::Error::other(error)), why)
    };
    let connector = match shared.tls.get() {
        Some(connector) => connector,
        None => {
            let made = native_tls::TlsConnector::new().map_err(tls)?;
            shared.tls.get_or_init(|| TlsConnector::from(made))
        }
    };
    let stream = connector.connect(host, stream).await.map_err(tls)?;
    Ok(Box::new(stream))
}

/// The addresses of a host, all of which must be allowed: of a name that has one inside, the others are bait.
async fn addresses(grant: &grants::Http, target: &Target) -> Result<Vec<SocketAddr>, Refused> {
    let (host, port) = (target.host.as_str(), target.port);
    let of = |address| SocketAddr::new(address, port);
    let found: Vec<SocketAddr> = if let Some(address) = target.address() {
        vec![of(address)]
    } else if let Some(addresses) = grant.resolve.get(host) {
        addresses.iter().copied().map(of).collect()
    } else {
        let found = tokio::net::lookup_host((host, port)).await;
        found
            .map_err(|error| {
                let rcode = Some("address not available".to_owned());
                let info_code = None;
                let error_code = Error::DnsError { rcode, info_code };
                failed(error_code, format!("failed to look up {host:?}: {error}"))
            })?
            .collect()
    };
    let allowed = |address: &SocketAddr| {
        let mut excepted = grant.private_addresses.iter();
        not_public(address.ip()).is_none() || excepted.any(|pattern| pattern.matches(*address))
    };
    if let Some(inside) = found.iter().find(|address| !allowed(address)) {
        // The address is for the operator: names inside are not the tenant's to map.
        tracing::warn!(host, address = %inside, what = not_public(inside.ip()), "a guest's request to an address that is not public was refused");
        return Err(failed(
            Error::DestinationIpProhibited,
            format!("{host:?} has an address that is not public"),
        ));
    }
    if found.is_empty() {
        return Err(failed(
            Error::DestinationNotFound,
            format!("{host:?} has no address"),
        ));
    }
    Ok(found)
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}
