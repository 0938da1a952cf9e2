//! knot
pub mod metainfo;
pub mod types;
