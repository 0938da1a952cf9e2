//! The node's API: HTTP and JSON over a Unix socket in the store, for the user who owns the store only.
//!
//! Long requests (`mount`, `seed`, `get`) are answered by a stream of JSON lines, each a
//! [`Progress`](crate::node::api::Progress), with empty lines in between so that either side notices when the other
//! is gone. A request lives as long as its connection: a command that is interrupted cancels what it asked for.

mod client;
mod node;
mod protocol;
mod server;
mod socket;
mod stream;
#[cfg(test)]
mod tests;

pub use client::{Client, ControlError, Events, FileContent, Held};
pub use protocol::ContentRequest;
pub use server::{Kept, NodeApi, OpenFile, Server};
