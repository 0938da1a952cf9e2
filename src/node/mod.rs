//! The driver.

pub mod tree;
