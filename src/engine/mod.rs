//! The engine: decides what to ask of whom, and what to answer. It is the heart of knot, and pure: no sockets, no
//! disks, no clock, no payload.
//!
//! [`TorrentManager`] is a state machine. The driver calls [`TorrentManager::handle`] with every [`Input`] (and
//! [`TorrentManager::handle_timeout`] when [`TorrentManager::poll_timeout`] says so), then carries out what
//! [`TorrentManager::poll_output`] returns until it returns nothing. The same seed, inputs and times give the same
//! outputs, which the simulated swarms in the tests rely on.
//!
//! Each torrent has its own scope: its connections and the addresses to dial (`dial`, `gossip`, `peer`, `choker`), the state of
//! its blocks (`pieces`, `availability`), its readers with their windows (`readers`, `window`), and the measured flow
//! of requests to each peer (`flow`). Bans are shared, and so are `limits`. What all of it is tuned with is in
//! `scheduling`.
//!
//! What holds always:
//! - a block is exactly one of missing, requested, received, verified;
//! - a block is asked of two peers at most, never twice of one, and of a second one only when a read is blocked on it
//!   and the budget for that allows;
//! - nothing is asked of a peer that chokes us, does not have it, or has as many requests as it queues;
//! - a peer is banned only for bytes that it alone can have sent.

mod address;
mod availability;
mod choker;
mod config;
mod dial;
mod event;
mod fetch_layers;
mod fetch_metainfo;
mod flow;
mod gossip;
mod limits;
mod manager;
mod media;
mod meter;
mod peer;
mod pieces;
mod readers;
mod rng;
mod scheduling;
mod stats;
mod torrent;
mod upload;
mod window;

#[cfg(test)]
#[path = "../../tests/sim/mod.rs"]
mod sim;
#[cfg(test)]
mod tests;

pub use config::Config;
pub use event::{DisconnectReason, Input, Meeting, Output, PieceOutcome, Prefetch, ReadError, Verdict};
pub use manager::TorrentManager;
pub use stats::{PeerStats, TorrentStats, Wasted};
