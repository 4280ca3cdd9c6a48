//! The ways to a broker: TLS with certificates, a password, WebSocket, a Unix socket. Each runs a task end to end.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;
use wasmqtt::config::Config;
use wasmqtt_tests::guests;

use crate::rig::{Ear, Rig, config};
use crate::stock::{Mosquitto, Stock, appears, program};
use crate::under_test::{Serve, run};

/// Runs a task: the runner comes its own way, everybody else by the plain listener.
async fn runs_a_task(broker: &Mosquitto, url: String, change: impl FnOnce(&mut Config)) {
    let mut config = config(&url);
    change(&mut config);
    let mut rig = Rig::heard_by(Ear::connect(&broker.url()).await, config).await;
    rig.push("echo", guests::ECHO).await;
    let outcome = rig
        .task(json!({"id": "1", "module": "echo", "input": "hello"}))
        .await;
    assert_eq!(outcome["output"], "hello");
    rig.end().await;
}

pub(crate) async fn websocket() {
    // Given an address it would listen on all of them; given an interface it does not.
    let broker = Mosquitto::with(|m| {
        let port = m.second_port.number;
        format!("listener {port} lo\nprotocol websockets\n")
    })
    .await;
    let url = format!("ws://127.0.0.1:{}", broker.second_port.number);
    runs_a_task(&broker, format!("{url}/mqtt"), |_| {}).await;
    runs_a_task(&broker, url, |_| {}).await;
}

pub(crate) async fn unix_socket() {
    let socket = |m: &Mosquitto| m.folder.path().join("socket");
    let broker = Mosquitto::with(|m| format!("listener 0 {}\n", socket(m).display())).await;
    let socket = socket(&broker);
    appears(&socket).await;
    runs_a_task(&broker, format!("unix://{}", socket.display()), |_| {}).await;
}

/// An authority and what it signed: `ca.pem`, `server.pem`, `client.pem` and their keys.
pub(crate) struct Certificates(TempDir);

impl Certificates {
    pub(crate) fn new() -> Certificates {
        let certificates = Certificates(TempDir::new().expect("a folder"));
        let names = "subjectAltName=DNS:localhost,IP:127.0.0.1";
        let request = "req -new -newkey rsa:2048 -nodes -sha256";
        certificates.openssl(&format!(
            "{request} -x509 -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"
        ));
        std::fs::write(certificates.file("names"), names).expect("a file");
        for (name, more) in [("server", " -extfile names"), ("client", "")] {
            certificates.openssl(&format!(
                "{request} -subj /CN={name} -keyout {name}.key -out {name}.csr"
            ));
            certificates.openssl(&format!(
                "x509 -req -days 2 -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem{more}"
            ));
        }
        certificates
    }

