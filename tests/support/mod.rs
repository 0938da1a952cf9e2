//! What the integration tests share; each test program uses a part of it.

pub mod clients;
pub mod compare;
pub mod content;
pub mod dataset;
pub mod process;
pub mod proxy;
pub mod torrent;
pub mod tree;
pub mod web;
