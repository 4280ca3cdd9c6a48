//! A web server and a registry for modules, over TLS, on loopback: it answers as it is told, also wrongly, and counts.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_native_tls::native_tls::{Identity, TlsAcceptor};
use wasmqtt::config::Config;
use wasmqtt::config::tenants::Tenant;
use wasmqtt::modules::Content;
use wasmqtt::tenants::Source;

use crate::transports::Certificates;

/// What the registry wants before it answers: user and password as Docker's configuration has them, `depot:secret`.
pub(crate) const DOCKER_AUTH: &str = "ZGVwb3Q6c2VjcmV0";
const TOKEN: &str = "a-token-of-the-depot";

/// What a path is answered with.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// 200 and these bytes, under an ETag of their hash; 304 to who has them.
    Bytes(Vec<u8>),
    /// The same, of which only so many come before the connection ends.
    Truncated(Vec<u8>, usize),
    /// The same, of which only so many come, and then nothing.
    Stalled(Vec<u8>, usize),
    /// 200 and these bytes, said to be encoded so.
    Encoded(&'static str, Vec<u8>),
    /// 302.
    Redirect(String),
    /// 401, and that a token is to be had of this depot.
    Challenge,
    /// Only a status.
    Status(u16),
    /// Bytes without end.
    Endless,
    /// The connection stays, and nothing comes.
    Silent,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) head: String,
    pub(crate) answered: u16,
}

#[derive(Default)]
struct Shelf {
    answers: HashMap<String, Answer>,
    asked: Vec<Asked>,
    wants_token: bool,
}

pub(crate) struct Depot {
    pub(crate) port: u16,
    certificates: Certificates,
    shelf: Arc<Mutex<Shelf>>,
}

/// Serves one request a connection.
pub(crate) async fn open() -> Depot {
    let certificates = Certificates::new();
    let read = |name| std::fs::read(certificates.file(name)).expect("a file");
    let identity = Identity::from_pkcs8(&read("server.pem"), &read("server.key"));
    let acceptor = TlsAcceptor::new(identity.expect("an identity")).expect("TLS");
    let acceptor = tokio_native_tls::TlsAcceptor::from(acceptor);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await;
    let listener = listener.expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let shelf: Arc<Mutex<Shelf>> = Arc::default();
    let shared = shelf.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(acceptor.clone(), stream, port, shared.clone()));
        }
    });
    Depot {
        port,
        certificates,
        shelf,
    }
}

impl Depot {
    pub(crate) fn put(&self, path: &str, answer: Answer) {
        let mut shelf = self.shelf.lock().expect("not poisoned");
        shelf.answers.insert(path.to_owned(), answer);
    }

    /// From now on the registry wants to know who asks.
    pub(crate) fn want_token(&self) {
        self.shelf.lock().expect("not poisoned").wants_token = true;
    }

    /// A module as wkg pushes one; the digest of its manifest.
    pub(crate) fn push(
        &self,
        repository: &str,
        tag: &str,
        module: &[u8],
        signature: Option<&str>,
    ) -> String {
        let layer = Content::new(module.to_vec()).digest;
        self.put(
            &format!("/v2/{repository}/blobs/{layer}"),
            Answer::Bytes(module.to_vec()),
        );
        let size = module.len();
        let layers =
            json!([{"mediaType": "application/wasm", "digest": layer.to_string(), "size": size}]);
        self.push_layers(repository, tag, layers, signature)
    }

    /// A manifest with these layers; its digest.
    pub(crate) fn push_layers(
        &self,
        repository: &str,
        tag: &str,
        layers: serde_json::Value,
        signature: Option<&str>,
    ) -> String {
        let annotations = match signature {
            Some(text) => json!({"vnd.wasmqtt.minisig": text}),
            None => json!({}),
        };
        let config = Content::new(&b"{}"[..]).digest.to_string();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": config, "size": 2},
            "layers": layers,
            "annotations": annotations,
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = Content::new(manifest.clone()).digest.to_string();
        for name in [tag, &digest] {
            let path = format!("/v2/{repository}/manifests/{name}");
            self.put(&path, Answer::Bytes(manifest.clone()));
        }
        digest
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shelf.lock().expect("not poisoned").asked.clone()
    }

    /// How often a path was asked for and answered so.
    pub(crate) fn count(&self, path: &str, answered: u16) -> usize {
        let asked = self.asked();
        let fits = |it: &&Asked| it.path == path && it.answered == answered;
        asked.iter().filter(fits).count()
    }

