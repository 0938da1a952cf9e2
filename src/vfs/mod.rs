//! The filesystem that a torrent is, or the versions of a dataset one after the other: inodes, attributes, listings,
//! handles. Knows neither the kernel nor the swarm.
//!
//! - *An inode never changes its bytes*, so that a kernel may keep what it has read for as long as it likes.
//! - *Versions are switched at once*: whoever has seen anything of a version sees nothing of an older one on a later
//!   walk from the root; and whatever is open stays on its version.
//! - *Metadata operations never wait*: everything but the bytes of files is in memory from the start.
//! - Nothing can be written; there is no operation that would.

mod attr;
mod content;
mod dataset;
mod dirs;
mod fs;
mod hidden;
mod ino;
mod open;
mod switch;
mod table;
mod tree;
mod view;
mod xattr;

pub use attr::{Attr, DirEntry, FileKind, Found, FsError, Handle, Opened, OpenedDir, Owner, StatFs};
pub use content::{Content, ContentError, ReadReply};
pub use dataset::{Dataset, Release, Version, VersionInfo};
pub use fs::{Says, Vfs};
pub use ino::Ino;
pub use switch::Switch;
pub use tree::TreeError;

#[cfg(test)]
mod tests;
