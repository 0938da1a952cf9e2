//! Leaf hashes in memory.

use std::sync::Arc;

use lru::LruCache;

/// Bytes of hashes that are kept.
const MAX_BYTES: usize = 32 << 20;

/// The leaf hashes of all blocks of one piece, in order.
pub(crate) type Leaves = Arc<[[u8; 32]]>;

/// Verified leaf hashes of pieces, by (object, piece): the ones used last, up to a number of bytes. Those of pieces
/// that are here in part are in the index too.
pub(super) struct LeafCache {
    pieces: LruCache<(u32, u32), Leaves>,
    bytes: usize,
}

impl LeafCache {
    pub(super) fn new() -> Self {
        Self { pieces: LruCache::unbounded(), bytes: 0 }
    }

    pub(super) fn get(&mut self, object: u32, piece: u32) -> Option<Leaves> {
        self.pieces.get(&(object, piece)).cloned()
    }

    pub(super) fn put(&mut self, object: u32, piece: u32, leaves: Leaves) {
        self.bytes += leaves.len() * 32;
        if let Some(old) = self.pieces.put((object, piece), leaves) {
            self.bytes -= old.len() * 32;
        }
        while self.bytes > MAX_BYTES
            && let Some((_, oldest)) = self.pieces.pop_lru()
        {
            self.bytes -= oldest.len() * 32;
        }
    }

    pub(super) fn forget(&mut self, object: u32, piece: u32) {
        if let Some(leaves) = self.pieces.pop(&(object, piece)) {
            self.bytes -= leaves.len() * 32;
        }
    }
}
