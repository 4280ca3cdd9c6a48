//! The names of the topics, for the default tenant and for the others.

use crate::envelope::is_refused;
use crate::task::TaskId;
use crate::task::tenant::TenantId;
use crate::task::{ModuleName, quoted};

/// The longest reply topic, in bytes.
pub const MAX_REPLY_TOPIC: usize = 256;

/// Builds and reads topic names below a root, which is empty unless one broker carries several fleets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topics {
    root: String,
}

impl Topics {
    /// Topics below `root`, which is empty or ends with `/`.
    pub fn new(root: &str) -> Result<Topics, String> {
        let wrong = |why| Err(format!("a topic root {why}, got {}", quoted(root)));
        if root.is_empty() {
            return Ok(Topics::default());
        }
        if !root.ends_with('/') {
            return wrong("ends with `/`");
        }
        if root.starts_with('$') || root.contains(['+', '#', '\0']) || root.len() > 128 {
            return wrong("has no `$` in front, no wildcards, no NUL and at most 128 bytes");
        }
        Ok(Topics {
            root: root.to_owned(),
        })
    }

    /// What stands in front of every name.
    pub fn root(&self) -> &str {
        &self.root
    }

    fn of(&self, tenant: &TenantId, name: &str) -> String {
        if tenant.is_default() {
            format!("{}{name}", self.root)
        } else {
            format!("{}tenants/{tenant}/{name}", self.root)
        }
    }

    /// Where a tenant's tasks are published.
    pub fn queue(&self, tenant: &TenantId) -> String {
        self.of(tenant, "task_queue")
    }

    /// Where a tenant's outcomes are published.
    pub fn completed(&self, tenant: &TenantId) -> String {
        self.of(tenant, "task_completed")
    }

    /// Where the lifecycle of a task is published.
    pub fn status(&self, tenant: &TenantId, id: &TaskId) -> String {
        self.of(tenant, &format!("task_status/{id}"))
    }

    /// Where the log of a task is published.
    pub fn log(&self, tenant: &TenantId, id: &TaskId) -> String {
        self.of(tenant, &format!("task_log/{id}"))
    }

    /// Where the runners are told what to do with a task.
    pub fn control(&self, tenant: &TenantId, id: &TaskId) -> String {
        self.of(tenant, &format!("task_control/{id}"))
    }

    /// Where a tenant's module is retained.
    pub fn module(&self, tenant: &TenantId, name: &ModuleName) -> String {
        self.of(tenant, &format!("modules/{name}"))
    }

    /// Where the signature of a tenant's module is retained; its chunks are beside it, by their digests.
    pub fn module_signature(&self, tenant: &TenantId, name: &ModuleName) -> String {
        self.of(tenant, &format!("modules/{name}/signature"))
    }

    /// Where a tenant's given-up tasks are published.
    pub fn dead_letter(&self, tenant: &TenantId) -> String {
        self.of(tenant, "task_dead_letter")
    }

    /// Where runners of a group tell each other which tasks ended.
    pub fn ended(&self, group: &str) -> String {
        format!("{}runner_ended/{group}", self.root)
    }

    /// The head of the topics on which runners of a group agree about recurring tasks.
    pub fn recurring(&self, group: &str) -> String {
        format!("{}runner_recurring/{group}/", self.root)
    }

    /// A topic for trying the broker out.
    pub fn probe(&self, name: &str) -> String {
        format!("{}runner_probe/{name}", self.root)
    }

    /// A topic for the answers to one submitter, within the tenant's own prefix.
    pub fn reply(&self, tenant: &TenantId, submitter: &str) -> String {
        self.of(tenant, &format!("task_reply/{submitter}"))
    }

    /// Where a runner's presence is retained.
    pub fn runner(&self, runner: &str) -> String {
        format!("{}runner_status/{runner}", self.root)
    }

    /// The shared subscription through which the runners of a group take a tenant's tasks.
    pub fn queue_filter(&self, group: &str, tenant: &TenantId) -> String {
        format!("$share/{group}/{}", self.queue(tenant))
    }

    /// Filters of all queues.
    pub fn queues(&self) -> [String; 2] {
        let root = &self.root;
        [
            format!("{root}task_queue"),
            format!("{root}tenants/+/task_queue"),
        ]
    }

    /// The shared subscription of every tenant's queue but the default one's.
    pub fn others_filter(&self, group: &str) -> String {
        format!("$share/{group}/{}tenants/+/task_queue", self.root)
    }

    /// Whose queue a message came on; an error says why it is nobody's.
    pub fn tenant_of_queue(&self, topic: &str) -> Result<TenantId, String> {
        let foreign = || format!("{} is no task queue", quoted(topic));
        let name = topic.strip_prefix(&self.root).ok_or_else(foreign)?;
        if name == "task_queue" {
            return Ok(TenantId::default());
        }
        let tenant = name
            .strip_prefix("tenants/")
            .and_then(|rest| rest.strip_suffix("/task_queue"))
            .ok_or_else(foreign)?;
        if tenant == TenantId::DEFAULT {
            return Err("the default tenant's queue is the bare `task_queue`".to_owned());
        }
        TenantId::parse(tenant)
    }

