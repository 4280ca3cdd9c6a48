//! Bar 4 of "strangers' code": a guest that may use HTTP to one host tries to reach another.
//!
//! The one host is a server on loopback, which the operator excepted, at its port only. Beside it listens a canary, on
//! 127.0.0.1 and ::1, which must never hear of a guest.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use wasmqtt::config::Config;
use wasmqtt::config::capabilities::Http;
use wasmqtt_tests::guests;

use crate::capabilities::{ask, grant};
use crate::cli::Shell;
use crate::rig::Rig;
use crate::transports::Certificates;

/// Counts who comes.
pub(crate) struct Canary {
    pub(crate) port: u16,
    heard: Arc<AtomicUsize>,
}

impl Canary {
    pub(crate) async fn listen() -> Canary {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let first = first.expect("a listener");
        let port = first.local_addr().expect("an address").port();
        let heard = Arc::new(AtomicUsize::new(0));
        let mut listeners = vec![first];
        // Where there is IPv6; and on all of 127/8, which some spellings mean.
        for address in [IpAddr::V6(Ipv6Addr::LOCALHOST), [127, 0, 0, 2].into()] {
            listeners.extend(TcpListener::bind((address, port)).await);
        }
        for listener in listeners {
            let heard = heard.clone();
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    heard.fetch_add(1, Ordering::Relaxed);
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\ncanary")
                        .await;
                }
            });
        }
        Canary { port, heard }
    }

    pub(crate) fn heard(&self) -> usize {
        self.heard.load(Ordering::Relaxed)
    }
}

/// The permitted server: `/ok`, `/to?URL` redirects there, `/bytes?N` answers so many, `/slow` begins and never ends,
/// `/silent` says nothing, `/count` takes a body. Answers are `Connection: close`.
async fn serve() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let served = Arc::new(AtomicUsize::new(0));
    let counter = served.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(answer(stream));
        }
    });
    (port, served)
}

async fn answer(mut stream: TcpStream) {
    let mut request = Vec::new();
    let mut chunk = [0; 65536];
    while !request.windows(4).any(|it| it == b"\r\n\r\n") {
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(read) => request.extend(&chunk[..read]),
        }
    }
    let head = String::from_utf8_lossy(&request).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let (path, query) = path.split_once('?').unwrap_or((&path, ""));
    let fixed = |status: &str, more: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{more}\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    let answer = match path {
        "/ok" => fixed("200 OK", "", b"fine"),
        "/to" => fixed("302 Found", &format!("location: {query}\r\n"), b""),
        "/bytes" => fixed("200 OK", "", &vec![b'x'; query.parse().unwrap_or(0)]),
        "/endless" => {
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
                .await;
            while stream.write_all(&chunk).await.is_ok() {}
            return;
        }
        "/slow" => {
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nslow")
                .await;
            std::future::pending().await
        }
        "/silent" => std::future::pending().await,
        "/head" => {
            let filler = format!("x-filler: {}\r\n", "y".repeat(200_000));
            fixed("200 OK", &filler, b"")
        }
        "/count" => {
            // Whatever comes, until it stops coming.
            while let Ok(Ok(read)) =
                tokio::time::timeout(Duration::from_millis(500), stream.read(&mut chunk)).await
                && read > 0
            {
                request.extend(&chunk[..read]);
            }
            fixed("200 OK", "", b"counted")
        }
        _ => fixed("404 Not Found", "", b"no such thing"),
    };
    let _ = stream.write_all(&answer).await;
    let _ = stream.shutdown().await;
}

/// A tenant that may use HTTP to the server, by its address and by a name; further names are listed that lead inside.
fn permit(config: &mut Config, server: u16, canary: u16, change: impl FnOnce(&mut Http)) {
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let named = |name: &str, addresses: &[&str]| {
        let addresses = addresses.iter().map(|address| ip(address));
        (name.to_owned(), addresses.collect())
    };
    let mut http = Http {
        hosts: vec![
            format!("127.0.0.1:{server}"),
            format!("allowed.test:{server}"),
            format!("inside.test:{canary}"),
            format!("inside6.test:{canary}"),
            format!("mapped.test:{canary}"),
            format!("mixed.test:{canary}"),
            format!("metadata.test:{canary}"),
            format!("*.wild.test:{canary}"),
            // Looked up by the system, which finds loopback.
            format!("localhost:{canary}"),
        ],
        private_addresses: vec![format!("127.0.0.1:{server}")],
        resolve: [
            named("allowed.test", &["127.0.0.1"]),
            named("inside.test", &["127.0.0.1"]),
            named("inside6.test", &["::1"]),
            named("mapped.test", &["::ffff:127.0.0.1"]),
            // The first is public, and is not asked either.
            named("mixed.test", &["1.1.1.1", "127.0.0.1"]),
            named("metadata.test", &["169.254.169.254"]),
            named("a.wild.test", &["127.0.0.1"]),
        ]
        .into(),
        max_requests: 200,
        ..Http::default()
    };
    change(&mut http);
    grant(config, |it| it.http = Some(http));
}

