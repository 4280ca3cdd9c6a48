//! Who is let in, and what each may do: names, passwords, and rights as filters.
//!
//! rmqtt asks for every CONNECT, SUBSCRIBE and PUBLISH, but not for Last Wills, so those are looked at when the client
//! connects.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rmqtt::codec::v5::SubscribeAckReason;
use rmqtt::hook::{Handler, HookResult, Parameter, ReturnType};
use rmqtt::session::Session;
use rmqtt::types::{
    AuthResult, ConnectInfo, Id, Publish, PublishAclResult, QoS, Subscribe, SubscribeAclResult,
};
use sha2::Sha256;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::Settings;
use super::hooks::MQTT_5;
use super::shares::Shares;
use crate::access::Access;
use crate::access::password::PasswordHash;

/// Passwords hashed at one time: it is a core each, and anybody who can connect can ask for it.
const HASHING: usize = 2;

/// Somebody who may connect.
#[derive(Debug, Clone)]
pub struct User {
    /// The user name.
    pub name: String,
    /// Of the password.
    pub password: PasswordHash,
    /// What the user may do.
    pub access: Access,
    /// Whether the client ids of runners are for this user.
    pub runner: bool,
}

pub(super) struct Doors {
    users: HashMap<String, Arc<User>>,
    runner_client_ids: String,
    shares: Arc<Shares>,
    hashing: Semaphore,
    /// Under a key of this process, the passwords that were right: a hundred connections of one user cost one hash.
    right: Mutex<HashMap<String, Hmac<Sha256>>>,
    key: [u8; 32],
}

/// The handler of one hook.
pub(super) struct Door(pub(super) Arc<Doors>);

impl Doors {
    pub(super) fn new(settings: &Settings, shares: Arc<Shares>) -> Arc<Doors> {
        let users = settings.users.iter();
        let mut key = [0; 32];
        let (one, other) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
        key[..16].copy_from_slice(one.as_bytes());
        key[16..].copy_from_slice(other.as_bytes());
        Arc::new(Doors {
            users: users
                .map(|user| (user.name.clone(), Arc::new(user.clone())))
                .collect(),
            runner_client_ids: settings.runner_client_ids.clone(),
            shares,
            hashing: Semaphore::new(HASHING),
            right: Mutex::default(),
            key,
        })
    }

    async fn authenticate(&self, connect: &ConnectInfo) -> AuthResult {
        let id = connect.id();
        let refused = |why: &str| {
            let (user, from) = (id.username_ref(), id.remote_addr);
            warn!(user, client = %id.client_id, ?from, why, "connection refused");
        };
        let (Some(name), Some(password)) = (connect.username(), connect.password()) else {
            refused("no user name or no password");
            return AuthResult::NotAuthorized;
        };
        let user = self.users.get(&**name).cloned();
        if !self.fits(user.clone(), password).await {
            refused("wrong user name or password");
            return AuthResult::BadUsernameOrPassword;
        }
        let Some(user) = user else {
            return AuthResult::BadUsernameOrPassword;
        };
        if let Some(why) = self.not_authorized(&user, id, connect) {
            refused(why);
            return AuthResult::NotAuthorized;
        }
        AuthResult::Allow(false, None)
    }

    fn not_authorized(&self, user: &User, id: &Id, connect: &ConnectInfo) -> Option<&'static str> {
        let reserved = &self.runner_client_ids;
        if !reserved.is_empty() && id.client_id.starts_with(reserved.as_str()) && !user.runner {
            return Some("the client id is a runner's");
        }
        if self.shares.of_another(id) {
            return Some("the client id is another user's");
        }
        let will = connect.last_will().map(Publish::try_from)?;
        match will {
            Ok(will) if user.access.may_publish(&will.topic) => None,
            _ => Some("it may not publish its Last Will"),
        }
    }

    /// Whether the password is right; of a user that there is not it takes as long to say no.
    async fn fits(&self, user: Option<Arc<User>>, password: &[u8]) -> bool {
        let Ok(mut proof) = Hmac::<Sha256>::new_from_slice(&self.key) else {
            return false;
        };
        proof.update(password);
        let right = || self.right.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(user) = &user {
            let known = right().get(&user.name).cloned();
            if let Some(known) = known
                && proof.clone().verify(&known.finalize().into_bytes()).is_ok()
            {
                return true;
            }
        }
        // Of one that there is not, the hash that most passwords have: this process's own runner's is quick.
        let slowest = || self.users.values().max_by_key(|user| user.password.cost());
        let Some(hash) = user.as_ref().or_else(slowest) else {
            return false;
        };
        let (hash, password) = (hash.password.clone(), password.to_vec());
        let Ok(_permit) = self.hashing.acquire().await else {
            return false;
        };
        let fits = tokio::task::spawn_blocking(move || hash.fits(&password)).await;
        match (fits, user) {
            (Ok(true), Some(user)) => {
                right().insert(user.name.clone(), proof);
                true
            }
            _ => false,
        }
    }

    fn access(&self, session: &Session) -> Option<&Access> {
        let user = self.users.get(session.id.username_ref())?;
        Some(&user.access)
    }

    fn subscribe(&self, session: &Session, subscribe: &Subscribe) -> Option<HookResult> {
        let topic = &subscribe.topic_filter;
        let filter = match subscribe.opts.shared_group() {
            Some(group) => format!("$share/{group}/{topic}"),
            None => topic.to_string(),
        };
        if self
            .access(session)
            .is_some_and(|access| access.may_subscribe(&filter))
        {
            return None;
        }
        debug!(
            user = session.id.username_ref(),
            filter, "subscription denied"
        );
        Some(HookResult::SubscribeAclResult(
            SubscribeAclResult::new_failure(SubscribeAckReason::NotAuthorized),
        ))
    }

    async fn publish(&self, session: &Session, publish: &Publish) -> Option<HookResult> {
        if self
            .access(session)
            .is_some_and(|access| access.may_publish(&publish.topic))
        {
            return None;
        }
        debug!(user = session.id.username_ref(), topic = %publish.topic, "publish denied");
        // Before MQTT 5 a PUBACK is always a success, so none may be sent.
        let answerable =
            publish.qos == QoS::AtMostOnce || session.protocol().await.unwrap_or(0) == MQTT_5;
        Some(HookResult::PublishAclResult(PublishAclResult::rejected(
            !answerable,
            Some("not authorized".into()),
        )))
    }
}

#[expect(
    elided_lifetimes_in_paths,
    reason = "async_trait binds a named one where the trait's is elided"
)]
#[async_trait]
impl Handler for Door {
    async fn hook(&self, parameter: &Parameter, acc: Option<HookResult>) -> ReturnType {
        let denied = match parameter {
            Parameter::ClientAuthenticate(connect) => {
                Some(HookResult::AuthResult(self.0.authenticate(connect).await))
            }
            Parameter::ClientSubscribeCheckAcl(session, subscribe) => {
                self.0.subscribe(session, subscribe)
            }
            Parameter::MessagePublishCheckAcl(session, publish) => {
                self.0.publish(session, publish).await
            }
            _ => None,
        };
        match denied {
            Some(denied) => (false, Some(denied)),
            None => (true, acc),
        }
    }
}
