//! How many fetches are under way: so many of a tenant from one host, of a tenant, and in all.
//!
//! Who waits holds only what is narrower than what it waits for, so that a host that stalls costs its tenant two
//! places and the others none.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::task::tenant::TenantId;

const OF_A_HOST: usize = 2;
const OF_A_TENANT: usize = 8;
const IN_ALL: usize = 64;
/// So many keys are kept before those that nobody uses are dropped.
const PRUNED_AT: usize = 64;

pub(super) struct Slots {
    hosts: Each<(TenantId, String)>,
    tenants: Each<TenantId>,
    all: Arc<Semaphore>,
}

/// A place, until it is dropped.
pub(super) struct Slot {
    _places: [OwnedSemaphorePermit; 3],
}

impl Default for Slots {
    fn default() -> Self {
        Slots {
            hosts: Each::of(OF_A_HOST),
            tenants: Each::of(OF_A_TENANT),
            all: Arc::new(Semaphore::new(IN_ALL)),
        }
    }
}

impl Slots {
    /// `None` never comes: nobody closes a semaphore here.
    pub(super) async fn take(&self, tenant: &TenantId, host: String) -> Option<Slot> {
        let of_host = self.hosts.one((tenant.clone(), host)).acquire_owned();
        let of_host = of_host.await.ok()?;
        let of_tenant = self
            .tenants
            .one(tenant.clone())
            .acquire_owned()
            .await
            .ok()?;
        let of_all = self.all.clone().acquire_owned().await.ok()?;
        Some(Slot {
            _places: [of_host, of_tenant, of_all],
        })
    }
}

/// A semaphore for each key.
pub(super) struct Each<K> {
    places: usize,
    semaphores: Mutex<HashMap<K, Arc<Semaphore>>>,
}

impl<K: Hash + Eq> Each<K> {
    pub(super) fn of(places: usize) -> Each<K> {
        Each {
            places,
            semaphores: Mutex::default(),
        }
    }

    pub(super) fn one(&self, key: K) -> Arc<Semaphore> {
        let semaphores = self.semaphores.lock();
        let mut semaphores = semaphores.unwrap_or_else(PoisonError::into_inner);
        if semaphores.len() >= PRUNED_AT {
            // A permit holds its semaphore.
            semaphores.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        }
        let new = || Arc::new(Semaphore::new(self.places));
        semaphores.entry(key).or_insert_with(new).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_host_that_stalls_costs_two_places() {
        let slots = Slots::default();
        let tenant = |name| TenantId::parse(name).expect("a tenant");
        let (acme, globex) = (tenant("acme"), tenant("globex"));
        let take = async |tenant: &TenantId, host: &str| {
            let taking = slots.take(tenant, host.to_owned());
            tokio::time::timeout(Duration::from_millis(20), taking).await
        };
        let mut held = vec![];
        for _ in 0..OF_A_HOST {
            held.push(take(&acme, "slow").await.expect("a place"));
        }
        assert!(take(&acme, "slow").await.is_err());
        held.push(take(&globex, "slow").await.expect("another tenant's"));
        for host in 0..OF_A_TENANT - OF_A_HOST {
            held.push(take(&acme, &host.to_string()).await.expect("another host"));
        }
        assert!(take(&acme, "one-more").await.is_err());
        drop(held);
        assert!(take(&acme, "slow").await.is_ok());
    }
}