/// What a guest tries, with `C` for the canary's port and `S` for the server's.
const TRIES: &[&str] = &[
    // By address, in every spelling that some resolver takes.
    "http://127.0.0.1:C/",
    "http://127.0.0.2:C/",
    "http://127.1:C/",
    "http://127.0.1:C/",
    "http://2130706433:C/",
    "http://0x7f000001:C/",
    "http://0x7f.0.0.1:C/",
    "http://0x7f.1:C/",
    "http://0177.0.0.1:C/",
    "http://017700000001:C/",
    "http://127.0.0.01:C/",
    "http://127.0.0.1.:C/",
    "http://0:C/",
    "http://0.0.0.0:C/",
    "http://[::1]:C/",
    "http://[::]:C/",
    "http://[0:0:0:0:0:0:0:1]:C/",
    "http://[::ffff:127.0.0.1]:C/",
    "http://[::ffff:7f00:1]:C/",
    "http://[::127.0.0.1]:C/",
    "http://[64:ff9b::7f00:1]:C/",
    "http://[2002:7f00:1::]:C/",
    "http://[::1%25lo]:C/",
    "http://[127.0.0.1]:C/",
    "http://::1:C/",
    // Other ports and schemes.
    "http://127.0.0.1/",
    "https://127.0.0.1:C/",
    "https://127.0.0.1/",
    "ftp://127.0.0.1:C/",
    "gopher://127.0.0.1:C/_x",
    "file:///etc/passwd",
    "unix://127.0.0.1:C/var/run/docker.sock",
    "ws://127.0.0.1:C/",
    // By name.
    "http://localhost:C/",
    "http://LOCALHOST:C/",
    "http://localhost.:C/",
    "http://localhost.localdomain:C/",
    "http://ip6-localhost:C/",
    "http://127.0.0.1.nip.io:C/",
    "http://localtest.me:C/",
    "http://allowed.test:C/",
    "http://allowed.test.evil.test:S/",
    "http://evilallowed.test:S/",
    "http://wild.test:C/",
    // Names on the list that lead inside.
    "http://inside.test:C/",
    "http://INSIDE.test:C/",
    "http://inside6.test:C/",
    "http://mapped.test:C/",
    "http://mixed.test:C/",
    "http://metadata.test:C/",
    "http://a.wild.test:C/",
    // Inside, link-local, metadata.
    "http://169.254.169.254/latest/meta-data/",
    "http://metadata.google.internal/",
    "http://[fd00:ec2::254]/",
    "http://[fe80::1]:C/",
    "http://100.100.100.200/",
    "http://168.63.129.16/",
    "http://10.0.0.1/",
    "http://192.168.0.1/",
    "http://172.17.0.1/",
    // Two readings of one authority.
    "http://127.0.0.1:S@127.0.0.1:C/",
    "http://allowed.test:S@127.0.0.1:C/",
    "http://user:pass@127.0.0.1:C/",
    "http://127.0.0.1:C@127.0.0.1:S/",
    "http://127.0.0.1:C#@127.0.0.1:S/",
    "http://127.0.0.1:C?@127.0.0.1:S/",
    "http://127.0.0.1:C\\@127.0.0.1:S/",
    "http://127.0.0.1:S:C/",
    "http://127.0.0.1:+C/",
    "http://127.0.0.1:C%20/",
    "http://127.0.0.1 :C/",
    "http://127.0.0.1%00:C/",
    "http://:C/",
    "http:///",
    // A port that wraps around, if it is cut to 16 bits.
    "http://127.0.0.1:W/",
    // CR and LF.
    "http://127.0.0.1:S\r\nHost: 127.0.0.1:C/",
    "http://127.0.0.1:S/ok HTTP/1.1\r\nHost: 127.0.0.1:C\r\n\r\nGET /",
    // Digits and dots that are not ASCII's.
    "http://127。0。0。1:C/",
    "http://１２７.0.0.1:C/",
    "http://①②⑦.⓪.⓪.①:C/",
    "http://ｌｏｃａｌｈｏｓｔ:C/",
    // Too long.
    "http://LONG.test:C/",
    // A tunnel.
    "CONNECT 0 http://127.0.0.1:S/",
    "CONNECT 0 http://127.0.0.1:C/",
    // After a redirect from the permitted server.
    "http://127.0.0.1:S/to?http://127.0.0.1:C/",
    "http://127.0.0.1:S/to?http://localhost:C/",
    "http://127.0.0.1:S/to?http://[::1]:C/",
    "http://127.0.0.1:S/to?http://2130706433:C/",
    "http://127.0.0.1:S/to?http://169.254.169.254/latest/",
    "http://127.0.0.1:S/to?https://127.0.0.1:C/",
    "http://127.0.0.1:S/to?http://inside.test:C/",
    "http://127.0.0.1:S/to?http://127.0.0.1:S/to?http://127.0.0.1:C/",
];

