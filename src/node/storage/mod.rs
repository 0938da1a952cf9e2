//! The bytes of torrents on this machine.
//!
//! A [`Store`] joins the cache (bytes), the index (what is known of them) and hashing. It holds to three promises:
//!
//! - No unverified byte is ever returned. A block is read only while its bit is set, and that it still was is looked
//!   at again after the read.
//! - A mark in the index that says "verified" never says more than the data on the disk. Marks are written within
//!   100 ms after their data and so survive a killed process. They name the boot of the machine until the data was
//!   synced: after a power cut they are verified again. So is a file that looks otherwise than the index remembers.
//! - Bits go first, then the index forgets (durably), then room is given back.
//!
//! The bitmaps in memory are the truth while the process lives. Reads and writes of blocks touch neither SQLite nor
//! sync anything; a background thread does that.

mod cached;
mod datasets;
mod error;
mod evict;
mod flush;
mod hand_over;
mod in_place;
mod io;
mod leaves;
mod lru;
mod object;
mod overlay;
mod shared;
mod torrent;
mod verify;
mod write;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use self::cached::Cached;
use self::flush::Background;
use self::in_place::InPlace;
use self::lru::Queued;
use self::shared::{Shared, Start, lock};
use super::tree::{Scan, TreeSource};
use crate::cache::{FileCache, Reserve};
use crate::index::{Index, IndexError};
use crate::metainfo::{Entry, EntryKind, Metainfo};
use crate::types::{FileIndex, InfoId};

pub(super) use error::{EventSink, StorageError, StoreEvent};
pub(super) use in_place::OnCheck;
pub(super) use leaves::Leaves;
pub(super) use torrent::TorrentStorage;

/// Where the bytes of a torrent come from.
pub(super) enum Source {
    /// Peers; they are kept in the cache. What the index knows to lie with the user is served from there.
    Cache,
    /// The user's own files, served where they lie. Parts that do not match are fetched into the cache like others.
    InPlace {
        /// What the user named; absolute. The index remembers it.
        path: PathBuf,
        /// The files.
        files: TreeSource,
        /// Whether the metainfo was made of these files since they were listed: then they need no hashing.
        is_fresh: bool,
    },
}

/// Cache and index of a node. The caller holds the store's lock: nobody else uses the directory.
pub(super) struct Store {
    dir: PathBuf,
    shared: Arc<Shared>,
    /// Ends, and writes what is left, with the store.
    _background: Background,
}

impl Store {
    /// Opens the store in `dir`, with a cache of at most `cap_bytes`. A damaged index is set aside, and the cache
    /// emptied.
    ///
    /// # Errors
    /// When the directory cannot be used, or a newer knot wrote to it.
    pub(super) fn open(dir: &Path, cap_bytes: u64, events: EventSink) -> Result<Self, StorageError> {
        Self::open_in_boot(dir, cap_bytes, events, &boot_id())
    }

    fn open_in_boot(dir: &Path, cap_bytes: u64, events: EventSink, boot_id: &str) -> Result<Self, StorageError> {
        let cache_dir = dir.join("cache");
        let files = FileCache::open(cache_dir.clone(), max_open_files()).map_err(|error| StorageError::Io {
            action: "use",
            path: cache_dir,
            error,
        })?;
        let paths = IndexPaths { index: dir.join("index.db"), damaged_mark: dir.join("index.damaged") };
        let (mut opened, warning) = match open_index(&paths, boot_id) {
            Ok(opened) => (opened, None),
            Err(StorageError::Index(IndexError::Damaged(reason))) => {
                let kept = set_aside(&paths)?;
                let warning = format!(
                    "the index of the store was damaged ({reason}): it was moved to {kept:?}, and the cache begins \
                     empty"
                );
                (open_index(&paths, boot_id)?, Some(warning))
            }
            Err(error) => return Err(error),
        };
        let cleared = match opened.is_new {
            // Nothing says what its files are.
            true => files.clear(),
            // Of these, all was given up.
            false => opened.gone.iter().try_for_each(|key| files.remove_tree(key.as_ref())),
        };
        cleared.map_err(|error| StorageError::Io { action: "clean up", path: dir.join("cache"), error })?;
        let shared = Arc::new(Shared::new(Start {
            files,
            last_id: opened.last_id,
            queued: std::mem::take(&mut opened.queued),
            used_bytes: opened.used_bytes,
            index: opened.index,
            reserve: Reserve::hold(&dir.join("reserve")),
            damaged_mark: paths.damaged_mark,
            cap_bytes,
            events,
        }));
        if let Some(warning) = warning {
            shared.warn(warning);
        }
        let background = Background::start(&shared).map_err(|error| StorageError::Io {
            action: "start a thread for",
            path: dir.to_owned(),
            error,
        })?;
        Ok(Self { dir: dir.to_owned(), shared, _background: background })
    }

