//! The swarms that encrypted connections may ask for.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::key::swarm_hash;
use crate::types::SwarmId;

/// The swarms that this node serves, shared with whoever adds and removes them. A peer names a swarm by a hash only,
/// so they are kept by that hash: finding one takes the same time however many there are.
#[derive(Clone, Debug, Default)]
pub struct ServedSwarms(Arc<RwLock<HashMap<[u8; 20], SwarmId>>>);

impl ServedSwarms {
    /// No swarm.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets encrypted connections for `swarm` in.
    pub fn insert(&self, swarm: SwarmId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(swarm_hash(&swarm), swarm);
    }

    /// Refuses them from now on.
    pub fn remove(&self, swarm: &SwarmId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&swarm_hash(swarm));
    }

    /// The swarm whose `HASH('req2', SKEY)` this is.
    pub(super) fn find(&self, hash: &[u8; 20]) -> Option<SwarmId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(hash).copied()
    }
}