    /// The subscriptions through which every runner hears what it is told, of the tasks of all tenants.
    pub fn control_filters(&self) -> [String; 2] {
        let root = &self.root;
        [
            format!("{root}task_control/+"),
            format!("{root}tenants/+/task_control/+"),
        ]
    }

    /// Whose task a message on `task_control` is about; an error says why it is nobody's.
    pub fn task_of_control(&self, topic: &str) -> Result<(TenantId, TaskId), String> {
        let foreign = || format!("{} controls no task", quoted(topic));
        let name = topic.strip_prefix(&self.root).ok_or_else(foreign)?;
        if let Some(id) = name.strip_prefix("task_control/") {
            return Ok((TenantId::default(), TaskId::parse(id)?));
        }
        let (tenant, id) = name
            .strip_prefix("tenants/")
            .and_then(|rest| rest.split_once("/task_control/"))
            .ok_or_else(foreign)?;
        if tenant == TenantId::DEFAULT {
            return Err("the default tenant's topic is the bare `task_control`".to_owned());
        }
        Ok((TenantId::parse(tenant)?, TaskId::parse(id)?))
    }

    /// Whether the runner may publish a tenant's outcome on a topic that the producer chose: it has rights
    /// that the producer has not, and must not lend them.
    ///
    /// `allowed` are the filters of topics that the operator lets the tenant have beside its own.
    pub fn check_reply(
        &self,
        tenant: &TenantId,
        topic: &str,
        allowed: &[String],
    ) -> Result<(), String> {
        if topic.is_empty() || topic.len() > MAX_REPLY_TOPIC {
            return Err(format!(
                "a reply topic has 1 to {MAX_REPLY_TOPIC} bytes, got {}",
                topic.len()
            ));
        }
        if topic.contains(['+', '#']) || topic.contains(is_refused) {
            return Err(format!(
                "a reply topic has no wildcards and no control characters, got {}",
                quoted(topic)
            ));
        }
        if allowed.iter().any(|filter| matches(filter, topic)) {
            let below = topic.strip_prefix(&self.root).unwrap_or(topic);
            let of_tenant = below
                .strip_prefix("tenants/")
                .and_then(|t| t.split_once('/'));
            return match is_reserved(of_tenant.map_or(below, |(_, own)| own)) {
                true => self.denied(topic),
                false => Ok(()),
            };
        }
        let relative = match (topic.strip_prefix(&self.root), tenant.is_default()) {
            (Some(relative), true) => relative,
            // Another fleet's topics, perhaps.
            (None, true) => return self.denied(topic),
            (relative, false) => {
                let prefix = format!("tenants/{tenant}/");
                let own = relative.and_then(|r| r.strip_prefix(prefix.as_str()));
                let Some(own) = own.filter(|own| !own.is_empty()) else {
                    return Err(format!(
                        "tenant {tenant} may have answers only below `{}{prefix}`, not on {}",
                        self.root,
                        quoted(topic)
                    ));
                };
                own
            }
        };
        let foreign = tenant.is_default()
            && (topic.starts_with('$')
                || relative.starts_with('$')
                || relative.starts_with("tenants/"));
        if is_reserved(relative) || foreign {
            self.denied(topic)
        } else {
            Ok(())
        }
    }

    /// The full name of a topic that a guest names below its tenant's own prefix; an error says why it may not publish
    /// there.
    pub fn of_guest(&self, tenant: &TenantId, topic: &str) -> Result<String, String> {
        let full = self.of(tenant, topic);
        // A submitter takes what comes on `task_reply` for outcomes.
        if topic.is_empty() || topic.split('/').next() == Some("task_reply") {
            return Err(format!("{} is reserved", quoted(&full)));
        }
        self.check_reply(tenant, &full, &[])
            .map_err(|why| format!("a guest publishes where answers may go: {why}"))?;
        Ok(full)
    }

    fn denied(&self, topic: &str) -> Result<(), String> {
        Err(format!(
            "{} is reserved: an answer may not go there",
            quoted(topic)
        ))
    }
}

/// Whether a topic below a tenant's prefix is one of those that have a meaning.
fn is_reserved(relative: &str) -> bool {
    const TOPICS: [&str; 3] = ["task_queue", "task_completed", "task_dead_letter"];
    const PREFIXES: [&str; 8] = [
        "task_status",
        "task_log",
        "task_control",
        "modules",
        "runner_status",
        "runner_ended",
        "runner_recurring",
        "runner_probe",
    ];
    let first = relative.split('/').next().unwrap_or_default();
    TOPICS.contains(&relative) || PREFIXES.contains(&first)
}

