//! knot
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod metainfo;
#[allow(dead_code)]
pub mod transports;
pub mod types;
pub mod wire;
