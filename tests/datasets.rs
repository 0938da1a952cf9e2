//! Datasets that change, with the real program: what an update transfers, what programs see of it through a mount,
//! what a crash leaves, what strangers can do to it, and how it is found. Needs /dev/fuse and the right to mount.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "datasets/crash.rs"]
mod crash;
#[path = "datasets/finding.rs"]
mod finding;
#[path = "datasets/hostile.rs"]
mod hostile;
#[path = "datasets/readers.rs"]
mod readers;
#[allow(dead_code, unreachable_pub)]
mod support;
#[path = "datasets/teller.rs"]
mod teller;
#[path = "datasets/transfer.rs"]
mod transfer;
#[path = "datasets/world.rs"]
mod world;
