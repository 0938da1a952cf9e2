//! Byte streams to and from peers.
//!
//! A transport dials and accepts; what flows over its streams is for the wire. None of them knows a torrent.

pub mod libp2p;
pub mod memory;
pub mod mse;
pub mod socket;
mod stream;

pub use stream::{ByteStream, DialError, PeerStream, Transport};
