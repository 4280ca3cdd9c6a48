//! The publishes that the broker has not acknowledged, over any number of connections.
//!
//! rumqttc tells the packet id of a publish only by an event, in the order in which publishes were handed to
//! it: so a publish is queued, then handed over, then in flight under its packet id, then answered. When a
//! connection is lost, everything unanswered is queued again in its first order.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::envelope::{Message, Quality};
use crate::mqtt::{PublishError, Published};

/// A publish and whoever waits for it.
#[derive(Debug)]
pub(super) struct Pending {
    order: u64,
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
            message,
            waiter,
        });
        self.next_order += 1;
    }

    /// The next publish to hand over, if fewer than `window` QoS 1 publishes are unanswered.
    pub(super) fn next(&mut self, window: usize) -> Option<Pending> {
        let qos1 = self.queued.front()?.message.quality == Quality::AtLeastOnce;
        if qos1 && self.handed_qos1 + self.in_flight.len() >= window {
            return None;
        }
        self.queued.pop_front()
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
        for pending in again {
            self.queued.push_front(pending);
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
        for topic in ["a", "b", "c", "d"] {
            outbox.push(message(topic, Quality::AtLeastOnce).into(), None);
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
}
