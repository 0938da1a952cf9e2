//! The driver.

pub mod identity;
pub mod swarm;
