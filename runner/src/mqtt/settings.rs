//! What a connection needs to know, and the broker's address.

use std::path::PathBuf;
use std::time::Duration;

use crate::envelope::Message;
pub use crate::mqtt::acks::AckOrder;
use crate::task::quoted;

/// Everything about one connection.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the broker is.
    pub address: Address,
    /// Stable, so that the broker finds the session again.
    pub client_id: String,
    /// Username and password.
    pub credentials: Option<(String, String)>,
    /// For `mqtts://`.
    pub tls: Tls,
    /// How often the client proves that it lives.
    pub keep_alive: Duration,
    /// How long the broker keeps the session of a client that is gone. Zero: not at all.
    pub session_expiry: Duration,
    /// Drop what the broker kept for this client id, at the first connection.
    pub clean_start: bool,
    /// The most unacknowledged messages that the broker may send: the prefetch.
    pub receive_maximum: u16,
    /// The most unacknowledged messages that this client sends.
    pub send_maximum: u16,
    /// The largest packet accepted, in bytes.
    pub max_packet_bytes: u32,
    /// In which order deliveries are acknowledged.
    pub ack_order: AckOrder,
    /// Put on every delivery, for whoever takes those of several connections.
    pub mark: u32,
    /// Subscribed on every connection, before anything else.
    pub filters: Vec<String>,
    /// Published by the broker when this client is lost.
    pub will: Option<Message>,
    /// Published by this client whenever it is connected and subscribed.
    pub birth: Option<Message>,
}

impl Settings {
    /// Settings for a plain client: no will, nothing kept, the usual windows.
    pub fn new(address: Address, client_id: impl Into<String>) -> Settings {
        Settings {
            address,
            client_id: client_id.into(),
            credentials: None,
            tls: Tls::default(),
            keep_alive: Duration::from_secs(30),
            session_expiry: Duration::ZERO,
            clean_start: true,
            receive_maximum: 100,
            send_maximum: 100,
            max_packet_bytes: 64 << 20,
            ack_order: AckOrder::Completion,
            mark: 0,
            filters: Vec::new(),
            will: None,
            birth: None,
        }
    }
}

/// Files for `mqtts://`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// A PEM file of the authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// A PEM file of the client's certificate (chain).
    pub cert_file: Option<PathBuf>,
    /// A PEM file of its private key, PKCS #8.
    pub key_file: Option<PathBuf>,
}

/// Where a broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `mqtt://host[:1883]`
    Tcp {
        /// Host name or IP address.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// `mqtts://host[:8883]`
    Tls {
        /// Host name, which the certificate must bear.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// `ws://host[:80][/path]`
    WebSocket {
        /// The whole URL, with its port.
        url: String,
    },
    /// `unix:///path`
    Unix {
        /// The socket.
        path: String,
    },
}

impl Address {
    /// Parses a broker URL. Credentials do not belong in it: they would show in every log.
    pub fn parse(url: &str) -> Result<Address, String> {
        // What stands before an `@` may be a password.
        let shown = url.rsplit_once('@').map_or(url, |(_, host)| host);
        let wrong = |why: &str| Err(format!("broker URL {}: {why}", quoted(shown)));
        let Some((scheme, rest)) = url.split_once("://") else {
            return wrong("expected mqtt://host, mqtts://host, ws://host/path or unix:///path");
        };
        if scheme == "unix" {
            return match rest.starts_with('/') {
                true => Ok(Address::Unix {
                    path: rest.to_owned(),
                }),
                false => wrong("a socket's path is absolute: unix:///run/mosquitto.sock"),
            };
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if authority.contains('@') {
            return wrong(
                "credentials belong in `mqtt.username` and `mqtt.password`, not in the URL",
            );
        }
        let default_port = match scheme {
            "mqtt" | "tcp" => 1883,
            "mqtts" | "ssl" => 8883,
            "ws" => 80,
            "wss" => return wrong("WebSocket over TLS is not supported, use mqtts:// or ws://"),
            _ => return wrong("unknown scheme, expected mqtt, mqtts, ws or unix"),
        };
        let bracketed = authority.rfind(']').unwrap_or(0);
        let (host, port) = match authority[bracketed..].rfind(':') {
            None => (authority, default_port),
            Some(at) => match authority[bracketed + at + 1..].parse() {
                Ok(port) => (&authority[..bracketed + at], port),
                Err(_) => return wrong("the port is a number from 1 to 65535"),
            },
        };
        if host.is_empty() {
            return wrong("the host is missing");
        }
        if scheme != "ws" && !matches!(path, "" | "/") {
            return wrong("a path is only for ws://");
        }
        Ok(match scheme {
            "mqtts" | "ssl" => Address::Tls {
                host: host.to_owned(),
                port,
            },
            "ws" => Address::WebSocket {
                url: format!("ws://{host}:{port}{path}"),
            },
            _ => Address::Tcp {
                host: host.to_owned(),
                port,
            },
        })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp { host, port } => write!(f, "mqtt://{host}:{port}"),
            Address::Tls { host, port } => write!(f, "mqtts://{host}:{port}"),
            Address::WebSocket { url } => f.write_str(url),
            Address::Unix { path } => write!(f, "unix://{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (url, shown) in [
            ("mqtt://localhost", "mqtt://localhost:1883"),
            ("mqtt://[::1]", "mqtt://[::1]:1883"),
            ("mqtt://[::1]:99/", "mqtt://[::1]:99"),
            ("mqtts://a.example:8884", "mqtts://a.example:8884"),
            ("ws://h/mqtt", "ws://h:80/mqtt"),
            ("ws://h:9001", "ws://h:9001"),
            ("unix:///run/m.sock", "unix:///run/m.sock"),
        ] {
            assert_eq!(
                Address::parse(url).map(|a| a.to_string()),
                Ok(shown.to_owned())
            );
        }
        for url in [
            "localhost",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://h:0x",
            "http://h",
            "wss://h",
            "unix://x",
            "mqtt://u:p@h",
            "mqtt://h/p",
        ] {
            assert!(Address::parse(url).is_err(), "{url}");
        }
    }
}