pub(crate) async fn a_guest_reaches_the_one_host_and_no_other() {
    let canary = Canary::listen().await;
    let (server, served) = serve().await;
    let mut rig = Rig::with(|config| permit(config, server, canary.port, |_| {})).await;
    let wrapped = u32::from(canary.port) + (1 << 16);
    let spell = |tried: &&str| {
        tried
            .replace(":C", &format!(":{}", canary.port))
            .replace(":+C", &format!(":+{}", canary.port))
            .replace(":S", &format!(":{server}"))
            .replace(":W", &format!(":{wrapped}"))
            .replace("LONG", &"a".repeat(70_000))
    };
    let urls: Vec<String> = TRIES.iter().map(spell).collect();
    assert!(urls.len() >= 40, "{}", urls.len());
    let outcome = ask(&mut rig, "acme", "tries", guests::FETCH, json!(urls)).await;
    let results = outcome["output"].as_array();
    let results = results.unwrap_or_else(|| panic!("{outcome}"));
    assert_eq!(results.len(), urls.len());
    for (tried, result) in TRIES.iter().zip(results) {
        let got = result[1].as_str().expect("a text");
        assert!(got.starts_with("error: "), "{tried:?}: {got}");
    }
    assert_eq!(canary.heard(), 0, "the canary was reached");
    // Of the server only what is its: a request for each redirect (two for the last), and no other.
    let redirects = TRIES.iter().map(|tried| tried.matches(":S/to?").count());
    assert_eq!(served.load(Ordering::Relaxed), redirects.sum::<usize>());
    println!("{} URLs, none reached", urls.len());

    // The list would say nothing if the one host could not be reached, or the canary not be heard.
    let good = [
        format!("http://127.0.0.1:{server}/ok"),
        format!("http://allowed.test:{server}/ok"),
        format!("http://ALLOWED.test:{server}/to?http://127.0.0.1:{server}/ok"),
        format!("POST 100000 http://127.0.0.1:{server}/count"),
    ];
    let outcome = ask(&mut rig, "acme", "good", guests::FETCH, json!(good)).await;
    let texts = ["200: fine", "200: fine", "200: fine", "200: counted"];
    for (result, text) in outcome["output"]
        .as_array()
        .into_iter()
        .flatten()
        .zip(texts)
    {
        assert_eq!(result[1], text, "{outcome}");
    }
    assert_eq!(canary.heard(), 0, "the canary was reached");
    drop(TcpStream::connect((Ipv4Addr::LOCALHOST, canary.port)).await);
    while canary.heard() == 0 {
        tokio::task::yield_now().await;
    }
    rig.end().await;
}

