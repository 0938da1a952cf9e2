//! What the integration tests share; each test program uses a part of it.

pub mod compare;
pub mod content;
pub mod process;
pub mod proxy;
pub mod tree;
pub mod web;
