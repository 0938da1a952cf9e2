//! Telling the index, away from whoever reads and writes.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::JoinHandle;
use std::time::Duration;

use super::object::{Object, flag};
use super::shared::{Dirty, Shared, lock};
use crate::index::{Batch, Durability, IndexError, PieceRecord, Written};
use crate::types::{BlockSpan, FileIndex, PieceIndex};

/// How long a mark may stay in memory only: what a killed process forgets at most.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);
/// How long written data may stay unsynced: by then the kernel has written most of it anyway.
const SYNC_INTERVAL: Duration = Duration::from_secs(30);
/// How long to wait after the index could not be written.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Files above which the whole filesystem is synced at once.
const MANY_FILES: usize = 16;

/// The background threads of a store: one writes marks and evicts, the other syncs data.
pub(super) struct Background {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Background {
    pub(super) fn start(shared: &Arc<Shared>) -> std::io::Result<Self> {
        let mut background = Self { shared: shared.clone(), threads: Vec::new() };
        type Body = fn(&Shared);
        let bodies: [(&str, Body); 2] = [("knot-index", index_thread), ("knot-sync", sync_thread)];
        for (name, body) in bodies {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || body(&shared))?;
            background.threads.push(thread);
        }
        Ok(background)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.shared.wake(|wake| wake.stop = true);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the storage panicked");
            }
        }
    }
}

