//! The swarms that a source was asked to work for, shared between those who ask and the one who works.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::types::SwarmId;

/// A set that can be waited on. Asking never blocks and nothing asked is lost, however often it changes: the worker
/// compares the set with what it is doing.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    swarms: Mutex<BTreeSet<SwarmId>>,
    changed: Notify,
    state: Mutex<String>,
}

impl Wanted {
    pub(super) fn join(&self, swarm: SwarmId) {
        if self.lock().insert(swarm) {
            self.changed.notify_one();
        }
    }

    pub(super) fn leave(&self, swarm: SwarmId) {
        if self.lock().remove(&swarm) {
            self.changed.notify_one();
        }
    }

    pub(super) fn swarms(&self) -> BTreeSet<SwarmId> {
        self.lock().clone()
    }

    /// Waits until the set has changed since the last call. Safe to cancel.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// One line for `knot status`.
    pub(super) fn state(&self) -> String {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_state(&self, state: String) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<SwarmId>> {
        self.swarms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
