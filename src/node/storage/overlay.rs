//! Blocks that the disk has no room for.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use lru::LruCache;

use super::lock;
use super::object::{Object, blocks_of_piece};
use crate::types::{BlockSpan, PieceIndex};

/// Bytes that are kept, unless a piece is larger: then it and a half more.
const MIN_BYTES: u64 = 64 << 20;

/// A bounded number of blocks in memory, so that reads go on when the disk is full. A block lies here or on the disk,
/// not in both.
pub(super) struct Overlay {
    /// Whether anything is here: asked before the lock is taken.
    used: AtomicBool,
    blocks: Mutex<Blocks>,
}

struct Blocks {
    /// By (object, piece, first byte).
    held: LruCache<(u32, PieceIndex, u32), Held>,
    bytes: u64,
}

impl Blocks {
    fn remove(&mut self, object: &Object, block: BlockSpan) {
        if let Some(held) = self.held.pop(&(object.id, block.piece, block.begin)) {
            self.bytes -= held.data.len() as u64;
        }
    }
}

/// One block.
struct Held {
    object: Arc<Object>,
    data: Bytes,
    verified: bool,
}

/// A piece of which blocks were pushed out.
pub(super) struct PushedOut {
    pub(super) object: Arc<Object>,
    pub(super) piece: PieceIndex,
}

impl Overlay {
    pub(super) fn new() -> Self {
        let blocks = Blocks { held: LruCache::unbounded(), bytes: 0 };
        Self { used: AtomicBool::new(false), blocks: Mutex::new(blocks) }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.used.load(SeqCst)
    }

    /// Keeps a block; gives the pieces that had to go for it, with all their blocks: what is left of a piece of which
    /// something is missing again would only be in the way of others.
    pub(super) fn put(&self, object: &Arc<Object>, block: BlockSpan, data: Bytes, verified: bool) -> Vec<PushedOut> {
        let mut blocks = lock(&self.blocks);
        self.used.store(true, SeqCst);
        blocks.bytes += data.len() as u64;
        let held = Held { object: object.clone(), data, verified };
        if let Some(old) = blocks.held.put((object.id, block.piece, block.begin), held) {
            blocks.bytes -= old.data.len() as u64;
        }
        let max = MIN_BYTES.max(u64::from(object.layout().piece_length()) * 3 / 2);
        let mut out: Vec<PushedOut> = Vec::new();
        while blocks.bytes > max
            && let Some(((_, piece, _), oldest)) = blocks.held.pop_lru()
        {
            blocks.bytes -= oldest.data.len() as u64;
            for other in blocks_of_piece(oldest.object.layout(), piece) {
                blocks.remove(&oldest.object, other);
            }
            out.push(PushedOut { object: oldest.object, piece });
        }
        out
    }

    /// The block and whether it is verified, if it is here.
    pub(super) fn get(&self, object: &Object, block: BlockSpan) -> Option<(Bytes, bool)> {
        if self.is_empty() {
            return None;
        }
        let mut blocks = lock(&self.blocks);
        let held = blocks.held.get(&(object.id, block.piece, block.begin))?;
        Some((held.data.clone(), held.verified))
    }

    /// Marks a block that is here as verified.
    pub(super) fn set_verified(&self, object: &Object, block: BlockSpan) {
        if let Some(held) = lock(&self.blocks).held.get_mut(&(object.id, block.piece, block.begin)) {
            held.verified = true;
        }
    }

    /// Drops a block, if it is here.
    pub(super) fn remove(&self, object: &Object, block: BlockSpan) {
        if self.is_empty() {
            return;
        }
        let mut blocks = lock(&self.blocks);
        blocks.remove(object, block);
        self.used.store(!blocks.held.is_empty(), SeqCst);
    }
}
