//! The members of shared subscriptions, what each has in hand, and what waits: the state behind [`Shares`].
//!
//! Decides who is handed the next message. Must not know of locks and limits, nor what rmqtt told.
//!
//! [`Shares`]: super::shares::Shares

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use rmqtt::types::{
    ClientId, From, Id, Message, Publish, SharedGroup, SubscriptionOptions, TopicFilter, TopicName,
    Tx,
};
use rmqtt::utils::timestamp_millis;

use super::held::{Held, matches};

#[derive(Default)]
pub(super) struct State {
    pub(super) members: HashMap<ClientId, Member>,
    /// A few: searched from end to end for every publish.
    pub(super) groups: Vec<Group>,
    /// Messages of parked topics that no group takes, by their sequence.
    pub(super) parked: HashMap<TopicName, BTreeMap<u64, Held>>,
    pub(super) sequence: u64,
    pub(super) messages: usize,
    pub(super) bytes: usize,
    pub(super) turn: usize,
    pub(super) refused: u64,
    pub(super) purged: Option<Instant>,
    pub(super) warned: Option<Instant>,
}

/// A session.
pub(super) struct Member {
    pub(super) id: Id,
    pub(super) tx: Tx,
    /// Connected.
    pub(super) here: bool,
    /// The client's receive maximum.
    pub(super) window: usize,
    pub(super) in_hand: HashMap<u32, Handed>,
}

pub(super) struct Handed {
    pub(super) share: Share,
    pub(super) held: Held,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) filter: TopicFilter,
    pub(super) group: SharedGroup,
}

pub(super) struct Group {
    pub(super) share: Share,
    pub(super) members: Vec<(ClientId, SubscriptionOptions)>,
    /// By sequence, so that what comes back from a dead member goes first again.
    pub(super) waiting: BTreeMap<u64, Held>,
    pub(super) turn: usize,
    /// It has no member, and that was said.
    pub(super) missed: bool,
}

impl State {
    pub(super) fn hold(&mut self, from: &From, publish: &Publish) -> Held {
        self.sequence += 1;
        let held = Held::new(self.sequence, from.clone(), publish.clone());
        self.messages += 1;
        self.bytes += held.bytes;
        held
    }

    pub(super) fn release(&mut self, held: &Held) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(held.bytes);
    }

    pub(super) fn group(&mut self, share: &Share) -> usize {
        self.groups
            .iter()
            .position(|g| g.share == *share)
            .unwrap_or_else(|| {
                let (share, members, waiting) = (share.clone(), Vec::new(), BTreeMap::new());
                self.groups.push(Group {
                    share,
                    members,
                    waiting,
                    turn: 0,
                    missed: false,
                });
                self.groups.len() - 1
            })
    }

    pub(super) fn purge(&mut self, now: i64) {
        let (mut messages, mut bytes) = (0, 0);
        let queues = self
            .groups
            .iter_mut()
            .map(|g| &mut g.waiting)
            .chain(self.parked.values_mut());
        for queue in queues {
            queue.retain(|_, held| {
                let keep = !held.expired(now);
                if !keep {
                    messages += 1;
                    bytes += held.bytes;
                }
                keep
            });
        }
        self.parked.retain(|_, queue| !queue.is_empty());
        self.messages = self.messages.saturating_sub(messages);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// A client has room: its groups take turns to use it.
    pub(super) fn pump_for(&mut self, client: &ClientId) {
        self.turn = self.turn.wrapping_add(1);
        let (turn, groups) = (self.turn, self.groups.len());
        for at in (0..groups).map(|n| turn.wrapping_add(n) % groups) {
            let group = &self.groups[at];
            if !group.waiting.is_empty() && group.members.iter().any(|(member, _)| member == client)
            {
                self.pump(at);
            }
        }
    }

    /// Hands out what waits in a group for as long as a member has room.
    pub(super) fn pump(&mut self, at: usize) {
        let now = timestamp_millis();
        while let Some(next) = self.groups[at].waiting.first_entry() {
            if next.get().expired(now) {
                let expired = next.remove();
                self.release(&expired);
                continue;
            }
            let Some(to) = self.groups[at].choose(&self.members) else {
                return;
            };
            let group = &mut self.groups[at];
            let (client, options) = &group.members[to];
            let (Some(member), Some((_, held))) =
                (self.members.get_mut(client), group.waiting.pop_first())
            else {
                return;
            };
            let message = Message::Forward(held.from.clone(), held.copy(options));
            if member.tx.unbounded_send(message).is_err() {
                // Its end will be told in a moment.
                member.here = false;
                group.waiting.insert(held.sequence, held);
                continue;
            }
            member.in_hand.insert(
                held.tag(),
                Handed {
                    share: group.share.clone(),
                    held,
                },
            );
        }
    }
}

impl Group {
    /// Returns whether it was a member.
    pub(super) fn remove(&mut self, client: &ClientId) -> bool {
        let before = self.members.len();
        self.members.retain(|(other, _)| other != client);
        self.members.len() < before
    }

    pub(super) fn takes(&self, topic: &str) -> bool {
        !self.members.is_empty() && matches(&self.share.filter, topic)
    }

    /// The member with the least in hand of those that have room, in turn where they are equal.
    pub(super) fn choose(&mut self, members: &HashMap<ClientId, Member>) -> Option<usize> {
        let count = self.members.len();
        let load = |at: &usize| {
            let member = members.get(&self.members[*at].0)?;
            let in_hand = member.in_hand.len();
            (member.here && in_hand < member.window).then_some(in_hand)
        };
        let chosen = (0..count)
            .map(|n| self.turn.wrapping_add(n) % count)
            .filter_map(|at| load(&at).map(|load| (load, at)))
            .min_by_key(|(load, _)| *load)
            .map(|(_, at)| at)?;
        self.turn = chosen + 1;
        Some(chosen)
    }
}
