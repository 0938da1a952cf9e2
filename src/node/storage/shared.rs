//! What all torrents of a store share.
//!
//! Locks, and the order in which they are taken: `evicting`, `flushing`, `loading`, index, one stripe, the stamps of an
//! object, then any of the others, which are held for a few instructions. The index is never waited for with a stripe
//! held, so that reads and writes of blocks never wait for SQLite.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use super::leaves::{LeafCache, Leaves};
use super::lru::{Lru, Queued};
use super::object::{Object, Owner, Shape, flag};
use super::overlay::Overlay;
use super::{EventSink, StoreEvent};
use crate::cache::{FileCache, Reserve};
use crate::index::{Index, IndexError, ObjectRecord};
use crate::metainfo::Metainfo;
use crate::types::{BlockSpan, FileIndex, InfoId, PieceIndex};

/// Locks that pieces share: more than there are threads that write at once, by far.
const STRIPES: usize = 256;

/// See the module.
pub(super) struct Shared {
    pub(super) files: FileCache,
    pub(super) index: Mutex<Index>,
    pub(super) reserve: Reserve,
    pub(super) registry: Mutex<Registry>,
    pub(super) lru: Mutex<Lru>,
    pub(super) leaves: Mutex<LeafCache>,
    pub(super) overlay: Overlay,
    pub(super) dirty: Mutex<Dirty>,
    /// Pieces in the index whose data is not synced.
    pub(super) unsynced: Mutex<Vec<(Arc<Object>, PieceIndex)>>,
    pub(super) evicting: Mutex<()>,
    pub(super) flushing: Mutex<()>,
    /// Held while an object is read from the index, so that none is twice in memory.
    loading: Mutex<()>,
    pub(super) wake: (Mutex<Wake>, Condvar),
    /// Made when the index turns out to be damaged: the next start makes a new one.
    pub(super) damaged_mark: PathBuf,
    pub(super) damaged: AtomicBool,
    /// Until when (µs) nothing is evicted for want of room on the disk: nothing could be, the last time.
    pub(super) no_room_until_us: AtomicU64,
    stripes: Box<[Mutex<()>]>,
    /// Counts how often blocks of anything were taken away.
    losses: AtomicU64,
    used_bytes: AtomicU64,
    cap_bytes: AtomicU64,
    /// Largest piece of the torrents opened so far.
    largest_piece: AtomicU64,
    clock_us: AtomicU64,
    events: EventSink,
    warned: Mutex<HashSet<String>>,
}

/// Objects in memory.
#[derive(Default)]
pub(super) struct Registry {
    by_key: HashMap<String, Arc<Object>>,
    by_id: HashMap<u32, Arc<Object>>,
    last_id: u32,
    /// Whether the index may have objects that are not here and were not there when a torrent was opened.
    pruned: bool,
}

/// What the index does not know yet.
#[derive(Default)]
pub(super) struct Dirty {
    pub(super) pieces: Vec<(Arc<Object>, PieceIndex)>,
    pub(super) files: Vec<(Arc<Object>, FileIndex)>,
}

/// What the background thread was woken for.
#[derive(Default)]
pub(super) struct Wake {
    pub(super) stop: bool,
    pub(super) dirty: bool,
    pub(super) room: bool,
    /// With `stop`: leaves everything as a killed process would.
    #[cfg(test)]
    pub(super) killed: bool,
}

/// Where a store starts from.
pub(super) struct Start {
    pub(super) files: FileCache,
    pub(super) index: Index,
    pub(super) reserve: Reserve,
    pub(super) damaged_mark: PathBuf,
    pub(super) last_id: u32,
    pub(super) queued: Vec<Queued>,
    pub(super) used_bytes: u64,
    pub(super) cap_bytes: u64,
    pub(super) events: EventSink,
}

