//! The publishes that the broker has not acknowledged, over any number of connections.
//!
//! rumqttc tells the packet id of a publish only by an event, in the order in which publishes were handed to
//! it: so a publish is queued, then handed over, then in flight under its packet id, then answered. When a
//! connection is lost, everything unanswered is queued again in its first order.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::oneshot;

use tracing::warn;

use crate::envelope::{Message, Quality};
use crate::mqtt::{PublishError, Published};

/// QoS 0 publishes in the client's channel: they must leave room for acknowledgements.
pub(super) const HANDED_QOS0: usize = 128;
/// Connections that a publish may see die before it is answered as refused: a broker closes the connection for
/// a packet that it does not like, and one such packet must not hold up all others for ever. Whoever published
/// it decides whether to try again.
const LOSSES: u32 = 5;

/// A publish and whoever waits for it.
#[derive(Debug)]
pub(super) struct Pending {
    order: u64,
    losses: u32,
    pub(super) message: Arc<Message>,
    waiter: Option<oneshot::Sender<Result<Published, PublishError>>>,
}

impl Pending {
    pub(super) fn answer(self, answer: Result<Published, PublishError>) {
        if let Some(waiter) = self.waiter {
            // Nobody waits any more: fine, the publish itself was made.
            let _ = waiter.send(answer);
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    next_order: u64,
    queued: VecDeque<Pending>,
    handed: VecDeque<Pending>,
    in_flight: HashMap<u16, Pending>,
    /// QoS 1 publishes among `handed`.
    handed_qos1: usize,
}

impl Outbox {
    pub(super) fn push(
        &mut self,
        message: Arc<Message>,
        waiter: Option<oneshot::Sender<Result<Published, PublishError>>>,
    ) {
        self.queued.push_back(Pending {
            order: self.next_order,
            losses: 0,
            message,
            waiter,
        });
        self.next_order += 1;
    }

    /// The next publish to hand over, if fewer than `window` QoS 1 publishes are unanswered.
    pub(super) fn next(&mut self, window: usize) -> Option<Pending> {
        let qos1 = self.queued.front()?.message.quality == Quality::AtLeastOnce;
        let full = if qos1 {
            self.handed_qos1 + self.in_flight.len() >= window
        } else {
            self.handed.len() - self.handed_qos1 >= HANDED_QOS0
        };
        if full { None } else { self.queued.pop_front() }
    }

    /// The client had no room after all: it is next again.
    pub(super) fn put_back(&mut self, pending: Pending) {
        self.queued.push_front(pending);
    }

    /// It was handed to the client.
    pub(super) fn handed(&mut self, pending: Pending) {
        self.handed_qos1 += usize::from(pending.message.quality == Quality::AtLeastOnce);
        self.handed.push_back(pending);
    }

    /// The client put its oldest publish on the wire, under this packet id (0 for QoS 0).
    pub(super) fn sent(&mut self, packet_id: u16) {
        let Some(pending) = self.handed.pop_front() else {
            return;
        };
        match pending.message.quality {
            Quality::AtMostOnce => pending.answer(Ok(Published::Accepted)),
            Quality::AtLeastOnce => {
                self.handed_qos1 -= 1;
                self.in_flight.insert(packet_id, pending);
            }
        }
    }

    /// The size of the largest packet that may be on its way out just now, in bytes.
    pub(super) fn largest_handed(&self) -> usize {
        let sizes = self.handed.iter().map(|p| p.message.packet_bytes());
        sizes.max().unwrap_or(0)
    }

    /// A PUBACK came.
    pub(super) fn acknowledged(&mut self, packet_id: u16) -> Option<Pending> {
        self.in_flight.remove(&packet_id)
    }

    /// The connection is gone. QoS 1 publishes are queued again; a QoS 0 one that was handed over counts as
    /// sent, which is all that it asks for.
    pub(super) fn connection_lost(&mut self) {
        let mut again: Vec<Pending> = self.in_flight.drain().map(|(_, pending)| pending).collect();
        for pending in self.handed.drain(..) {
            match pending.message.quality {
                Quality::AtMostOnce => pending.answer(Ok(Published::Accepted)),
                Quality::AtLeastOnce => again.push(pending),
            }
        }
        self.handed_qos1 = 0;
        again.sort_by_key(|pending| std::cmp::Reverse(pending.order));
        for mut pending in again {
            pending.losses += 1;
            if pending.losses >= LOSSES {
                let topic = pending.message.topic.clone();
                warn!(
                    topic,
                    losses = pending.losses,
                    "publish given up: the connection died of it, or with it"
                );
                let reason =
                    format!("the connection was lost {LOSSES} times while it was in flight");
                pending.answer(Err(PublishError::Refused { topic, reason }));
            } else if pending.waiter.is_some() {
                self.queued.push_front(pending);
            }
            // Else the birth message, which is published anew on every connection.
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(topic: &str, quality: Quality) -> Message {
        Message {
            quality,
            ..Message::new(topic, "")
        }
    }

    fn topics(outbox: &mut Outbox) -> Vec<String> {
        std::iter::from_fn(|| outbox.next(usize::MAX))
            .map(|p| p.message.topic.clone())
            .collect()
    }

    #[test]
    fn what_was_not_acknowledged_is_sent_again_in_order() {
        let mut outbox = Outbox::default();
        let mut answers = Vec::new();
        for topic in ["a", "b", "c", "d"] {
            let (waiter, answer) = oneshot::channel();
            outbox.push(message(topic, Quality::AtLeastOnce).into(), Some(waiter));
            answers.push(answer);
        }
        for id in [1, 2] {
            let next = outbox.next(3).expect("within the window");
            outbox.handed(next);
            outbox.sent(id);
        }
        let third = outbox.next(3).expect("within the window");
        outbox.handed(third);
        assert!(outbox.next(3).is_none(), "the window is full");
        assert_eq!(
            outbox.acknowledged(1).map(|p| p.message.topic.clone()),
            Some("a".to_owned())
        );
        outbox.connection_lost();
        assert!(
            outbox.acknowledged(2).is_none(),
            "an old packet id means nothing"
        );
        assert_eq!(topics(&mut outbox), ["b", "c", "d"]);
    }

    #[test]
    fn qos_0_is_done_when_it_is_sent() {
        let mut outbox = Outbox::default();
        let (waiter, mut answer) = oneshot::channel();
        outbox.push(message("log", Quality::AtMostOnce).into(), Some(waiter));
        let next = outbox.next(0).expect("no window for QoS 0");
        outbox.handed(next);
        outbox.connection_lost();
        assert_eq!(answer.try_recv(), Ok(Ok(Published::Accepted)));
        assert!(topics(&mut outbox).is_empty());
    }

    #[test]
    fn a_poison_publish_is_given_up() {
        let mut outbox = Outbox::default();
        let (waiter, mut answer) = oneshot::channel();
        outbox.push(message("poison", Quality::AtLeastOnce).into(), Some(waiter));
        for _ in 0..LOSSES {
            let next = outbox.next(1).expect("queued again");
            outbox.handed(next);
            outbox.sent(1);
            outbox.connection_lost();
        }
        assert!(matches!(
            answer.try_recv(),
            Ok(Err(PublishError::Refused { .. }))
        ));
        assert!(topics(&mut outbox).is_empty());
    }

    #[test]
    fn qos_0_leaves_room() {
        let mut outbox = Outbox::default();
        for _ in 0..HANDED_QOS0 + 1 {
            outbox.push(message("log", Quality::AtMostOnce).into(), None);
        }
        while let Some(next) = outbox.next(1) {
            outbox.handed(next);
        }
        assert_eq!(outbox.handed.len(), HANDED_QOS0);
        outbox.sent(0);
        assert!(outbox.next(1).is_some());
    }
}
