//! One request: connect to an address that was checked, and bound what comes back.
//!
//! On a thread of its own: names, handshakes and bodies are to delay neither guests nor the runner's network.

use std::io;
use std::sync::Arc;

use http::{Request, Response, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use hyper::client::conn::http1;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout_at};
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use crate::dial::{self, AbortOnDrop, Reach, Stream, Thread, Tls};
use crate::grants::hosts::Target;
use crate::grants::{self, Grants};
use crate::sandbox::http::bodies::{Answer, Bound, Question};

/// What a response's head may have, in bytes; also what is read at once.
const HEAD: usize = 64 << 10;

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

struct Shared {
    /// Started by the first request: most runners never send one.
    thread: Thread,
    tls: Tls,
}

impl Default for Shared {
    fn default() -> Self {
        Shared {
            thread: Thread::named("requests"),
            tls: Tls::default(),
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
        let sending = self
            .0
            .thread
            .spawn(exchange(shared, plan, request, options));
        let mut sending = sending.map_err(|error| {
            failed(
                Error::InternalError(None),
                format!("failed to start the thread for requests: {error}"),
            )
        })?;
        (&mut sending.0).await.unwrap_or_else(|_| {
            Err(failed(
                Error::InternalError(None),
                "the request was given up",
            ))
        })
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

/// A connection to where the grant allows, and the error that the guest's program is told.
async fn connect(
    shared: &Shared,
    grant: &grants::Http,
    target: &Target,
) -> Result<Box<dyn Stream>, Refused> {
    let reach = Reach {
        resolve: Some(&grant.resolve),
        private: &grant.private_addresses,
        anywhere: false,
    };
    let connected = dial::connect(reach, target, &shared.tls).await;
    connected.map_err(|why| {
        let said = why.to_string();
        let error = match why {
            dial::Failed::Lookup(..) => Error::DnsError {
                rcode: Some("address not available".to_owned()),
                info_code: None,
            },
            dial::Failed::NoAddress(_) => Error::DestinationNotFound,
            dial::Failed::Inside(_) => Error::DestinationIpProhibited,
            dial::Failed::Connect(_, error) => Error::Connect(error),
            dial::Failed::Tls(_, error) => Error::Tls(io::Error::other(error)),
        };
        failed(error, said)
    })
}
