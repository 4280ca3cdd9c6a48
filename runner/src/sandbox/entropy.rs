//! Random bytes for guests that were not granted real ones.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sha2::{Digest as _, Sha256};

use crate::sandbox::host::types::Context;

/// Where the stream of a task begins: its tenant, id and module. So a second attempt draws the numbers of the first,
/// and whoever knows the task can draw them too.
pub(super) struct Seed([u8; 32]);

impl Seed {
    pub(super) fn of(task: &Context) -> Seed {
        let mut hash = Sha256::new();
        for part in [&task.tenant, &task.id, &task.module] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Seed(hash.finalize().into())
    }

    pub(super) fn stream(&self) -> StdRng {
        StdRng::from_seed(self.0)
    }

    pub(super) fn number(&self) -> u128 {
        let mut half = [0; 16];
        half.copy_from_slice(&self.0[..16]);
        u128::from_le_bytes(half)
    }
}
