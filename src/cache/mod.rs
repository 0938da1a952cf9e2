//! Bytes on disk: sparse files with positioned I/O, a bounded number of them open.
//!
//! Knows nothing of pieces or hashes: what is verified, and what is given up when, is decided by its user. Files have
//! their full length from the start, with holes where nothing was written, and identical offsets to the torrent's
//! files.

mod disk_file;
mod reserve;

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::num::NonZeroUsize;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

pub use disk_file::{DiskFile, Nowait, read_into, read_nowait, stamp_of};
pub use reserve::Reserve;

/// Independent locks of the open files: a power of two.
const SHARDS: usize = 16;

/// An open file, as its users number it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// What the file belongs to.
    pub object: u32,
    /// Which file of it.
    pub file: u32,
    /// Which of the files that were at its place, one after the other.
    pub generation: u32,
}

/// Room on a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Usable by this process.
    pub free: u64,
    /// In all.
    pub total: u64,
}

/// The files of a directory, opened when needed and closed when others are needed more.
pub struct FileCache {
    dir: PathBuf,
    shards: Vec<Mutex<LruCache<FileId, Arc<DiskFile>>>>,
    #[cfg(test)]
    pub(crate) full: std::sync::atomic::AtomicBool,
}

impl FileCache {
    /// Files under `dir`, which is made if it does not exist, with at most about `max_open` of them open.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(dir: PathBuf, max_open: usize) -> io::Result<Self> {
        make_private_dir(&dir)?;
        let each = NonZeroUsize::new(max_open / SHARDS).unwrap_or(NonZeroUsize::MIN);
        let shards = (0..SHARDS).map(|_| Mutex::new(LruCache::new(each))).collect();
        Ok(Self {
            dir,
            shards,
            #[cfg(test)]
            full: std::sync::atomic::AtomicBool::new(false),
        })
    }

    /// The file of `length` bytes at `place` under the directory, for reading and writing; made, all holes, if it
    /// does not exist. A file of another length gets the right one.
    ///
    /// # Errors
    /// When it cannot be opened or made.
    pub fn create(&self, id: FileId, length: u64, place: impl FnOnce() -> PathBuf) -> io::Result<Arc<DiskFile>> {
        self.get_or(id, || {
            let path = self.dir.join(place());
            let file = match open_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    path.parent().map_or(Ok(()), make_private_dir)?;
                    open_file(&path)?
                }
                other => other?,
            };
            if file.metadata()?.len() != length {
                file.set_len(length)?;
            }
            Ok(file)
        })
    }

    /// The file at `place` under the directory, for reading and writing, if it exists.
    ///
    /// # Errors
    /// When it cannot be opened, of kind `NotFound` when it does not exist.
    pub fn existing(&self, id: FileId, place: impl FnOnce() -> PathBuf) -> io::Result<Arc<DiskFile>> {
        self.get_or(id, || OpenOptions::new().read(true).write(true).open(self.dir.join(place())))
    }

    /// Writes all of `parts`, end to end, at `offset`. What becomes of the slices themselves is of no meaning.
    ///
    /// # Errors
    /// When it cannot be written; part of it may have been.
    pub fn write(&self, file: &DiskFile, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        if self.full.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(28));
        }
        file.write_all_at(parts, offset)
    }

    /// Where `place` is.
    pub fn path(&self, place: &Path) -> PathBuf {
        self.dir.join(place)
    }

    /// Closes a file, so that the next use opens it again.
    pub fn close(&self, id: FileId) {
        self.shard(id).pop(&id);
    }

    /// Closes every file of an object.
    pub fn close_object(&self, object: u32) {
        for shard in &self.shards {
            let mut files = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let ids: Vec<FileId> = files.iter().map(|(id, _)| *id).filter(|id| id.object == object).collect();
            for id in ids {
                files.pop(&id);
            }
        }
    }

    /// Closes and deletes a file. It is no error if it does not exist.
    ///
    /// # Errors
    /// When it cannot be deleted.
    pub fn remove(&self, id: FileId, place: &Path) -> io::Result<()> {
        self.close(id);
        match fs::remove_file(self.dir.join(place)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Deletes a file, or a directory with all in it. It is no error if it does not exist. None of it may be open.
    ///
    /// # Errors
    /// When it cannot be deleted.
    pub fn remove_tree(&self, place: &Path) -> io::Result<()> {
        let path = self.dir.join(place);
        let removed = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path),
            _ => fs::remove_file(&path),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Deletes every file. For files of which nothing is known any more.
    ///
    /// # Errors
    /// When one cannot be deleted.
    pub fn clear(&self) -> io::Result<()> {
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        fs::remove_dir_all(&self.dir)?;
        make_private_dir(&self.dir)
    }

    /// Room on the disk of the directory.
    ///
    /// # Errors
    /// When the filesystem does not say.
    pub fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(&self.dir)?;
        Ok(Space {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    fn get_or(&self, id: FileId, open: impl FnOnce() -> io::Result<File>) -> io::Result<Arc<DiskFile>> {
        if let Some(file) = self.shard(id).get(&id) {
            return Ok(file.clone());
        }
        // Opened without the lock: a slow directory must not stop reads of open files. Two threads may open the same
        // file; both handles are good.
        let file = Arc::new(DiskFile::new(open()?));
        let evicted = self.shard(id).push(id, file.clone());
        drop(evicted);
        Ok(file)
    }

    fn shard(&self, id: FileId) -> std::sync::MutexGuard<'_, LruCache<FileId, Arc<DiskFile>>> {
        let at = (id.object as usize).wrapping_mul(31).wrapping_add(id.file as usize) % SHARDS;
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn make_private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

#[cfg(test)]
mod tests;