impl Shared {
    pub(super) fn new(start: Start) -> Self {
        Self {
            files: start.files,
            index: Mutex::new(start.index),
            reserve: start.reserve,
            registry: Mutex::new(Registry { last_id: start.last_id, ..Registry::default() }),
            lru: Mutex::new(Lru::new(start.queued)),
            leaves: Mutex::new(LeafCache::new()),
            overlay: Overlay::new(),
            dirty: Mutex::default(),
            unsynced: Mutex::default(),
            evicting: Mutex::default(),
            flushing: Mutex::default(),
            loading: Mutex::default(),
            wake: Default::default(),
            damaged_mark: start.damaged_mark,
            damaged: AtomicBool::new(false),
            no_room_until_us: AtomicU64::new(0),
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            losses: AtomicU64::new(0),
            used_bytes: AtomicU64::new(start.used_bytes),
            cap_bytes: AtomicU64::new(start.cap_bytes),
            largest_piece: AtomicU64::new(0),
            clock_us: AtomicU64::new(0),
            events: start.events,
            warned: Mutex::default(),
        }
    }

    /// The lock under which a piece is written, checked and given up.
    pub(super) fn stripe(&self, object: &Object, piece: PieceIndex) -> &Mutex<()> {
        &self.stripes[(object.id as usize).wrapping_mul(0x9e37_79b1).wrapping_add(piece.0 as usize) % STRIPES]
    }

    /// The time in microseconds of Unix time; never goes back.
    pub(super) fn now_us(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        self.clock_us.fetch_max(now, SeqCst).max(now)
    }

    pub(super) fn losses(&self) -> u64 {
        self.losses.load(SeqCst)
    }

    /// Takes back that blocks of a piece are verified, under its stripe; gives those that were.
    pub(super) fn clear_verified(&self, object: &Object, piece: PieceIndex) -> Vec<BlockSpan> {
        let cleared = object.clear_verified(piece);
        self.losses.fetch_add(1, SeqCst);
        cleared
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(SeqCst)
    }

    /// The cap as it is kept: room for a few pieces is needed whatever the user says, since a piece is complete
    /// before any of it can be read where blocks cannot be verified.
    pub(super) fn cap_bytes(&self) -> u64 {
        self.cap_bytes.load(SeqCst).max(4 * self.largest_piece.load(SeqCst) + (4 << 20))
    }

    pub(super) fn set_cap_bytes(&self, cap_bytes: u64) {
        self.cap_bytes.store(cap_bytes, SeqCst);
    }

    pub(super) fn note_piece_length(&self, piece_length: u32) {
        self.largest_piece.fetch_max(u64::from(piece_length), SeqCst);
    }

    /// Counts room that a piece now takes.
    pub(super) fn charge(&self, object: &Object, piece: PieceIndex, bytes: u64) {
        object.slot(piece).bytes.fetch_add(bytes as u32, SeqCst);
        self.used_bytes.fetch_add(bytes, SeqCst);
    }

    /// Counts room that a piece no longer takes.
    pub(super) fn discharge(&self, object: &Object, piece: PieceIndex) {
        let bytes = object.slot(piece).bytes.swap(0, SeqCst);
        self.give_back(u64::from(bytes));
    }

    pub(super) fn give_back(&self, bytes: u64) {
        let _ = self.used_bytes.try_update(SeqCst, SeqCst, |used| Some(used.saturating_sub(bytes)));
    }

    /// Notes that a piece was used.
    pub(super) fn touch(&self, object: &Object, piece: PieceIndex, now_us: u64) {
        object.slot(piece).used_us.store(now_us, SeqCst);
        if !object.used.load(SeqCst) {
            object.used.store(true, SeqCst);
        }
    }

    /// Puts a piece in the queue of the LRU, unless it is there.
    pub(super) fn list(&self, object: &Object, piece: PieceIndex) {
        if object.slot(piece).set(flag::LISTED) {
            let used_us = object.slot(piece).used_us.load(SeqCst);
            lock(&self.lru).push(Queued { used_us, object: object.id, piece: piece.0 });
        }
    }

    /// Has the index follow what became of a piece.
    pub(super) fn mark_dirty(&self, object: &Arc<Object>, piece: PieceIndex) {
        if object.slot(piece).set(flag::DIRTY) {
            let mut dirty = lock(&self.dirty);
            dirty.pieces.push((object.clone(), piece));
            let first = dirty.pieces.len() == 1;
            drop(dirty);
            if first {
                self.wake(|wake| wake.dirty = true);
            }
        }
    }

