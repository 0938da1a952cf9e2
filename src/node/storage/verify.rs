//! Verifying what is in the cache: pieces that came in blocks, and pieces that may be damaged.

use std::io;
use std::sync::Arc;

use super::StorageError;
use super::attempts::{Attempt, BlockDigest};
use super::cached::{Cached, is_damage};
use super::leaves::Leaves;
use super::object::{Object, blocks_of_piece, flag};
use super::shared::lock;
use crate::types::{AttemptId, BLOCK_LEN, BlockIndex, BlockSpan, PieceIndex, PieceOutcome};

/// Bytes read at once to be hashed: whole blocks, few enough to stay near the processor.
const READ_LEN: u32 = 16 * BLOCK_LEN;

/// What hashing a piece gave.
struct Hashed {
    matches: bool,
    leaves: Option<Leaves>,
}

impl Cached {
    /// Verifies what is here of a suspect piece; false if it was damaged, and is lost now.
    pub(super) fn verify_again(&self, object: &Arc<Object>, own: PieceIndex) -> Result<bool, StorageError> {
        let Some(piece) = self.torrent_piece(object, own) else { return Ok(false) };
        let leaves = object.verified_blocks(own).and_then(|_| self.shared.known_leaves(object, own));
        let stripe = lock(self.shared.stripe(object, own));
        if !object.slot(own).has(flag::SUSPECT) {
            return Ok(true);
        }
        let good = match object.verified_blocks(own) {
            None => self.hash_piece(object, own, piece).map(|hashed| {
                let Some(Hashed { matches: true, leaves }) = hashed else { return false };
                if let Some(leaves) = leaves {
                    lock(&self.shared.leaves).put(object.id, own.0, leaves);
                }
                true
            }),
            Some(_) => self.verify_blocks(object, own, piece, leaves),
        };
        match good {
            Ok(true) => {
                object.slot(own).clear(flag::SUSPECT);
                self.shared.mark_dirty(object, own);
                Ok(true)
            }
            Err(error) if !is_damage(&error) => Err(self.io_error("read", object, error)),
            _ => {
                self.shared.lose(object, own);
                drop(stripe);
                self.shared.warn_once(&format!("damage {}", object.key), || {
                    format!("{:?} in the cache was damaged: what is missing is fetched again", object.key)
                });
                self.shared.tell_lost(object, own);
                Ok(false)
            }
        }
    }

