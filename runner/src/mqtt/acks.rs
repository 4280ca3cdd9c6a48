//! In which order acknowledgements leave.
//!
//! [MQTT-4.6.0-2] asks for the order of arrival; every broker but rumqttd takes any order, and strict order
//! lets one long task stall a runner once the broker's window is full. So completion order is the default.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// In which order deliveries are acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckOrder {
    /// As each is done.
    #[default]
    Completion,
    /// As they came: each waits for all before it.
    Arrival,
}

/// The deliveries of one connection that are not acknowledged yet.
#[derive(Debug)]
pub(super) struct Acks {
    order: AckOrder,
    next_sequence: u64,
    /// Arrival order only: (sequence, packet id, done).
    waiting: VecDeque<(u64, u16, bool)>,
}

impl Acks {
    pub(super) fn new(order: AckOrder) -> Acks {
        Acks {
            order,
            next_sequence: 0,
            waiting: VecDeque::new(),
        }
    }

    /// A delivery came: its place in the order.
    pub(super) fn arrived(&mut self, packet_id: u16) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        if self.order == AckOrder::Arrival {
            self.waiting.push_back((sequence, packet_id, false));
        }
        sequence
    }

    /// A delivery is done: the packet ids that may be acknowledged now, in order.
    pub(super) fn done(&mut self, sequence: u64, packet_id: u16) -> Vec<u16> {
        if self.order == AckOrder::Completion {
            return vec![packet_id];
        }
        if let Ok(at) = self.waiting.binary_search_by_key(&sequence, |w| w.0) {
            self.waiting[at].2 = true;
        }
        let ready = self.waiting.iter().take_while(|w| w.2).count();
        self.waiting.drain(..ready).map(|w| w.1).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completion_order_waits_for_nobody() {
        let mut acks = Acks::new(AckOrder::Completion);
        let (first, second) = (acks.arrived(1), acks.arrived(2));
        assert_eq!(acks.done(second, 2), [2]);
        assert_eq!(acks.done(first, 1), [1]);
    }

    #[test]
    fn arrival_order_waits_for_the_head() {
        let mut acks = Acks::new(AckOrder::Arrival);
        let (first, second, third) = (acks.arrived(7), acks.arrived(8), acks.arrived(9));
        assert!(acks.done(second, 8).is_empty());
        assert_eq!(acks.done(first, 7), [7, 8]);
        assert_eq!(acks.done(third, 9), [9]);
    }
}