    fn openssl(&self, args: &str) {
        let output = Command::new("openssl")
            .args(args.split(' '))
            .current_dir(self.0.path())
            .output()
            .expect("openssl is installed: apt-get install openssl");
        assert!(output.status.success(), "openssl {args}: {output:?}");
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// A broker whose second listener wants a certificate of this authority.
async fn with_tls(certificates: &Certificates) -> Mosquitto {
    let file = |name| certificates.file(name).display().to_string();
    Mosquitto::with(|m| {
        format!(
            "listener {} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n",
            m.second_port.number,
            file("ca.pem"),
            file("server.pem"),
            file("server.key")
        )
    })
    .await
}

fn secure(broker: &Mosquitto, host: &str) -> String {
    format!("mqtts://{host}:{}", broker.second_port.number)
}

fn identify(config: &mut Config, authority: &Certificates, client: &Certificates) {
    config.mqtt.ca_file = Some(authority.file("ca.pem"));
    config.mqtt.cert_file = Some(client.file("client.pem"));
    config.mqtt.key_file = Some(client.file("client.key"));
}

pub(crate) async fn tls_with_a_client_certificate() {
    let certificates = Certificates::new();
    let broker = with_tls(&certificates).await;
    for host in ["localhost", "127.0.0.1"] {
        runs_a_task(&broker, secure(&broker, host), |config| {
            identify(config, &certificates, &certificates);
        })
        .await;
    }
}

pub(crate) async fn tls_with_an_authority_that_is_not_trusted() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let broker = with_tls(&certificates).await;
    let mut config = config(&secure(&broker, "localhost"));
    identify(&mut config, &others, &certificates);
    refused(&config, &["certificate verify failed"]).await;
    // The system's authorities do not know it either.
    config.mqtt.ca_file = None;
    refused(&config, &["certificate verify failed"]).await;
    // The key instead of the certificate.
    config.mqtt.ca_file = Some(others.file("ca.key"));
    refused(&config, &["ca.key holds no certificate"]).await;
}

/// The binary with this configuration ends with an error that says all this.
async fn refused(config: &Config, says: &[&str]) {
    let folder = TempDir::new().expect("a folder");
    let file = write_config(config, folder.path());
    let output = run(["serve", "--config", &file]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let error = said.lines().last().unwrap_or_default();
    assert!(error.starts_with("error: "), "{said}");
    for text in says {
        assert!(error.contains(text), "no {text:?} in: {error}");
    }
}

/// The configuration's `[mqtt]` as a file.
fn write_config(config: &Config, folder: &Path) -> String {
    let mut lines = format!("[mqtt]\nurl = {:?}\n", config.mqtt.url);
    let mqtt = &config.mqtt;
    for (key, file) in [
        ("ca_file", &mqtt.ca_file),
        ("cert_file", &mqtt.cert_file),
        ("key_file", &mqtt.key_file),
        ("password_file", &mqtt.password_file),
    ] {
        if let Some(file) = file {
            lines.push_str(&format!("{key} = {file:?}\n"));
        }
    }
    for (key, text) in [("username", &mqtt.username), ("password", &mqtt.password)] {
        if let Some(text) = text {
            lines.push_str(&format!("{key} = {text:?}\n"));
        }
    }
    let file = folder.join("wasmqtt.toml");
    std::fs::write(&file, lines).expect("a file");
    file.to_str().expect("a path in UTF-8").to_owned()
}

/// A broker that knows the user `runner` with the password `secret`.
async fn with_password() -> Mosquitto {
    Mosquitto::with(|m| {
        let file = m.folder.path().join("passwords");
        let output = Command::new(program("mosquitto_passwd"))
            .args(["-c", "-b"])
            .arg(&file)
            .args(["runner", "secret"])
            .output()
            .expect("mosquitto_passwd runs");
        assert!(output.status.success(), "{output:?}");
        format!("password_file {}\n", file.display())
    })
    .await
}

pub(crate) async fn password_in_a_file() {
    let broker = with_password().await;
    let stock = Stock {
        login: Some(("runner", "secret")),
        ..broker.stock()
    };
    let password = broker.folder.path().join("password");
    std::fs::write(&password, "secret\n").expect("a file");
    let mut config = config(&broker.url());
    config.mqtt.username = Some("runner".to_owned());
    config.mqtt.password_file = Some(password);
    let file = write_config(&config, broker.folder.path());

    let serve = Serve::ready(&["--config", &file]).await;
    stock.push("modules/echo", guests::ECHO).await;
    let submitted = run(["submit", "echo", "--input", "hello", "--config", &file]).await;
    assert_eq!(
        String::from_utf8_lossy(&submitted.stdout),
        "hello",
        "{submitted:?}"
    );
    serve.end().await;
}

pub(crate) async fn wrong_password() {
    let broker = with_password().await;
    let mut config = config(&broker.url());
    config.mqtt.username = Some("runner".to_owned());
    config.mqtt.password = Some("wrong".to_owned());
    refused(&config, &[&broker.url(), "NotAuthorized"]).await;
    config.mqtt.username = None;
    config.mqtt.password = None;
    refused(&config, &[&broker.url(), "NotAuthorized"]).await;
}
