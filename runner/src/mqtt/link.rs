//! One connection as rumqttc makes it: options in, and whether the broker's answer fits.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rumqttc::tokio_native_tls::native_tls;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, DisconnectReasonCode, LastWill, LastWillProperties,
    PublishProperties,
};
use rumqttc::v5::{AsyncClient, ConnectionError, EventLoop, MqttOptions, StateError};
use rumqttc::{NetworkOptions, TlsConfiguration, Transport};

use crate::dial;
use crate::envelope::{Inbound, Message, Properties, Quality};
use crate::mqtt::BrokerLimits;
use crate::mqtt::settings::{Address, Settings, Tls};

/// The largest packet that MQTT can express.
const MAX_MQTT_PACKET: usize = 268_435_460;

/// A client and its event loop, not yet polled.
pub(super) fn open(settings: &Settings, clean_start: bool) -> Result<(AsyncClient, EventLoop)> {
    let mut options = match &settings.address {
        Address::Tcp { host, port } | Address::Tls { host, port } => {
            MqttOptions::new(&settings.client_id, host, *port)
        }
        // rumqttc takes the port of these from the URL, or none.
        Address::WebSocket { url } => MqttOptions::new(&settings.client_id, url, 0),
        Address::Unix { path } => MqttOptions::new(&settings.client_id, path, 0),
    };
    options.set_transport(match &settings.address {
        Address::Tcp { .. } => Transport::Tcp,
        Address::Tls { .. } => {
            Transport::Tls(TlsConfiguration::NativeConnector(tls(&settings.tls)?))
        }
        Address::WebSocket { .. } => Transport::Ws,
        Address::Unix { .. } => Transport::Unix,
    });
    let mut network = NetworkOptions::new();
    // Without it acknowledgements wait for Nagle's algorithm: tails of 40 ms.
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    options.set_connection_timeout(10);
    options.set_keep_alive(settings.keep_alive);
    options.set_clean_start(clean_start);
    options.set_manual_acks(true);
    options.set_session_expiry_interval(Some(seconds(settings.session_expiry)));
    options.set_receive_maximum(Some(settings.receive_maximum));
    // The same number is rumqttc's incoming limit, which would otherwise be 10 KiB.
    options.set_max_packet_size(Some(settings.max_packet_bytes));
    options.set_outgoing_inflight_upper_limit(packet_ids(settings));
    if let Some((username, password)) = &settings.credentials {
        options.set_credentials(username, password);
    }
    if let Some(will) = &settings.will {
        options.set_last_will(last_will(will));
    }
    // Everything that may be handed over at once: acknowledgements, publishes, and a few subscriptions.
    let channel = usize::from(settings.receive_maximum) + usize::from(settings.send_maximum) + 256;
    Ok(AsyncClient::new(options, channel))
}

/// More packet ids than are ever in use, so that one slow PUBACK does not block the ids behind it; not all
/// 65,535, for which rumqttc would allocate 14 MB.
fn packet_ids(settings: &Settings) -> u16 {
    settings.send_maximum.saturating_mul(4).max(256)
}

/// How many QoS 1 publishes may be unanswered: below every limit at which rumqttc would stop taking
/// requests, acknowledgements among them.
pub(super) fn window(settings: &Settings, connack: &ConnAck) -> usize {
    let theirs = connack
        .properties
        .as_ref()
        .and_then(|p| p.receive_max)
        .unwrap_or(u16::MAX);
    let limit = theirs.min(packet_ids(settings)).saturating_sub(1);
    usize::from(limit.min(settings.send_maximum).max(1))
}

/// What the broker allows, or what it lacks that this client cannot do without.
pub(super) fn fit(settings: &Settings, connack: &ConnAck) -> Result<BrokerLimits, String> {
    let properties = connack.properties.as_ref();
    let lacks = |what: &str| Err(format!("the broker at {} {what}", settings.address));
    let shares = settings.filters.iter().any(|f| f.starts_with("$share/"));
    if shares && properties.is_some_and(|p| p.shared_subscription_available == Some(0)) {
        return lacks("has no shared subscriptions");
    }
    if shares && properties.is_some_and(|p| p.wildcard_subscription_available == Some(0)) {
        return lacks("has no wildcard subscriptions");
    }
    if properties.is_some_and(|p| p.max_qos == Some(0)) {
        return lacks("has no QoS 1");
    }
    if settings.birth.is_some() && properties.is_some_and(|p| p.retain_available == Some(0)) {
        return lacks("has no retained messages");
    }
    let max = properties.and_then(|p| p.max_packet_size);
    Ok(BrokerLimits {
        max_packet_bytes: max.map_or(MAX_MQTT_PACKET, |m| m as usize),
        session_present: connack.session_present,
        since: std::time::Instant::now(),
    })
}

