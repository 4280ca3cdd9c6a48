//! What becomes of a session, from rmqtt to [`Shares`]: here, subscribed, taken over, gone.
//!
//! rmqtt has no hook that fires once a dead session is out of the way, none at all for a session that another
//! connection replaces, and it drops without a word what was on its way to either. All of it passes through the two
//! traits that are wrapped here, so this is where nothing is missed.

use std::collections::HashSet;
use std::num::NonZeroU16;
use std::sync::Arc;

use anyhow::anyhow;
use async_trait::async_trait;
use rmqtt::Result;
use rmqtt::session::Session;
use rmqtt::shared::{DefaultShared, Entry, RetainLoadCallback, Shared};
use rmqtt::subscribe::SharedSubscription;
use rmqtt::types::{
    ForwardedCount, ForwardedRecipients, From, Id, IsAdmin, MsgID, NodeId, OfflineSession, Publish,
    Reason, SessionStatus, SubRelations, SubRelationsMap, SubsSearchParams, SubsSearchResult,
    Subscribe, SubscribeReturn, To, TopicFilter, Tx, Unsubscribe,
};

use super::held::{copy_tag, matches};
use super::shares::Shares;

/// Tells clients that there are shared subscriptions. rmqtt itself never sees one, see [`Watched::subscribe`].
pub(super) struct OwnShares;

impl SharedSubscription for OwnShares {
    fn is_supported(&self) -> bool {
        true
    }
}

pub(super) struct Sessions {
    inner: DefaultShared,
    shares: Arc<Shares>,
    /// Whether a session is its user's alone.
    owned: bool,
}

impl Sessions {
    pub(super) fn new(inner: DefaultShared, shares: Arc<Shares>, owned: bool) -> Sessions {
        Sessions {
            inner,
            shares,
            owned,
        }
    }
}

type Undelivered = Vec<(To, From, Publish, Reason)>;

#[async_trait]
impl Shared for Sessions {
    fn entry(&self, id: Id) -> Box<dyn Entry> {
        let (inner, shares) = (self.inner.entry(id), self.shares.clone());
        Box::new(Watched::new(inner, shares, self.owned))
    }

    /// Every publish comes through here, last wills included.
    async fn forwards(
        &self,
        message: Option<MsgID>,
        from: From,
        publish: Publish,
    ) -> std::result::Result<ForwardedCount, (ForwardedCount, Undelivered)> {
        let copies = match publish.target_clientid {
            None => self.shares.publish(&from, &publish),
            Some(_) => 0,
        };
        match self.inner.forwards(message, from, publish).await {
            Ok(count) => Ok(count + copies),
            Err((count, undelivered)) => Err((count + copies, undelivered)),
        }
    }

    fn exist(&self, client_id: &str) -> bool {
        self.inner.exist(client_id)
    }

    async fn forwards_and_get_shareds(
        &self,
        from: From,
        publish: Publish,
    ) -> std::result::Result<
        (SubRelationsMap, ForwardedRecipients),
        (ForwardedRecipients, Undelivered),
    > {
        self.inner.forwards_and_get_shareds(from, publish).await
    }

    async fn forwards_to(
        &self,
        from: From,
        publish: &Publish,
        relations: SubRelations,
        message: Option<MsgID>,
    ) -> std::result::Result<ForwardedRecipients, (ForwardedRecipients, Undelivered)> {
        self.inner
            .forwards_to(from, publish, relations, message)
            .await
    }

    fn iter(&self) -> Box<dyn Iterator<Item = Box<dyn Entry>> + Sync + Send + '_> {
        self.inner.iter()
    }

    fn random_session(&self) -> Option<Session> {
        self.inner.random_session()
    }

    async fn session_status(&self, client_id: &str) -> Option<SessionStatus> {
        self.inner.session_status(client_id).await
    }

    async fn client_states_count(&self) -> usize {
        self.inner.client_states_count().await
    }

    fn sessions_count(&self) -> usize {
        self.inner.sessions_count()
    }

    async fn query_subscriptions(&self, q: &SubsSearchParams) -> Vec<SubsSearchResult> {
        self.inner.query_subscriptions(q).await
    }

    async fn subscriptions_count(&self) -> usize {
        self.inner.subscriptions_count().await
    }

    async fn retain_load_with(
        &self,
        filter: &TopicFilter,
        callback: Arc<dyn RetainLoadCallback>,
    ) -> Result<Vec<(NodeId, MsgID)>> {
        self.inner.retain_load_with(filter, callback).await
    }
}

/// One client's place among the sessions.
struct Watched {
    inner: Box<dyn Entry>,
    shares: Arc<Shares>,
    owned: bool,
    /// The highest packet id that the session which was replaced had in flight.
    last_packet_id: Option<u16>,
}

impl Watched {
    fn new(inner: Box<dyn Entry>, shares: Arc<Shares>, owned: bool) -> Watched {
        Watched {
            inner,
            shares,
            owned,
            last_packet_id: None,
        }
    }
}

