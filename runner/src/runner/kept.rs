//! How many tasks the journal answers for: bounded, in all and for each tenant.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::task::tenant::TenantId;

pub(super) struct KeptTasks {
    most: usize,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    all: usize,
    tenants: HashMap<TenantId, usize>,
}

impl Counts {
    fn add(&mut self, tenant: &TenantId) {
        self.all += 1;
        *self.tenants.entry(tenant.clone()).or_default() += 1;
    }
}

impl KeptTasks {
    /// At most so many in all.
    pub(super) fn new(most: usize) -> KeptTasks {
        KeptTasks {
            most,
            counts: Mutex::default(),
        }
    }

    /// One more of a tenant that may have `most`; false when there is no room.
    pub(super) fn try_add(&self, tenant: &TenantId, most: usize) -> bool {
        let mut counts = self.lock();
        let of_tenant = counts.tenants.get(tenant).copied().unwrap_or(0);
        let room = of_tenant < most && counts.all < self.most;
        if room {
            counts.add(tenant);
        }
        room
    }

    /// One that is kept already.
    pub(super) fn add(&self, tenant: &TenantId) {
        self.lock().add(tenant);
    }

    pub(super) fn remove(&self, tenant: &TenantId) {
        let mut counts = self.lock();
        counts.all = counts.all.saturating_sub(1);
        if let Some(count) = counts.tenants.get_mut(tenant) {
            *count -= 1;
            if *count == 0 {
                counts.tenants.remove(tenant);
            }
        }
    }

    pub(super) fn count(&self) -> usize {
        self.lock().all
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
