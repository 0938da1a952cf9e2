//! Requests of the kernel: convert, call, reply. No handler waits; a read that must wait leaves its reply in
//! [`Waiting`] and is answered from another thread.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::convert::{errno, file_attr, file_type};
use super::view::View;
use super::waiting::{Span, Waiting};
use crate::vfs::{Attr, DirEntry, EmptyRoot, FsError, Handle, Ino, Vfs};

/// How long the kernel may remember which inode a name leads to, or that it leads nowhere: names never change.
const NAME_TTL: Duration = Duration::from_secs(3600);
/// Requests that may wait at once before the kernel holds back others. A read that waits for the swarm must not
/// hold back reads of what is here.
const MAX_BACKGROUND: u16 = 1024;
/// The most that one request asks for, if the kernel reads ahead that far.
const MAX_REQUEST: u32 = 1 << 20;
/// Inode numbers are never used twice.
const GENERATION: Generation = Generation(0);

/// What the kernel asks about one mount.
pub(super) struct Adapter {
    view: Arc<View>,
    waiting: Arc<Waiting>,
}

impl Adapter {
    pub(super) fn new(view: Arc<View>, waiting: Arc<Waiting>) -> Self {
        Self { view, waiting }
    }

    /// The torrent. While there is none there are no files.
    fn vfs(&self) -> Result<&Vfs, FsError> {
        self.view.shown().map_err(|_| FsError::NotFound)
    }

    fn attr(&self, ino: INodeNo) -> Result<Attr, FsError> {
        let ino = Ino(ino.0);
        self.view.shown().map_or_else(|empty| empty.attr(ino), |vfs| vfs.attr(ino))
    }

    fn read_later(&self, vfs: &Vfs, ino: Ino, handle: Handle, offset: u64, size: u32, reply: ReplyData) {
        let span = Span { ino, range: offset..offset.saturating_add(u64::from(size)) };
        let Some(ticket) = self.waiting.admit(span, reply) else { return };
        let waiting = Arc::clone(&self.waiting);
        vfs.read(ino, handle, offset, size, Box::new(move |result| waiting.finish(ticket, result)));
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_EXPORT_SUPPORT,
        ];
        for flag in wanted {
            // An old kernel without it is slower, not wrong.
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.set_max_write(MAX_REQUEST);
        if let Err(most) = config.set_max_readahead(MAX_REQUEST) {
            let _ = config.set_max_readahead(most);
        }
        Ok(())
    }

    fn destroy(&mut self) {
        self.waiting.close();
        if let Ok(vfs) = self.view.shown() {
            vfs.close_all();
        }
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        // Unlike an inode 0, an error is not remembered.
        let Ok(vfs) = self.view.shown() else { return reply.error(Errno::ENOENT) };
        match vfs.lookup(Ino(parent.0), name.as_bytes()) {
            Ok(attr) => reply.entry_with_ttls(&attr.valid_for, &NAME_TTL, &file_attr(&attr), GENERATION),
            // Inode 0 is how the kernel is told to remember that there is nothing.
            Err(FsError::NotFound) => reply.entry_with_ttls(&NAME_TTL, &NAME_TTL, &NOTHING, GENERATION),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino) {
            Ok(attr) => reply.attr(&attr.valid_for, &file_attr(&attr)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.vfs().and_then(|vfs| vfs.read_link(Ino(ino.0))) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        match self.vfs().and_then(|vfs| vfs.open(Ino(ino.0))) {
            Ok(opened) if opened.live => reply.opened(FileHandle(opened.handle.0), FopenFlags::FOPEN_DIRECT_IO),
            Ok(opened) => {
                // There is nothing to flush, and an inode never changes its bytes.
                let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
                reply.opened(FileHandle(opened.handle.0), flags);
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (ino, handle) = (Ino(ino.0), Handle(fh.0));
        let vfs = match self.vfs() {
            Ok(vfs) => vfs,
            Err(error) => return reply.error(errno(&error)),
        };
        match vfs.read_cached(ino, handle, offset, size) {
            Ok(Some(bytes)) => reply.data(&bytes),
            Ok(None) => self.read_later(vfs, ino, handle, offset, size, reply),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        if let Ok(vfs) = self.view.shown() {
            vfs.close(Ino(ino.0), Handle(fh.0));
        }
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let flags = match self.view.shown() {
            Ok(_) => FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
            Err(_) => FopenFlags::empty(),
        };
        reply.opened(FileHandle(0), flags);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut is_full =
            |line: DirEntry<'_>| reply.add(INodeNo(line.ino.0), line.next, file_type(line.kind), line.name);
        let told = match self.view.shown() {
            Ok(vfs) => vfs.read_dir(Ino(ino.0), offset).map(|mut lines| lines.any(&mut is_full)),
            Err(empty) => empty.read_dir(Ino(ino.0), offset).map(|mut lines| lines.any(&mut is_full)),
        };
        match told {
            Ok(_) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdirplus(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let mut is_full = |line: DirEntry<'_>| {
            let Ok(attr) = self.attr(INodeNo(line.ino.0)) else { return false };
            let number = INodeNo(line.ino.0);
            reply.add(number, line.next, line.name, &attr.valid_for, &file_attr(&attr), GENERATION)
        };
        let told = match self.view.shown() {
            Ok(vfs) => vfs.read_dir(Ino(ino.0), offset).map(|mut lines| lines.any(&mut is_full)),
            Err(empty) => empty.read_dir(Ino(ino.0), offset).map(|mut lines| lines.any(&mut is_full)),
        };
        match told {
            Ok(_) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let whole = self.view.shown().map_or_else(EmptyRoot::statfs, Vfs::statfs);
        reply.statfs(whole.blocks, 0, 0, whole.files, 0, whole.block_size, whole.name_max, whole.block_size);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (ino, name) = (Ino(ino.0), name.as_bytes());
        match self.view.shown().map_or_else(|empty| empty.xattr(ino, name), |vfs| vfs.xattr(ino, name)) {
            Ok(value) => reply_xattr(&value, size, reply),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let ino = Ino(ino.0);
        match self.view.shown().map_or_else(|empty| empty.xattr_names(ino), |vfs| vfs.xattr_names(ino)) {
            Ok(names) => {
                let list: Vec<u8> = names.iter().flat_map(|name| name.bytes().chain([0])).collect();
                reply_xattr(&list, size, reply);
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    // The kernel refuses to write on a read-only mount by itself; these answer where somebody has remounted it.

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(&self, _: &Request, _: INodeNo, _: &OsStr, _: INodeNo, _: &OsStr, _: RenameFlags, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn access(&self, _: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        // Only asked where the kernel does not check permissions itself, which the mount tells it to.
        match self.attr(ino) {
            Ok(_) if mask.contains(AccessFlags::W_OK) => reply.error(Errno::EROFS),
            Ok(_) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }
}

/// The answer to a look-up that found nothing.
const NOTHING: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};

/// The kernel asks for the size first, or for at most so many bytes.
fn reply_xattr(value: &[u8], size: u32, reply: ReplyXattr) {
    match size {
        0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        _ if value.len() > size as usize => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}