/// Whether an MQTT filter matches a topic.
fn matches(filter: &str, topic: &str) -> bool {
    // The broker's own topics are nobody's by a wildcard.
    if topic.starts_with('$') && !filter.starts_with('$') {
        return false;
    }
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) => return true,
            (Some("+"), Some(_)) => {}
            (Some(level), Some(name)) if level == name => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).expect("a tenant")
    }

    #[test]
    fn both_forms() {
        let bare = Topics::default();
        let rooted = Topics::new("fleet/").expect("a root");
        let id = TaskId::parse("7").expect("an id");
        assert_eq!(bare.queue(&tenant("default")), "task_queue");
        assert_eq!(
            bare.status(&tenant("acme"), &id),
            "tenants/acme/task_status/7"
        );
        assert_eq!(
            rooted.queue(&tenant("acme")),
            "fleet/tenants/acme/task_queue"
        );
        assert_eq!(
            rooted.tenant_of_queue("fleet/tenants/acme/task_queue"),
            Ok(tenant("acme"))
        );
        assert_eq!(bare.tenant_of_queue("task_queue"), Ok(tenant("default")));
        for bad in [
            "tenants/default/task_queue",
            "tenants/a/b/task_queue",
            "tenants//task_queue",
            "x",
        ] {
            assert!(bare.tenant_of_queue(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn control_topics() {
        let bare = Topics::default();
        let rooted = Topics::new("fleet/").expect("a root");
        let id = TaskId::parse("7").expect("an id");
        for topics in [&bare, &rooted] {
            for tenant in [tenant("default"), tenant("acme")] {
                let topic = topics.control(&tenant, &id);
                assert_eq!(topics.task_of_control(&topic), Ok((tenant, id.clone())));
            }
        }
        assert_eq!(bare.control(&tenant("default"), &id), "task_control/7");
        assert_eq!(
            rooted.control_filters(),
            ["fleet/task_control/+", "fleet/tenants/+/task_control/+"]
        );
        for bad in [
            "task_control",
            "task_control/",
            "task_control/a/b",
            "task_control/a b",
            "tenants/default/task_control/7",
            "tenants/a/b/task_control/7",
            "tenants/acme/task_queue",
            "tenants//task_control/7",
            "fleet/task_control/7",
            "x",
        ] {
            assert!(bare.task_of_control(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn guests_publish_below_their_tenants_prefix() {
        let topics = Topics::new("fleet/").expect("a root");
        let of = |t: &str, topic: &str| topics.of_guest(&tenant(t), topic);
        assert_eq!(of("default", "alerts/1"), Ok("fleet/alerts/1".to_owned()));
        let full = "fleet/tenants/acme/alerts/1".to_owned();
        assert_eq!(of("acme", "alerts/1"), Ok(full));
        let inside = "fleet/tenants/acme/tenants/other/x".to_owned();
        assert_eq!(of("acme", "tenants/other/x"), Ok(inside));
        for bad in [
            "",
            "a/+",
            "#",
            "a\0b",
            "task_queue",
            "task_completed",
            "task_reply/1",
            "task_status/1",
            "task_control/1",
            "modules/x",
            "runner_status/x",
        ] {
            assert!(of("acme", bad).is_err(), "{bad}");
            assert!(of("default", bad).is_err(), "{bad}");
        }
        for bad in ["tenants/acme/x", "$SYS/x"] {
            assert!(of("default", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reply_topics_stay_at_home() {
        let topics = Topics::default();
        let allowed = |t: &str, topic: &str| topics.check_reply(&tenant(t), topic, &[]).is_ok();
        for good in [
            "replies/1",
            "a",
            "task_completed_by_me",
            "tenant/x",
            "modules2",
        ] {
            assert!(allowed("default", good), "{good}");
        }
        let long = "x".repeat(257);
        for bad in [
            "",
            "a/+",
            "#",
            "a\0b",
            "a\tb",
            "a\u{ffff}b",
            "$SYS/x",
            "$share/g/x",
            "task_queue",
            "task_completed",
            "task_status/1",
            "task_log/1",
            "task_control/1",
            "task_dead_letter",
            "modules/x",
            "runner_status/x",
            "tenants/acme/x",
            long.as_str(),
        ] {
            assert!(!allowed("default", bad), "{bad}");
        }
        assert!(allowed("acme", "tenants/acme/replies/1"));
        for bad in [
            "replies/1",
            "tenants/other/x",
            "tenants/acme",
            "tenants/acme/",
            "tenants/acme2/x",
            "tenants/acme/task_queue",
            "tenants/acme/modules/x",
            "task_completed",
        ] {
            assert!(!allowed("acme", bad), "{bad}");
        }
        let listed = ["shared/+/replies".to_owned(), "tenants/other/#".to_owned()];
        let allowed = |topic| topics.check_reply(&tenant("acme"), topic, &listed).is_ok();
        assert!(allowed("shared/x/replies") && allowed("tenants/other/replies/1"));
        for bad in [
            "shared/x/y/replies",
            "shared/x",
            "tenants/other/task_queue",
            "$SYS/x",
        ] {
            assert!(!allowed(bad), "{bad}");
        }
        let everything = ["#".to_owned(), "+/x".to_owned()];
        for own in ["$SYS/x", "$CONTROL/dynamic-security/v1", "$x/x"] {
            let checked = topics.check_reply(&tenant("acme"), own, &everything);
            assert!(checked.is_err(), "{own}");
        }
    }
}
