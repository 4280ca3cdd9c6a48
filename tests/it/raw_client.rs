//! A client that shows every packet it gets, and can die without saying goodbye.

use std::net::SocketAddr;
use std::time::Duration;

use rumqttc::NetworkOptions;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, Packet, PubAckReason, Publish, PublishProperties,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, MqttOptions};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use wasmqtt::broker::{Broker, Settings};

use crate::rig::PATIENCE;

/// How long nothing comes when nothing is expected. A test that is wrong about it passes; none fails by it.
pub(crate) const QUIET: Duration = Duration::from_millis(300);

pub(crate) async fn broker() -> Broker {
    Broker::start(Settings::default()).await.expect("broker")
}

pub(crate) fn expiry(seconds: u32) -> PublishProperties {
    PublishProperties {
        message_expiry_interval: Some(seconds),
        ..PublishProperties::default()
    }
}

pub(crate) struct Client {
    pub(crate) client: AsyncClient,
    pub(crate) connack: ConnAck,
    pub(crate) publishes: UnboundedReceiver<Publish>,
    pub(crate) acks: UnboundedReceiver<PubAckReason>,
    pub(crate) subacks: UnboundedReceiver<()>,
    pub(crate) ended: UnboundedReceiver<String>,
    polling: JoinHandle<()>,
}

pub(crate) fn options(address: SocketAddr, id: &str) -> MqttOptions {
    let mut options = MqttOptions::new(id, address.ip().to_string(), address.port());
    options.set_max_packet_size(Some(128 << 20));
    options.set_outgoing_inflight_upper_limit(1000);
    options.set_keep_alive(Duration::from_secs(30));
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    options
}

impl Client {
    pub(crate) async fn new(broker: &Broker, id: &str) -> Client {
        Client::with(options(broker.address(), id)).await
    }

    /// Acknowledges nothing by itself.
    pub(crate) async fn manual(broker: &Broker, id: &str, expiry: u32, window: u16) -> Client {
        let mut options = options(broker.address(), id);
        options.set_manual_acks(true).set_clean_start(expiry == 0);
        options
            .set_session_expiry_interval(Some(expiry))
            .set_receive_maximum(Some(window));
        Client::with(options).await
    }

    pub(crate) async fn with(options: MqttOptions) -> Client {
        Client::try_with(options).await.expect("connect")
    }

    pub(crate) async fn try_with(options: MqttOptions) -> Result<Client, ConnectionError> {
        let (client, mut events) = AsyncClient::new(options, 100_000);
        let (publish_tx, publishes) = unbounded_channel();
        let (ack_tx, acks) = unbounded_channel();
        let (suback_tx, subacks) = unbounded_channel();
        let (end_tx, ended) = unbounded_channel();
        let connack = loop {
            if let Event::Incoming(Packet::ConnAck(connack)) = events.poll().await? {
                assert_eq!(connack.code, ConnectReturnCode::Success);
                break connack;
            }
        };
        let polling = tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => drop(publish_tx.send(publish)),
                    Ok(Event::Incoming(Packet::PubAck(ack))) => drop(ack_tx.send(ack.reason)),
                    Ok(Event::Incoming(Packet::SubAck(_))) => drop(suback_tx.send(())),
                    Ok(_) => {}
                    Err(error) => {
                        let _ = end_tx.send(error.to_string());
                        return;
                    }
                }
            }
        });
        Ok(Client {
            client,
            connack,
            publishes,
            acks,
            subacks,
            ended,
            polling,
        })
    }

    pub(crate) async fn subscribe(&mut self, filter: &str) {
        self.client
            .subscribe(filter, QoS::AtLeastOnce)
            .await
            .expect("subscribe");
        timeout(PATIENCE, self.subacks.recv())
            .await
            .expect("suback in time")
            .expect("suback");
    }

    /// Publishes at QoS 1 and returns the PUBACK's reason.
    pub(crate) async fn publish(
        &mut self,
        topic: &str,
        payload: impl Into<Vec<u8>>,
    ) -> PubAckReason {
        self.client
            .publish(topic, QoS::AtLeastOnce, false, payload.into())
            .await
            .expect("publish");
        self.acked().await
    }

    pub(crate) async fn publish_with(
        &mut self,
        topic: &str,
        retain: bool,
        payload: &str,
        properties: PublishProperties,
    ) -> PubAckReason {
        self.client
            .publish_with_properties(
                topic,
                QoS::AtLeastOnce,
                retain,
                payload.to_owned(),
                properties,
            )
            .await
            .expect("publish");
        self.acked().await
    }

    pub(crate) async fn acked(&mut self) -> PubAckReason {
        timeout(PATIENCE, self.acks.recv())
            .await
            .expect("puback in time")
            .expect("puback")
    }

    pub(crate) async fn publish_numbers(&mut self, topic: &str, numbers: std::ops::Range<u32>) {
        for n in numbers.clone() {
            self.client
                .publish(topic, QoS::AtLeastOnce, false, n.to_string())
                .await
                .expect("publish");
        }
        for _ in numbers {
            assert_eq!(self.acked().await, PubAckReason::Success);
        }
    }

    pub(crate) async fn next(&mut self) -> Publish {
        timeout(PATIENCE, self.publishes.recv())
            .await
            .expect("a message in time")
            .expect("connected")
    }

    pub(crate) async fn next_number(&mut self) -> u32 {
        number(&self.next().await)
    }

    pub(crate) async fn nothing(&mut self) {
        if let Ok(Some(publish)) = timeout(QUIET, self.publishes.recv()).await {
            panic!("unexpected: {publish:?}");
        }
    }

    pub(crate) async fn ack(&self, publish: &Publish) {
        self.client.ack(publish).await.expect("ack");
    }

    /// Takes and acknowledges so many messages.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<u32> {
        let mut numbers = Vec::new();
        while numbers.len() < count {
            let publish = self.next().await;
            numbers.push(number(&publish));
            self.ack(&publish).await;
        }
        numbers
    }

    /// The same, and there are no more than that.
    pub(crate) async fn take_all(&mut self, count: usize) -> Vec<u32> {
        let numbers = self.take(count).await;
        self.nothing().await;
        numbers
    }

    /// The TCP connection goes, without a DISCONNECT.
    pub(crate) async fn die(self) {
        self.polling.abort();
        let _ = self.polling.await;
    }
}

pub(crate) fn number(publish: &Publish) -> u32 {
    std::str::from_utf8(&publish.payload)
        .expect("text")
        .parse()
        .expect("a number")
}
