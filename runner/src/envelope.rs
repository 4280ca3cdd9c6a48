//! Bytes and properties ↔ `Task` and `Outcome`, and the names of the topics.
//!
//! Pure: no clock, no connection. It must not know which MQTT client carries its messages.

pub mod answer;
pub mod decode;
pub mod encode;
pub mod topics;

use bytes::Bytes;

/// Whether MQTT brokers refuse a character in topics and properties: control characters and what Unicode calls
/// non-characters [MQTT-1.5.4]. mosquitto closes the connection for one.
pub fn is_refused(c: char) -> bool {
    let code = u32::from(c);
    c.is_control() || code & 0xfffe == 0xfffe || (0xfdd0..=0xfdef).contains(&code)
}

/// MQTT 5 properties that wasmqtt reads or writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// The media type of the payload.
    pub content_type: Option<String>,
    /// Where the answer is wanted.
    pub response_topic: Option<String>,
    /// Echoed with the answer.
    pub correlation_data: Option<Bytes>,
    /// Seconds after which the message is of no use.
    pub message_expiry_s: Option<u32>,
    /// Name and value, in order; a name may occur more than once.
    pub user: Vec<(String, String)>,
}

/// A message as it came: topic, payload, properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbound {
    /// The topic that it was published on.
    pub topic: String,
    /// The payload, shared with the network buffer.
    pub payload: Bytes,
    /// MQTT 5 properties; empty for a 3.1.1 publisher.
    pub properties: Properties,
}

/// Delivery promise of a message that the runner publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    /// QoS 0: for what may be lost (log lines, progress).
    AtMostOnce,
    /// QoS 1: resolves on the broker's PUBACK.
    AtLeastOnce,
}

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The topic.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    /// MQTT 5 properties.
    pub properties: Properties,
    /// Delivery promise.
    pub quality: Quality,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
}

impl Message {
    /// A QoS 1 message without properties, not retained.
    pub fn new(topic: impl Into<String>, payload: impl Into<Bytes>) -> Message {
        Message {
            topic: topic.into(),
            payload: payload.into(),
            properties: Properties::default(),
            quality: Quality::AtLeastOnce,
            retain: false,
        }
    }

    /// An upper bound of the packet's size in bytes: what is compared with a broker's Maximum Packet Size.
    pub fn packet_bytes(&self) -> usize {
        // Fixed header, packet id, lengths of the topic and the property block, and up to five bytes of
        // type and length for each property.
        let user: usize = self
            .properties
            .user
            .iter()
            .map(|(n, v)| 5 + n.len() + v.len())
            .sum();
        let text = |t: &Option<String>| t.as_ref().map_or(0, |t| 3 + t.len());
        let correlation = self
            .properties
            .correlation_data
            .as_ref()
            .map_or(0, |c| 3 + c.len());
        16 + self.topic.len()
            + self.payload.len()
            + user
            + text(&self.properties.content_type)
            + text(&self.properties.response_topic)
            + correlation
            + 5
    }
}
