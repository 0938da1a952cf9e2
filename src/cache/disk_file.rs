//! One open file.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};

use crate::types::FileStamp;

/// An open file, read and written at positions.
#[derive(Debug)]
pub struct DiskFile(File);

/// What a read that may not wait for the disk came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Nowait {
    /// All bytes.
    Read(Vec<u8>),
    /// Some bytes are not in memory: read again from a thread that may wait.
    WouldBlock,
}

impl DiskFile {
    pub(super) fn new(file: File) -> Self {
        Self(file)
    }

    /// Appends `len` bytes from `offset` to `buf`.
    ///
    /// # Errors
    /// When they cannot be read, of kind `UnexpectedEof` when the file ends before; `buf` is as it was then.
    pub fn read_into(&self, buf: &mut Vec<u8>, len: usize, offset: u64) -> io::Result<()> {
        let start = buf.len();
        buf.resize(start + len, 0);
        let read = self.0.read_exact_at(&mut buf[start..], offset);
        if read.is_err() {
            buf.truncate(start);
        }
        read
    }

    /// `len` bytes from `offset`, if they are in memory and reading them needs no disk. On filesystems that cannot
    /// tell, every read would block.
    ///
    /// # Errors
    /// When they cannot be read, of kind `UnexpectedEof` when the file ends before.
    pub fn read_nowait(&self, len: usize, offset: u64) -> io::Result<Nowait> {
        let mut buf = vec![0; len];
        match rustix::io::preadv2(&self.0, &mut [IoSliceMut::new(&mut buf)], offset, ReadWriteFlags::NOWAIT) {
            Ok(got) if got == len => Ok(Nowait::Read(buf)),
            Ok(0) if len > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR | Errno::NOSYS) => Ok(Nowait::WouldBlock),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    /// Gives `len` bytes from `offset` back to the disk; they read as zeros then. Blocks of the filesystem that are
    /// only partly inside stay allocated, zeroed where they are inside.
    ///
    /// # Errors
    /// When the filesystem cannot do it.
    pub fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        loop {
            match rustix::fs::fallocate(&self.0, flags, offset, len) {
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// What the file looks like now.
    ///
    /// # Errors
    /// When the filesystem does not say.
    pub fn stamp(&self) -> io::Result<FileStamp> {
        self.0.metadata().map(|metadata| stamp_of(&metadata))
    }

    /// Waits until what was written is on the disk.
    ///
    /// # Errors
    /// When some of it cannot be written; it must be regarded as lost then.
    pub fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    /// Waits until everything written to the file's filesystem is on the disk: faster than one sync each for many
    /// files.
    ///
    /// # Errors
    /// When some of it cannot be written.
    pub fn sync_filesystem(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }
}

/// The stamp in a file's metadata.
pub fn stamp_of(metadata: &std::fs::Metadata) -> FileStamp {
    let ns = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
    FileStamp {
        size: metadata.len(),
        mtime_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
        ctime_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        inode: metadata.ino(),
    }
}
