//! The operations.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::content::{Content, ContentError, ReadReply};
use super::tree::{Node, NodeKind, Tree};
use super::{Ino, TreeError};
use crate::metainfo::Metainfo;
use crate::types::{BLOCK_LEN, FileIndex, ReaderId};

/// How long attributes of what never changes hold.
const FIXED: Duration = Duration::from_secs(3600);
/// How long those of a file hold that is all here. Eviction may take it away again.
const COMPLETE: Duration = Duration::from_secs(60);
/// How long those of a file hold that is still coming: `st_blocks` grows.
const GROWING: Duration = Duration::from_secs(1);

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
    /// Where a listing goes on behind this line; good for as long as the mount.
    pub next: u64,
}

/// An open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// A file that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// To be closed with [`Vfs::close`].
    pub handle: Handle,
    /// Whether the bytes are made when they are read, so that nobody may keep them.
    pub live: bool,
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
    /// The bytes could not be had.
    #[error(transparent)]
    Content(#[from] ContentError),
}

/// A torrent as a filesystem.
pub struct Vfs {
    tree: Tree,
    metainfo: Arc<Metainfo>,
    mtime_s: u64,
    owner: Owner,
    content: Arc<dyn Content>,
    open: Mutex<OpenFiles>,
    next_report: AtomicU64,
}

/// What was opened and not closed yet.
#[derive(Default)]
struct OpenFiles {
    /// How often each reader is open. The content gives a reader of its own to everyone who opens.
    readers: HashMap<ReaderId, FileIndex>,
    /// The report as it was when it was opened: one that reads it in two parts reads one report.
    reports: HashMap<Handle, Bytes>,
}

impl Vfs {
    /// The filesystem of a torrent, everything in it owned by `owner`.
    ///
    /// # Errors
    /// When two entries have one path, which a [`Metainfo`] rules out.
    pub fn new(metainfo: Arc<Metainfo>, content: Arc<dyn Content>, owner: Owner) -> Result<Self, TreeError> {
        Ok(Self {
            tree: Tree::build(metainfo.entries())?,
            mtime_s: metainfo.created_at().and_then(|at| u64::try_from(at).ok()).unwrap_or(0),
            metainfo,
            owner,
            content,
            open: Mutex::default(),
            next_report: AtomicU64::new(0),
        })
    }

