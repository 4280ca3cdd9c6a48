//! One GET: an address that was checked, a body that is bounded, and silence that ends.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use tokio::time::timeout;
use wasmtime_wasi_http::io::TokioIo;

use crate::dial::{self, AbortOnDrop, Reach, Tls};
use crate::grants::addresses::AddressPattern;
use crate::grants::hosts::Target;
use crate::task::outcome::ErrorCode;
use crate::task::quoted;

/// Redirects that are followed.
pub(super) const REDIRECTS: usize = 5;
/// What a response's head may have, in bytes; also what is read at once.
const HEAD: usize = 64 << 10;
/// The longest place to be redirected to, in bytes: those of stores bear a signature.
const MAX_LOCATION: usize = 8 << 10;

/// Sends requests.
pub(super) struct Client {
    pub(super) tls: Tls,
    /// Addresses that are allowed though they are not public.
    pub(super) private: Vec<AddressPattern>,
    /// How long a server may say nothing.
    pub(super) stall: Duration,
}

/// What is asked.
pub(super) struct Question<'a> {
    pub(super) target: &'a Target,
    pub(super) path: &'a str,
    pub(super) headers: &'a [(HeaderName, HeaderValue)],
    /// Bytes of the body.
    pub(super) most: u64,
    /// The operator named the host: it may be anywhere.
    pub(super) anywhere: bool,
}

/// What comes; the body only with 200.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// Why nothing comes: a code, and the rest of a sentence that begins with what was to be fetched.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) code: ErrorCode,
    pub(super) why: String,
    /// The host does not answer: others need not find that out again.
    pub(super) silent: bool,
    /// The host is up, and we may not have it.
    pub(super) refused: bool,
}

impl Failed {
    pub(super) fn new(code: ErrorCode, why: impl Into<String>) -> Failed {
        Failed {
            code,
            why: why.into(),
            silent: false,
            refused: false,
        }
    }

    fn silent(why: impl Into<String>) -> Failed {
        let silent = true;
        Failed {
            silent,
            ..Failed::unavailable(why)
        }
    }

    pub(super) fn unavailable(why: impl Into<String>) -> Failed {
        Failed::new(ErrorCode::ModuleUnavailable, why)
    }
}

