//! One open file.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

use rustix::buffer::spare_capacity;
use rustix::fs::{Advice, FallocateFlags};
use rustix::io::{Errno, ReadWriteFlags};

use crate::types::FileStamp;

/// Parts that the kernel takes in one write.
const MAX_PARTS: usize = 1024;

/// An open file, read and written at positions.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    /// Held while it is written to. The kernel lets one writer in at a time anyway, and the others spin; here they
    /// sleep.
    writing: Mutex<()>,
}

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
        // The kernel would read ahead into holes, and fill memory with their zeros. Who reads through a mount is read
        // ahead for there. Advice that is not taken costs only that.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Random);
        Self { file, writing: Mutex::default() }
    }

    /// Appends `len` bytes from `offset` to `buf`.
    ///
    /// # Errors
    /// When they cannot be read, of kind `UnexpectedEof` when the file ends before; `buf` is as it was then.
    pub fn read_into(&self, buf: &mut Vec<u8>, len: usize, offset: u64) -> io::Result<()> {
        read_into(&self.file, buf, len, offset)
    }

    /// [`read_nowait`] of this file.
    ///
    /// # Errors
    /// As of [`read_nowait`].
    pub fn read_nowait(&self, len: usize, offset: u64) -> io::Result<Nowait> {
        read_nowait(&self.file, len, offset)
    }

    pub(super) fn write_all_at(&self, mut parts: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        // Without empty ones.
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match rustix::io::pwritev(&self.file, &parts[..parts.len().min(MAX_PARTS)], offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut parts, written);
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Gives `len` bytes from `offset` back to the disk; they read as zeros then. Blocks of the filesystem that are
    /// only partly inside stay allocated, zeroed where they are inside.
    ///
    /// # Errors
    /// When the filesystem cannot do it.
    pub fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        loop {
            match rustix::fs::fallocate(&self.file, flags, offset, len) {
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
        self.file.metadata().map(|metadata| stamp_of(&metadata))
    }

    /// Waits until what was written is on the disk.
    ///
    /// # Errors
    /// When some of it cannot be written; it must be regarded as lost then.
    pub fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Waits until everything written to the file's filesystem is on the disk: faster than one sync each for many
    /// files.
    ///
    /// # Errors
    /// When some of it cannot be written.
    pub fn sync_filesystem(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.file)?)
    }
}

/// Appends `len` bytes of `file` from `offset` to `buf`, into memory that is not cleared before.
///
/// # Errors
/// When they cannot be read, of kind `UnexpectedEof` when the file ends before; `buf` is as it was then.
pub fn read_into(file: &File, buf: &mut Vec<u8>, len: usize, offset: u64) -> io::Result<()> {
    let (start, end) = (buf.len(), buf.len() + len);
    buf.reserve_exact(len);
    while buf.len() < end {
        // A buffer with more room than was asked for may get more bytes than that.
        let at = offset + (buf.len() - start) as u64;
        match rustix::io::pread(file, spare_capacity(buf), at) {
            Ok(0) => {
                buf.truncate(start);
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => {
                buf.truncate(start);
                return Err(errno.into());
            }
        }
    }
    buf.truncate(end);
    Ok(())
}

/// `len` bytes of `file` from `offset`, if they are in memory and reading them needs no disk. On filesystems that cannot
/// tell, every read would block.
///
/// # Errors
/// When they cannot be read, of kind `UnexpectedEof` when the file ends before.
pub fn read_nowait(file: &File, len: usize, offset: u64) -> io::Result<Nowait> {
    let mut buf = vec![0; len];
    match rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut buf)], offset, ReadWriteFlags::NOWAIT) {
        Ok(got) if got == len => Ok(Nowait::Read(buf)),
        Ok(0) if len > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) | Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR | Errno::NOSYS) => Ok(Nowait::WouldBlock),
        Err(errno) => Err(errno.into()),
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