/// Sleeps until something is to do, then collects more of it for a moment, so that a batch is worth its commit.
fn index_thread(shared: &Shared) {
    loop {
        let mut wake = lock(&shared.wake.0);
        while !(wake.stop || wake.dirty || wake.room) {
            wake = shared.wake.1.wait(wake).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        if !wake.stop && !wake.room {
            let waited = shared.wake.1.wait_timeout_while(wake, FLUSH_INTERVAL, |wake| !wake.stop && !wake.room);
            wake = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        #[cfg(test)]
        if wake.killed {
            return;
        }
        let (stop, room) = (wake.stop, wake.room);
        (wake.dirty, wake.room) = (false, false);
        drop(wake);
        if room && shared.is_nearly_full() {
            shared.evict_to_cap();
        }
        let flushed = shared.flush();
        if stop {
            if let Err(error) = shared.save_times() {
                tracing::warn!("cannot write to the index what was used when: {error}");
            }
            return;
        }
        shared.evict_for_disk();
        if flushed.is_err() {
            let wake = lock(&shared.wake.0);
            drop(shared.wake.1.wait_timeout_while(wake, RETRY_INTERVAL, |wake| !wake.stop));
            lock(&shared.wake.0).dirty = true;
        }
    }
}

fn sync_thread(shared: &Shared) {
    loop {
        let wake = lock(&shared.wake.0);
        let waited = shared.wake.1.wait_timeout_while(wake, SYNC_INTERVAL, |wake| !wake.stop);
        if waited.unwrap_or_else(std::sync::PoisonError::into_inner).0.stop {
            // Not synced: that could take long, and the next start of this boot trusts what was written.
            return;
        }
        shared.sync();
        if let Err(error) = shared.save_times() {
            tracing::warn!("cannot write to the index what was used when: {error}");
        }
        shared.prune();
    }
}

impl Shared {
    /// Writes everything that the index does not know yet as one batch. It survives a killed process then.
    pub(super) fn flush(&self) -> Result<(), IndexError> {
        let _one_at_a_time = lock(&self.flushing);
        // Bits are looked at with the index locked: whoever takes bits away and then forgets the piece in the index
        // comes either before, and the bits are gone here, or after, and its word is the last.
        let mut index = lock(&self.index);
        let dirty = std::mem::take(&mut *lock(&self.dirty));
        let (batch, new) = self.batch(&dirty);
        let result = match index.commit(&batch, Durability::Process) {
            Err(IndexError::Full) => {
                let _ = self.reserve.release();
                index.commit(&batch, Durability::Process)
            }
            other => other,
        };
        if result.is_ok() {
            // Before the index is unlocked: what was synced until now does not cover these rows.
            let written = batch.pieces.iter().filter(|piece| piece.written == Written::ThisBoot);
            let written: HashSet<_> = written.map(|piece| (piece.object, piece.piece)).collect();
            let mut unsynced = lock(&self.unsynced);
            for (object, piece) in &dirty.pieces {
                if written.contains(&(object.id, piece.0)) && object.slot(*piece).set(flag::UNSYNCED) {
                    unsynced.push((object.clone(), *piece));
                }
            }
        }
        drop(index);
        match result {
            Ok(()) => {
                self.forget_warning("flush");
                Ok(())
            }
            Err(error) => {
                self.put_back(dirty, &new);
                self.note_index_error(&error);
                self.warn_once("flush", || format!("cannot write the index, what is fetched is not kept: {error}"));
                Err(error)
            }
        }
    }

    /// What the index is to be told of `dirty`, and the objects that it is told of for the first time.
    fn batch(&self, dirty: &Dirty) -> (Batch, Vec<Arc<Object>>) {
        let (mut batch, mut new) = (Batch::default(), Vec::new());
        for (object, piece) in &dirty.pieces {
            object.slot(*piece).clear(flag::DIRTY);
            // Also where nothing of it is left already: its file has to be found.
            if !object.indexed.swap(true, SeqCst) {
                batch.objects.push(object.record());
                new.push(object.clone());
            }
            match self.piece_record(object, *piece) {
                None => batch.forgotten.push((object.id, piece.0)),
                Some(record) => batch.pieces.push(record),
            }
        }
        for (object, file) in &dirty.files {
            object.clear_changed(*file);
            let handle = self.files.existing(object.file_id(*file), || object.place(*file));
            // Without a stamp the file is verified again when it is next opened.
            if let Ok(stamp) = handle.and_then(|handle| handle.stamp()) {
                batch.stamps.push((object.id, file.0, stamp));
            }
        }
        (batch, new)
    }

    fn piece_record(&self, object: &Object, piece: PieceIndex) -> Option<PieceRecord> {
        let slot = object.slot(piece);
        let bytes = Self::bytes_of(object, piece);
        if bytes == 0 || slot.has(flag::EVICTING) {
            return None;
        }
        // Before the bits: a piece that becomes suspect has had its bits for longer.
        let is_suspect = slot.has(flag::SUSPECT);
        let blocks = object.verified_blocks(piece);
        let leaves = blocks.as_ref().and_then(|_| self.leaves_in_memory(object, piece));
        Some(PieceRecord {
            object: object.id,
            piece: piece.0,
            used_us: slot.used_us.load(SeqCst),
            bytes,
            written: if is_suspect { Written::Suspect } else { Written::ThisBoot },
            blocks,
            leaves: leaves.map(|leaves| leaves.as_flattened().to_vec()),
        })
    }

    fn put_back(&self, dirty: Dirty, new: &[Arc<Object>]) {
        new.iter().for_each(|object| object.indexed.store(false, SeqCst));
        let mut queue = lock(&self.dirty);
        for (object, piece) in dirty.pieces {
            if object.slot(piece).set(flag::DIRTY) {
                queue.pieces.push((object, piece));
            }
        }
        for (object, file) in dirty.files {
            if object.set_changed(file) {
                queue.files.push((object, file));
            }
        }
    }

    /// Waits until data that the index calls verified is on the disk, then has the index trust it after a power cut.
    pub(super) fn sync(&self) {
        let pieces = std::mem::take(&mut *lock(&self.unsynced));
        if pieces.is_empty() {
            return;
        }
        // A write from here on makes its piece unsynced again.
        for (object, piece) in &pieces {
            object.slot(*piece).clear(flag::UNSYNCED);
        }
        if let Err(error) = self.sync_files(&pieces) {
            self.warn_once("sync", || format!("cannot sync the cache to its disk: {error}"));
            return;
        }
        let mut index = lock(&self.index);
        let is_same = |object: &Object, piece: PieceIndex| !object.slot(piece).has(flag::UNSYNCED | flag::SUSPECT);
        let synced: Vec<_> = pieces
            .iter()
            .filter(|(object, piece)| is_same(object, *piece))
            .map(|(object, piece)| (object.id, piece.0))
            .collect();
        if let Err(error) = index.commit(&Batch { synced, ..Batch::default() }, Durability::Process) {
            drop(index);
            // They are only trusted less than they could be.
            self.note_index_error(&error);
        }
    }

    fn sync_files(&self, pieces: &[(Arc<Object>, PieceIndex)]) -> std::io::Result<()> {
        let mut files: Vec<(&Arc<Object>, FileIndex)> = Vec::new();
        let mut seen = HashSet::new();
        for (object, piece) in pieces {
            let whole = BlockSpan { piece: *piece, begin: 0, len: object.layout().piece_len(*piece) };
            for slice in object.layout().slices(whole) {
                if seen.insert((object.id, slice.file)) {
                    files.push((object, slice.file));
                }
            }
        }
        for (nth, (object, file)) in files.iter().enumerate() {
            match self.files.existing(object.file_id(*file), || object.place(*file)) {
                Ok(handle) if files.len() - nth > MANY_FILES => return handle.sync_filesystem(),
                Ok(handle) => handle.sync_data()?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes to the index when pieces were used.
    pub(super) fn save_times(&self) -> Result<(), IndexError> {
        let mut used = Vec::new();
        for object in self.loaded_objects() {
            if !object.used.swap(false, SeqCst) {
                continue;
            }
            for (slot, piece) in object.slots().iter().zip(0..) {
                if slot.has(flag::LISTED) && !slot.has(flag::DIRTY) {
                    used.push((object.id, piece, slot.used_us.load(SeqCst)));
                }
            }
        }
        lock(&self.index).commit(&Batch { used, ..Batch::default() }, Durability::Process)
    }
}
