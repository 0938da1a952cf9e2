//! Between the vfs and the kernel's structures.

use std::time::{Duration, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo};

use crate::vfs::{Attr, FileKind, FsError, Ino};

/// The number that a program gets for an error.
pub(super) fn errno(error: &FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::NotADirectory => Errno::ENOTDIR,
        FsError::IsADirectory => Errno::EISDIR,
        FsError::Invalid => Errno::EINVAL,
        FsError::NoAttribute => Errno::NO_XATTR,
        FsError::NotYet => Errno::EAGAIN,
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

/// What a listing says of a line whose name the kernel must not take for looked up, since it leads elsewhere by now.
/// The protocol has an inode 0 for that, but the name would get it in the listing as well, and fuser writes both at
/// once. A size that no file can have does the same: the kernel lists the line, forgets the inode at once, and leaves
/// its names as they are. Where it does not check (before 5.5), no answer to this is remembered.
pub(super) fn unlinked_attr(ino: Ino, kind: FileKind) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino.0),
        size: u64::MAX,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: file_type(kind),
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}
