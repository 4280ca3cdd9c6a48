//! What a guest publishes → messages below its tenant's prefix.

use bytes::Bytes;

use crate::envelope::topics::Topics;
use crate::envelope::{Message, Properties, is_refused};
use crate::mqtt::Publisher;
use crate::sandbox::publish::{GuestMessages, Unpublished};
use crate::task::tenant::TenantId;

/// The longest media type, in bytes.
const MAX_CONTENT_TYPE: usize = 256;

/// Publishes for one tenant's guests.
pub(super) struct Messages {
    pub(super) topics: Topics,
    pub(super) publisher: Publisher,
    pub(super) tenant: TenantId,
}

#[async_trait::async_trait]
impl GuestMessages for Messages {
    async fn publish(
        &self,
        topic: String,
        payload: Bytes,
        content_type: Option<String>,
    ) -> Result<(), Unpublished> {
        let topic = self
            .topics
            .of_guest(&self.tenant, &topic)
            .map_err(Unpublished::Denied)?;
        // A broker closes the connection for what it takes for a protocol error: everybody's connection.
        let unfit = |text: &String| text.len() > MAX_CONTENT_TYPE || text.contains(is_refused);
        if content_type.as_ref().is_some_and(unfit) {
            let why = format!(
                "a media type has at most {MAX_CONTENT_TYPE} bytes and no control characters"
            );
            return Err(Unpublished::Denied(why));
        }
        let message = Message {
            properties: Properties {
                content_type,
                ..Properties::default()
            },
            ..Message::new(topic, payload)
        };
        if let Some(limits) = self.publisher.limits()
            && message.packet_bytes() > limits.max_packet_bytes
        {
            let most = limits.max_packet_bytes;
            let why = format!("the broker takes packets of {most} bytes");
            return Err(Unpublished::Denied(why));
        }
        let published = self.publisher.publish(message).await;
        published
            .map(drop)
            .map_err(|error| Unpublished::Failed(error.to_string()))
    }
}
