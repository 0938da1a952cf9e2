//! Giving room back.
//!
//! In three steps, so that nothing that the index calls verified is ever a hole: the bits go, then the index forgets
//! the pieces on the disk, then the holes are punched. A write or a check that comes in between keeps its piece from
//! being punched.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::cached::Cached;
use super::lru::Queued;
use super::object::{Object, flag};
use super::shared::{Shared, lock};
use crate::index::{Batch, Durability, IndexError};
use crate::types::{BlockSpan, FileIndex, PieceIndex};

/// For how long (µs) nothing more is tried when there was nothing to give up on a full disk.
const NO_ROOM_PAUSE_US: u64 = 1_000_000;
/// Pieces that one round gives up at most: bounds how long the index is held.
const ROUND: usize = 512;
/// Bytes that one round frees at most when the disk is full; a quarter of the cache if that is less.
const FULL_DISK_ROUND_BYTES: u64 = 32 << 20;
/// Free bytes below which the cache makes room for others on its disk.
const MIN_FREE_BYTES: u64 = 64 << 20;

/// A piece that is being given up.
pub(super) struct Victim {
    object: Arc<Object>,
    piece: PieceIndex,
    used_us: u64,
    /// What was verified.
    blocks: Vec<BlockSpan>,
}

impl Shared {
    /// Below the cap by this much, the background thread begins to evict; it stops at twice as much.
    fn margin(&self) -> u64 {
        (self.cap_bytes() / 16).min(64 << 20)
    }

