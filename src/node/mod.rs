//! The node: everything that runs.

pub mod tree;
pub mod identity;
pub mod swarm;
