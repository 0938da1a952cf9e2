//! The swarms that a source was asked to work for, shared between those who ask and the one who works.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::JoinOptions;
use crate::types::SwarmId;

/// A set of public swarms that can be waited on. Asking never blocks and nothing asked is lost, however often it
/// changes: the worker compares the set with what it is doing.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    swarms: Mutex<BTreeMap<SwarmId, JoinOptions>>,
    changed: Notify,
    state: Mutex<String>,
}

impl Wanted {
    /// Wants `swarm`; a private one is not wanted, or no longer, as BEP 27 asks.
    pub(super) fn join(&self, swarm: SwarmId, options: &JoinOptions) {
        if options.private {
            return self.leave(swarm);
        }
        if self.lock().insert(swarm, options.clone()).as_ref() != Some(options) {
            self.changed.notify_one();
        }
    }

    pub(super) fn leave(&self, swarm: SwarmId) {
        if self.lock().remove(&swarm).is_some() {
            self.changed.notify_one();
        }
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
        self.changed.notify_one();
    }

    /// Lets the worker look, as after a change.
    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }

    pub(super) fn swarms(&self) -> BTreeSet<SwarmId> {
        self.lock().keys().copied().collect()
    }

    /// The ports at which this node can be reached, by swarm.
    pub(super) fn ports(&self) -> BTreeMap<SwarmId, Option<u16>> {
        self.lock().iter().map(|(swarm, options)| (*swarm, options.port)).collect()
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

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SwarmId, JoinOptions>> {
        self.swarms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swarm_that_turns_out_private_is_left() {
        let wanted = Wanted::default();
        let swarm = SwarmId([1; 20]);
        let public = JoinOptions { port: Some(1), ..JoinOptions::default() };
        wanted.join(swarm, &public);
        assert_eq!(wanted.ports(), BTreeMap::from([(swarm, Some(1))]));
        wanted.join(swarm, &JoinOptions { port: Some(2), ..JoinOptions::default() });
        assert_eq!(wanted.ports(), BTreeMap::from([(swarm, Some(2))]));
        wanted.join(swarm, &JoinOptions { private: true, ..public.clone() });
        assert!(wanted.swarms().is_empty());
        wanted.join(SwarmId([2; 20]), &JoinOptions { private: true, ..public });
        assert!(wanted.swarms().is_empty());
    }
}
