//! One connection that shows what the broker answers: no recovery, nothing sent again, and it can die without a good-bye.

use std::time::Duration;

use bytes::Bytes;
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason, Publish, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, Event};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::mqtt::backoff::{Backoff, random};
use crate::mqtt::link;
use crate::mqtt::settings::Settings;

/// How long the broker may take to answer anything.
const ANSWER: Duration = Duration::from_secs(5);

/// How often a broker that says that it is busy is asked again until that is its answer: [`Backoff`]'s first waits, at
/// most 0.1, 0.2 and 0.4 s.
const BUSY: usize = 3;

/// What the CONNACK says of the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offers {
    /// It kept the session.
    pub session_present: bool,
    /// Shared subscriptions.
    pub shared: bool,
    /// Wildcards in subscriptions.
    pub wildcards: bool,
    /// Retained messages.
    pub retained: bool,
    /// QoS 1 at least.
    pub qos_1: bool,
    /// The largest packet, in bytes, if it names one.
    pub max_packet_bytes: Option<u32>,
}

/// What became of a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The broker took it.
    Taken,
    /// It did not, and said why.
    Refused(String),
    /// The connection ended.
    Lost,
}

/// A connection.
pub struct Probe {
    /// Of the broker.
    pub offers: Offers,
    client: AsyncClient,
    heard: UnboundedReceiver<Publish>,
    pubacks: UnboundedReceiver<PubAckReason>,
    subacks: UnboundedReceiver<SubscribeReasonCode>,
    polling: JoinHandle<()>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.polling.abort();
    }
}

impl Probe {
    /// Connects; with `clean_start` off to the session that the broker has. The error says what was answered.
    pub async fn connect(settings: &Settings, clean_start: bool) -> Result<Probe, String> {
        let opened = link::open(settings, clean_start).map_err(|why| format!("{why:#}"))?;
        let (client, mut events) = opened;
        let mut backoff = Backoff::default();
        let mut waits = std::iter::repeat_with(|| backoff.next(random())).take(BUSY);
        let connecting = async {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(connack))) => return Ok(connack),
                    Ok(_) => {}
                    Err(error) => match waits.next().filter(|_| link::is_busy(&error)) {
                        // The next poll connects anew.
                        Some(wait) => tokio::time::sleep(wait).await,
                        None => return Err(error.to_string()),
                    },
                }
            }
        };
        let connack = timeout(ANSWER, connecting).await;
        let connack = connack.map_err(|_| "no answer in time".to_owned())??;
        let says = connack.properties.as_ref();
        // What is not mentioned is there.
        let offers = Offers {
            session_present: connack.session_present,
            shared: says.is_none_or(|says| says.shared_subscription_available != Some(0)),
            wildcards: says.is_none_or(|says| says.wildcard_subscription_available != Some(0)),
            retained: says.is_none_or(|says| says.retain_available != Some(0)),
            qos_1: says.is_none_or(|says| says.max_qos != Some(0)),
            max_packet_bytes: says.and_then(|says| says.max_packet_size),
        };
        let (hears, heard) = unbounded_channel();
        let (acked, pubacks) = unbounded_channel();
        let (subscribed, subacks) = unbounded_channel();
        let polling = tokio::spawn(async move {
            while let Ok(event) = events.poll().await {
                match event {
                    Event::Incoming(Packet::Publish(publish)) => drop(hears.send(publish)),
                    Event::Incoming(Packet::PubAck(ack)) => drop(acked.send(ack.reason)),
                    Event::Incoming(Packet::SubAck(ack)) => {
                        ack.return_codes.into_iter().for_each(|code| {
                            let _ = subscribed.send(code);
                        });
                    }
                    Event::Outgoing(Outgoing::Disconnect) => return,
                    _ => {}
                }
            }
        });
        Ok(Probe {
            offers,
            client,
            heard,
            pubacks,
            subacks,
            polling,
        })
    }

    /// Subscribes at QoS 1; whether that is granted.
    pub async fn subscribe(&mut self, filter: &str) -> bool {
        if self.client.try_subscribe(filter, QoS::AtLeastOnce).is_err() {
            return false;
        }
        let granted = timeout(ANSWER, self.subacks.recv()).await;
        matches!(
            granted,
            Ok(Some(SubscribeReasonCode::Success(
                QoS::AtLeastOnce | QoS::ExactlyOnce
            )))
        )
    }

    /// Publishes at QoS 1.
    pub async fn publish(
        &mut self,
        topic: &str,
        payload: impl Into<Bytes>,
        retain: bool,
    ) -> Answer {
        let sent = self
            .client
            .try_publish(topic, QoS::AtLeastOnce, retain, payload.into());
        if sent.is_err() {
            return Answer::Lost;
        }
        match timeout(ANSWER, self.pubacks.recv()).await {
            Ok(Some(PubAckReason::Success | PubAckReason::NoMatchingSubscribers)) => Answer::Taken,
            Ok(Some(reason)) => Answer::Refused(format!("{reason:?}")),
            _ => Answer::Lost,
        }
    }

    /// The topics and payloads of what comes, until there are so many or nothing came for a while. Nothing is acknowledged
    /// unless asked.
    pub async fn hear(
        &mut self,
        most: usize,
        silence: Duration,
        acknowledge: bool,
    ) -> Vec<(String, Bytes)> {
        let mut heard = Vec::new();
        while heard.len() < most {
            let Ok(Some(publish)) = timeout(silence, self.heard.recv()).await else {
                break;
            };
            if acknowledge {
                let _ = self.client.try_ack(&publish);
            }
            heard.push((
                String::from_utf8_lossy(&publish.topic).into_owned(),
                publish.payload,
            ));
        }
        heard
    }

    /// The link goes, without a DISCONNECT: the broker publishes the Last Will.
    pub async fn die(mut self) {
        self.polling.abort();
        let _ = (&mut self.polling).await;
    }

    /// Disconnects in good order.
    pub async fn end(mut self) {
        let _ = self.client.try_disconnect();
        let _ = timeout(ANSWER, &mut self.polling).await;
    }
}
