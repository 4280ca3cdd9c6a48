//! MQTT 5 packets as bytes: as much of them as a proxy or a scripted broker must read.

use tokio::io::{AsyncRead, AsyncReadExt as _};

pub(crate) const CONNECT: u8 = 1;
pub(crate) const PUBLISH: u8 = 3;
pub(crate) const PUBACK: u8 = 4;
pub(crate) const SUBSCRIBE: u8 = 8;
pub(crate) const PINGREQ: u8 = 12;

/// One whole packet.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) bytes: Vec<u8>,
    /// Where the fixed header ends.
    body: usize,
}

impl Packet {
    /// Reads one; `None` when the connection ends.
    pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> Option<Packet> {
        let mut bytes = vec![from.read_u8().await.ok()?];
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = from.read_u8().await.ok()?;
            bytes.push(byte);
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let body = bytes.len();
        bytes.resize(body + length, 0);
        from.read_exact(&mut bytes[body..]).await.ok()?;
        Some(Packet { bytes, body })
    }

    /// One with less than 128 bytes of body.
    pub(crate) fn new(first: u8, body: &[u8]) -> Packet {
        let length = u8::try_from(body.len()).expect("a short packet");
        assert!(length < 0x80, "a short packet");
        Packet {
            bytes: [&[first, length], body].concat(),
            body: 2,
        }
    }

    pub(crate) fn kind(&self) -> u8 {
        self.bytes[0] >> 4
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.bytes[self.body..]
    }

    /// The topic of a PUBLISH.
    pub(crate) fn topic(&self) -> &str {
        let length = usize::from(number(self.body(), 0));
        std::str::from_utf8(&self.body()[2..2 + length]).expect("a topic in UTF-8")
    }

    /// The packet id of a PUBLISH with QoS 1, a PUBACK or a SUBSCRIBE.
    pub(crate) fn id(&self) -> u16 {
        match self.kind() {
            PUBLISH => number(self.body(), 2 + self.topic().len()),
            _ => number(self.body(), 0),
        }
    }

    /// The payload of a PUBLISH with QoS 1.
    pub(crate) fn payload(&self) -> &[u8] {
        let mut rest = &self.body()[4 + self.topic().len()..];
        // The properties' length: seven bits a byte, the highest says that more follow.
        let (mut length, mut shift) = (0, 0);
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        rest.get(length..).unwrap_or_default()
    }

    /// The reason code of a PUBACK: 0, success, is left out on the wire.
    pub(crate) fn reason(&self) -> u8 {
        self.body().get(2).copied().unwrap_or_default()
    }

    /// How many filters a SUBSCRIBE without properties of more than 127 bytes has.
    pub(crate) fn filters(&self) -> usize {
        let (mut at, mut count) = (3 + usize::from(self.body()[2]), 0);
        while at < self.body().len() {
            at += 3 + usize::from(number(self.body(), at));
            count += 1;
        }
        count
    }
}

fn number(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
