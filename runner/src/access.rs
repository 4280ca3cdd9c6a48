//! Who may publish and subscribe what: the rights of a runner, an operator and a tenant, as MQTT filters.
//!
//! One list for every broker: [`dynsec`] writes it for mosquitto, `broker/doors.rs` enforces it in the embedded one.
//! What is not listed is denied. Pure: neither clients nor files.

pub mod dynsec;
pub mod password;

use serde::{Deserialize, Serialize};

use crate::envelope::topics::Topics;
use crate::task::tenant::TenantId;

/// Whose rights they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Takes tasks and publishes outcomes.
    Runner,
    /// Sees and says everything but the runners' share of the queue.
    Operator,
    /// Submits tasks; of the default tenant a producer among others.
    Tenant {
        /// Whose tasks.
        tenant: TenantId,
        /// Whether it may publish modules too.
        modules: bool,
    },
}

/// The roles that are no tenant's, as the configuration names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Staff {
    /// See [`Role::Runner`].
    Runner,
    /// See [`Role::Operator`].
    Operator,
}

/// The topics of one fleet.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// Their names.
    pub topics: Topics,
    /// The group of runners that share the queues.
    pub group: String,
    /// Where runners may publish outcomes for the tenants' `reply_topics`.
    pub reply_topics: Vec<String>,
}

/// What one user may do; what is in no list is denied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Never published on, whatever the next list says.
    pub publish_denied: Vec<String>,
    /// Published on, Last Wills and retained messages too.
    pub publish: Vec<String>,
    /// Filters that may be subscribed, or narrower ones. Those that begin with `$share/` are for shared
    /// subscriptions, the others never are.
    pub subscribe: Vec<String>,
}

impl Fleet {
    /// What a user of that role may do.
    pub fn access(&self, role: &Role, user: &str) -> Access {
        let root = self.topics.root();
        match role {
            Role::Runner => self.runner(),
            Role::Operator => {
                let mut access = (vec![], vec!["#"], vec!["#"]).rooted(root);
                access.subscribe.push("$SYS/#".to_owned());
                access
            }
            Role::Tenant { tenant, modules } => self.tenant(tenant, *modules, user),
        }
    }

    fn runner(&self) -> Access {
        let (root, group) = (self.topics.root(), &self.group);
        // A runner reads modules, obeys control messages, and is what no tenant may be. It never writes what tenants
        // and operators write, so that nobody can talk it into that.
        let mut access = (
            vec![
                "modules/#",
                "tenants/+/modules/#",
                "task_control/#",
                "tenants/+/task_control/#",
            ],
            vec![
                "task_queue",
                "task_completed",
                "task_status/+",
                "task_log/+",
                "task_dead_letter",
                "task_reply/#",
                "replies/#",
                "tenants/#",
                "runner_status/+",
                "runner_probe/#",
            ],
            vec![
                "task_control/+",
                "tenants/+/task_control/+",
                "modules/+",
                "tenants/+/modules/+",
                // Chunks and signatures.
                "modules/+/+",
                "tenants/+/modules/+/+",
                "runner_probe/#",
            ],
        )
            .rooted(root);
        let among_themselves = [
            self.topics.ended(group),
            format!("{}+", self.topics.recurring(group)),
        ];
        access.publish.extend(among_themselves.clone());
        access.publish.extend(self.reply_topics.clone());
        access.subscribe.extend(among_themselves);
        let queues = self.topics.queues();
        let shared = queues.iter().map(|queue| format!("$share/{group}/{queue}"));
        access.subscribe.extend(shared);
        let probe = format!("$share/{group}/{root}runner_probe/#");
        access.subscribe.push(probe);
        access
    }

    fn tenant(&self, tenant: &TenantId, modules: bool, user: &str) -> Access {
        let replies = format!("replies/{user}/#");
        let mut publish = vec!["task_queue", "task_control/+"];
        if modules {
            publish.extend(["modules/+", "modules/+/+"]);
        }
        if tenant.is_default() {
            let mut subscribe = vec![
                "task_completed",
                "task_status/#",
                "task_log/#",
                "task_dead_letter",
                "task_reply/#",
                &replies,
            ];
            if modules {
                // What it may replace: to know which chunks are left over.
                subscribe.push("modules/+");
            }
            (vec![], publish, subscribe).rooted(self.topics.root())
        } else {
            let root = format!("{}tenants/{tenant}/", self.topics.root());
            (vec![], publish, vec!["#"]).rooted(&root)
        }
    }
}

trait Rooted {
    fn rooted(self, root: &str) -> Access;
}

impl Rooted for (Vec<&str>, Vec<&str>, Vec<&str>) {
    fn rooted(self, root: &str) -> Access {
        let below = |names: Vec<&str>| names.iter().map(|name| format!("{root}{name}")).collect();
        Access {
            publish_denied: below(self.0),
            publish: below(self.1),
            subscribe: below(self.2),
        }
    }
}

impl Access {
    /// Whether a message may be published on this topic.
    pub fn may_publish(&self, topic: &str) -> bool {
        !topic.is_empty()
            && !topic.contains(['+', '#', '\0'])
            && !self
                .publish_denied
                .iter()
                .any(|denied| covers(denied, topic))
            && self.publish.iter().any(|allowed| covers(allowed, topic))
    }

    /// Whether this filter may be subscribed, as it stands in the SUBSCRIBE packet.
    pub fn may_subscribe(&self, filter: &str) -> bool {
        !filter.contains('\0') && self.subscribe.iter().any(|allowed| covers(allowed, filter))
    }

    /// The filters of topics that messages may come on: what `subscribe` has, without shares.
    pub fn receive(&self) -> Vec<String> {
        let mut topics: Vec<String> = self
            .subscribe
            .iter()
            .map(|filter| match filter.strip_prefix("$share/") {
                Some(shared) => shared.split_once('/').map_or("", |(_, topic)| topic),
                None => filter,
            })
            .map(str::to_owned)
            .collect();
        topics.sort();
        topics.dedup();
        topics
    }
}

/// Whether everything that `filter` (or a topic) matches is matched by `allowed`.
fn covers(allowed: &str, filter: &str) -> bool {
    // `#` and `+/…` match no topic that begins with `$`, nor a shared subscription.
    if filter.starts_with('$') && !allowed.starts_with('$') {
        return false;
    }
    let (mut allowed, mut filter) = (allowed.split('/'), filter.split('/'));
    loop {
        match (allowed.next(), filter.next()) {
            (Some("#"), _) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(allowed), Some(level)) if allowed == level => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests;
