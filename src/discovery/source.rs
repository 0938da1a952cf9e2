//! What every way to find peers offers.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::types::{PeerAddr, SwarmId};

/// A way to find the peers of a swarm. Sources report over the channel that they were made with; the errors of
/// one never stop another.
pub trait Source: Send + Sync {
    /// The name in `--discovery` and in `knot status`.
    fn name(&self) -> &'static str;

    /// Starts to look for peers of `swarm`, and to announce this node as one, until [`Source::leave`]. Joining
    /// again replaces the options, as when the metainfo tells what a magnet link did not.
    fn join(&self, swarm: SwarmId, options: &JoinOptions);

    /// Stops both.
    fn leave(&self, swarm: SwarmId);

    /// Says that the last piece of `swarm` has arrived, to those who count downloads.
    fn completed(&self, _swarm: SwarmId) {}

    /// What the source is doing, or what went wrong, for `knot status`.
    fn state(&self) -> String;

    /// Leaves every swarm for good. Ends when all has been said that others should hear, within a few seconds.
    fn shutdown(&self) -> BoxFuture<'static, ()> {
        futures::future::ready(()).boxed()
    }
}

/// What a source is told of a swarm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JoinOptions {
    /// URLs of trackers in tiers, as BEP 12 lists them.
    pub trackers: Vec<Vec<String>>,
    /// Whether peers may be had from trackers only (BEP 27). Other sources do nothing for a private swarm.
    pub private: bool,
    /// The TCP port at which ordinary clients can reach this node; without one it only looks.
    pub port: Option<u16>,
}

/// How far a download is, as trackers are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Payload bytes sent to peers since the swarm was joined.
    pub uploaded: u64,
    /// Payload bytes had from peers since the swarm was joined.
    pub downloaded: u64,
    /// Bytes that are missing; `None` while the metainfo is unknown.
    pub left: Option<u64>,
    /// Whether more peers would help. Sources ask more often then, within what politeness allows.
    pub wants_peers: bool,
}

/// Looks up the progress of a swarm at the moment of an announce. Must not block.
pub type ProgressFn = Arc<dyn Fn(SwarmId) -> Progress + Send + Sync>;

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