#[async_trait]
impl Entry for Watched {
    async fn try_lock(&self) -> Result<Box<dyn Entry>> {
        let inner = self.inner.try_lock().await?;
        Ok(Box::new(Watched::new(
            inner,
            self.shares.clone(),
            self.owned,
        )))
    }

    async fn set(&mut self, session: Session, tx: Tx) -> Result<()> {
        // What was in flight comes back with its packet ids, but only after the session is set: a message that
        // overtook it would be given one of them, and one of the two be forgotten.
        if let Some(last) = self.last_packet_id {
            session.out_inflight().write().await.advance_next_id(last);
        }
        let window = usize::from(session.fitter.max_inflight().get());
        let id = session.id.clone();
        self.inner.set(session, tx.clone()).await?;
        self.shares.here(id, tx, window);
        Ok(())
    }

    async fn remove(&mut self) -> Result<Option<(Session, Tx)>> {
        let removed = self.inner.remove().await;
        self.shares.gone(&self.inner.id().client_id, None);
        removed
    }

    async fn remove_with(&mut self, id: &Id) -> Result<Option<(Session, Tx)>> {
        let removed = self.inner.remove_with(id).await;
        self.shares.gone(&id.client_id, Some(id));
        removed
    }

    /// Another connection of the same client takes over, or ends the session.
    async fn kick(
        &mut self,
        clean_start: bool,
        clear_subscriptions: bool,
        is_admin: IsAdmin,
    ) -> Result<OfflineSession> {
        let client = self.inner.id().client_id.clone();
        // Its subscriptions, and what they bring, would go over to the other. `Doors` has looked already, but not under
        // the lock of this entry.
        if self.owned && !is_admin && self.shares.of_another(&self.inner.id()) {
            return Err(anyhow!("the session belongs to another user"));
        }
        self.shares.away(&client, None);
        let mut outcome = self
            .inner
            .kick(clean_start, clear_subscriptions, is_admin)
            .await?;
        match &mut outcome {
            OfflineSession::Exist(Some(offline)) => {
                // What had been sent to the old session but not yet taken by it is in neither of its lists.
                let queued = offline.offline_messages.iter().map(|(_, publish)| publish);
                let inflight = offline
                    .inflight_messages
                    .iter()
                    .map(|message| &message.publish);
                let kept: HashSet<u32> = queued.chain(inflight).filter_map(copy_tag).collect();
                let ids = offline
                    .inflight_messages
                    .iter()
                    .filter_map(|message| message.publish.packet_id);
                self.last_packet_id = ids.map(NonZeroU16::get).max();
                offline
                    .offline_messages
                    .extend(self.shares.in_hand_but(&client, &kept));
            }
            _ => self.shares.gone(&client, None),
        }
        Ok(outcome)
    }

    /// A shared subscription is kept from rmqtt's router altogether. It has no use for it there, and would, for
    /// every publish, wait for each member's state with a lock of the router held: under load that ends in a deadlock.
    async fn subscribe(&self, subscribe: &Subscribe) -> Result<SubscribeReturn> {
        let Some(group) = subscribe.opts.shared_group() else {
            return self.inner.subscribe(subscribe).await;
        };
        let (client, options) = (&self.inner.id().client_id, subscribe.opts.clone());
        if !self
            .shares
            .joined(client, &subscribe.topic_filter, group, options)
        {
            return Err(anyhow!("the session is gone"));
        }
        Ok(SubscribeReturn::new_success(subscribe.opts.qos(), None))
    }

    async fn unsubscribe(&self, unsubscribe: &Unsubscribe) -> Result<bool> {
        match &unsubscribe.shared_group {
            Some(group) => {
                Ok(self
                    .shares
                    .left(&self.inner.id().client_id, &unsubscribe.topic_filter, group))
            }
            None => self.inner.unsubscribe(unsubscribe).await,
        }
    }

    /// How retained messages reach a new subscriber. They are not for shared subscriptions.
    async fn publish(
        &self,
        from: From,
        publish: Publish,
    ) -> std::result::Result<(), (From, Publish, Reason)> {
        if publish.retain
            && self
                .shares
                .shares_with(&self.inner.id().client_id, &publish.topic)
        {
            let plain = self.inner.subscriptions().await.unwrap_or_default();
            if !plain
                .iter()
                .any(|subscription| matches(&subscription.topic, &publish.topic))
            {
                return Ok(());
            }
        }
        self.inner.publish(from, publish).await
    }

    fn id(&self) -> Id {
        self.inner.id()
    }

    fn id_same(&self) -> Option<bool> {
        self.inner.id_same()
    }

    async fn online(&self) -> bool {
        self.inner.online().await
    }

    async fn is_connected(&self) -> bool {
        self.inner.is_connected().await
    }

    fn session(&self) -> Option<Session> {
        self.inner.session()
    }

    fn exist(&self) -> bool {
        self.inner.exist()
    }

    fn tx(&self) -> Option<Tx> {
        self.inner.tx()
    }

    async fn subscriptions(&self) -> Option<Vec<SubsSearchResult>> {
        self.inner.subscriptions().await
    }
}
