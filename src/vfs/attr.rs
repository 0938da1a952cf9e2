//! What operations tell of inodes.

use std::time::Duration;

use super::content::ContentError;
use super::ino::Ino;

/// How long names and attributes of what never changes hold.
pub(super) const FIXED: Duration = Duration::from_secs(3600);
/// How long those of a file hold that is all here. Eviction may take it away again.
pub(super) const COMPLETE: Duration = Duration::from_secs(60);
/// How long those of a file hold that is still coming: `st_blocks` grows.
pub(super) const GROWING: Duration = Duration::from_secs(1);

/// Unit in which [`StatFs`] counts.
pub(super) const STATFS_BLOCK: u32 = 4096;
/// Bytes of the longest name in a directory.
pub(super) const NAME_MAX: u32 = 255;

/// Who everything belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What an inode is, as far as a directory tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
}

/// Attributes of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Which.
    pub ino: Ino,
    /// What.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes that are on this machine: how far a file is. At least 1 for a file of any bytes, since
    /// archivers take a file without blocks for one big hole, and would store zeros without reading.
    pub blocks: u64,
    /// Seconds since 1970.
    pub mtime_s: u64,
    /// Permission bits.
    pub mode: u16,
    /// Hard links: for a directory, 2 and one for each directory in it.
    pub links: u32,
    /// User and group.
    pub owner: Owner,
    /// Bytes that a reader had best ask for at a time.
    pub block_size: u32,
    /// How long all this holds.
    pub valid_for: Duration,
}

/// One line of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The inode.
    pub ino: Ino,
    /// The name; `.` and `..` come first.
    pub name: &'a str,
    /// What it is.
    pub kind: FileKind,
    /// Where a listing goes on behind this line; good for as long as the directory is open.
    pub next: u64,
}

/// What a look-up found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The inode; `None` if there is nothing of that name.
    pub attr: Option<Attr>,
    /// How long the name leads there, or nowhere.
    pub name_valid_for: Duration,
}

/// An open file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// A file that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// To be closed with [`super::Vfs::close`].
    pub handle: Handle,
    /// Whether the bytes are made when they are read, so that nobody may keep them.
    pub live: bool,
}

/// A directory that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenedDir {
    /// To be closed with [`super::Vfs::close`].
    pub handle: Handle,
    /// Whether every listing of this inode is the same, so that it may be kept.
    pub is_fixed: bool,
}

/// The whole, for `df`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks of the torrent; none of them is free.
    pub blocks: u64,
    /// Inodes of the torrent; none of them is free.
    pub files: u64,
    /// Bytes of the longest name.
    pub name_max: u32,
}

/// Why an operation cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    /// No such name or inode.
    #[error("no such file or directory")]
    NotFound,
    /// Something else than a directory was to be searched.
    #[error("not a directory")]
    NotADirectory,
    /// A directory was to be read as a file.
    #[error("is a directory")]
    IsADirectory,
    /// Something else than a symbolic link was to be followed, or a handle is not open.
    #[error("invalid argument")]
    Invalid,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// What is asked about is not here yet, but on its way.
    #[error("the metainfo of this version is not here yet: try again later")]
    NotYet,
    /// The bytes could not be had.
    #[error(transparent)]
    Content(#[from] ContentError),
}
