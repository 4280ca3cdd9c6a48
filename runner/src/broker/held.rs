//! A message of a shared subscription: its copies, its size, the filters it matches.
//!
//! Pure: knows no session and no clock.

use rmqtt::types::{From, Publish, QoS, SubscriptionOptions};

/// What a held message is counted for beyond its bytes, for the structures around it: measured, 200,000 parked ones.
const HELD_BYTES: usize = 700;

pub(super) struct Held {
    /// Its place in the order of arrival.
    pub(super) sequence: u64,
    pub(super) bytes: usize,
    pub(super) from: From,
    pub(super) publish: Publish,
}

impl Held {
    pub(super) fn new(sequence: u64, from: From, publish: Publish) -> Held {
        Held {
            sequence,
            bytes: held_bytes(&publish),
            from,
            publish,
        }
    }

    pub(super) fn expired(&self, now: i64) -> bool {
        let expiry = self
            .publish
            .properties
            .as_ref()
            .and_then(|p| p.message_expiry_interval);
        match (expiry, self.publish.create_time) {
            (Some(seconds), Some(created)) => now - created >= i64::from(seconds.get()) * 1000,
            _ => false,
        }
    }
    /// The copy for a member, as rmqtt makes one for any subscriber, and tagged.
    pub(super) fn copy(&self, options: &SubscriptionOptions) -> Publish {
        let mut publish = self.publish.clone();
        publish.dup = false;
        publish.packet_id = None;
        publish.retain = publish.retain && options.retain_as_published() == Some(true);
        publish.qos = publish.qos.less_value(options.qos());
        if let Some(id) = options.subscription_identifier() {
            publish.properties.get_or_insert_default().subscription_ids = vec![id];
        }
        publish.delay_interval = Some(self.tag());
        publish
    }

    /// Names a message in a member's hand. A window has 65,535 places at most, so the low bits do.
    pub(super) fn tag(&self) -> u32 {
        self.sequence as u32
    }
}

/// The tag of a shared subscription's message. It travels in a field that rmqtt reads only with its feature `delayed`,
/// which is off, and keeps from here to the acknowledgement; it has no id of its own to do this with.
pub(super) fn copy_tag(publish: &Publish) -> Option<u32> {
    publish.delay_interval
}

/// Whether a topic filter takes a topic, `$` topics not being taken by a wildcard in the first place.
/// (rmqtt's own matching takes an empty level for any level.)
pub(super) fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

fn property_bytes(publish: &Publish) -> usize {
    let Some(p) = &publish.properties else {
        return 0;
    };
    let prefixed = |length: Option<usize>| length.map_or(0, |length| 3 + length);
    prefixed(p.correlation_data.as_ref().map(|b| b.len()))
        + prefixed(p.content_type.as_ref().map(|s| s.len()))
        + prefixed(p.response_topic.as_ref().map(|s| s.len()))
        + p.message_expiry_interval.map_or(0, |_| 5)
        + usize::from(p.is_utf8_payload) * 2
        + p.subscription_ids
            .iter()
            .map(|id| 1 + integer_bytes(id.get() as usize))
            .sum::<usize>()
        + p.user_properties
            .iter()
            .map(|(key, value)| 5 + key.len() + value.len())
            .sum::<usize>()
}

/// MQTT's variable byte integer.
fn integer_bytes(value: usize) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        _ => 4,
    }
}

/// What a held message is counted for.
pub(super) fn held_bytes(publish: &Publish) -> usize {
    HELD_BYTES + publish.payload.len() + publish.topic.len() + property_bytes(publish)
}

/// The size of a message as an MQTT 5 packet, with the five bytes that rmqtt always counts for its header.
pub(super) fn packet_bytes(publish: &Publish) -> usize {
    let properties = property_bytes(publish);
    let packet_id = if publish.qos == QoS::AtMostOnce { 0 } else { 2 };
    let topic = 2 + publish.topic.len();
    5 + topic + packet_id + integer_bytes(properties) + properties + publish.payload.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_mqtt_has_it() {
        for (filter, topic, expected) in [
            ("task_queue", "task_queue", true),
            ("task_queue", "task_queue/x", false),
            ("tenants/+/task_queue", "tenants/a/task_queue", true),
            ("tenants/+/task_queue", "tenants//task_queue", true),
            ("tenants/+/task_queue", "tenants/a/b/task_queue", false),
            ("tenants/+", "tenants", false),
            ("tenants/#", "tenants", true),
            ("tenants//x", "tenants/a/x", false),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
    }
}