impl Client {
    pub(super) async fn get(&self, question: &Question<'_>) -> Result<Answer, Failed> {
        let host = question.target.to_string();
        let silent = |_| {
            let seconds = self.stall.as_secs();
            Failed::silent(format!("{host} said nothing for {seconds} s"))
        };
        let broken = |error: hyper::Error| Failed::unavailable(format!("{host}: {error}"));
        let reach = Reach {
            resolve: None,
            private: &self.private,
            anywhere: question.anywhere,
        };
        let connecting = dial::connect(reach, question.target, &self.tls);
        let connected = timeout(self.stall, connecting).await.map_err(silent)?;
        let stream = connected.map_err(|why| match why {
            dial::Failed::Inside(_) => Failed::new(ErrorCode::TenantDenied, why.to_string()),
            why => Failed::silent(why.to_string()),
        })?;
        let mut request = Request::get(question.path)
            .header(HOST, &host)
            .header(USER_AGENT, concat!("wasmqtt/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT_ENCODING, "identity");
        for (name, value) in question.headers {
            request = request.header(name, value);
        }
        let request = request.body(Empty::<Bytes>::new());
        let request = request.map_err(|error| Failed::unavailable(error.to_string()))?;
        let asked = async {
            let (mut sender, driver) = http1::Builder::new()
                .max_buf_size(HEAD)
                .handshake(TokioIo::new(stream))
                .await?;
            let driver = AbortOnDrop(tokio::spawn(async {
                // What ends the connection early also ends the response, which says so.
                let _ = driver.await;
            }));
            Ok::<_, hyper::Error>((sender.send_request(request).await?, driver))
        };
        let answered = timeout(self.stall, asked).await.map_err(silent)?;
        let (response, _driver) = answered.map_err(broken)?;
        let (head, body) = response.into_parts();
        let body = match head.status {
            StatusCode::OK => {
                as_it_is(&head.headers)?;
                self.read(body, question.most, &host).await?
            }
            _ => Vec::new(),
        };
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    async fn read(&self, mut body: Incoming, most: u64, host: &str) -> Result<Vec<u8>, Failed> {
        let too_large = || {
            let why = format!("{host} sends more than {most} bytes");
            Failed::new(ErrorCode::ModuleTooCostly, why)
        };
        let announced = body.size_hint().exact();
        if announced.is_some_and(|bytes| bytes > most) {
            return Err(too_large());
        }
        let mut read = Vec::new();
        let of = || announced.map_or(String::new(), |bytes| format!(" of {bytes}"));
        loop {
            let frame = timeout(self.stall, body.frame()).await.map_err(|_| {
                let (seconds, got) = (self.stall.as_secs(), read.len());
                let after = format!("after {got}{} bytes", of());
                Failed::silent(format!("{host} said nothing for {seconds} s, {after}"))
            })?;
            match frame {
                None => return Ok(read),
                Some(Err(error)) => {
                    let got = read.len();
                    let sent = format!("{host} sent {got}{} bytes", of());
                    return Err(Failed::unavailable(format!("{sent}, then: {error}")));
                }
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        if (read.len() + data.len()) as u64 > most {
                            return Err(too_large());
                        }
                        read.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

/// Nothing is unpacked: what is small on the way and large behind it is not let in.
fn as_it_is(headers: &HeaderMap) -> Result<(), Failed> {
    match headers.get(CONTENT_ENCODING) {
        None => Ok(()),
        Some(encoding) if encoding == "identity" => Ok(()),
        Some(encoding) => {
            let encoding = quoted(&String::from_utf8_lossy(encoding.as_bytes()));
            let why = format!("it comes with the content-encoding {encoding}, and is not unpacked");
            Err(Failed::new(ErrorCode::ModuleInvalid, why))
        }
    }
}

impl Answer {
    /// Where a redirect leads; `None` when it is none.
    pub(super) fn redirect(
        &self,
        from: &Target,
        path: &str,
    ) -> Result<Option<(Target, String)>, Failed> {
        if !matches!(self.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let location = self.headers.get(LOCATION).and_then(|it| it.to_str().ok());
        let Some(location) = location.filter(|it| it.len() <= MAX_LOCATION) else {
            return Err(Failed::unavailable(format!("{from} redirects to nowhere")));
        };
        let wrong = |why: &str| {
            let why = format!("{from} redirects to {}: {why}", quoted(location));
            Failed::new(ErrorCode::TenantDenied, why)
        };
        let place = location.split('#').next().unwrap_or_default();
        let (tls, place) = match scheme(place) {
            None => (from.tls, place),
            Some(("https", rest)) if rest.starts_with("//") => (true, rest),
            Some(("http", rest)) if !from.tls && rest.starts_with("//") => (false, rest),
            Some(_) => return Err(wrong("that is not https")),
        };
        let Some(rest) = place.strip_prefix("//") else {
            let base = path.split('?').next().unwrap_or_default();
            let before = match place.as_bytes().first() {
                Some(b'/') => "",
                Some(b'?') => base,
                _ => &base[..base.rfind('/').map_or(0, |at| at + 1)],
            };
            return Ok(Some((
                from.clone(),
                without_dots(&format!("{before}{place}")),
            )));
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let target = Target::parse(tls, authority).map_err(|why| wrong(&why))?;
        Ok(Some((target, without_dots(path))))
    }

    /// Whether it is said that we may not.
    pub(super) fn refuses(&self) -> bool {
        matches!(self.status.as_u16(), 401 | 403)
    }

    /// What a status that is none of those expected means.
    pub(super) fn unexpected(&self, from: &Target) -> Failed {
        let code = match self.status.as_u16() {
            404 | 410 => ErrorCode::ModuleNotFound,
            _ => ErrorCode::ModuleUnavailable,
        };
        let why = format!("{from} answers {}", self.status.as_u16());
        Failed {
            refused: self.refuses(),
            ..Failed::new(code, why)
        }
    }

    /// A header as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// The scheme that a place begins with, if it does, and the rest.
fn scheme(place: &str) -> Option<(&'static str, &str)> {
    let (scheme, rest) = place.split_once(':')?;
    if scheme.contains(['/', '?']) {
        return None;
    }
    let known = ["https", "http"];
    let known = known.into_iter().find(|it| scheme.eq_ignore_ascii_case(it));
    Some((known.unwrap_or("another"), rest))
}

/// A path, and its query as it is, without `.` and `..` (RFC 3986, 5.2.4).
fn without_dots(path: &str) -> String {
    let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    let mut kept = Vec::new();
    let path = path.strip_prefix('/').unwrap_or(path);
    let mut segments = path.split('/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            segment => {
                kept.push(segment);
                continue;
            }
        }
        if segments.peek().is_none() {
            kept.push("");
        }
    }
    format!("/{}{query}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects() {
        let home = Target::parse(true, "h").expect("a target");
        let redirect = |location: &str| {
            let location = HeaderValue::from_str(location).expect("a header");
            let answer = Answer {
                status: StatusCode::FOUND,
                headers: HeaderMap::from_iter([(LOCATION, location)]),
                body: Vec::new(),
            };
            let there = answer.redirect(&home, "/a/b/c?d=/e").ok()?;
            there.map(|(target, path)| format!("{target}{path}"))
        };
        for (location, leads_to) in [
            ("/x?y#z", "h/x?y"),
            ("x", "h/a/b/x"),
            ("x?u=https://o/", "h/a/b/x?u=https://o/"),
            ("?x", "h/a/b/c?x"),
            ("./x", "h/a/b/x"),
            ("../x/./y?../z", "h/a/x/y?../z"),
            ("../../../x/..", "h/"),
            ("/..", "h/"),
            ("//o:8443/x/", "o:8443/x/"),
            ("//o?x", "o/?x"),
            ("https://o", "o/"),
            ("HTTPS://o/x", "o/x"),
        ] {
            assert_eq!(redirect(location).as_deref(), Some(leads_to), "{location}");
        }
        for refused in [
            "http://h/x",
            "Http://h/x",
            "file:///etc/passwd",
            "gopher:x",
            "https:x",
            "//",
            "///x",
            "//u@o/",
            "https://o\\@h/",
        ] {
            assert_eq!(redirect(refused), None, "{refused}");
        }
    }
}
