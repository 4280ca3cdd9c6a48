//! The table of `access.rs`: who tries what, and whether it may.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Do {
    /// Is it heard?
    Publish,
    /// Is it kept for who comes later?
    Retain,
    /// Is it published when the connection is lost?
    Will,
    RetainedWill,
    /// Does anything come that is not its own? If allowed: does its own?
    Subscribe,
    /// A task whose outcome is to go there: does the runner lend its rights?
    Reply,
}

#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) who: &'static str,
    pub(crate) does: Do,
    pub(crate) topic: &'static str,
    pub(crate) allowed: bool,
}

const fn may(who: &'static str, does: Do, topic: &'static str) -> Case {
    Case {
        who,
        does,
        topic,
        allowed: true,
    }
}

const fn not(who: &'static str, does: Do, topic: &'static str) -> Case {
    Case {
        who,
        does,
        topic,
        allowed: false,
    }
}

use Do::{Publish, Reply, Retain, RetainedWill, Subscribe, Will};

pub(crate) const CASES: &[Case] = &[
    // What a tenant is there for.
    may("acme", Publish, "tenants/acme/task_queue"),
    may("acme", Publish, "tenants/acme/task_control/7"),
    may("acme", Publish, "tenants/acme/modules/mine"),
    may("acme", Retain, "tenants/acme/modules/kept"),
    may("acme", Retain, "tenants/acme/modules/kept/signature"),
    may("acme", Will, "tenants/acme/task_control/8"),
    may("acme", RetainedWill, "tenants/acme/modules/willed"),
    may("acme", Subscribe, "tenants/acme/#"),
    may("acme", Subscribe, "tenants/acme/task_completed"),
    may("acme", Subscribe, "tenants/acme/task_status/+"),
    may("acme", Reply, "tenants/acme/replies/1"),
    // To MQTT a level is a name, and this one its own.
    may("acme", Reply, "tenants/acme/../globex/replies/1"),
    may("acme", Subscribe, "tenants/acme/../globex/#"),
    may("default", Publish, "task_queue"),
    may("default", Publish, "task_control/7"),
    may("default", Retain, "modules/kept"),
    may("default", Retain, "modules/kept/signature"),
    may("default", Subscribe, "modules/+"),
    may("default", Subscribe, "task_completed"),
    may("default", Subscribe, "task_status/#"),
    may("default", Subscribe, "task_log/+"),
    may("default", Subscribe, "task_dead_letter"),
    may("default", Subscribe, "replies/default/#"),
    may("default", Reply, "replies/default/1"),
    may("operator", Publish, "tenants/globex/task_control/9"),
    may("operator", Retain, "tenants/globex/modules/kept"),
    may("operator", Subscribe, "#"),
    // Saying what others say.
    not("acme", Publish, "task_queue"),
    not("acme", Publish, "tenants/globex/task_queue"),
    not("acme", Publish, "tenants/globex/task_control/7"),
    not("acme", Publish, "tenants/globex/replies/1"),
    not("acme", Publish, "tenants/globex/task_completed"),
    not("acme", Publish, "tenants/acme/task_completed"),
    not("acme", Publish, "tenants/acme/task_status/7"),
    not("acme", Publish, "tenants/acme/task_dead_letter"),
    not("acme", Publish, "tenants/acme/task_queue/x"),
    not("acme", Publish, "tenants/acme"),
    not("acme", Publish, "tenants//task_queue"),
    not("acme", Publish, "/tenants/acme/task_queue"),
    not("acme", Publish, "tenants/acmex/task_queue"),
    not("acme", Publish, "task_control/7"),
    not("acme", Publish, "runner_ended/runners"),
    not("acme", Publish, "runner_recurring/runners/nightly"),
    not("acme", Publish, "runner_status/edge"),
    not("acme", Publish, "elsewhere"),
    not("acme", Publish, "$SYS/broker/version"),
    not("acme", Publish, "$share/runners/tenants/globex/task_queue"),
    not("default", Publish, "tenants/acme/task_queue"),
    not("default", Publish, "tenants/default/task_queue"),
    not("default", Publish, "task_completed"),
    not("default", Publish, "replies/default/1"),
    // Topics that are none, or look like others.
    not("acme", Publish, "tenants/acme/../globex/task_queue"),
    not("acme", Publish, "../task_queue"),
    not("acme", Publish, "tenants/globex/task_queue\0"),
    not("acme", Publish, "tenants/acme\0/task_queue"),
    not("acme", Publish, "tenants/+/task_queue"),
    not("acme", Publish, "tenants/acme/#"),
    not("acme", Publish, "TENANTS/ACME/task_queue"),
    // Retained messages and last wills.
    not("acme", Retain, "modules/echo"),
    not("acme", Retain, "tenants/globex/modules/echo"),
    not("acme", Retain, "runner_status/edge"),
    not("acme", Retain, "tenants/acme/modules/a/b/c"),
    not("acme", Retain, "modules/echo/signature"),
    not("acme", Retain, "tenants/globex/modules/echo/signature"),
    not(
        "acme",
        RetainedWill,
        "tenants/globex/modules/echo/signature",
    ),
    not("default", Retain, "tenants/acme/modules/echo"),
    not("default", Retain, "tenants/acme/modules/echo/signature"),
    not("default", Retain, "runner_status/edge"),
    not("acme", Will, "task_queue"),
    not("acme", Will, "tenants/globex/task_queue"),
    not("acme", Will, "tenants/globex/task_control/7"),
    not("acme", Will, "runner_ended/runners"),
    not("acme", RetainedWill, "modules/echo"),
    not("acme", RetainedWill, "tenants/globex/modules/echo"),
    not("acme", RetainedWill, "runner_status/edge"),
    not("default", Will, "tenants/acme/task_queue"),
    // Joining the runners.
    not("acme", Subscribe, "$share/runners/tenants/+/task_queue"),
    not("acme", Subscribe, "$share/runners/tenants/acme/task_queue"),
    not(
        "acme",
        Subscribe,
        "$share/runners/tenants/globex/task_queue",
    ),
    not("acme", Subscribe, "$share/runners/task_queue"),
    not("acme", Subscribe, "$share/runners/#"),
    not("acme", Subscribe, "$share/runners/tenants/#"),
    not("acme", Subscribe, "$share/runners/+/+/task_queue"),
    not("acme", Subscribe, "$share/mine/tenants/+/task_queue"),
    not("acme", Subscribe, "$share/mine/tenants/globex/#"),
    not("acme", Subscribe, "$share/+/tenants/acme/task_queue"),
    not("default", Subscribe, "$share/runners/task_queue"),
    not("default", Subscribe, "$share/runners/tenants/+/task_queue"),
    not("operator", Subscribe, "$share/runners/task_queue"),
    not("operator", Subscribe, "$share/runners/#"),
    not("acme", Subscribe, "$queue/tenants/+/task_queue"),
    // Hearing what is not for it.
    not("acme", Subscribe, "#"),
    not("acme", Subscribe, "+/#"),
    not("acme", Subscribe, "tenants/#"),
    not("acme", Subscribe, "tenants/+/#"),
    not("acme", Subscribe, "tenants/+/task_completed"),
    not("acme", Subscribe, "+/+/task_completed"),
    not("acme", Subscribe, "+/acme/#"),
    not("acme", Subscribe, "tenants/globex/#"),
    not("acme", Subscribe, "tenants/globex/task_queue"),
    not("acme", Subscribe, "tenants/globex/task_completed"),
    not("acme", Subscribe, "tenants/globex/modules/+"),
    not("acme", Subscribe, "task_completed"),
    not("acme", Subscribe, "task_status/#"),
    not("acme", Subscribe, "modules/+"),
    not("acme", Subscribe, "tenants/globex/modules/echo/+"),
    not("default", Subscribe, "modules/#"),
    not("default", Subscribe, "tenants/acme/modules/+"),
    not("acme", Subscribe, "runner_status/+"),
    not("acme", Subscribe, "runner_ended/runners"),
    not("acme", Subscribe, "$SYS/#"),
    not("acme", Subscribe, "$CONTROL/#"),
    not("acme", Subscribe, "tenants/globex/\0#"),
    not("default", Subscribe, "#"),
    not("default", Subscribe, "+"),
    not("default", Subscribe, "task_queue"),
    not("default", Subscribe, "replies/#"),
    not("default", Subscribe, "replies/other/1"),
    not("default", Subscribe, "tenants/acme/task_completed"),
    not("default", Subscribe, "task_control/+"),
    // Having the runner say it.
    not("acme", Reply, "tenants/globex/replies/1"),
    not("acme", Reply, "tenants/globex/task_queue"),
    not("acme", Reply, "tenants/acme/task_queue"),
    not("acme", Reply, "tenants/acme/modules/echo"),
    not("acme", Reply, "tenants/acme/modules/echo/signature"),
    not("acme", Reply, "replies/default/1"),
    not("acme", Reply, "task_queue"),
    not("acme", Reply, "$SYS/x"),
    not("acme", Reply, "tenants/+/replies/1"),
    not("default", Reply, "tenants/acme/replies/1"),
    not("default", Reply, "task_control/7"),
    not("default", Reply, "modules/echo"),
    not("default", Reply, "runner_status/edge"),
    not("default", Reply, "elsewhere"),
];