    pub(crate) fn https(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.port)
    }

    pub(crate) fn oci(&self, rest: &str) -> String {
        format!("oci://127.0.0.1:{}/{rest}", self.port)
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.certificates.file("ca.pem")
    }

    /// The default tenant may fetch from here; what fails is not tried again.
    pub(crate) fn permit(&self, config: &mut Config) {
        let here = format!("127.0.0.1:{}", self.port);
        config.fetch.ca_file = Some(self.ca_file());
        config.fetch.private_addresses = vec![here.clone(), format!("[::1]:{}", self.port)];
        config.fetch.stall_s = 2;
        config.fetch.docker_config = Some(self.certificates.file("no-such-folder"));
        config.retry.max_attempts = 1;
        let tenant = config.tenants.entry("default".to_owned()).or_default();
        *tenant = Tenant {
            sources: vec![Source::Published, Source::Https, Source::Oci],
            https_hosts: vec![here.clone()],
            registries: vec![here],
            ..tenant.clone()
        };
    }
}

async fn serve(
    acceptor: tokio_native_tls::TlsAcceptor,
    stream: TcpStream,
    port: u16,
    shelf: Arc<Mutex<Shelf>>,
) {
    let Ok(mut stream) = acceptor.accept(stream).await else {
        return;
    };
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    while !request.windows(4).any(|it| it == b"\r\n\r\n") {
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(read) => request.extend(&chunk[..read]),
        }
    }
    let head = String::from_utf8_lossy(&request).to_ascii_lowercase();
    let path = String::from_utf8_lossy(&request);
    let path = path.split(' ').nth(1).unwrap_or_default().to_owned();
    let (answer, wants_token) = {
        let shelf = shelf.lock().expect("not poisoned");
        (shelf.answers.get(&path).cloned(), shelf.wants_token)
    };
    let sent = |status: u16| {
        let mut shelf = shelf.lock().expect("not poisoned");
        shelf.asked.push(Asked {
            path: path.clone(),
            head: head.clone(),
            answered: status,
        });
    };
    let said = |status: u16, more: &str, length: usize| {
        sent(status);
        format!(
            "HTTP/1.1 {status} x\r\nconnection: close\r\n{more}content-length: {length}\r\n\r\n"
        )
    };
    if path.starts_with("/token?") {
        let known = head.contains(&format!("basic {}", DOCKER_AUTH.to_ascii_lowercase()));
        let body = json!({ "token": TOKEN }).to_string();
        let answer = match known && path.contains("scope=repository:") {
            true => said(200, "", body.len()) + &body,
            false => said(403, "", 0),
        };
        let _ = stream.write_all(answer.as_bytes()).await;
        return;
    }
    let realm = format!("https://127.0.0.1:{port}/token");
    let challenge = format!("www-authenticate: Bearer realm=\"{realm}\",service=\"the depot\"\r\n");
    if wants_token && path.starts_with("/v2/") && !head.contains(&format!("bearer {TOKEN}")) {
        let _ = stream.write_all(said(401, &challenge, 0).as_bytes()).await;
        return;
    }
    let tag = |bytes: &[u8]| format!("\"{}\"", Content::new(bytes.to_vec()).digest.hex());
    let etag = |bytes: &[u8]| format!("etag: {}\r\n", tag(bytes));
    let (head_said, body, then) = match answer {
        None => (said(404, "", 0), vec![], false),
        Some(Answer::Challenge) => (said(401, &challenge, 0), vec![], false),
        Some(Answer::Status(status)) => (said(status, "", 0), vec![], false),
        Some(Answer::Redirect(to)) => (said(302, &format!("location: {to}\r\n"), 0), vec![], false),
        Some(Answer::Bytes(bytes)) if head.contains(&format!("if-none-match: {}", tag(&bytes))) => {
            (said(304, &etag(&bytes), 0), vec![], false)
        }
        Some(Answer::Bytes(bytes)) => (said(200, &etag(&bytes), bytes.len()), bytes, false),
        Some(Answer::Encoded(encoding, bytes)) => {
            let encoding = format!("content-encoding: {encoding}\r\n");
            (said(200, &encoding, bytes.len()), bytes, false)
        }
        Some(Answer::Truncated(mut bytes, sent)) => {
            let head = said(200, "", bytes.len());
            bytes.truncate(sent);
            (head, bytes, false)
        }
        Some(Answer::Stalled(mut bytes, sent)) => {
            let head = said(200, "", bytes.len());
            bytes.truncate(sent);
            (head, bytes, true)
        }
        Some(Answer::Silent) => {
            sent(0);
            (String::new(), vec![], true)
        }
        Some(Answer::Endless) => {
            sent(200);
            let _ = stream
                .write_all(b"HTTP/1.1 200 x\r\nconnection: close\r\n\r\n")
                .await;
            while stream.write_all(&[0; 65536]).await.is_ok() {}
            return;
        }
    };
    let _ = stream.write_all(head_said.as_bytes()).await;
    let _ = stream.write_all(&body).await;
    let _ = stream.flush().await;
    if then {
        std::future::pending::<()>().await;
    }
    let _ = stream.shutdown().await;
}
