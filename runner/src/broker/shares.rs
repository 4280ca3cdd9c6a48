//! Who gets the next message of a shared subscription, and where it waits while nobody can take it.
//!
//! Owns a copy of every such message from its publish to its acknowledgement, so that none is lost with a member.
//! A member is handed no more than its receive maximum; the rest waits here, for whoever is free first: a slow member
//! delays nothing but what it has in hand, and a new one helps at once. Where nobody has subscribed at all,
//! messages of the parked topics wait too.
//!
//! Hears of sessions and acknowledgements from its neighbours, and must not know where they come from: plain data
//! under one lock, which is never held across an await.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rmqtt::types::{
    ClientId, From, Id, Publish, SharedGroup, SubscriptionOptions, TopicFilter, TopicName, Tx,
};
use rmqtt::utils::timestamp_millis;
use tracing::{debug, warn};

use super::groups::{Group, Handed, Member, Share, State};
use super::held::{held_bytes, matches};

/// A full broker looks for expired messages, and says again that it is full, this often at most.
const PURGE_EVERY: Duration = Duration::from_secs(1);
const WARN_EVERY: Duration = Duration::from_secs(10);

/// How much may be held; see `Settings`.
pub(super) struct Limits {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

pub(super) struct Shares {
    limits: Limits,
    park: Vec<String>,
    state: Mutex<State>,
}

impl Shares {
    pub(super) fn new(limits: Limits, park: Vec<String>) -> Shares {
        Shares {
            limits,
            park,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parks(&self, topic: &str) -> bool {
        self.park.iter().any(|filter| matches(filter, topic))
    }

    fn room(&self, state: &State, bytes: usize) -> bool {
        state.messages < self.limits.messages
            && state.bytes.saturating_add(bytes) <= self.limits.bytes
    }

    /// Whether there is room for this message, should it be one for a shared subscription. Two publishers may be told
    /// yes at once, so the limits can be passed by a message for each connection.
    pub(super) fn admits(&self, publish: &Publish) -> bool {
        let bytes = held_bytes(publish);
        let mut state = self.lock();
        if self.room(&state, bytes) {
            return true;
        }
        if !self.parks(&publish.topic) && !state.groups.iter().any(|g| g.takes(&publish.topic)) {
            return true;
        }
        if due(&mut state.purged, PURGE_EVERY) {
            state.purge(timestamp_millis());
            if self.room(&state, bytes) {
                return true;
            }
        }
        state.refused += 1;
        if due(&mut state.warned, WARN_EVERY) {
            let (messages, held, refused) = (state.messages, state.bytes, state.refused);
            let topic = &publish.topic;
            warn!(%topic, bytes, messages, held, refused, "publish refused: too much is waiting for shared subscriptions");
            state.refused = 0;
        }
        false
    }

    /// Takes a message for every group that wants it, or parks it. Returns how many copies were taken.
    pub(super) fn publish(&self, from: &From, publish: &Publish) -> usize {
        let mut state = self.lock();
        let takers: Vec<usize> = (0..state.groups.len())
            .filter(|at| state.groups[*at].takes(&publish.topic))
            .collect();
        for at in &takers {
            let held = state.hold(from, publish);
            state.groups[*at].waiting.insert(held.sequence, held);
            state.pump(*at);
        }
        if takers.is_empty() && self.parks(&publish.topic) {
            let held = state.hold(from, publish);
            state
                .parked
                .entry(publish.topic.clone())
                .or_default()
                .insert(held.sequence, held);
            return 1;
        }
        takers.len()
    }

    /// A session is connected: a new one, or one that goes on with what it has in hand.
    pub(super) fn here(&self, id: Id, tx: Tx, window: usize) {
        let mut state = self.lock();
        let client = id.client_id.clone();
        match state.members.get_mut(&client) {
            Some(member) => {
                (member.id, member.tx, member.window, member.here) = (id, tx, window, true)
            }
            None => {
                let member = Member {
                    id,
                    tx,
                    here: true,
                    window,
                    in_hand: HashMap::new(),
                };
                state.members.insert(client.clone(), member);
            }
        }
        state.pump_for(&client);
    }

    /// Whether the client id belongs to a session of another user.
    pub(super) fn of_another(&self, id: &Id) -> bool {
        let state = self.lock();
        let owner = state.members.get(&id.client_id);
        owner.is_some_and(|member| member.id.username != id.username)
    }

    /// A session lost its connection, or is about to be replaced; it may end or go on. Of a client that has another by
    /// now, nothing changes if the one that is meant is named.
    pub(super) fn away(&self, client: &ClientId, id: Option<&Id>) {
        if let Some(member) = self.lock().members.get_mut(client)
            && id.is_none_or(|id| member.id == *id)
        {
            member.here = false;
        }
    }

    /// A session is no more, unless another has the client's place by now: what it had in hand goes to others.
    pub(super) fn gone(&self, client: &ClientId, id: Option<&Id>) {
        let mut state = self.lock();
        if id.is_some_and(|id| {
            state
                .members
                .get(client)
                .is_some_and(|member| member.id != *id)
        }) {
            return;
        }
        let Some(member) = state.members.remove(client) else {
            return;
        };
        let mut was = !member.in_hand.is_empty();
        for group in &mut state.groups {
            was |= group.remove(client);
        }
        if !was {
            return;
        }
        debug!(%client, messages = member.in_hand.len(), "taking back what a member had in hand");
        for handed in member.in_hand.into_values() {
            let at = state.group(&handed.share);
            state.groups[at]
                .waiting
                .insert(handed.held.sequence, handed.held);
        }
        self.settle_deserted(&mut state);
        (0..state.groups.len()).for_each(|at| state.pump(at));
    }

    /// A session subscribed, or changed its subscription. Returns whether it is still there.
    pub(super) fn joined(
        &self,
        client: &ClientId,
        filter: &TopicFilter,
        group: &SharedGroup,
        options: SubscriptionOptions,
    ) -> bool {
        let mut state = self.lock();
        if !state.members.contains_key(client) {
            return false;
        }
        let at = state.group(&Share {
            filter: filter.clone(),
            group: group.clone(),
        });
        let State { groups, parked, .. } = &mut *state;
        groups[at].remove(client);
        groups[at].members.push((client.clone(), options));
        groups[at].missed = false;
        let topics: Vec<TopicName> = parked
            .keys()
            .filter(|topic| matches(filter, topic))
            .cloned()
            .collect();
        for topic in topics {
            groups[at]
                .waiting
                .extend(parked.remove(&topic).unwrap_or_default());
        }
        state.pump(at);
        true
    }

    /// What the client has in hand stays there. Returns whether it was a member.
    pub(super) fn left(
        &self,
        client: &ClientId,
        filter: &TopicFilter,
        group: &SharedGroup,
    ) -> bool {
        let mut state = self.lock();
        let mut was = false;
        for g in state
            .groups
            .iter_mut()
            .filter(|g| g.share.filter == *filter && g.share.group == *group)
        {
            was |= g.remove(client);
        }
        if was {
            self.settle_deserted(&mut state);
        }
        was
    }

    /// Whether a client is in a group that takes the topic.
    pub(super) fn shares_with(&self, client: &ClientId, topic: &str) -> bool {
        let state = self.lock();
        state
            .groups
            .iter()
            .any(|g| g.takes(topic) && g.members.iter().any(|(member, _)| member == client))
    }

    /// Acknowledged, or expired on the way.
    pub(super) fn settled(&self, client: &ClientId, tag: u32) {
        let mut state = self.lock();
        let Some(member) = state.members.get_mut(client) else {
            return;
        };
        let Some(handed) = member.in_hand.remove(&tag) else {
            return;
        };
        state.release(&handed.held);
        state.pump_for(client);
    }

    /// The member's session could not keep it. Nothing is sent at once, lest it come back at once.
    pub(super) fn returned(&self, client: &ClientId, tag: u32) {
        let mut state = self.lock();
        let Some(member) = state.members.get_mut(client) else {
            return;
        };
        let Some(handed) = member.in_hand.remove(&tag) else {
            return;
        };
        let at = state.group(&handed.share);
        state.groups[at]
            .waiting
            .insert(handed.held.sequence, handed.held);
    }

    /// What a member has in hand apart from these, oldest first, as it is sent.
    pub(super) fn in_hand_but(
        &self,
        client: &ClientId,
        kept: &HashSet<u32>,
    ) -> Vec<(From, Publish)> {
        let state = self.lock();
        let Some(member) = state.members.get(client) else {
            return Vec::new();
        };
        let mut missing: Vec<&Handed> = member
            .in_hand
            .iter()
            .filter(|(tag, _)| !kept.contains(tag))
            .map(|(_, handed)| handed)
            .collect();
        missing.sort_by_key(|handed| handed.held.sequence);
        missing
            .into_iter()
            .filter_map(|handed| {
                let group = state.groups.iter().find(|g| g.share == handed.share)?;
                let (_, options) = group.members.iter().find(|(other, _)| other == client)?;
                Some((handed.held.from.clone(), handed.held.copy(options)))
            })
            .collect()
    }

    /// Groups without members: what waits for one is kept for its return while another group takes the topic too, for
    /// that one has its own copies. Otherwise it is parked for whoever comes first, or, elsewhere than on the
    /// parked topics, dropped, as MQTT has it.
    fn settle_deserted(&self, state: &mut State) {
        let (deserted, mut groups): (Vec<Group>, Vec<Group>) = std::mem::take(&mut state.groups)
            .into_iter()
            .partition(|g| g.members.is_empty());
        for mut group in deserted {
            for (sequence, held) in std::mem::take(&mut group.waiting) {
                if groups.iter().any(|other| other.takes(&held.publish.topic)) {
                    group.waiting.insert(sequence, held);
                } else if self.parks(&held.publish.topic) {
                    state
                        .parked
                        .entry(held.publish.topic.clone())
                        .or_default()
                        .insert(sequence, held);
                } else {
                    state.release(&held);
                }
            }
            if !group.waiting.is_empty() {
                if !std::mem::replace(&mut group.missed, true) {
                    let (name, messages) = (&group.share.group, group.waiting.len());
                    warn!(group = %name, messages, "messages wait for a shared subscription that has no member left");
                }
                groups.push(group);
            }
        }
        state.groups = groups;
    }
}

fn due(last: &mut Option<Instant>, every: Duration) -> bool {
    let now = Instant::now();
    let due = last.is_none_or(|last| now.duration_since(last) >= every);
    if due {
        *last = Some(now);
    }
    due
}