    /// Where it lies.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Opens a torrent with what is here of it; the index keeps its metainfo. May wait for the disk.
    ///
    /// # Errors
    /// When the index fails.
    pub(super) fn torrent(&self, metainfo: Arc<Metainfo>, source: Source) -> Result<Arc<TorrentStorage>, StorageError> {
        self.put_metainfo(&metainfo)?;
        let name = Arc::new(OnceLock::new());
        let cached = Cached::open(self.shared.clone(), name.clone(), metainfo.clone())?;
        // The cap may be a smaller one than the last time. Not before its least size is known, which depends on pieces.
        self.shared.wake(|wake| wake.room = true);
        let in_place = match source {
            Source::Cache => self.remembered(&name, &metainfo)?,
            Source::InPlace { path, files, is_fresh } => {
                Some(self.in_place(name.clone(), metainfo.clone(), path, files, is_fresh)?)
            }
        };
        Ok(Arc::new(TorrentStorage::new(metainfo, name, cached, in_place)))
    }

    /// What the index knows to lie with the user of a torrent, if its files are still there.
    fn remembered(
        &self,
        name: &Arc<OnceLock<crate::types::TorrentKey>>,
        metainfo: &Arc<Metainfo>,
    ) -> Result<Option<InPlace>, StorageError> {
        use std::os::unix::ffi::OsStringExt as _;
        let paths = lock(&self.shared.index).seed_paths(&metainfo.info_hash())?;
        for path in paths {
            let Some(record) = lock(&self.shared.index).seed(&path)? else { continue };
            let path = PathBuf::from(std::ffi::OsString::from_vec(path));
            let Ok(files) = TreeSource::for_metainfo(&path, metainfo) else { continue };
            let in_place = InPlace::new(self.shared.clone(), name.clone(), metainfo.clone(), path, files);
            in_place.trust_record(&record);
            if in_place.good_bytes() > 0 {
                return Ok(Some(in_place));
            }
        }
        Ok(None)
    }

    fn in_place(
        &self,
        name: Arc<OnceLock<crate::types::TorrentKey>>,
        metainfo: Arc<Metainfo>,
        path: PathBuf,
        files: TreeSource,
        is_fresh: bool,
    ) -> Result<InPlace, StorageError> {
        use std::os::unix::ffi::OsStrExt as _;
        let record = lock(&self.shared.index).seed(path.as_os_str().as_bytes())?;
        let record = record.filter(|record| record.info_hash == metainfo.info_hash());
        let in_place = InPlace::new(self.shared.clone(), name, metainfo, path, files);
        if is_fresh {
            in_place.trust_scan();
            in_place.save(true)?;
        } else if let Some(record) = record {
            in_place.trust_record(&record);
        }
        Ok(in_place)
    }

    /// The metainfo that was last seeded from `path`, if `scan`, a new listing of it, shows that nothing has changed
    /// since: neither the files nor what else is listed. Then it need not be made again.
    ///
    /// # Errors
    /// When the index fails.
    pub(super) fn seeded(&self, path: &Path, scan: &Scan) -> Result<Option<Arc<Metainfo>>, StorageError> {
        use std::os::unix::ffi::OsStrExt as _;
        let record = lock(&self.shared.index).seed(path.as_os_str().as_bytes())?;
        let Some(record) = record.filter(|record| record.pieces.is_none()) else { return Ok(None) };
        let Some(metainfo) = self.metainfo(&InfoId::Hash(record.info_hash))? else { return Ok(None) };
        let is_same_kind = |old: &Entry, new: &Entry| match (&old.kind, &new.kind) {
            (
                EntryKind::File { length, executable, .. },
                EntryKind::File { length: new_length, executable: new_executable, .. },
            ) => (length, executable) == (new_length, new_executable),
            (old, new) => old == new,
        };
        let is_same = |(old, new): (&Entry, &Entry)| old.path == new.path && is_same_kind(old, new);
        let listed = metainfo.name() == scan.name
            && metainfo.entries().len() == scan.entries.len()
            && metainfo.entries().iter().zip(&scan.entries).all(is_same);
        let files = scan.entries.iter().zip(0..).filter(|(entry, _)| entry.is_file()).map(|(_, file)| file);
        let stamps = files.filter_map(|file| Some((file, scan.source.scanned(FileIndex(file))?)));
        Ok((listed && stamps.eq(record.stamps.iter().copied())).then_some(metainfo))
    }

