//! Who is served next, by weight: start-time fair queueing (Goyal, Vin and Cheng, 1996). A data structure, no clock, no I/O.
//!
//! Each tenant has a tag, the virtual time at which its next share begins; the least is served. A share of cost `c` moves
//! the tag by `c` / weight. Who comes back from idling begins at the present, and has saved up nothing.

use std::collections::HashMap;

use crate::task::tenant::TenantId;

/// A point of virtual time.
pub type Tag = i128;

/// Virtual time per unit of cost at weight 1: finer than any weight divides.
const SCALE: Tag = 1_000_000;
/// Idle tenants remembered that are ahead of the present; of more, those that are ahead the least are forgotten.
const MAX_AHEAD: usize = 10_000;

/// The tags of tenants.
#[derive(Debug, Default)]
pub struct Fair {
    present: Tag,
    tags: HashMap<TenantId, Tag>,
}

impl Fair {
    /// A tenant that had nothing waiting has something now.
    pub fn enter(&mut self, tenant: &TenantId) {
        let present = self.present;
        let tag = self.tags.entry(tenant.clone()).or_insert(present);
        *tag = present.max(*tag);
    }

    /// When the tenant's next share begins.
    pub fn tag(&self, tenant: &TenantId) -> Tag {
        self.tags.get(tenant).copied().unwrap_or(self.present)
    }

    /// A tenant is served: what begins before its tag is past.
    pub fn serve(&mut self, tenant: &TenantId) {
        self.present = self.present.max(self.tag(tenant));
    }

    /// A tenant used `cost`, or, below zero, less than it was charged.
    pub fn charge(&mut self, tenant: &TenantId, weight: u32, cost: i64) {
        let present = self.present;
        let tag = self.tags.entry(tenant.clone()).or_insert(present);
        *tag += Tag::from(cost) * SCALE / Tag::from(weight.max(1));
    }

    /// Forgets tenants that have nothing here, unless they are ahead of the present.
    pub fn forget(&mut self, is_idle: impl Fn(&TenantId) -> bool) {
        let present = self.present;
        self.tags
            .retain(|tenant, tag| *tag > present || !is_idle(tenant));
        if self.tags.len() <= MAX_AHEAD {
            return;
        }
        let mut ahead: Vec<Tag> = self.tags.values().copied().collect();
        ahead.sort_unstable();
        let least = ahead[self.tags.len() - MAX_AHEAD];
        self.tags
            .retain(|tenant, tag| *tag >= least || !is_idle(tenant));
    }

    /// How many tenants are remembered.
    pub fn len(&self) -> usize {
        self.tags.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }
}
