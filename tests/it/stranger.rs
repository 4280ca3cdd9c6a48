//! A client of either version that says whatever it likes, and remembers what it hears.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::packets::{PUBACK, PUBLISH, Packet};
use crate::rig::PATIENCE;

const CONNACK: u8 = 2;
const SUBACK: u8 = 9;

/// Who connects, and how.
#[derive(Clone, Default)]
pub(crate) struct Papers<'a> {
    pub(crate) port: u16,
    /// 4 is MQTT 3.1.1.
    pub(crate) version: u8,
    pub(crate) client_id: String,
    pub(crate) login: Option<(&'a str, &'a str)>,
    /// Topic, payload, retained.
    pub(crate) will: Option<(&'a str, &'a str, bool)>,
    /// Goes on with the session that the broker has of this client id, and wants it kept.
    pub(crate) session: bool,
}

pub(crate) struct Stranger {
    write: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
    version: u8,
    answers: mpsc::UnboundedReceiver<Packet>,
    heard: Arc<Mutex<Vec<(String, Vec<u8>)>>>,
    reading: JoinHandle<()>,
}

impl Stranger {
    /// Connects; the CONNACK's code if that is refused, 255 if there is none.
    pub(crate) async fn connect(papers: Papers<'_>) -> Result<Stranger, u8> {
        let stream = TcpStream::connect(("127.0.0.1", papers.port)).await;
        let stream = stream.expect("a broker");
        stream.set_nodelay(true).expect("an option of TCP");
        let (mut read, mut write) = stream.into_split();
        let connect = packet(0x10, &papers.body());
        write.write_all(&connect).await.expect("a broker");
        let connack = timeout(PATIENCE, Packet::read(&mut read)).await;
        let connack = connack.expect("an answer in time").ok_or(255)?;
        assert_eq!(connack.kind(), CONNACK);
        if connack.body()[1] != 0 {
            return Err(connack.body()[1]);
        }
        let write = Arc::new(tokio::sync::Mutex::new(write));
        let acknowledging = write.clone();
        let (answered, answers) = mpsc::unbounded_channel();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (hears, version) = (heard.clone(), papers.version);
        let reading = tokio::spawn(async move {
            while let Some(packet) = Packet::read(&mut read).await {
                match packet.kind() {
                    PUBLISH => {
                        let message = (packet.topic().to_owned(), content(&packet, version));
                        hears
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(message);
                        if packet.bytes[0] & 0x06 != 0 {
                            let puback = self::packet(0x40, &packet.id().to_be_bytes());
                            let _ = acknowledging.lock().await.write_all(&puback).await;
                        }
                    }
                    PUBACK | SUBACK => drop(answered.send(packet)),
                    _ => {}
                }
            }
        });
        Ok(Stranger {
            write,
            version,
            answers,
            heard,
            reading,
        })
    }

    /// Publishes at QoS 1; whether the broker says that it took it.
    pub(crate) async fn publish(&mut self, topic: &str, payload: &str, retain: bool) -> bool {
        self.publish_bytes(topic, payload.as_bytes(), retain).await
    }

    pub(crate) async fn publish_bytes(
        &mut self,
        topic: &str,
        payload: &[u8],
        retain: bool,
    ) -> bool {
        let mut body = text(topic);
        body.extend([0, 7]);
        body.extend(self.no_properties());
        body.extend(payload);
        let first = if retain { 0x33 } else { 0x32 };
        let _ = self
            .write
            .lock()
            .await
            .write_all(&packet(first, &body))
            .await;
        let answer = self.answer(PUBACK).await;
        answer.is_some_and(|puback| puback.reason() < 0x80)
    }

    /// Subscribes at QoS 1; whether the broker says that it did.
    pub(crate) async fn subscribe(&mut self, filter: &str) -> bool {
        let mut body = vec![0, 9];
        body.extend(self.no_properties());
        body.extend(text(filter));
        body.push(1);
        let _ = self
            .write
            .lock()
            .await
            .write_all(&packet(0x82, &body))
            .await;
        let answer = self.answer(SUBACK).await;
        answer.is_some_and(|suback| suback.body().last().is_some_and(|code| *code < 0x80))
    }

    /// What came so far.
    pub(crate) fn heard(&self) -> Vec<(String, Vec<u8>)> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.clone()
    }

    /// The connection goes, without a DISCONNECT.
    pub(crate) async fn die(self) {
        self.reading.abort();
        let _ = self.reading.await;
    }

    async fn answer(&mut self, kind: u8) -> Option<Packet> {
        let wait = async {
            loop {
                let answer = self.answers.recv().await?;
                if answer.kind() == kind {
                    return Some(answer);
                }
            }
        };
        timeout(PATIENCE, wait).await.expect("an answer in time")
    }

    fn no_properties(&self) -> &'static [u8] {
        if self.version == 5 { &[0] } else { &[] }
    }
}

impl Papers<'_> {
    fn body(&self) -> Vec<u8> {
        let none: &[u8] = if self.version == 5 { &[0] } else { &[] };
        let mut flags = if self.session { 0 } else { 2 };
        let mut body = text("MQTT");
        body.push(self.version);
        let at = body.len();
        body.extend([0, 0, 60]);
        // Session Expiry Interval, an hour.
        let kept: &[u8] = &[5, 0x11, 0, 0, 0x0e, 0x10];
        body.extend(if self.version == 5 && self.session {
            kept
        } else {
            none
        });
        body.extend(text(&self.client_id));
        if let Some((topic, payload, retain)) = self.will {
            flags |= 0x0c | if retain { 0x20 } else { 0 };
            body.extend(none);
            body.extend(text(topic));
            body.extend(text(payload));
        }
        if let Some((user, password)) = self.login {
            flags |= 0xc0;
            body.extend(text(user));
            body.extend(text(password));
        }
        body[at] = flags;
        body
    }
}

/// A PUBLISH's payload.
fn content(packet: &Packet, version: u8) -> Vec<u8> {
    let id = if packet.bytes[0] & 0x06 == 0 { 0 } else { 2 };
    let mut at = 2 + packet.topic().len() + id;
    if version == 5 {
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = packet.body()[at];
            at += 1;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        at += length;
    }
    packet.body()[at..].to_vec()
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a short text");
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    loop {
        let more = length >= 0x80;
        bytes.push((length & 0x7f) as u8 | if more { 0x80 } else { 0 });
        length >>= 7;
        if !more {
            break;
        }
    }
    bytes.extend(body);
    bytes
}
