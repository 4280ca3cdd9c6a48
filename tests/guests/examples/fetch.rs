//! Sends a request for each line of its input, one after the other, and answers what came of each. A line is a URL, or a
//! method, a number of bytes for the body and a URL; redirects are followed, as a client's library does. URLs are taken
//! apart naively, on purpose: what is wrong with them is the host's to see.

use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{
    Fields, FutureIncomingResponse, IncomingBody, IncomingResponse, Method, OutgoingBody,
    OutgoingRequest, Scheme,
};
use wasip2::io::streams::StreamError;
use wasmqtt_guest::{Context, Error, task};

task!(json run);

fn run(_ctx: &Context, lines: Vec<String>) -> Result<Vec<(String, String)>, Error> {
    let fetched = lines.into_iter().map(|line| {
        let result = follow(&line).unwrap_or_else(|error| format!("error: {error}"));
        (line, result)
    });
    Ok(fetched.collect())
}

fn follow(line: &str) -> Result<String, String> {
    let words: Vec<&str> = line.splitn(3, ' ').collect();
    let (method, bytes, url) = match words[..] {
        [method, bytes, url] => (method, bytes.parse().unwrap_or(0), url),
        _ => ("GET", 0, line),
    };
    let mut url = url.to_owned();
    for _ in 0..5 {
        match fetch(method, bytes, &url)? {
            Got::Body(body) => return Ok(body),
            Got::Redirect(to) => url = to,
        }
    }
    Err("redirected too often".to_owned())
}

enum Got {
    Body(String),
    Redirect(String),
}

fn fetch(method: &str, bytes: usize, url: &str) -> Result<Got, String> {
    let (scheme, rest) = url.split_once("://").ok_or("no scheme")?;
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let method = match method {
        "GET" => Method::Get,
        "POST" => Method::Post,
        "CONNECT" => Method::Connect,
        other => Method::Other(other.to_owned()),
    };
    let request = OutgoingRequest::new(Fields::new());
    request
        .set_method(&method)
        .map_err(|()| "the method is refused")?;
    request
        .set_scheme(Some(&scheme))
        .map_err(|()| "the scheme is refused")?;
    request
        .set_authority(Some(authority))
        .map_err(|()| "the authority is refused")?;
    request
        .set_path_with_query(Some(path))
        .map_err(|()| "the path is refused")?;
    let body = request.body().map_err(|()| "no body")?;
    let response = handle(request, None).map_err(|error| format!("{error:?}"))?;
    send(body, bytes)?;
    let response = wait(&response)?;
    let status = response.status();
    let location = response.headers().get("location").into_iter().next();
    match location {
        Some(to) if (300..400).contains(&status) => {
            Ok(Got::Redirect(String::from_utf8_lossy(&to).into_owned()))
        }
        _ => Ok(Got::Body(format!("{status}: {}", read(&response)?))),
    }
}

fn send(body: OutgoingBody, bytes: usize) -> Result<(), String> {
    {
        let stream = body.write().map_err(|()| "no stream")?;
        let mut left = bytes;
        while left > 0 {
            let chunk = left.min(4096);
            if stream.blocking_write_and_flush(&vec![b'x'; chunk]).is_err() {
                // What became of it is said by the response.
                break;
            }
            left -= chunk;
        }
    }
    let _ = OutgoingBody::finish(body, None);
    Ok(())
}

fn wait(response: &FutureIncomingResponse) -> Result<IncomingResponse, String> {
    loop {
        if let Some(response) = response.get() {
            let response = response.map_err(|()| "asked twice")?;
            return response.map_err(|error| format!("{error:?}"));
        }
        response.subscribe().block();
    }
}

fn read(response: &IncomingResponse) -> Result<String, String> {
    let body: IncomingBody = response.consume().map_err(|()| "no body")?;
    let stream = body.stream().map_err(|()| "no stream")?;
    let mut text = Vec::new();
    loop {
        match stream.blocking_read(1 << 16) {
            Ok(bytes) => text.extend(bytes),
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(format!(
                    "after {} bytes: {}",
                    text.len(),
                    error.to_debug_string()
                ));
            }
        }
    }
    Ok(match text.len() {
        0..=1000 => String::from_utf8_lossy(&text).into_owned(),
        bytes => format!("{bytes} bytes"),
    })
}
