//! What becomes of a message, from rmqtt's hooks to [`Shares`]: let in, sent, acknowledged, expired.

use std::sync::Arc;

use async_trait::async_trait;
use rmqtt::codec::v5::PublishAckReason;
use rmqtt::hook::{Handler, HookResult, Parameter, ReturnType};
use rmqtt::session::Session;
use rmqtt::types::{Publish, PublishAclResult, PublishResult, QoS, Reason};
use tracing::warn;

use super::held::{copy_tag, packet_bytes};
use super::shares::Shares;

/// rmqtt's number for MQTT 5.
pub(super) const MQTT_5: u8 = 5;

pub(super) struct Hooks {
    shares: Arc<Shares>,
}

impl Hooks {
    pub(super) fn new(shares: Arc<Shares>) -> Hooks {
        Hooks { shares }
    }

    async fn admit(&self, session: &Session, publish: &Publish) -> Option<HookResult> {
        if self.shares.admits(publish) {
            return None;
        }
        // Before MQTT 5 a PUBACK is always a success, so none may be sent.
        let answerable =
            publish.qos == QoS::AtMostOnce || session.protocol().await.unwrap_or(0) == MQTT_5;
        let reason = "the broker holds as many unacknowledged messages as it may";
        Some(HookResult::PublishAclResult(PublishAclResult(
            PublishResult::reason_code(
                PublishAckReason::QuotaExceeded,
                Some(reason.into()),
                !answerable,
            ),
        )))
    }
}

#[expect(
    elided_lifetimes_in_paths,
    reason = "async_trait binds a named one where the trait's is elided"
)]
#[async_trait]
impl Handler for Hooks {
    async fn hook(&self, parameter: &Parameter, acc: Option<HookResult>) -> ReturnType {
        let result = match parameter {
            Parameter::MessagePublish(_, _, publish) => round_expiry_up(publish),
            Parameter::MessagePublishCheckAcl(session, publish) => {
                self.admit(session, publish).await
            }
            Parameter::MessageExpiryCheck(session, _, publish) => {
                discard_too_large(session, publish).await
            }
            Parameter::MessageDelivered(session, _, publish) => {
                // Nobody will acknowledge it.
                if publish.qos == QoS::AtMostOnce {
                    self.settle(&session.id.client_id, publish);
                }
                None
            }
            Parameter::MessageAcked(session, _, publish) => {
                self.settle(&session.id.client_id, publish);
                None
            }
            Parameter::MessageDropped(Some(to), _, publish, reason) => {
                match (copy_tag(publish), reason) {
                    (Some(tag), Reason::MessageExpiration) => {
                        self.shares.settled(&to.client_id, tag)
                    }
                    (Some(tag), Reason::MessageQueueFull) => {
                        self.shares.returned(&to.client_id, tag)
                    }
                    (None, Reason::MessageQueueFull) => {
                        warn!(client = %to.client_id, topic = %publish.topic, "message dropped: the client's queue is full");
                    }
                    // The session is ending: `Sessions` tells when it has.
                    _ => {}
                }
                None
            }
            Parameter::ClientDisconnected(session, _) => {
                self.shares.away(&session.id.client_id, Some(&session.id));
                None
            }
            _ => None,
        };
        (true, result.or(acc))
    }
}

impl Hooks {
    fn settle(&self, client: &rmqtt::types::ClientId, publish: &Publish) {
        if let Some(tag) = copy_tag(publish) {
            self.shares.settled(client, tag);
        }
    }
}

/// rmqtt hands on whole seconds, rounded down: a message that may live one second would arrive with no expiry at all,
/// and never expire at its receiver. So it is given the rest of its last second.
fn round_expiry_up(publish: &Publish) -> Option<HookResult> {
    publish.properties.as_ref()?.message_expiry_interval?;
    let mut publish = publish.clone();
    publish.create_time = publish.create_time.map(|at| at + 999);
    Some(HookResult::Publish(publish))
}

/// [MQTT-3.1.2-24] and -25: a packet larger than the client takes is discarded. rmqtt would close the connection
/// instead, and so would the next member of the group, and the next.
async fn discard_too_large(session: &Session, publish: &Publish) -> Option<HookResult> {
    let max = session.connect_info().await.ok()?.max_packet_size()?.get();
    let bytes = packet_bytes(publish);
    if bytes <= max as usize {
        return None;
    }
    let (client, topic) = (&session.id.client_id, &publish.topic);
    warn!(%client, %topic, bytes, max, "message discarded: larger than the client's maximum packet size");
    Some(HookResult::MessageExpiry)
}