/// Sizes, times and counts.
pub(crate) async fn requests_are_bounded() {
    let (server, served) = serve().await;
    let mut rig = Rig::with(|config| {
        permit(config, server, 1, |http| {
            http.max_requests = 7;
            http.max_request_bytes = 50_000;
            http.max_response_bytes = 100_000;
            http.timeout_ms = 700;
        });
    })
    .await;
    let logs = rig.ear.publisher.subscribe("tenants/+/task_log/#").await;
    logs.expect("a SUBACK");
    let tries = [
        ("/bytes?100000", "200: 100000 bytes"),
        ("/bytes?100001", "BodySize"),
        ("/endless", "body size exceeds limit: 100000 bytes"),
        ("/slow", "error: after 4 bytes"),
        ("/silent", "ConnectionReadTimeout"),
        ("/head", "error: "),
    ];
    let mut urls: Vec<String> = tries
        .iter()
        .map(|(path, _)| format!("http://127.0.0.1:{server}{path}"))
        .collect();
    urls.push(format!("POST 200000 http://127.0.0.1:{server}/count"));
    urls.push(format!("http://127.0.0.1:{server}/ok"));
    let outcome = ask(&mut rig, "acme", "bounds", guests::FETCH, json!(urls)).await;
    let got = |at: usize| outcome["output"][at][1].as_str().unwrap_or_default();
    for (at, (path, expected)) in tries.iter().enumerate() {
        assert!(got(at).contains(expected), "{path}: {outcome}");
    }
    assert!(
        got(6).contains("RequestBodySize"),
        "too much sent: {outcome}"
    );
    assert!(
        got(7).contains("HttpRequestDenied"),
        "the eighth: {outcome}"
    );
    assert_eq!(served.load(Ordering::Relaxed), 7, "{outcome}");
    let log = rig
        .ear
        .unasked(|it| it.topic == "tenants/acme/task_log/bounds");
    let log: Vec<Value> = log.into_iter().filter_map(crate::rig::json).collect();
    let says = |text: &str| {
        log.iter()
            .any(|it| it["message"].as_str().is_some_and(|m| m.contains(text)))
    };
    assert!(says("http: a task may send 7 requests"), "{log:?}");
    rig.end().await;
}

/// Whoever waits for a server that never answers ends with the task.
pub(crate) async fn a_deadline_ends_a_request() {
    let (server, _) = serve().await;
    let mut rig = Rig::with(|config| {
        permit(
            config,
            server,
            SocketAddr::from(([0, 0, 0, 0], 1)).port(),
            |http| {
                http.timeout_ms = 60_000;
            },
        );
        config.limits.timeout_ms = 500;
    })
    .await;
    let urls = [format!("http://127.0.0.1:{server}/silent")];
    let outcome = ask(&mut rig, "acme", "late", guests::FETCH, json!(urls)).await;
    assert_eq!(outcome["error"]["code"], "deadline_exceeded", "{outcome}");
    rig.end().await;
}

/// A certificate is the host's, of an authority that the system trusts.
pub(crate) async fn https_is_verified() {
    let certificates = Certificates::new();
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let port = free.and_then(|it| it.local_addr()).expect("a port").port();
    let listen = format!("127.0.0.1:{port}");
    let server = Command::new("openssl")
        .args(["s_server", "-quiet", "-www", "-accept", &listen])
        .args([
            "-cert".as_ref(),
            certificates.file("server.pem").as_os_str(),
        ])
        .args(["-key".as_ref(), certificates.file("server.key").as_os_str()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let _server = server.expect("openssl is installed: apt-get install openssl");
    while TcpStream::connect(&listen).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let shell = Shell::new();
    let config = format!(
        "[tenants.default.capabilities.http]\nhosts = [\"localhost:{port}\", \"other.test:{port}\"]\n\
         private_addresses = [\"{listen}\"]\n\
         resolve = {{ \"localhost\" = [\"127.0.0.1\"], \"other.test\" = [\"127.0.0.1\"] }}\n"
    );
    shell.write("granted.toml", config.as_bytes());
    shell.write("fetch.wasm", guests::FETCH);
    let urls = json!([
        format!("https://localhost:{port}/"),
        format!("https://other.test:{port}/")
    ]);
    let urls = urls.to_string();
    let run = [
        "run",
        "fetch.wasm",
        "--config",
        "granted.toml",
        "--input",
        &urls,
    ];
    for (authority, expected) in [("ca.pem", "200: "), ("client.pem", "error: ")] {
        let mut command = shell.command(&run);
        command.env("SSL_CERT_FILE", certificates.file(authority));
        let spawned = command.spawn().expect("started");
        let ended = crate::cli::to_end(spawned, b"").await.code(0);
        let results = ended.json();
        let got = |at: usize| results[at][1].as_str().unwrap_or_default();
        assert!(got(0).starts_with(expected), "{authority}: {results}");
        assert!(got(1).contains("Tls"), "{authority}: {results}");
    }
}
