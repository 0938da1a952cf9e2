//! What every way to find peers offers.

use crate::types::{PeerAddr, SwarmId};

/// A way to find the peers of a swarm. Sources report over the channel that they were made with; the errors of
/// one never stop another.
pub trait Source: Send + Sync {
    /// The name in `--discovery` and in `knot status`.
    fn name(&self) -> &'static str;

    /// Starts to look for peers of `swarm`, and to announce this node as one, until [`Source::leave`].
    fn join(&self, swarm: SwarmId);

    /// Stops both.
    fn leave(&self, swarm: SwarmId);

    /// One line for `knot status`: what the source is doing, or what went wrong.
    fn state(&self) -> String;
}

/// A peer that a source found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Of which swarm.
    pub swarm: SwarmId,
    /// Where.
    pub addr: PeerAddr,
    /// Which source said so.
    pub source: &'static str,
}