    /// Whether every verified block of a piece that is here in part matches its leaf.
    fn verify_blocks(
        &self,
        object: &Arc<Object>,
        own: PieceIndex,
        piece: PieceIndex,
        leaves: Option<Leaves>,
    ) -> io::Result<bool> {
        let Some(leaves) = leaves.filter(|leaves| self.metainfo.leaves_match(piece, leaves)) else { return Ok(false) };
        let mut buf = Vec::new();
        for block in blocks_of_piece(object.layout(), own).filter(|block| object.is_verified(*block)) {
            buf.clear();
            self.shared.read_parts(object, object.layout().parts(block), &mut buf)?;
            let span = BlockSpan { piece, ..block };
            if self.metainfo.leaf_hash(span, &buf) != leaves.get(block.block().0 as usize).copied() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Hashes all blocks of a piece, verified or not; `None` if one is missing.
    fn hash_piece(&self, object: &Arc<Object>, own: PieceIndex, piece: PieceIndex) -> io::Result<Option<Hashed>> {
        let Some(mut hasher) = self.metainfo.piece_hasher(piece) else { return Ok(None) };
        let (len, mut buf) = (object.layout().piece_len(own), Vec::new());
        for begin in (0..len).step_by(READ_LEN as usize) {
            buf.clear();
            let span = BlockSpan { piece: own, begin, len: READ_LEN.min(len - begin) };
            if !self.shared.read_written_span(object, span, &mut buf)? {
                return Ok(None);
            }
            hasher.update(&buf);
        }
        if !self.metainfo.algorithm().verifies_blocks() {
            let matches = Some(hasher.finish()) == self.metainfo.piece_hash(piece);
            return Ok(Some(Hashed { matches, leaves: None }));
        }
        let leaves = hasher.finish_leaves();
        let matches = self.metainfo.leaves_match(piece, &leaves);
        Ok(Some(Hashed { matches, leaves: Some(leaves.into()) }))
    }

    pub(super) fn check_piece(&self, piece: PieceIndex, blocks: &[BlockSpan]) -> PieceOutcome {
        let Some((object, own)) = self.locate(piece) else { return PieceOutcome::Failed };
        let leaves = match self.metainfo.algorithm().verifies_blocks() {
            true => self.shared.known_leaves(object, own),
            false => None,
        };
        let own_blocks: Vec<_> = blocks.iter().map(|block| BlockSpan { piece: own, ..*block }).collect();
        if own_blocks.iter().any(|block| !object.layout().is_block(*block)) {
            return PieceOutcome::Failed;
        }
        let stripe = lock(self.shared.stripe(object, own));
        // What becomes verified here must not be punched by an eviction that began before.
        object.slot(own).clear(flag::EVICTING);
        let outcome = match leaves {
            Some(leaves) => self.check_blocks(object, &own_blocks, piece, &leaves),
            None => self.check_whole(object, own, piece),
        };
        self.shared.touch(object, own, self.shared.now_us());
        drop(stripe);
        self.shared.mark_dirty(object, own);
        outcome.unwrap_or_else(|error| {
            tracing::warn!("cannot read a piece back from {:?} in the cache: {error}", object.key);
            PieceOutcome::Failed
        })
    }

    fn check_blocks(
        &self,
        object: &Arc<Object>,
        blocks: &[BlockSpan],
        piece: PieceIndex,
        leaves: &[[u8; 32]],
    ) -> io::Result<PieceOutcome> {
        let (mut corrupt, mut buf) = (Vec::new(), Vec::new());
        for block in blocks {
            buf.clear();
            if !self.shared.read_written(object, *block, &mut buf)? {
                return Ok(PieceOutcome::Failed);
            }
            let span = BlockSpan { piece, ..*block };
            if self.metainfo.leaf_hash(span, &buf) == leaves.get(block.block().0 as usize).copied() {
                self.mark_verified(object, *block);
            } else {
                self.shared.overlay.remove(object, *block);
                corrupt.push(span);
            }
        }
        Ok(PieceOutcome::Blocks { corrupt })
    }

    fn check_whole(&self, object: &Arc<Object>, own: PieceIndex, piece: PieceIndex) -> io::Result<PieceOutcome> {
        let Some(hashed) = self.hash_piece(object, own, piece)? else { return Ok(PieceOutcome::Failed) };
        if !hashed.matches {
            let digests = self.digests(object, own)?;
            return Ok(PieceOutcome::Corrupt { attempt: lock(&self.shared.failed).add(object.id, own.0, digests) });
        }
        let failed = lock(&self.shared.failed).take(object.id, own.0);
        // Verified all the same where they cannot be read a second time.
        let wrong = match failed.is_empty() {
            true => Vec::new(),
            false => self.wrong_blocks(object, own, piece, &failed).unwrap_or_default(),
        };
        blocks_of_piece(object.layout(), own).for_each(|block| self.mark_verified(object, block));
        // All of it was read just now.
        object.slot(own).clear(flag::SUSPECT);
        if let Some(leaves) = hashed.leaves {
            lock(&self.shared.leaves).put(object.id, own.0, leaves);
        }
        Ok(if wrong.is_empty() { PieceOutcome::Verified } else { PieceOutcome::VerifiedAfter { wrong } })
    }

    /// The blocks of failed attempts that were not what is here now and verified.
    fn wrong_blocks(
        &self,
        object: &Arc<Object>,
        own: PieceIndex,
        piece: PieceIndex,
        failed: &[Attempt],
    ) -> io::Result<Vec<(AttemptId, BlockSpan)>> {
        let right = self.digests(object, own)?;
        let wrong = |attempt: &Attempt| {
            let blocks = blocks_of_piece(object.layout(), own).zip(attempt.digests.iter().zip(&right));
            let wrong = blocks.filter(|(_, (digest, right))| digest != right);
            wrong.map(|(block, _)| (attempt.id, BlockSpan { piece, ..block })).collect::<Vec<_>>()
        };
        Ok(failed.iter().flat_map(wrong).collect())
    }

    /// The digest of each block of a piece, all of which are here, verified or not.
    fn digests(&self, object: &Arc<Object>, own: PieceIndex) -> io::Result<Vec<BlockDigest>> {
        let mut buf = Vec::new();
        let digest = |block| {
            buf.clear();
            self.shared.read_written(object, block, &mut buf)?;
            Ok(blake3::hash(&buf).into())
        };
        blocks_of_piece(object.layout(), own).map(digest).collect()
    }

    fn mark_verified(&self, object: &Arc<Object>, block: BlockSpan) {
        match object.is_written(block) {
            true => object.set_verified(block),
            false => self.shared.overlay.set_verified(object, block),
        }
    }

    /// The leaves of a piece that is here in full; verifies it again where they are not in memory.
    pub(super) fn leaves(&self, piece: PieceIndex) -> Result<Option<Leaves>, StorageError> {
        let Some((object, own)) = self.locate(piece) else { return Ok(None) };
        let has_all = blocks_of_piece(object.layout(), own).all(|block| self.has_verified(object, block));
        if let Some(leaves) = self.shared.leaves_in_memory(object, own).filter(|_| has_all) {
            return Ok(Some(leaves));
        }
        let is_whole = || blocks_of_piece(object.layout(), own).all(|block| object.is_verified(block));
        if !is_whole() || !self.metainfo.algorithm().verifies_blocks() {
            return Ok(None);
        }
        for slice in object.layout().slices(object.layout().block_span(own, BlockIndex(0))) {
            self.shared.check_file(object, slice.file).map_err(|error| self.io_error("open", object, error))?;
        }
        // Whatever it was before: from here on only what is read counts.
        object.slot(own).set(flag::SUSPECT);
        if !self.verify_again(object, own)? {
            return Ok(None);
        }
        Ok(self.shared.leaves_in_memory(object, own))
    }
}
