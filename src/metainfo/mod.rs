//! What a torrent is.

mod layout;

pub use layout::{Layout, LayoutError};