    /// The metainfo that the index keeps under an InfoID, or under the InfoHash of a signed one.
    ///
    /// # Errors
    /// When the index fails. A metainfo that does not verify any more is not found.
    pub(super) fn metainfo(&self, id: &InfoId) -> Result<Option<Arc<Metainfo>>, StorageError> {
        let torrent = lock(&self.shared.index).torrent(id)?;
        let metainfo = torrent.and_then(|torrent| Metainfo::from_bytes(torrent.metainfo.into()).ok());
        Ok(metainfo.filter(|metainfo| metainfo.matches(id)).map(Arc::new))
    }

    /// Bytes that cached blocks take on the disk.
    pub(super) fn used_bytes(&self) -> u64 {
        self.shared.used_bytes()
    }

    /// The cap of the cache, in bytes: what was asked for, but room for four pieces of every open torrent.
    pub(super) fn cap_bytes(&self) -> u64 {
        self.shared.cap_bytes()
    }

    /// Changes the cap of the cache. A smaller one is reached soon, in the background.
    pub(super) fn set_cap(&self, bytes: u64) {
        self.shared.set_cap_bytes(bytes);
        self.shared.wake(|wake| wake.room = true);
    }

    /// Writes every mark to the index that is not there yet: a process that is killed after this loses nothing.
    ///
    /// # Errors
    /// When the index cannot be written; what is verified stays so in this process.
    #[cfg(test)]
    pub(super) fn flush(&self) -> Result<(), StorageError> {
        Ok(self.shared.flush()?)
    }

    /// Waits until all that is verified is on the disk: a power cut after this loses nothing.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub(super) fn sync(&self) -> Result<(), StorageError> {
        self.shared.flush()?;
        self.shared.sync();
        Ok(())
    }
}

/// The files of an index.
struct IndexPaths {
    index: PathBuf,
    damaged_mark: PathBuf,
}

/// An index and what it says at the start.
struct Opened {
    index: Index,
    is_new: bool,
    /// Places of files that the index knows nothing of any more.
    gone: Vec<String>,
    last_id: u32,
    queued: Vec<Queued>,
    used_bytes: u64,
}

fn open_index(paths: &IndexPaths, boot_id: &str) -> Result<Opened, StorageError> {
    if paths.damaged_mark.exists() {
        return Err(IndexError::Damaged("found damaged by the last node".to_owned()).into());
    }
    let is_new = !paths.index.exists();
    if is_new {
        remove_logs(paths)?;
    }
    let mut index = Index::open(&paths.index, boot_id)?;
    let (gone, last_id) = index.prune_objects()?;
    let (mut queued, mut used_bytes) = (Vec::new(), 0_u64);
    index.for_each_piece(|used_us, object, piece, bytes| {
        queued.push(Queued { used_us, object, piece });
        used_bytes = used_bytes.saturating_add(bytes);
    })?;
    Ok(Opened { index, is_new, gone, last_id, queued, used_bytes })
}

/// Moves a damaged index away, to be looked at by whoever wants to; an older one that was kept so goes.
fn set_aside(paths: &IndexPaths) -> Result<PathBuf, StorageError> {
    let kept = paths.index.with_extension("db.damaged");
    match std::fs::rename(&paths.index, &kept) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StorageError::Io { action: "set aside", path: paths.index.clone(), error });
        }
        _ => {}
    }
    remove_logs(paths)?;
    // Last: until here the next start would do all of this again.
    remove_if_there(&paths.damaged_mark)?;
    Ok(kept)
}

/// Removes logs that belong to another index.
fn remove_logs(paths: &IndexPaths) -> Result<(), StorageError> {
    remove_if_there(&paths.index.with_extension("db-wal"))?;
    remove_if_there(&paths.index.with_extension("db-shm"))
}

fn remove_if_there(path: &Path) -> Result<(), StorageError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StorageError::Io { action: "remove", path: path.to_owned(), error })
        }
        _ => Ok(()),
    }
}

/// What names this boot of the machine. Where nothing does, every start counts as another boot.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(
        |_| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            format!("start {}", now.map_or(0, |now| now.as_nanos()))
        },
        |id| id.trim().to_owned(),
    )
}

/// Cache files that may be open at once: a quarter of what the process may have.
fn max_open_files() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(4096);
    (limit / 4).clamp(64, 1024) as usize
}

#[cfg(test)]
mod tests;
