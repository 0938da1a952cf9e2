//! Ways to find the peers of a swarm.
//!
//! Each source is a small state machine beside the libp2p behaviour that does the talking: the node's swarm owns
//! the behaviours, tells the sources what happened, and wakes them when they ask. What they find goes into one
//! bounded channel; when it is full, a find is dropped, and the next look-up brings it again.

mod address;
pub mod kad;
pub mod mdns;
mod source;
mod wanted;

pub use source::{Found, Source};
