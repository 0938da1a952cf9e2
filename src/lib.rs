//! knot mounts a torrent: one engine that moves verified data between peers, with a filesystem as its face.
//!
//! # Bird's-eye view
//!
//! A read of a mounted file arrives in `fuse`, is planned by `vfs` into spans of pieces, and is answered from the
//! `cache` or registered with the `engine` as a reader with a deadline. The engine decides what to ask of whom; it
//! does no input or output itself: it is told what happened and when, and says what to do (`handle(now, input)`,
//! `poll_output()`, `poll_timeout()`). The `node` is what drives it: it owns the tasks, the sockets, the clock and the
//! files, feeds what happens in, and carries out what comes back. `transports` carry the bytes of `wire` messages,
//! `discovery` finds peers and update records, `metainfo` knows what a torrent is and proves every byte. Commands
//! (`cli`) ask the one node of their store over `control`, or become it.
//!
//! # Rooms
//!
//! Each directory of `src` is a room. What each may import (`tests/arch.rs` holds this table):
//!
//! | room | may import |
//! |---|---|
//! | `types` | nothing |
//! | `metainfo`, `wire` | `types` |
//! | `updates` | `types`, `metainfo` |
//! | `engine` | `types`, `metainfo`, `wire` |
//! | `vfs` | `types`, `metainfo` |
//! | `transports`, `discovery`, `cache` | `types` |
//! | `index` | `types`, `metainfo` |
//! | `node` | `types`, `metainfo`, `wire`, `updates`, `engine`, `vfs`, `transports`, `discovery`, `cache`, `index` |
//! | `control`, `fuse` | `types`, `vfs`, `node` |
//! | `cli` | `types`, `metainfo`, `wire`, `updates`, `engine`, `vfs`, `transports`, `discovery`, `cache`, `index`, `node`, `control`, `fuse` |
//!
//! `types`, `metainfo`, `wire`, `updates`, `engine` and `vfs` are pure: no tokio, no files, no sockets, no clock.
//! Adapters (`transports`, `discovery`, `cache`, `fuse`, `control`) know neither each other nor the engine.
//!
//! # Invariants
//!
//! - No unverified byte is ever returned to a reader or sent to a peer.
//! - What is hashed is the raw byte span that was received, never a re-encoding.
//! - Metadata operations of a mount never wait for the swarm.
//! - Every read ends: with data, or with an error after its timeout.
//! - A durable "verified" mark never precedes its data; it is cleared before its data goes.
//! - An inode never changes its bytes.
//! - Payload bytes never go through the engine: it sees spans and verdicts.
//! - A corrupt peer is identified by the block it sent and banned; an honest one never is.
//! - A store has at most one node process.
//! - Every queue, frame, wait and table that a stranger can fill is bounded.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod cache;
pub mod cli;
pub mod control;
pub mod discovery;
pub mod engine;
pub mod fuse;
pub mod index;
pub mod metainfo;
pub mod node;
pub mod transports;
pub mod types;
pub mod updates;
pub mod vfs;
pub mod wire;
