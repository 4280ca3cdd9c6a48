//! `wasi:http/outgoing-handler`: requests to the hosts that the tenant was granted.
//!
//! wasmtime's bindings are kept but for the functions that decide or hold something: whether a request goes out is
//! decided here, where it goes in `http/send.rs`. Redirects are the guest's: it asks again, and is checked again.

mod bodies;
mod send;

use std::sync::Arc;

use http::Request;
use tokio::sync::Semaphore;
use tracing::{debug, info};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::p2::bindings::http::outgoing_handler::Host as _;
use wasmtime_wasi_http::p2::bindings::http::types::{
    ErrorCode, Host as _, HostOutgoingRequest as _, Method,
};
use wasmtime_wasi_http::p2::types::{HostFutureIncomingResponse, HostOutgoingRequest};
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use crate::grants::Grants;
use crate::grants::hosts::Target;
use crate::sandbox::Job;
use crate::sandbox::guest::Guest;
use crate::sandbox::host::charge;
pub(super) use crate::sandbox::http::send::Client;
use crate::sandbox::http::send::{Plan, Refused};
use crate::sandbox::log::LogSink;

/// What a request burns besides a call: a look-up, a connection, a thread's attention.
const REQUEST_FUEL: usize = 100_000;
/// Requests of one guest under way at one time: each holds a connection and its buffers.
const CONCURRENT: usize = 8;
/// Bytes of a method, an authority or a path: a guest may hold a thousand requests.
const MAX_PART: usize = 8 << 10;
/// Bytes of one set of header fields, as wasmtime counts them.
const MAX_FIELDS: usize = 16 << 10;
/// Bytes that are buffered of an outgoing body.
const CHUNK: usize = 16 << 10;

