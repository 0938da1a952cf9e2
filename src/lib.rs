//! knot
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod metainfo;
pub mod node;
pub mod discovery;
pub mod transports;
pub mod types;
pub mod wire;
