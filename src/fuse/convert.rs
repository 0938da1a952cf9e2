//! Between the vfs and the kernel's structures.

use std::time::{Duration, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo};

use crate::vfs::{Attr, FileKind, FsError};

/// The number that a program gets for an error.
pub(super) fn errno(error: &FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::NotADirectory => Errno::ENOTDIR,
        FsError::IsADirectory => Errno::EISDIR,
        FsError::Invalid => Errno::EINVAL,
        FsError::NoAttribute => Errno::NO_XATTR,
        FsError::Content(_) => Errno::EIO,
    }
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Directory => FileType::Directory,
        FileKind::File => FileType::RegularFile,
        FileKind::Symlink => FileType::Symlink,
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    let time = UNIX_EPOCH + Duration::from_secs(attr.mtime_s);
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: attr.links,
        uid: attr.owner.uid,
        gid: attr.owner.gid,
        rdev: 0,
        blksize: attr.block_size,
        flags: 0,
    }
}
