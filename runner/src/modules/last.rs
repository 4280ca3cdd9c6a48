//! The last module that was looked for: of the tasks that came together, only the first looks for the module of all.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::task::ModuleRef;
use crate::task::tenant::TenantId;
use crate::tenants::TenantPolicy;

pub(super) struct Last<M>(Mutex<Option<Looked<M>>>);

struct Looked<M> {
    tenant: TenantId,
    policy: Arc<TenantPolicy>,
    reference: ModuleRef,
    /// Before anything was looked at.
    at: Instant,
    module: M,
}

impl<M> Default for Last<M> {
    fn default() -> Last<M> {
        Last(Mutex::default())
    }
}

impl<M: Clone> Last<M> {
    /// What a tenant's reference means, if that was looked for after `since`.
    pub(super) fn get(
        &self,
        tenant: &TenantId,
        policy: &Arc<TenantPolicy>,
        reference: &ModuleRef,
        since: Instant,
    ) -> Option<M> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = last.as_ref()?;
        let same = last.at >= since
            && Arc::ptr_eq(&last.policy, policy)
            && (&last.tenant, &last.reference) == (tenant, reference);
        same.then(|| last.module.clone())
    }

    pub(super) fn set(
        &self,
        tenant: &TenantId,
        policy: &Arc<TenantPolicy>,
        reference: &ModuleRef,
        at: Instant,
        module: &M,
    ) {
        let looked = Looked {
            tenant: tenant.clone(),
            policy: policy.clone(),
            reference: reference.clone(),
            at,
            module: module.clone(),
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(looked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::tenants::Tenants;
    use std::time::Duration;

    #[test]
    fn only_what_was_looked_for_since_and_for_the_same() {
        let tenants = Tenants::new(Config::default().tenant_table().expect("a table"));
        let (tenant, other) = (TenantId::default(), TenantId::parse("b").expect("a tenant"));
        let policy = tenants.policy(&tenant).expect("a policy");
        let anew = Arc::new(TenantPolicy::clone(&policy));
        let [a, b] = ["a", "b"].map(|name| ModuleRef::parse(name).expect("a name"));
        let (last, now) = (Last::default(), Instant::now());
        let later = now + Duration::from_nanos(1);
        assert_eq!(last.get(&tenant, &policy, &a, now), None);
        last.set(&tenant, &policy, &a, now, &1);
        assert_eq!(last.get(&tenant, &policy, &a, now), Some(1));
        assert_eq!(last.get(&tenant, &policy, &a, later), None);
        assert_eq!(last.get(&tenant, &policy, &b, now), None);
        assert_eq!(last.get(&other, &policy, &a, now), None);
        assert_eq!(last.get(&tenant, &anew, &a, now), None, "another reading");
    }
}
