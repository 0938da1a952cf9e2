//! Verifying what is in the cache: pieces that came in blocks, and pieces that may be damaged.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::StorageError;
use super::cached::{Cached, is_damage};
use super::leaves::Leaves;
use super::object::{Object, blocks_of_piece, flag};
use super::shared::{Shared, lock};
use crate::metainfo::{Form, Metainfo, PieceCheck};
use crate::types::{BLOCK_LEN, BlockDigest, BlockIndex, BlockSpan, PieceIndex, PieceOutcome};

/// Bytes read at once to be hashed: whole blocks, few enough to stay near the processor.
const READ_LEN: u32 = 16 * BLOCK_LEN;

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
            None => self.hash_piece(object, own, piece).map(|check| match check {
                Some(PieceCheck::Right(leaves)) => {
                    self.keep_leaves(object, own, leaves);
                    true
                }
                Some(PieceCheck::Inconsistent) => {
                    self.note_contradiction();
                    false
                }
                Some(PieceCheck::Wrong) | None => false,
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
    fn hash_piece(&self, object: &Arc<Object>, own: PieceIndex, piece: PieceIndex) -> io::Result<Option<PieceCheck>> {
        self.shared.hash_piece(&self.metainfo, object, own, piece)
    }

    fn keep_leaves(&self, object: &Object, own: PieceIndex, leaves: Vec<[u8; 32]>) {
        if !leaves.is_empty() {
            lock(&self.shared.leaves).put(object.id, own.0, leaves.into());
        }
    }

    fn note_contradiction(&self) {
        self.is_contradictory.store(true, SeqCst);
        self.shared.warn_of_contradiction(&self.metainfo);
    }

    /// Finds out why a piece of a hybrid torrent whose blocks all match their leaves does not match its v1 hash: true if
    /// the torrent contradicts itself, else what is here is damaged, and is lost now.
    pub(super) fn contradicts(&self, object: &Arc<Object>, own: PieceIndex) -> bool {
        let Some(piece) = self.torrent_piece(object, own) else { return false };
        let stripe = lock(self.shared.stripe(object, own));
        if let Ok(Some(PieceCheck::Inconsistent)) = self.hash_piece(object, own, piece) {
            self.note_contradiction();
            return true;
        }
        object.slot(own).set(flag::SUSPECT);
        drop(stripe);
        if let Err(error) = self.verify_again(object, own) {
            tracing::warn!("cannot read a piece back from {:?} in the cache: {error}", object.key);
        }
        false
    }

    pub(super) fn check_piece(&self, piece: PieceIndex, blocks: &[BlockSpan], failed_before: bool) -> PieceOutcome {
        let Some((object, own)) = self.locate(piece) else { return PieceOutcome::Failed };
        let leaves = match self.metainfo.verifies_blocks() {
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
            None => self.check_whole(object, own, piece, failed_before).map(Some),
        };
        self.shared.touch(object, own, self.shared.now_us());
        drop(stripe);
        self.shared.mark_dirty(object, own);
        match outcome {
            Ok(Some(outcome)) => outcome,
            Ok(None) if self.contradicts(object, own) => PieceOutcome::Inconsistent,
            Ok(None) => PieceOutcome::Failed,
            Err(error) => {
                tracing::warn!("cannot read a piece back from {:?} in the cache: {error}", object.key);
                PieceOutcome::Failed
            }
        }
    }

    /// Checks blocks with their leaves; `None` if they complete their piece, and not as its v1 hash says.
    fn check_blocks(
        &self,
        object: &Arc<Object>,
        blocks: &[BlockSpan],
        piece: PieceIndex,
        leaves: &[[u8; 32]],
    ) -> io::Result<Option<PieceOutcome>> {
        let (mut good, mut corrupt, mut buf) = (Vec::new(), Vec::new(), Vec::new());
        for block in blocks {
            buf.clear();
            if !self.shared.read_written(object, *block, &mut buf)? {
                return Ok(Some(PieceOutcome::Failed));
            }
            let span = BlockSpan { piece, ..*block };
            if self.metainfo.leaf_hash(span, &buf) == leaves.get(block.block().0 as usize).copied() {
                good.push(*block);
            } else {
                self.shared.overlay.remove(object, *block);
                corrupt.push(span);
            }
        }
        let own = blocks.first().map_or(PieceIndex(0), |block| block.piece);
        let agrees = self.shared.mark_verified(object, own, &good);
        Ok(agrees.then_some(PieceOutcome::Blocks { corrupt }))
    }

    fn check_whole(
        &self,
        object: &Arc<Object>,
        own: PieceIndex,
        piece: PieceIndex,
        failed_before: bool,
    ) -> io::Result<PieceOutcome> {
        let leaves = match self.hash_piece(object, own, piece)? {
            Some(PieceCheck::Right(leaves)) => leaves,
            Some(PieceCheck::Wrong) => return Ok(PieceOutcome::Corrupt { digests: self.digests(object, own)? }),
            Some(PieceCheck::Inconsistent) => {
                self.note_contradiction();
                return Ok(PieceOutcome::Inconsistent);
            }
            None => return Ok(PieceOutcome::Failed),
        };
        // Verified all the same where it cannot be read a second time.
        let digests = failed_before.then(|| self.digests(object, own).ok()).flatten();
        blocks_of_piece(object.layout(), own).for_each(|block| self.shared.set_verified(object, block));
        // All of it was read just now.
        object.slot(own).clear(flag::SUSPECT);
        self.keep_leaves(object, own, leaves);
        Ok(digests.map_or(PieceOutcome::Verified, |digests| PieceOutcome::VerifiedAfter { digests }))
    }

    /// The digest of each block of a piece, all of which are here, verified or not.
    fn digests(&self, object: &Arc<Object>, own: PieceIndex) -> io::Result<Vec<BlockDigest>> {
        let mut buf = Vec::new();
        let digest = |block| {
            buf.clear();
            self.shared.read_written(object, block, &mut buf)?;
            let mut digest = [0; 16];
            blake3::Hasher::new().update(&buf).finalize_xof().fill(&mut digest);
            Ok(BlockDigest(digest))
        };
        blocks_of_piece(object.layout(), own).map(digest).collect()
    }

    /// The leaves of a piece that is here in full; verifies it again where they are not in memory.
    pub(super) fn leaves(&self, piece: PieceIndex) -> Result<Option<Leaves>, StorageError> {
        let Some((object, own)) = self.locate(piece) else { return Ok(None) };
        let has_all = blocks_of_piece(object.layout(), own).all(|block| self.has_verified(object, block));
        if let Some(leaves) = self.shared.leaves_in_memory(object, own).filter(|_| has_all) {
            return Ok(Some(leaves));
        }
        let is_whole = || blocks_of_piece(object.layout(), own).all(|block| object.is_verified(block));
        if !is_whole() || !self.metainfo.verifies_blocks() {
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

impl Shared {
    /// Marks blocks of a piece, which are here and match their leaves, as verified; under the stripe of the piece. A
    /// piece of a hybrid torrent has a v1 hash too: without it, it is never verified in full. False if it would be, and
    /// does not match: then nothing is marked.
    pub(super) fn mark_verified(&self, object: &Arc<Object>, piece: PieceIndex, blocks: &[BlockSpan]) -> bool {
        if let Some(metainfo) = object.torrent().filter(|metainfo| metainfo.form() == Form::Hybrid)
            && self.would_complete(object, piece, blocks)
        {
            match self.hash_piece(metainfo, object, piece, piece) {
                Ok(Some(PieceCheck::Right(_))) => {}
                Ok(Some(PieceCheck::Wrong | PieceCheck::Inconsistent) | None) | Err(_) => return false,
            }
        }
        blocks.iter().for_each(|block| self.set_verified(object, *block));
        true
    }

    fn would_complete(&self, object: &Object, piece: PieceIndex, blocks: &[BlockSpan]) -> bool {
        let in_memory = |block| self.overlay.get(object, block).is_some_and(|(_, verified)| verified);
        let is_verified = |block| object.is_verified(block) || blocks.contains(&block) || in_memory(block);
        !blocks.is_empty() && blocks_of_piece(object.layout(), piece).all(is_verified)
    }

    fn set_verified(&self, object: &Object, block: BlockSpan) {
        match object.is_written(block) {
            true => object.set_verified(block),
            false => self.overlay.set_verified(object, block),
        }
    }

    /// Hashes all blocks of a piece, verified or not; `None` if one is missing.
    fn hash_piece(
        &self,
        metainfo: &Metainfo,
        object: &Arc<Object>,
        own: PieceIndex,
        piece: PieceIndex,
    ) -> io::Result<Option<PieceCheck>> {
        let Some(mut hasher) = metainfo.piece_hasher(piece) else { return Ok(None) };
        let (len, mut buf) = (object.layout().piece_len(own), Vec::new());
        for begin in (0..len).step_by(READ_LEN as usize) {
            buf.clear();
            let span = BlockSpan { piece: own, begin, len: READ_LEN.min(len - begin) };
            if !self.read_written_span(object, span, &mut buf)? {
                return Ok(None);
            }
            hasher.update(&buf);
        }
        Ok(Some(metainfo.judge(piece, hasher)))
    }

    /// Says, once, that a torrent contradicts itself.
    pub(super) fn warn_of_contradiction(&self, metainfo: &Metainfo) {
        self.warn_once(&format!("contradiction {}", metainfo.info_hash()), || contradiction(metainfo));
    }
}

/// What to say of a hybrid torrent whose two forms are not of the same bytes.
pub(super) fn contradiction(metainfo: &Metainfo) -> String {
    format!(
        "the torrent {:?} ({}) is inconsistent: expected its v1 and its v2 hashes to be of the same content, but what \
         matches the ones does not match the others; nothing more of it is fetched: ask its publisher for one that is \
         made anew",
        metainfo.name(),
        metainfo.info_hash()
    )
}