    /// Whether the background thread should evict.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.used_bytes() > self.cap_bytes() - self.margin()
    }

    /// Called before every write: costs two loads unless the cap is reached, and then waits until room was made.
    pub(super) fn make_room(&self, bytes: u64) {
        if self.used_bytes() + bytes > self.cap_bytes() {
            self.evict_to_cap();
        }
    }

    /// Evicts until the cache is as far below its cap as it should be.
    pub(super) fn evict_to_cap(&self) {
        loop {
            let over = || self.used_bytes().saturating_sub(self.cap_bytes() - 2 * self.margin());
            if over() == 0 || self.evict(over) == 0 {
                return;
            }
        }
    }

    /// Evicts when the disk of the cache has little room left for others.
    pub(super) fn evict_for_disk(&self) {
        let Ok(space) = self.files.space() else { return };
        let missing = MIN_FREE_BYTES.min(space.total / 20).saturating_sub(space.free);
        if missing > 0 {
            self.evict(|| missing);
        }
    }

    /// Evicts because a write found the disk full; true if room was made.
    pub(super) fn evict_for_write(&self) -> bool {
        if self.now_us() < self.no_room_until_us.load(SeqCst) {
            return false;
        }
        // Not everything: what is being written is the newest, and of no use in part where only pieces are verified.
        let freed = self.evict(|| FULL_DISK_ROUND_BYTES.min(self.used_bytes().div_ceil(4)));
        if freed == 0 {
            self.no_room_until_us.store(self.now_us() + NO_ROOM_PAUSE_US, SeqCst);
        }
        freed > 0
    }

    #[cfg(test)]
    pub(super) fn evict_some(&self, bytes: u64) -> u64 {
        self.evict(|| bytes)
    }

    /// Gives up the pieces longest unused until `wanted` bytes, asked when it is this thread's turn, are free; one
    /// round. The bytes that it freed.
    fn evict(&self, wanted: impl Fn() -> u64) -> u64 {
        let _one_at_a_time = lock(&self.evicting);
        let victims = self.choose(wanted());
        if victims.is_empty() { 0 } else { self.give_up(victims) }
    }

    /// Has the index forget pieces that were chosen, and gives their room back; the bytes.
    pub(super) fn give_up(&self, victims: Vec<Victim>) -> u64 {
        let forgotten = victims.iter().map(|victim| (victim.object.id, victim.piece.0)).collect();
        if let Err(error) = self.forget(&Batch { forgotten, ..Batch::default() }) {
            self.warn_once("evict", || format!("cannot give up cached data: {error}"));
            victims.into_iter().for_each(|victim| self.keep(victim));
            return 0;
        }
        self.forget_warning("evict");
        let freed = victims.iter().map(|victim| self.punch(victim)).sum();
        for victim in victims.iter().filter(|victim| !victim.blocks.is_empty()) {
            self.tell_lost(&victim.object, victim.piece);
        }
        self.reserve.refill();
        freed
    }

    /// Takes pieces out of the queue, oldest first, and their bits.
    pub(super) fn choose(&self, bytes: u64) -> Vec<Victim> {
        let (mut victims, mut busy, mut chosen_bytes) = (Vec::new(), Vec::new(), 0);
        // Every piece at most twice: once to see that it was used since it was queued, once as the oldest again.
        let mut left = 2 * lock(&self.lru).len();
        while chosen_bytes < bytes && victims.len() < ROUND && left > 0 {
            left -= 1;
            let Some(queued) = lock(&self.lru).pop() else { break };
            let object = match self.object_by_id(queued.object) {
                Ok(Some(object)) => object,
                Ok(None) => {
                    self.drop_unknown(queued);
                    continue;
                }
                Err(error) => {
                    self.note_index_error(&error);
                    busy.push(queued);
                    break;
                }
            };
            match self.choose_piece(&object, queued) {
                Choice::Victim(victim) => {
                    chosen_bytes += u64::from(object.slot(victim.piece).bytes.load(SeqCst));
                    victims.push(victim);
                }
                Choice::Later(queued) => busy.push(queued),
                Choice::Used(queued) => lock(&self.lru).push(queued),
                Choice::Gone => {}
            }
        }
        let mut lru = lock(&self.lru);
        busy.into_iter().for_each(|queued| lru.push(queued));
        victims
    }

    fn choose_piece(&self, object: &Arc<Object>, queued: Queued) -> Choice {
        let piece = PieceIndex(queued.piece);
        let Some(slot) = object.slots().get(queued.piece as usize) else { return Choice::Gone };
        if !slot.has(flag::LISTED) {
            return Choice::Gone;
        }
        let used_us = slot.used_us.load(SeqCst);
        if used_us > queued.used_us {
            return Choice::Used(Queued { used_us, ..queued });
        }
        let Ok(_stripe) = self.stripe(object, piece).try_lock() else { return Choice::Later(queued) };
        slot.set(flag::EVICTING);
        let blocks = self.clear_verified(object, piece);
        Choice::Victim(Victim { object: object.clone(), piece, used_us, blocks })
    }

    /// Commits that pieces are forgotten, with the reserve where the disk is full.
    pub(super) fn forget(&self, batch: &Batch) -> Result<(), IndexError> {
        let mut index = lock(&self.index);
        let result = match index.commit(batch, Durability::Disk) {
            Err(IndexError::Full) => {
                let _ = self.reserve.release();
                index.commit(batch, Durability::Disk)
            }
            other => other,
        };
        drop(index);
        match result {
            Err(error @ IndexError::Damaged(_)) => {
                // Nobody will read this index again: there is nothing to forget.
                self.note_index_error(&error);
                Ok(())
            }
            other => other,
        }
    }

    /// Takes back that a piece is given up.
    fn keep(&self, victim: Victim) {
        let Victim { object, piece, used_us, blocks } = victim;
        let _stripe = lock(self.stripe(&object, piece));
        object.slot(piece).clear(flag::EVICTING);
        blocks.into_iter().for_each(|block| object.set_verified(block));
        lock(&self.lru).push(Queued { used_us, object: object.id, piece: piece.0 });
        self.mark_dirty(&object, piece);
    }

    /// Gives the room of a piece back to the disk; the bytes.
    fn punch(&self, victim: &Victim) -> u64 {
        let (object, piece) = (&victim.object, victim.piece);
        let slot = object.slot(piece);
        let _stripe = lock(self.stripe(object, piece));
        if !slot.clear(flag::EVICTING) {
            // Written or checked since: it stays, and the index has to learn of it again.
            let used_us = slot.used_us.load(SeqCst);
            lock(&self.lru).push(Queued { used_us, object: object.id, piece: piece.0 });
            self.mark_dirty(object, piece);
            return 0;
        }
        if let Err(error) = self.punch_files(object, piece) {
            self.warn_once("punch", || format!("cannot give room in the cache back to the disk: {error}"));
        }
        object.clear_written(piece);
        slot.clear(flag::LISTED | flag::SUSPECT);
        lock(&self.leaves).forget(object.id, piece.0);
        let bytes = u64::from(slot.bytes.load(SeqCst));
        self.discharge(object, piece);
        bytes
    }

    fn punch_files(&self, object: &Arc<Object>, piece: PieceIndex) -> std::io::Result<()> {
        let layout = object.layout();
        let whole = BlockSpan { piece, begin: 0, len: layout.piece_len(piece) };
        if layout.piece_count() == 1 && layout.file_count() == 1 {
            // The stripe of the only piece is held, so nobody writes to the file.
            return self.files.remove(object.file_id(FileIndex(0)), &object.place(FileIndex(0)));
        }
        for slice in layout.slices(whole) {
            match self.files.existing(object.file_id(slice.file), || object.place(slice.file)) {
                Ok(file) => self.punch_slice(object, &file, slice)?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            self.mark_changed(object, slice.file);
        }
        Ok(())
    }

    /// Removes a piece of an object that cannot be laid out any more, since nothing says what its files are.
    fn drop_unknown(&self, queued: Queued) {
        let index = lock(&self.index);
        let pieces = index.pieces(queued.object).unwrap_or_default();
        let row = index.object_by_id(queued.object).ok().flatten();
        drop(index);
        let forgotten: Vec<_> = pieces.iter().map(|piece| (piece.object, piece.piece)).collect();
        if self.forget(&Batch { forgotten, ..Batch::default() }).is_ok() {
            self.give_back(pieces.iter().map(|piece| piece.bytes).sum());
            if let Some(row) = row
                && let Err(error) = self.files.remove_tree(row.key.as_ref())
            {
                self.warn(format!("cannot remove {:?} from the cache: {error}", row.key));
            }
        }
    }
}

impl Cached {
    /// Puts the pieces of objects that only this torrent has first in the queue; gives them up where `all`.
    pub(super) fn retire(&self, all: bool) {
        let mut bytes = 0;
        for object in self.objects() {
            let is_shared = lock(&object.owners).iter().any(|owner| !Arc::ptr_eq(&owner.torrent, &self.torrent));
            if is_shared {
                continue;
            }
            for (slot, piece) in object.slots().iter().zip(0..).filter(|(slot, _)| slot.has(flag::LISTED)) {
                slot.used_us.store(0, SeqCst);
                lock(&self.shared.lru).push(Queued { used_us: 0, object: object.id, piece });
                bytes += u64::from(slot.bytes.load(SeqCst));
            }
        }
        while all && bytes > 0 {
            let freed = self.shared.evict(|| bytes);
            if freed == 0 {
                return;
            }
            bytes = bytes.saturating_sub(freed);
        }
    }
}

/// What becomes of a piece that was first in the queue.
enum Choice {
    Victim(Victim),
    /// Used since it was queued: back in its new place.
    Used(Queued),
    /// Somebody works on it right now.
    Later(Queued),
    Gone,
}