/// Whether another attempt to connect can only fail the same way.
pub(super) fn is_final(error: &ConnectionError) -> bool {
    use ConnectReturnCode as C;
    // Who the broker claims to be does not change from one attempt to the next; the library says it in words only.
    if let ConnectionError::Tls(error) = error {
        return error.to_string().contains("certificate verify failed");
    }
    matches!(
        error,
        ConnectionError::ConnectionRefused(
            C::BadUserNamePassword
                | C::NotAuthorized
                | C::ClientIdentifierNotValid
                | C::UnsupportedProtocolVersion
                | C::RefusedProtocolVersion
                | C::Banned
                | C::BadAuthenticationMethod
                | C::QoSNotSupported
                | C::RetainNotSupported
        )
    )
}

/// Whether the broker says that it cannot now: the embedded one while it is still busy with this client's last connection.
pub(super) fn is_busy(error: &ConnectionError) -> bool {
    use ConnectReturnCode as C;
    matches!(
        error,
        ConnectionError::ConnectionRefused(C::ServerUnavailable | C::ServerBusy)
    )
}

/// Whether the broker gave this client's id to another client.
pub(super) fn is_takeover(error: &ConnectionError) -> bool {
    matches!(
        error,
        ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code: DisconnectReasonCode::SessionTakenOver,
            ..
        })
    )
}

fn tls(files: &Tls) -> Result<native_tls::TlsConnector> {
    let read = |path: &Path| {
        std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))
    };
    let mut builder = native_tls::TlsConnector::builder();
    builder.min_protocol_version(Some(native_tls::Protocol::Tlsv12));
    if let Some(ca) = &files.ca_file {
        builder.disable_built_in_roots(true);
        for authority in dial::authorities(ca)? {
            builder.add_root_certificate(authority);
        }
    }
    if let (Some(cert), Some(key)) = (&files.cert_file, &files.key_file) {
        let identity =
            native_tls::Identity::from_pkcs8(&read(cert)?, &read(key)?).with_context(|| {
                format!(
                    "{} and {} are no certificate and PKCS #8 key",
                    cert.display(),
                    key.display()
                )
            })?;
        builder.identity(identity);
    }
    builder.build().context("failed to set up TLS")
}

fn last_will(message: &Message) -> LastWill {
    let properties = LastWillProperties {
        delay_interval: None,
        payload_format_indicator: None,
        message_expiry_interval: None,
        content_type: message.properties.content_type.clone(),
        response_topic: None,
        correlation_data: None,
        user_properties: message.properties.user.clone(),
    };
    LastWill::new(
        message.topic.clone(),
        message.payload.to_vec(),
        QoS::AtLeastOnce,
        message.retain,
        Some(properties),
    )
}

/// Hands a message to the client; false when its channel is full, which the windows rule out.
pub(super) fn hand_over(client: &AsyncClient, message: &Message) -> bool {
    let quality = match message.quality {
        Quality::AtMostOnce => QoS::AtMostOnce,
        Quality::AtLeastOnce => QoS::AtLeastOnce,
    };
    let (topic, payload) = (message.topic.as_str(), message.payload.clone());
    client
        .try_publish_with_properties(
            topic,
            quality,
            message.retain,
            payload,
            wire(&message.properties),
        )
        .is_ok()
}

fn wire(properties: &Properties) -> PublishProperties {
    PublishProperties {
        message_expiry_interval: properties.message_expiry_s,
        response_topic: properties.response_topic.clone(),
        correlation_data: properties.correlation_data.clone(),
        user_properties: properties.user.clone(),
        content_type: properties.content_type.clone(),
        ..PublishProperties::default()
    }
}

/// A message as it came; `None` when its topic is not UTF-8, which no broker lets through.
pub(super) fn inbound(publish: rumqttc::v5::mqttbytes::v5::Publish) -> Option<Inbound> {
    let properties = publish.properties.unwrap_or_default();
    Some(Inbound {
        topic: String::from_utf8(publish.topic.to_vec()).ok()?,
        payload: publish.payload,
        properties: Properties {
            content_type: properties.content_type,
            response_topic: properties.response_topic,
            correlation_data: properties.correlation_data,
            message_expiry_s: properties.message_expiry_interval,
            user: properties.user_properties,
        },
    })
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
