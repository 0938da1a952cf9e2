//! How a change of a file is noticed without reading it.

/// What the filesystem says about a file's content: whoever writes, truncates or replaces the file changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct FileStamp {
    /// Bytes.
    pub size: u64,
    /// Last change of the content, in nanoseconds of Unix time.
    pub mtime_ns: i64,
    /// Last change of the inode, in nanoseconds of Unix time; cannot be set by programs.
    pub ctime_ns: i64,
    /// The inode number: another one is another file.
    pub inode: u64,
}
