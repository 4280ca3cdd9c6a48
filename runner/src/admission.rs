//! Task + what is allowed + now → the limits it runs under, or why it does not run.
//!
//! Pure: time is a value.

use std::time::{Duration, SystemTime};

use crate::envelope::encode::rfc3339;
use crate::envelope::topics::Topics;
use crate::task::Task;
use crate::task::limits::Limits;
use crate::task::outcome::{ErrorCode, GuestRetry, Status, TaskError};
use crate::task::tenant::TenantId;
use crate::tenants::TenantPolicy;

/// A task that does not run: its status and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// `rejected` or `expired`.
    pub status: Status,
    /// Why.
    pub error: TaskError,
}

impl From<TaskError> for Rejection {
    fn from(error: TaskError) -> Rejection {
        Rejection {
            status: error.status(),
            error,
        }
    }
}

/// Why a task of a tenant without any rights does not run.
pub fn unserved(tenant: &TenantId) -> Rejection {
    let why = format!("tenant {tenant} is not one that this runner serves");
    TaskError::new(ErrorCode::TenantDenied, why).into()
}

/// Why a task over its tenant's rate or budget does not run; `wait` is the time after which another may.
pub fn over_quota(tenant: &TenantId, wait: Duration) -> Rejection {
    let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
    let why =
        format!("tenant {tenant} is over its rate or its fuel budget: try again in {millis} ms");
    let mut error = TaskError::new(ErrorCode::QuotaExceeded, why);
    error.retry = Some(GuestRetry::After(millis));
    error.into()
}

/// Whether a task may run, and under which limits.
///
/// `policy` is the tenant's; `topics` decides which reply topics are its own.
pub fn admit(
    task: &Task,
    policy: &TenantPolicy,
    topics: &Topics,
    now: SystemTime,
) -> Result<Limits, Rejection> {
    let denied = |why| TaskError::new(ErrorCode::TenantDenied, why);
    if let Some(topic) = &task.reply.topic {
        topics
            .check_reply(&task.tenant, topic, &policy.reply_topics)
            .map_err(denied)?;
    }
    if !policy.may_name(&task.module) {
        let (tenant, module) = (&task.tenant, &task.module);
        let why = format!("tenant {tenant} may not run the module {module}");
        return Err(denied(why).into());
    }
    policy.may_fetch(&task.module).map_err(|why| {
        let (tenant, module) = (&task.tenant, &task.module);
        denied(format!("tenant {tenant} may not fetch {module}: {why}"))
    })?;
    check_expiry(task, now)?;
    let limits = task.limits.resolve(&policy.limits, &policy.ceilings);
    Ok(limits.map_err(|why| TaskError::new(ErrorCode::LimitDenied, why))?)
}

/// Whether a task may still start: asked again when its turn comes.
pub fn check_expiry(task: &Task, now: SystemTime) -> Result<(), Rejection> {
    match task.expires_at {
        Some(at) if at <= now => Err(Rejection {
            status: Status::Expired,
            error: TaskError::new(
                ErrorCode::DeadlineExceeded,
                format!("expired at {}, before it could start", rfc3339(at)),
            ),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
