//! `[broker.users.NAME]` → who may do what in the embedded broker, and the same topics for a foreign one.

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::access::password::PasswordHash;
use crate::access::{Fleet, Role, Staff};
use crate::broker;
use crate::config::Config;
use crate::config::sections::User;
use crate::task::tenant::TenantId;

impl Config {
    /// The topics that rights are about.
    pub fn fleet(&self) -> Result<Fleet> {
        let listed = self.tenants.values().flat_map(|t| t.reply_topics.clone());
        Ok(Fleet {
            topics: self.topics()?,
            group: self.mqtt.group.clone(),
            reply_topics: listed.collect(),
        })
    }

    /// Who may connect to the embedded broker; everybody when empty.
    pub fn broker_users(&self) -> Result<Vec<broker::User>> {
        let fleet = self.fleet()?;
        let read = |name: &String, user: &User| -> Result<broker::User> {
            let role = role(user)?;
            let password = PasswordHash::parse(&user.password_hash).map_err(|why| anyhow!(why));
            Ok(broker::User {
                name: name.clone(),
                password: password?,
                access: fleet.access(&role, name),
                runner: role == Role::Runner,
            })
        };
        let read = |(name, user): (&String, &User)| {
            ensure!(
                is_user_name(name),
                "`broker.users` are named with 1 to 64 of [A-Za-z0-9_.-], got {name:?}"
            );
            read(name, user).with_context(|| format!("failed to read `broker.users.{name}`"))
        };
        self.broker.users.iter().map(read).collect()
    }

    /// In front of the client ids that are for runners alone.
    pub fn runner_client_ids(&self) -> String {
        format!("{}-{}-", self.mqtt.client_id_prefix, self.mqtt.group)
    }

    pub(super) fn validate_users(&self) -> Result<()> {
        let broker = &self.broker;
        self.broker_users()?;
        ensure!(
            broker.users.is_empty() || !broker.anonymous,
            "`broker.anonymous` and `broker.users` exclude each other"
        );
        ensure!(
            !broker.embedded
                || broker.address.ip().is_loopback()
                || broker.anonymous
                || !broker.users.is_empty(),
            "`broker.address` {} is open to others than this machine: name `broker.users`, or set `broker.anonymous`",
            broker.address
        );
        Ok(())
    }
}

/// Whether a name can stand in a topic, a file name and a configuration key.
pub fn is_user_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn role(user: &User) -> Result<Role> {
    match (&user.role, &user.tenant) {
        (Some(Staff::Runner), None) => Ok(Role::Runner),
        (Some(Staff::Operator), None) => Ok(Role::Operator),
        (None, Some(tenant)) => Ok(Role::Tenant {
            tenant: TenantId::parse(tenant).map_err(anyhow::Error::msg)?,
            modules: user.modules,
        }),
        _ => Err(anyhow!("a user has either a `role` or a `tenant`")),
    }
}
