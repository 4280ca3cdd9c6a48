//! A broker of a few canned answers, for what no real one can be made to do.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::packets::{CONNECT, PINGREQ, PUBLISH, Packet, SUBSCRIBE};

/// What it answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Script {
    /// CONNACK's reason code.
    pub(crate) connack: u8,
    /// CONNACK's properties, as bytes.
    pub(crate) properties: &'static [u8],
    /// SUBACK's reason code, for every filter.
    pub(crate) suback: u8,
    /// Sent after every SUBACK, and then nothing more.
    pub(crate) last_words: Option<&'static [u8]>,
}

/// Everything is granted.
pub(crate) const WILLING: Script = Script {
    connack: 0,
    properties: &[],
    suback: 1,
    last_words: None,
};

/// Ends with its connections when dropped.
pub(crate) struct FakeBroker {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl FakeBroker {
    pub(crate) async fn start(script: Script) -> FakeBroker {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, script));
            }
        });
        FakeBroker { address, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://{}", self.address)
    }
}

impl Drop for FakeBroker {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut stream: TcpStream, script: Script) {
    while let Some(packet) = Packet::read(&mut stream).await {
        let Some(answer) = answer(&packet, script) else {
            continue;
        };
        if stream.write_all(&answer.bytes).await.is_err() {
            return;
        }
        if let (SUBSCRIBE, Some(last_words)) = (packet.kind(), script.last_words) {
            let _ = stream.write_all(last_words).await;
            // Closed with bytes unread, the connection would be reset, and the last words lost.
            while Packet::read(&mut stream).await.is_some() {}
            return;
        }
    }
}

fn answer(packet: &Packet, script: Script) -> Option<Packet> {
    let with_id =
        |first, rest: &[u8]| Packet::new(first, &[&packet.id().to_be_bytes(), rest].concat());
    Some(match packet.kind() {
        CONNECT => {
            let length = u8::try_from(script.properties.len()).expect("few properties");
            let head = [0, script.connack, length];
            Packet::new(0x20, &[&head, script.properties].concat())
        }
        SUBSCRIBE => {
            let codes = vec![script.suback; packet.filters()];
            with_id(0x90, &[&[0], codes.as_slice()].concat())
        }
        // With QoS 1.
        PUBLISH if packet.bytes[0] & 0b0110 != 0 => with_id(0x40, &[]),
        PINGREQ => Packet::new(0xd0, &[]),
        _ => return None,
    })
}