    /// Has the index follow what became of a file.
    pub(super) fn mark_changed(&self, object: &Arc<Object>, file: FileIndex) {
        if object.set_changed(file) {
            lock(&self.dirty).files.push((object.clone(), file));
        }
    }

    pub(super) fn wake(&self, change: impl FnOnce(&mut Wake)) {
        change(&mut lock(&self.wake.0));
        self.wake.1.notify_all();
    }

    /// The object with `key`, from memory, else new. Of an object that was not known when its torrent was opened: does
    /// not look into the index unless objects were forgotten since.
    pub(super) fn object(
        &self,
        key: String,
        shape: impl FnOnce() -> Option<Shape>,
    ) -> Result<Option<Arc<Object>>, IndexError> {
        let pruned = lock(&self.registry).pruned;
        if pruned && let Some(object) = self.known_object(&key, |_| None)? {
            return Ok(Some(object));
        }
        let mut registry = lock(&self.registry);
        if let Some(object) = registry.by_key.get(&key) {
            return Ok(Some(object.clone()));
        }
        let Some(shape) = shape() else { return Ok(None) };
        registry.last_id += 1;
        let object = Object::new(registry.last_id, key, shape);
        Ok(Some(registry.add(object)))
    }

    /// The object with `key`, from memory, else from the index.
    pub(super) fn known_object(
        &self,
        key: &str,
        shape: impl FnOnce(&ObjectRecord) -> Option<Shape>,
    ) -> Result<Option<Arc<Object>>, IndexError> {
        let _one_at_a_time = lock(&self.loading);
        if let Some(object) = lock(&self.registry).by_key.get(key) {
            return Ok(Some(object.clone()));
        }
        let index = lock(&self.index);
        let row = index.object(key)?;
        row.map_or(Ok(None), |row| self.load(index, row, shape))
    }

    /// The object with number `id`, from memory, else from the index.
    pub(super) fn object_by_id(&self, id: u32) -> Result<Option<Arc<Object>>, IndexError> {
        let _one_at_a_time = lock(&self.loading);
        if let Some(object) = lock(&self.registry).by_id.get(&id) {
            return Ok(Some(object.clone()));
        }
        let index = lock(&self.index);
        let row = index.object_by_id(id)?;
        row.map_or(Ok(None), |row| self.load(index, row, |_| None))
    }

    /// Brings an object into memory; `None` if nothing tells its shape.
    fn load(
        &self,
        index: MutexGuard<'_, Index>,
        row: ObjectRecord,
        shape: impl FnOnce(&ObjectRecord) -> Option<Shape>,
    ) -> Result<Option<Arc<Object>>, IndexError> {
        let shape = match (shape(&row), row.info_hash) {
            (Some(shape), _) => Some(shape),
            (None, None) => Shape::file(row.length, row.piece_length).ok(),
            (None, Some(info_hash)) => {
                let torrent = index.torrent(&InfoId::Hash(info_hash))?;
                let metainfo = torrent.and_then(|torrent| Metainfo::from_bytes(torrent.metainfo.into()).ok());
                metainfo.map(|metainfo| Shape::Torrent(Arc::new(metainfo)))
            }
        };
        let Some(shape) = shape else { return Ok(None) };
        let (pieces, stamps) = (index.pieces(row.id)?, index.stamps(row.id)?);
        drop(index);
        let object = Object::load(row, shape, pieces, stamps);
        Ok(Some(lock(&self.registry).add(object)))
    }

    /// A number that no object of this store has.
    pub(super) fn new_id(&self) -> u32 {
        let mut registry = lock(&self.registry);
        registry.last_id += 1;
        registry.last_id
    }

    /// Every object in memory.
    pub(super) fn loaded_objects(&self) -> Vec<Arc<Object>> {
        lock(&self.registry).by_id.values().cloned().collect()
    }