    /// The inode of that name in a directory.
    ///
    /// # Errors
    /// When there is none, or `parent` is no directory.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr, FsError> {
        match &self.node(parent)?.kind {
            // Who exports the mount over NFS asks so for an inode that it has only the number of.
            _ if name == b"." => self.attr(parent),
            NodeKind::Directory { .. } => self.attr(self.tree.child(parent, name).ok_or(FsError::NotFound)?),
            _ => Err(FsError::NotADirectory),
        }
    }

    /// Attributes of an inode.
    ///
    /// # Errors
    /// When there is no such inode.
    pub fn attr(&self, ino: Ino) -> Result<Attr, FsError> {
        Ok(self.attr_of(ino, self.node(ino)?))
    }

    /// The lines of a directory's listing from a position on: 0, or the `next` of a line.
    ///
    /// # Errors
    /// When it is no directory.
    pub fn read_dir(&self, ino: Ino, from: u64) -> Result<impl Iterator<Item = DirEntry<'_>>, FsError> {
        let node = self.node(ino)?;
        let NodeKind::Directory { children, .. } = &node.kind else { return Err(FsError::NotADirectory) };
        let dots = [(ino, "."), (self.tree.parent(node), "..")];
        let end = children.len() as u64 + dots.len() as u64;
        Ok((from..end).filter_map(move |at| {
            let next = at + 1;
            let at = usize::try_from(at).ok()?;
            if let Some(&(ino, name)) = dots.get(at) {
                return Some(DirEntry { ino, name, kind: FileKind::Directory, next });
            }
            let (ino, node) = self.tree.child_at(children, at - dots.len())?;
            Some(DirEntry { ino, name: &node.name, kind: node.kind.file_kind(), next })
        }))
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// When it is none.
    pub fn read_link(&self, ino: Ino) -> Result<&str, FsError> {
        match &self.node(ino)?.kind {
            NodeKind::Symlink { target } => Ok(target),
            _ => Err(FsError::Invalid),
        }
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// When it is not a file.
    pub fn open(&self, ino: Ino) -> Result<Opened, FsError> {
        match &self.node(ino)?.kind {
            NodeKind::Directory { .. } => Err(FsError::IsADirectory),
            NodeKind::Symlink { .. } => Err(FsError::Invalid),
            NodeKind::File { file, .. } => {
                let reader = self.content.open(*file);
                self.open_files().readers.insert(reader, *file);
                Ok(Opened { handle: Handle(reader.0), live: false })
            }
            NodeKind::Status => {
                let handle = Handle(self.next_report.fetch_add(1, Ordering::Relaxed));
                let report = self.report();
                self.open_files().reports.insert(handle, report);
                Ok(Opened { handle, live: true })
            }
        }
    }

    /// Closes a file; its waiting reads fail. Closing what is not open does nothing.
    pub fn close(&self, ino: Ino, handle: Handle) {
        match self.tree.node(ino).map(|node| &node.kind) {
            Some(NodeKind::Status) => drop(self.open_files().reports.remove(&handle)),
            _ => {
                let reader = ReaderId(handle.0);
                let was_open = self.open_files().readers.remove(&reader).is_some();
                if was_open {
                    self.content.close(reader);
                }
            }
        }
    }

    /// Closes every file that is open.
    pub fn close_all(&self) {
        let open = std::mem::take(&mut *self.open_files());
        for reader in open.readers.into_keys() {
            self.content.close(reader);
        }
    }

    /// How many bytes a read of `len` bytes at `offset` gives: fewer only at the end of a file.
    ///
    /// # Errors
    /// When it is not a file of the torrent.
    pub fn read_len(&self, ino: Ino, offset: u64, len: u32) -> Result<u32, FsError> {
        match &self.node(ino)?.kind {
            NodeKind::File { length, .. } => Ok(cut(*length, offset, len)),
            NodeKind::Directory { .. } => Err(FsError::IsADirectory),
            NodeKind::Symlink { .. } | NodeKind::Status => Err(FsError::Invalid),
        }
    }

    /// The bytes of a read, cut at the end of the file, if all of them are on this machine; else `None`, and
    /// [`Vfs::read`] asks for them.
    ///
    /// # Errors
    /// When it is not a file, or the handle is not open.
    pub fn read_cached(&self, ino: Ino, handle: Handle, offset: u64, len: u32) -> Result<Option<Bytes>, FsError> {
        match &self.node(ino)?.kind {
            NodeKind::File { file, length, .. } => {
                let len = cut(*length, offset, len);
                if len == 0 {
                    return Ok(Some(Bytes::new()));
                }
                let bytes = self.content.read_cached(ReaderId(handle.0), *file, offset, len);
                // A short answer would be filled up with zeros, which nobody has verified.
                Ok(bytes.filter(|bytes| bytes.len() == len as usize))
            }
            NodeKind::Status => {
                let report = self.open_files().reports.get(&handle).cloned().ok_or(FsError::Invalid)?;
                let start = usize::try_from(offset).map_or(report.len(), |offset| offset.min(report.len()));
                let end = start.saturating_add(len as usize).min(report.len());
                Ok(Some(report.slice(start..end)))
            }
            NodeKind::Directory { .. } => Err(FsError::IsADirectory),
            NodeKind::Symlink { .. } => Err(FsError::Invalid),
        }
    }

    /// Asks for the bytes of a read, cut at the end of the file. `reply` is called once, perhaps before this
    /// returns; its bytes are as many as [`Vfs::read_len`] says.
    pub fn read(&self, ino: Ino, handle: Handle, offset: u64, len: u32, reply: ReadReply) {
        let Some(NodeKind::File { file, length, .. }) = self.tree.node(ino).map(|node| &node.kind) else {
            return reply(Err(ContentError::Closed));
        };
        let len = cut(*length, offset, len);
        let checked = move |result: Result<Bytes, ContentError>| {
            reply(result.and_then(|bytes| match bytes.len() == len as usize {
                true => Ok(bytes),
                false => Err(short_answer(len, bytes.len())),
            }));
        };
        self.content.read(ReaderId(handle.0), *file, offset, len, Box::new(checked));
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        let node = self.node(ino)?;
        let value = match (name, &node.kind) {
            (b"user.knot.info_id", _) => self.metainfo.info_id().to_string(),
            (b"user.knot.info_hash", _) => self.metainfo.info_hash().to_string(),
            (b"user.knot.root", NodeKind::File { root: Some(root), .. }) => root.to_string(),
            (b"user.knot.cached_bytes", NodeKind::File { file, .. }) => self.content.cached_bytes(*file).to_string(),
            _ => return Err(FsError::NoAttribute),
        };
        Ok(value.into_bytes())
    }

    /// Names of the extended attributes that say what something is. How far it is, `user.knot.cached_bytes`, can be
    /// asked for but is not named: copies that take along every attribute would carry a number that is not theirs.
    ///
    /// # Errors
    /// When there is no such inode.
    pub fn xattr_names(&self, ino: Ino) -> Result<&'static [&'static str], FsError> {
        Ok(match &self.node(ino)?.kind {
            NodeKind::File { root: Some(_), .. } => &["user.knot.root", "user.knot.info_id", "user.knot.info_hash"],
            _ => &["user.knot.info_id", "user.knot.info_hash"],
        })
    }

    /// The whole.
    pub fn statfs(&self) -> StatFs {
        StatFs {
            block_size: STATFS_BLOCK,
            blocks: self.metainfo.total_length().div_ceil(u64::from(STATFS_BLOCK)),
            files: self.tree.len(),
            name_max: NAME_MAX,
        }
    }

    fn attr_of(&self, ino: Ino, node: &Node) -> Attr {
        let kind = node.kind.file_kind();
        let mut attr = Attr {
            ino,
            kind,
            size: 0,
            blocks: 0,
            mtime_s: self.mtime_s,
            mode: 0o555,
            links: 1,
            owner: self.owner,
            block_size: BLOCK_LEN,
            valid_for: FIXED,
        };
        match &node.kind {
            NodeKind::Directory { subdirectories, .. } => attr.links = subdirectories.saturating_add(2),
            NodeKind::Symlink { target } => {
                attr.size = target.len() as u64;
                attr.mode = 0o777;
            }
            NodeKind::Status => {
                attr.mode = 0o444;
                attr.valid_for = Duration::ZERO;
            }
            NodeKind::File { file, length, executable, .. } => {
                let cached = self.content.cached_bytes(*file).min(*length);
                attr.size = *length;
                attr.blocks = cached.div_ceil(512).max(u64::from(*length > 0));
                attr.mode = if *executable { 0o555 } else { 0o444 };
                attr.valid_for = if cached == *length { COMPLETE } else { GROWING };
            }
        }
        attr
    }

    /// What the hidden file holds: one JSON object.
    fn report(&self) -> Bytes {
        let cached: u64 = self.tree.files().map(|file| self.content.cached_bytes(file)).sum();
        let mut text = serde_json::json!({
            "name": self.metainfo.name(),
            "info_id": self.metainfo.info_id().to_string(),
            "info_hash": self.metainfo.info_hash().to_string(),
            "total_bytes": self.metainfo.total_length(),
            "cached_bytes": cached,
            "open_files": self.open_files().readers.len(),
        })
        .to_string();
        text.push('\n');
        text.into()
    }

    fn node(&self, ino: Ino) -> Result<&Node, FsError> {
        self.tree.node(ino).ok_or(FsError::NotFound)
    }

    fn open_files(&self) -> MutexGuard<'_, OpenFiles> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Vfs {
    fn drop(&mut self) {
        self.close_all();
    }
}

impl NodeKind {
    fn file_kind(&self) -> FileKind {
        match self {
            Self::Directory { .. } => FileKind::Directory,
            Self::File { .. } | Self::Status => FileKind::File,
            Self::Symlink { .. } => FileKind::Symlink,
        }
    }
}

/// Bytes that are left of a read in a file of `length` bytes.
fn cut(length: u64, offset: u64, len: u32) -> u32 {
    u32::try_from(length.saturating_sub(offset)).unwrap_or(u32::MAX).min(len)
}

fn short_answer(expected: u32, got: usize) -> ContentError {
    ContentError::Storage(format!("expected {expected} bytes for a read, got {got}"))
}
