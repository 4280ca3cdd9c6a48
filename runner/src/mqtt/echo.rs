//! A native echo worker: the same MQTT work as a runner's (shared subscription, QoS 1 in and out,
//! acknowledgement after the PUBACK), straight on the client, without a sandbox. What `bench` compares with.

use std::collections::{HashMap, VecDeque};

use anyhow::{Context as _, Result};
use rumqttc::Outgoing;
use rumqttc::v5::Event;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish, PublishProperties};
use tokio::sync::oneshot;

use crate::mqtt::link;
use crate::mqtt::settings::Settings;

/// Answers every message of the settings' one filter on `answer_topic`, until its task is aborted; `ready` is
/// told when it is subscribed.
pub async fn run(
    settings: Settings,
    answer_topic: String,
    ready: oneshot::Sender<()>,
) -> Result<()> {
    let filter = settings
        .filters
        .first()
        .context("the echo worker has no filter")?
        .clone();
    let (client, mut events) = link::open(&settings, true)?;
    let mut ready = Some(ready);
    // As in the outbox: a packet id is known only by the event that follows.
    let mut handed: VecDeque<Publish> = VecDeque::new();
    let mut answered: HashMap<u16, Publish> = HashMap::new();
    loop {
        match events
            .poll()
            .await
            .context("the echo worker lost the broker")?
        {
            Event::Incoming(Packet::ConnAck(_)) => {
                client.try_subscribe(&filter, QoS::AtLeastOnce)?
            }
            Event::Incoming(Packet::SubAck(_)) => {
                if let Some(ready) = ready.take() {
                    let _ = ready.send(());
                }
            }
            Event::Incoming(Packet::Publish(task)) => {
                let correlation_data = task
                    .properties
                    .as_ref()
                    .and_then(|p| p.correlation_data.clone());
                let properties = PublishProperties {
                    correlation_data,
                    ..PublishProperties::default()
                };
                let payload = task.payload.clone();
                client.try_publish_with_properties(
                    &answer_topic,
                    QoS::AtLeastOnce,
                    false,
                    payload,
                    properties,
                )?;
                handed.push_back(task);
            }
            Event::Outgoing(Outgoing::Publish(packet_id)) => {
                if let Some(task) = handed.pop_front() {
                    answered.insert(packet_id, task);
                }
            }
            Event::Incoming(Packet::PubAck(puback)) => {
                if let Some(task) = answered.remove(&puback.pkid) {
                    client.try_ack(&task)?;
                }
            }
            _ => {}
        }
    }
}
