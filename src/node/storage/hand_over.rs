//! Giving files of the cache to the user: moved, so that a download takes its room once, and served in place from
//! then on.
//!
//! The order keeps every promise of the store: the files are moved while their bits are set (open handles still read
//! the right bytes), then what is in place is served, then the bits go and the index forgets. A process that is killed
//! in between leaves an index that speaks of files that are gone, which the next one finds out before it uses them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};

use rustix::fs::{CWD, RenameFlags};

use super::cached::Cached;
use super::in_place::InPlace;
use super::object::{Object, flag};
use super::shared::{Shared, lock};
use super::{StorageError, TorrentStorage};
use crate::index::Batch;
use crate::node::tree::TreeSource;
use crate::types::{FileIndex, PieceIndex};

/// A torrent that is here in full, about to be moved out of the cache. Nothing is evicted while it exists; what was
/// moved goes back where it was unless it is finished.
pub(crate) struct HandOver<'a> {
    storage: &'a TorrentStorage,
    shared: &'a Shared,
    /// Where files were in the cache and are now.
    moved: Vec<(PathBuf, PathBuf)>,
    /// What a new file of the user gets; known from the first one on.
    permissions: Option<fs::Permissions>,
    _nothing_is_evicted: MutexGuard<'a, ()>,
}

impl TorrentStorage {
    /// Begins to move the torrent's files to the user, if every byte is in the cache, verified, and nobody else's.
    /// `None` where it has to be copied.
    pub(crate) fn hand_over(&self) -> Option<HandOver<'_>> {
        let (cached, shared) = (self.cached(), &*self.cached().shared);
        let guard = lock(&shared.evicting);
        let is_free = self.in_place().is_none() && cached.files().all(|file| is_whole(cached, file));
        is_free.then(|| HandOver {
            storage: self,
            shared,
            moved: Vec::new(),
            permissions: None,
            _nothing_is_evicted: guard,
        })
    }
}

/// Whether all of a file is verified in a cache file that no other torrent uses.
fn is_whole(cached: &Cached, file: FileIndex) -> bool {
    if cached.metainfo.layout().file_length(file) == 0 {
        return true;
    }
    let Some((object, own)) = cached.object_of_file(file) else { return false };
    let mut pieces = object.layout().pieces_of(own).map(PieceIndex);
    let is_sound = |piece: PieceIndex| {
        let slot = object.slot(piece);
        !slot.has(flag::SUSPECT) && object.real_blocks(piece).all(|block| object.is_verified(block))
    };
    let is_checked = cached.shared.check_file(object, own).is_ok();
    is_checked && lock(&object.owners).len() == 1 && pieces.all(is_sound)
}

impl HandOver<'_> {
    /// Moves a file to `to`, which does not exist, with the permissions of a new file there.
    ///
    /// # Errors
    /// When it cannot be moved, of kind `CrossesDevices` where it lies on another filesystem.
    pub(crate) fn move_file(&mut self, file: FileIndex, to: &Path) -> io::Result<()> {
        let cached = self.storage.cached();
        if cached.metainfo.layout().file_length(file) == 0 {
            return File::create_new(to).map(drop);
        }
        let permissions = self.permissions_at(to)?;
        let (object, own) = cached.object_of_file(file).ok_or(io::ErrorKind::NotFound)?;
        let from = self.shared.files.path(&object.place(own));
        // Over an existing file, ext4 would first write out all that is in memory of the new one.
        rustix::fs::renameat_with(CWD, &from, CWD, to, RenameFlags::NOREPLACE)?;
        self.moved.push((from, to.to_owned()));
        fs::set_permissions(to, permissions)
    }

    fn permissions_at(&mut self, path: &Path) -> io::Result<fs::Permissions> {
        if let Some(permissions) = &self.permissions {
            return Ok(permissions.clone());
        }
        let permissions = File::create_new(path)?.metadata()?.permissions();
        fs::remove_file(path)?;
        Ok(self.permissions.insert(permissions).clone())
    }

    /// Serves the torrent from `path`, where all of its files now lie, and has the cache forget it.
    ///
    /// # Errors
    /// When the files cannot be looked at, or the index cannot be written: what is read next is fetched again.
    pub(crate) fn finish(mut self, path: &Path) -> Result<(), StorageError> {
        self.moved.clear();
        let cached = self.storage.cached();
        let io_error = |error| StorageError::Io { action: "serve", path: path.to_owned(), error };
        let path = fs::canonicalize(path).map_err(io_error)?;
        let files = TreeSource::for_metainfo(&path, &cached.metainfo)
            .map_err(|error| io_error(io::Error::other(error.to_string())))?;
        let name = self.storage.name().clone();
        let in_place = InPlace::new(cached.shared.clone(), name, cached.metainfo.clone(), path, files);
        in_place.trust_now();
        in_place.save(false)?;
        self.storage.serve_in_place(in_place);
        for object in cached.objects() {
            self.shared.let_go(object);
        }
        Ok(())
    }
}

impl Drop for HandOver<'_> {
    fn drop(&mut self) {
        for (from, to) in self.moved.drain(..) {
            // Where it cannot go back, the next read finds it missing, and it is fetched again.
            let _ = fs::rename(&to, &from);
        }
    }
}

impl Shared {
    /// Forgets all of an object, whose files are not the cache's any more; with `evicting` held.
    fn let_go(&self, object: &Arc<Object>) {
        object.start_generation();
        self.files.close_object(object.id);
        let pieces = (0..object.layout().piece_count()).map(PieceIndex);
        let listed: Vec<_> = pieces.filter(|piece| object.slot(*piece).has(flag::LISTED)).collect();
        for piece in &listed {
            let _stripe = lock(self.stripe(object, *piece));
            self.clear_verified(object, *piece);
            object.clear_written(*piece);
            object.slot(*piece).clear(flag::LISTED | flag::SUSPECT | flag::EVICTING);
            lock(&self.leaves).forget(object.id, piece.0);
            self.discharge(object, *piece);
        }
        let forgotten = listed.iter().map(|piece| (object.id, piece.0)).collect();
        if let Err(error) = self.forget(&Batch { forgotten, ..Batch::default() }) {
            // The next start finds the files gone.
            tracing::warn!("cannot have the index forget what was moved out of the cache: {error}");
        }
    }
}
