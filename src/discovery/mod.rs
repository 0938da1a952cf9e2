//! Ways to find the peers of a swarm.
//!
//! Each source does its work in tasks of its own, or, where libp2p does the talking, is a small state machine beside
//! the behaviour, which the node's swarm owns. What they find goes into one bounded channel. Nothing that a source
//! meets stops another: its errors end in its own [`Source::state`]. Three of the networks also carry update records
//! ([`RecordNetwork`]).

mod address;
pub mod dht;
pub mod gossip;
pub mod http;
pub mod kad;
pub mod lsd;
pub mod mdns;
pub mod records;
mod scope;
mod source;
pub mod trackers;
mod wanted;

pub use records::{CheckedRecord, PushedRecord, RecordCheck, RecordNetwork, RecordNetworkError};
pub use source::{Found, JoinOptions, Progress, ProgressFn, Source};
