//! A little room for the moment when the disk is full.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

/// Bytes held back: enough for the log of a large eviction.
const RESERVE_BYTES: u64 = 4 << 20;

/// A file that holds room which nothing needs, until giving something up needs room first: an index on a full disk
/// cannot even note what it gives up.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// Holds room in the file `path`, as far as the disk has it.
    pub fn hold(path: &Path) -> Self {
        let reserve = Self { path: path.to_owned() };
        reserve.refill();
        reserve
    }

    /// Gives the room back to the disk.
    ///
    /// # Errors
    /// When the file cannot be shortened.
    pub fn release(&self) -> io::Result<()> {
        match OpenOptions::new().write(true).open(&self.path) {
            Ok(file) => file.set_len(0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Holds room again, if the disk has it. Not an error if it does not: it is tried again later.
    pub fn refill(&self) {
        if self.allocate().is_err() {
            // A part of it is no use, and somebody may need that room.
            let _ = fs::remove_file(&self.path);
        }
    }

    fn allocate(&self) -> io::Result<()> {
        let file: File = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        Ok(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES)?)
    }
}