    /// Forgets objects in memory that nobody uses and that the index knows in full.
    pub(super) fn prune(&self) {
        let _none_comes_in = lock(&self.loading);
        let mut registry = lock(&self.registry);
        // Two of the references are the registry's own. Nobody gets another one without the registry's lock; dirty
        // and unsynced pieces hold theirs.
        let idle: Vec<u32> = registry
            .by_id
            .values()
            .filter(|object| {
                let is_known = object.indexed.load(SeqCst) || !object.slots().iter().any(|slot| slot.has(flag::LISTED));
                Arc::strong_count(object) == 2 && is_known && !object.used.load(SeqCst)
            })
            .map(|object| object.id)
            .collect();
        for id in idle {
            if let Some(object) = registry.by_id.remove(&id) {
                registry.by_key.remove(&object.key);
                registry.pruned = true;
                self.files.close_object(id);
            }
        }
    }

    /// The verified leaf hashes of a piece, from memory. Costs no wait.
    pub(super) fn leaves_in_memory(&self, object: &Object, piece: PieceIndex) -> Option<Leaves> {
        lock(&self.leaves).get(object.id, piece.0)
    }

    /// The verified leaf hashes of a piece, from memory or the index.
    pub(super) fn known_leaves(&self, object: &Object, piece: PieceIndex) -> Option<Leaves> {
        if let Some(leaves) = self.leaves_in_memory(object, piece) {
            return Some(leaves);
        }
        let bytes = lock(&self.index).leaves(object.id, piece.0).ok().flatten()?;
        let (leaves, rest) = bytes.as_chunks::<32>();
        if !rest.is_empty() || leaves.len() != object.real_blocks(piece).count() {
            return None;
        }
        let leaves: Leaves = leaves.into();
        lock(&self.leaves).put(object.id, piece.0, leaves.clone());
        Some(leaves)
    }

    pub(super) fn warn(&self, message: String) {
        tracing::warn!("{message}");
        (self.events)(StoreEvent::Warning(message));
    }

    /// Warns, but not twice of the same `topic`.
    pub(super) fn warn_once(&self, topic: &str, message: impl FnOnce() -> String) {
        if lock(&self.warned).insert(topic.to_owned()) {
            self.warn(message());
        }
    }

    /// Forgets that there was a warning: the next one of the topic is news.
    pub(super) fn forget_warning(&self, topic: &str) {
        lock(&self.warned).remove(topic);
    }

    /// Tells every torrent that uses the object that a piece is gone.
    pub(super) fn tell_lost(&self, object: &Object, piece: PieceIndex) {
        let owners: Vec<Owner> = lock(&object.owners).clone();
        for owner in owners {
            if let Some(&torrent) = owner.torrent.get() {
                (self.events)(StoreEvent::Lost { torrent, piece: PieceIndex(owner.first_piece + piece.0) });
            }
        }
    }

    pub(super) fn tell(&self, event: StoreEvent) {
        (self.events)(event);
    }

    /// Looks at an error of the index: a damaged one is never read again by the next start.
    pub(super) fn note_index_error(&self, error: &IndexError) {
        if matches!(error, IndexError::Damaged(_)) && !self.damaged.swap(true, SeqCst) {
            let marked = std::fs::write(&self.damaged_mark, b"").and_then(|()| {
                std::fs::File::open(self.damaged_mark.parent().unwrap_or(&self.damaged_mark))?.sync_all()
            });
            let consequence = match marked {
                Ok(()) => "reads go on; the next start begins with an empty cache".to_owned(),
                Err(error) => format!("and it cannot be marked as such: {error}; remove the store's cache"),
            };
            self.warn(format!("{error}; {consequence}"));
        }
    }
}

impl Registry {
    fn add(&mut self, object: Object) -> Arc<Object> {
        let object = Arc::new(object);
        self.by_key.insert(object.key.clone(), object.clone());
        self.by_id.insert(object.id, object.clone());
        object
    }
}

/// Locks. A thread that panicked with the lock held leaves values that are still good: each is changed by single
/// steps.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// [`lock`] of an [`RwLock`], for reading.
pub(super) fn read<T: ?Sized>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// [`lock`] of an [`RwLock`], for writing.
pub(super) fn write<T: ?Sized>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