type Answer = Result<Resource<HostFutureIncomingResponse>, ErrorCode>;

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    linker.allow_shadowing(true);
    let mut handler = linker.instance("wasi:http/outgoing-handler@0.2.12")?;
    handler.func_wrap(
        "handle",
        |mut store: StoreContextMut<'_, Guest>,
         (request, options): (
            Resource<HostOutgoingRequest>,
            Option<Resource<RequestOptions>>,
        )| {
            charge(&mut store, REQUEST_FUEL)?;
            let mut view = store.data_mut().http();
            let answer: Answer = match view.handle(request, options) {
                Ok(response) => Ok(response),
                Err(error) => Err(view.convert_error_code(error)?),
            };
            Ok((answer,))
        },
    )?;
    let mut types = linker.instance("wasi:http/types@0.2.12")?;
    types.func_wrap(
        "[method]outgoing-request.set-method",
        |mut store: StoreContextMut<'_, Guest>,
         (request, method): (Resource<HostOutgoingRequest>, Method)| {
            let bytes = match &method {
                Method::Other(method) => method.len(),
                _ => 0,
            };
            charge(&mut store, bytes)?;
            Ok((match bytes {
                0..=MAX_PART => store.data_mut().http().set_method(request, method)?,
                _ => Err(()),
            },))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-authority",
        |store: StoreContextMut<'_, Guest>,
         (request, part): (Resource<HostOutgoingRequest>, Option<String>)| {
            bounded(store, part, |view, part| view.set_authority(request, part))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-path-with-query",
        |store: StoreContextMut<'_, Guest>,
         (request, part): (Resource<HostOutgoingRequest>, Option<String>)| {
            bounded(store, part, |view, part| {
                view.set_path_with_query(request, part)
            })
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

fn bounded(
    mut store: StoreContextMut<'_, Guest>,
    part: Option<String>,
    set: impl FnOnce(&mut WasiHttpCtxView<'_>, Option<String>) -> wasmtime::Result<Result<(), ()>>,
) -> wasmtime::Result<(Result<(), ()>,)> {
    let bytes = part.as_ref().map_or(0, String::len);
    charge(&mut store, bytes)?;
    if bytes > MAX_PART {
        return Ok((Err(()),));
    }
    Ok((set(&mut store.data_mut().http(), part)?,))
}

/// One guest's side of it.
pub(super) struct Outgoing {
    ctx: WasiHttpCtx,
    hooks: Hooks,
}

impl Outgoing {
    pub(super) fn new(job: &Job, client: &Client, log: &Arc<LogSink>) -> Outgoing {
        let mut ctx = WasiHttpCtx::new();
        ctx.set_field_size_limit(MAX_FIELDS);
        Outgoing {
            ctx,
            hooks: Hooks {
                grants: job.grants.clone(),
                client: client.clone(),
                log: log.clone(),
                sent: 0,
                slots: None,
            },
        }
    }

    pub(super) fn view<'a>(
        &'a mut self,
        table: &'a mut wasmtime::component::ResourceTable,
    ) -> WasiHttpCtxView<'a> {
        WasiHttpCtxView {
            hooks: &mut self.hooks,
            table,
            ctx: &mut self.ctx,
        }
    }
}

struct Hooks {
    grants: Arc<Grants>,
    client: Client,
    log: Arc<LogSink>,
    sent: u32,
    slots: Option<Arc<Semaphore>>,
}

impl Hooks {
    /// Whether a request may go out at all, before any name is looked up.
    fn plan(&mut self, request: &Request<WasiBody>) -> Result<Plan, Refused> {
        let denied = |why: String| Refused {
            error: Error::HttpRequestDenied,
            why,
        };
        // An import without the grant is refused long before; nobody is to depend on that.
        let grants = self.grants.clone();
        let grant = grants
            .http
            .as_ref()
            .ok_or_else(|| denied("the tenant was not granted `http`".to_owned()))?;
        if request.method() == http::Method::CONNECT {
            return Err(denied("CONNECT would be a tunnel".to_owned()));
        }
        let uri = request.uri();
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            other => {
                return Err(denied(format!(
                    "the scheme {other:?} is neither http nor https"
                )));
            }
        };
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let target = Target::parse(tls, authority).map_err(denied)?;
        if !grant.hosts.iter().any(|pattern| pattern.matches(&target)) {
            let (host, port) = (&target.host, target.port);
            return Err(denied(format!(
                "host {host:?}, port {port}, is not one that the tenant was granted"
            )));
        }
        if self.sent >= grant.max_requests {
            let most = grant.max_requests;
            return Err(denied(format!("a task may send {most} requests")));
        }
        let slots = self
            .slots
            .get_or_insert_with(|| Arc::new(Semaphore::new(CONCURRENT)));
        let slot = slots.clone().try_acquire_owned().map_err(|_| Refused {
            error: Error::ConnectionLimitReached,
            why: format!("a task may have {CONCURRENT} requests under way"),
        })?;
        self.sent += 1;
        Ok(Plan {
            target,
            grants,
            slot,
        })
    }
}

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<send::Sent, Error>> + Send> {
        let planned = self.plan(&request);
        let (client, log) = (self.client.clone(), self.log.clone());
        let grants = self.grants.clone();
        let asked = request.uri().authority().map_or("", |it| it.as_str());
        let asked = asked[..asked.floor_char_boundary(100)].to_owned();
        Box::new(async move {
            let sent = match planned {
                Ok(plan) => client.send(plan, request, options).await,
                Err(refused) => Err(refused),
            };
            sent.map_err(|refused| {
                let Refused { error, why } = refused;
                // A guest may try to send its secret anywhere; it is not to get into our log by that.
                let hidden = |text: String| grants.redact(&text).unwrap_or(text);
                let (asked, why) = (hidden(asked), hidden(why));
                info!(authority = ?asked, why, "a guest's request failed");
                log.line("warn", "log", &format!("http: {why}"));
                error
            })
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK
    }

    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode {
        debug!(%error, "a guest's request failed");
        ErrorCode::HttpProtocolError
    }

    fn p2_error_from_connect(&mut self, error: &std::io::Error) -> ErrorCode {
        debug!(%error, "a guest's request failed");
        ErrorCode::ConnectionRefused
    }

    fn p2_error_from_tls(&mut self, error: &std::io::Error) -> ErrorCode {
        debug!(%error, "a guest's request failed");
        ErrorCode::TlsProtocolError
    }
}
