//! A broker with users, made with `wasmqtt acl`, and a runner on it: mosquitto or the embedded one.

use std::path::Path;

use tempfile::TempDir;
use wasmqtt_tests::guests;

use crate::stock::Mosquitto;
use crate::stranger::{Papers, Stranger};
use crate::under_test::{Serve, run};

/// Which broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Mosquitto,
    Embedded,
}

pub(crate) struct Fenced {
    pub(crate) port: u16,
    /// As `wasmqtt acl` wrote it.
    pub(crate) folder: TempDir,
    pub(crate) serve: Serve,
    _mosquitto: Option<Mosquitto>,
}

impl Fenced {
    /// Tenants `acme`, `globex` and `default`; a runner with this much more configuration; the module `echo` for each.
    pub(crate) async fn start(kind: Kind, config: &str) -> Fenced {
        Fenced::with(kind, config, |conf| conf).await
    }

    /// With another mosquitto.conf than was written.
    pub(crate) async fn on_mosquitto(change: impl FnOnce(String) -> String) -> Fenced {
        Fenced::with(Kind::Mosquitto, "", change).await
    }

    async fn with(kind: Kind, config: &str, change: impl FnOnce(String) -> String) -> Fenced {
        let folder = TempDir::new().expect("a folder");
        let name = match kind {
            Kind::Mosquitto => "mosquitto",
            Kind::Embedded => "embedded",
        };
        let out = folder.path().to_str().expect("a path in UTF-8");
        let tenants = [
            "--tenant", "acme", "--tenant", "globex", "--tenant", "default",
        ];
        let written = run([["acl", name, "--out", out].as_slice(), &tenants].concat()).await;
        assert!(written.status.success(), "{written:?}");
        let runner = read(&folder.path().join("runner.toml"));
        let file = folder.path().join("serve.toml");
        let path = file.to_str().expect("a path in UTF-8").to_owned();
        let write = |text: String| std::fs::write(&file, text).expect("written");
        let named = ["--config", path.as_str(), "--name", "edge"];
        let (serve, port, mosquitto) = match kind {
            Kind::Mosquitto => {
                let conf = change(read(&folder.path().join("mosquitto.conf")));
                let mosquitto = Mosquitto::with(|_| conf).await;
                write(format!("{runner}\n{config}"));
                let url = mosquitto.url();
                let serve = Serve::ready(&[named.as_slice(), &["--broker", &url]].concat()).await;
                (serve, mosquitto.port.number, Some(mosquitto))
            }
            Kind::Embedded => {
                let users = read(&folder.path().join("users.toml"));
                write(format!("{runner}\n{config}\n{users}"));
                let embedded = ["--embedded-broker", "127.0.0.1:0"];
                let serve = Serve::ready(&[named.as_slice(), &embedded].concat()).await;
                let port = serve
                    .url()
                    .rsplit(':')
                    .next()
                    .and_then(|port| port.parse().ok());
                (serve, port.expect("a port"), None)
            }
        };
        let fenced = Fenced {
            port,
            folder,
            serve,
            _mosquitto: mosquitto,
        };
        let mut operator = fenced.stranger("operator", 5).await;
        let echo = guests::ECHO;
        for topic in [
            "modules/echo",
            "tenants/acme/modules/echo",
            "tenants/globex/modules/echo",
        ] {
            assert!(operator.publish_bytes(topic, echo, true).await, "{topic}");
        }
        fenced
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    pub(crate) fn password(&self, user: &str) -> String {
        let text = read(&self.folder.path().join("passwords").join(user));
        text.trim_end().to_owned()
    }

    /// A client of one of the users, under an id that nobody has had.
    pub(crate) async fn stranger(&self, user: &str, version: u8) -> Stranger {
        let password = self.password(user);
        let stranger = Stranger::connect(self.papers(user, &password, version)).await;
        stranger.unwrap_or_else(|code| panic!("{user} is refused: {code}"))
    }

    /// The same, to be changed.
    pub(crate) fn papers<'a>(&self, user: &'a str, password: &'a str, version: u8) -> Papers<'a> {
        static STRANGERS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = STRANGERS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Papers {
            port: self.port,
            version,
            client_id: format!("{user}-{number}"),
            login: Some((user, password)),
            ..Papers::default()
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
