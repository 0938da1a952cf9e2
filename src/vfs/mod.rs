//! The filesystem that a torrent is: inodes, attributes, listings, handles. Knows neither the kernel nor the swarm.
//!
//! - *An inode never changes its bytes*, so that a kernel may keep what it has read for as long as it likes.
//! - *Metadata operations never wait*: everything but the bytes of files is in memory from the start.
//! - Nothing can be written; there is no operation that would.

mod content;
mod empty;
mod fs;
mod tree;

pub use content::{Content, ContentError, ReadReply};
pub use empty::{EmptyRoot, Says};
pub use fs::{Attr, DirEntry, FileKind, FsError, Handle, Opened, Owner, StatFs, Vfs};
pub use tree::{Ino, TreeError};

#[cfg(test)]
mod tests;
