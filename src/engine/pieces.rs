//! PieceManager: the state of every block, and of the pieces that are being fetched.
//!
//! A block is exactly one of missing, requested, received, verified. Verified ones are bits of one bitfield; the
//! others are only spelt out for *active* pieces, those with something requested or received, so that a torrent of
//! two million pieces costs its bitfields.

mod due;
mod gaps;
mod isolation;
mod missing;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use crate::metainfo::Layout;
use crate::types::{Bitfield, BlockIndex, BlockSpan, ConnId, PeerIdentity, PieceIndex};
use due::Due;
use gaps::Gaps;
use isolation::Isolation;
pub(super) use isolation::{MAX_COPIES, Turn};

/// Where a block is on its way. Verified blocks have no such state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockState {
    Missing,
    /// Asked of one peer, or of two.
    Requested,
    /// Given to storage, not verified yet.
    Received,
    Verified,
}

#[derive(Clone, Debug)]
struct Block {
    state: BlockState,
    /// Peers that it is asked of, and when it is due from each.
    asked: [Option<(ConnId, Instant)>; 2],
    /// Stored after the leaf hashes of its piece had been handed to storage.
    knew_leaves: bool,
    /// Storage has answered: it waits for leaves, or for the rest of its piece.
    settled: bool,
    from: Option<(ConnId, Arc<PeerIdentity>)>,
}

impl Block {
    fn is_asked(&self) -> bool {
        self.asked.iter().any(Option::is_some)
    }
}

/// What is known of the leaf hashes of a piece.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Leaves {
    /// Nobody was asked yet.
    #[default]
    Unknown,
    /// A peer was asked.
    Asked,
    /// Storage has them, or needs none for blocks of this piece.
    Known,
    /// Nobody tells: the piece is checked as a whole.
    Unavailable,
}

/// A piece that is being fetched.
#[derive(Clone, Debug, Default)]
pub(super) struct Active {
    blocks: Vec<Block>,
    /// Which of them are missing: looked through far more often than changed.
    gaps: Gaps,
    /// Blocks that are not verified.
    left: u32,
    /// Received blocks that storage holds unverified.
    settled: u32,
    pub(super) leaves: Leaves,
    /// Blocks that storage is checking.
    pub(super) checking: Option<Vec<BlockSpan>>,
    /// The piece failed its check and it is not known whose fault that was.
    pub(super) isolated: Option<Isolation>,
}

/// The blocks of one torrent.
#[derive(Clone, Debug)]
pub(super) struct PieceManager {
    layout: Layout,
    verified: Bitfield,
    have: Bitfield,
    verified_bytes: u64,
    active: BTreeMap<u32, Active>,
    /// Active pieces with missing blocks: what bulk fetching finishes first.
    open: BTreeSet<u32>,
    /// Whether blocks can only be verified with their whole piece.
    whole_pieces: bool,
    /// Pieces whose leaf hashes storage was given.
    known_leaves: BTreeSet<u32>,
    due: Due,
}

/// Pieces whose leaf hashes are taken to be remembered by storage. What is forgotten is asked again.
const MAX_KNOWN_LEAVES: usize = 4096;

impl PieceManager {
    /// The blocks that storage holds `verified`, and all padding: what everybody knows to be zeros is never asked for.
    pub(super) fn new(layout: Layout, mut verified: Bitfield, verifies_blocks: bool) -> Self {
        for span in layout.padding_blocks() {
            verified.insert(layout.block_number(span.piece, span.block()));
        }
        let mut pieces = Self {
            have: Bitfield::new(layout.piece_count()),
            verified: Bitfield::new(layout.block_numbers()),
            layout,
            verified_bytes: 0,
            active: BTreeMap::new(),
            open: BTreeSet::new(),
            whole_pieces: !verifies_blocks,
            known_leaves: BTreeSet::new(),
            due: Due::default(),
        };
        for piece in 0..pieces.layout.piece_count() {
            pieces.adopt(piece, &verified);
        }
        pieces
    }

    /// Takes the blocks of a piece that storage holds verified.
    fn adopt(&mut self, piece: u32, verified: &Bitfield) {
        let blocks = self.layout.blocks_in(PieceIndex(piece));
        let first = self.number(piece, 0);
        let mut held = 0;
        for block in (0..blocks).filter(|block| verified.contains(first + block)) {
            held += 1;
            self.verified.insert(first + block);
            self.verified_bytes += u64::from(self.span(piece, block).len);
        }
        if held == blocks {
            self.have.insert(piece);
        }
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Complete pieces.
    pub(super) fn have(&self) -> &Bitfield {
        &self.have
    }

    pub(super) fn has(&self, piece: u32) -> bool {
        self.have.contains(piece)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.have.is_full()
    }

    pub(super) fn verified_bytes(&self) -> u64 {
        self.verified_bytes
    }

    pub(super) fn number(&self, piece: u32, block: u32) -> u32 {
        self.layout.block_number(PieceIndex(piece), BlockIndex(block))
    }

    /// The piece and block of a running number.
    pub(super) fn place(&self, number: u32) -> (u32, u32) {
        let stride = self.layout.blocks_per_piece().max(1);
        (number / stride, number % stride)
    }

    pub(super) fn span(&self, piece: u32, block: u32) -> BlockSpan {
        self.layout.block_span(PieceIndex(piece), BlockIndex(block))
    }

    pub(super) fn blocks_in(&self, piece: u32) -> u32 {
        self.layout.blocks_in(PieceIndex(piece))
    }

    pub(super) fn is_verified(&self, number: u32) -> bool {
        self.verified.contains(number)
    }

    fn is_padding(&self, number: u32) -> bool {
        let (piece, block) = self.place(number);
        self.layout.has_padding() && self.layout.is_padding(self.span(piece, block))
    }

    /// Whether every byte of a span (which may be any part of a piece, and of the gap behind it) is verified.
    pub(super) fn holds(&self, span: BlockSpan) -> bool {
        let span = self.layout.without_gap(span);
        let last = span.end().saturating_sub(1) as u32 / crate::types::BLOCK_LEN;
        self.layout.contains(span)
            && (self.has(span.piece.0)
                || (span.block().0..=last).all(|block| self.is_verified(self.number(span.piece.0, block))))
    }

    pub(super) fn active(&self, piece: u32) -> Option<&Active> {
        self.active.get(&piece)
    }

    pub(super) fn active_mut(&mut self, piece: u32) -> Option<&mut Active> {
        self.active.get_mut(&piece)
    }

    /// Active pieces with missing blocks.
    pub(super) fn open(&self) -> impl Iterator<Item = u32> + '_ {
        self.open.iter().copied()
    }

    /// Bytes of a piece where only whole ones can be verified, else 0.
    pub(super) fn whole_piece_length(&self) -> u64 {
        if self.whole_pieces { u64::from(self.layout.piece_length()) } else { 0 }
    }

    /// Whether a block of `piece` is of no use before all the others are there.
    pub(super) fn needs_whole(&self, piece: u32) -> bool {
        self.whole_pieces
            || self
                .active
                .get(&piece)
                .is_some_and(|active| active.leaves == Leaves::Unavailable || active.isolated.is_some())
    }

    /// Storage was given the leaf hashes of `piece`.
    pub(super) fn set_leaves_known(&mut self, piece: u32) {
        if self.known_leaves.len() >= MAX_KNOWN_LEAVES {
            self.known_leaves.pop_first();
        }
        self.known_leaves.insert(piece);
        if let Some(active) = self.active.get_mut(&piece) {
            active.leaves = Leaves::Known;
        }
    }

    /// Storage turned out not to remember them.
    pub(super) fn forget_leaves(&mut self, piece: u32) {
        self.known_leaves.remove(&piece);
        if let Some(active) = self.active.get_mut(&piece) {
            active.leaves = Leaves::Unknown;
        }
    }

    /// The piece was given up by storage, and its leaf hashes perhaps with it.
    pub(super) fn forget_leaves_unless_asked(&mut self, piece: u32) {
        let asked = self.active.get(&piece).is_some_and(|active| active.leaves != Leaves::Known);
        if !asked && self.known_leaves.contains(&piece) {
            self.forget_leaves(piece);
        }
    }

    pub(super) fn state(&self, number: u32) -> BlockState {
        if self.is_verified(number) {
            return BlockState::Verified;
        }
        let (piece, block) = self.place(number);
        self.block(piece, block).map_or(BlockState::Missing, |block| block.state)
    }

    /// Peers that the block is asked of: two at most.
    pub(super) fn asked(&self, number: u32) -> impl Iterator<Item = ConnId> + use<> {
        let (piece, block) = self.place(number);
        self.block(piece, block).map_or([None; 2], |block| block.asked).into_iter().flatten().map(|(conn, _)| conn)
    }

    fn block(&self, piece: u32, block: u32) -> Option<&Block> {
        self.active.get(&piece)?.blocks.get(block as usize)
    }

    fn block_mut(&mut self, number: u32) -> Option<(&mut Active, usize)> {
        let (piece, block) = self.place(number);
        let active = self.active.get_mut(&piece)?;
        ((block as usize) < active.blocks.len()).then_some((active, block as usize))
    }

    /// The piece as an active one; becomes one if it is not.
    pub(super) fn activate(&mut self, piece: u32, needs_leaves: bool) -> &mut Active {
        let first = self.number(piece, 0);
        let count = self.blocks_in(piece);
        let (verified, known) = (&self.verified, self.known_leaves.contains(&piece));
        self.active.entry(piece).or_insert_with(|| {
            let blocks: Vec<_> = (0..count)
                .map(|block| {
                    let held = verified.contains(first + block);
                    let state = if held { BlockState::Verified } else { BlockState::Missing };
                    Block { state, asked: [None; 2], knew_leaves: false, settled: false, from: None }
                })
                .collect();
            let gaps: Gaps = blocks.iter().map(|block| block.state == BlockState::Missing).collect();
            let left = gaps.count();
            if left > 0 {
                self.open.insert(piece);
            }
            let leaves = if known || !needs_leaves { Leaves::Known } else { Leaves::Unknown };
            Active { blocks, gaps, left, leaves, ..Active::default() }
        })
    }

    /// One more peer is asked for a block of an active piece.
    pub(super) fn requested(&mut self, number: u32, conn: ConnId, due: Instant) {
        let (piece, block) = self.place(number);
        let Some(active) = self.active.get_mut(&piece) else { return };
        let at = block as usize;
        let Some(block) = active.blocks.get_mut(at) else { return };
        if let Some(free) = block.asked.iter_mut().find(|asked| asked.is_none()) {
            *free = Some((conn, due));
            self.due.insert(due, number, conn);
        }
        if block.state != BlockState::Missing {
            return;
        }
        block.state = BlockState::Requested;
        active.gaps.set(at, false);
        if active.gaps.count() == 0 {
            self.open.remove(&piece);
        }
    }

    /// A peer is no longer asked for a block; true if it is missing now.
    pub(super) fn unrequested(&mut self, number: u32, conn: ConnId) -> bool {
        let (piece, block) = self.place(number);
        let Some(block) = self.active.get_mut(&piece).and_then(|active| active.blocks.get_mut(block as usize)) else {
            return false;
        };
        for asked in &mut block.asked {
            if let Some((_, due)) = asked.take_if(|(asked, _)| *asked == conn) {
                self.due.remove(due, number, conn);
            }
        }
        if block.is_asked() || block.state != BlockState::Requested {
            return false;
        }
        self.set_missing(number);
        true
    }

    /// A block goes to storage.
    pub(super) fn received(&mut self, number: u32, conn: ConnId, from: Arc<PeerIdentity>) {
        let (piece, _) = self.place(number);
        let Some((active, at)) = self.block_mut(number) else { return };
        let knew_leaves = active.leaves == Leaves::Known;
        let block = &mut active.blocks[at];
        active.gaps.set(at, false);
        *block = Block {
            state: BlockState::Received,
            knew_leaves,
            settled: false,
            from: Some((conn, from)),
            asked: block.asked,
        };
        if active.gaps.count() == 0 {
            self.open.remove(&piece);
        }
    }

    /// Storage holds a received block unverified. Whether storage should have been able to verify it.
    pub(super) fn settled(&mut self, number: u32) -> bool {
        let Some((active, at)) = self.block_mut(number) else { return false };
        let block = &mut active.blocks[at];
        if block.state == BlockState::Received && !block.settled {
            block.settled = true;
            active.settled += 1;
        }
        block.knew_leaves
    }

    /// Blocks that storage holds unverified.
    pub(super) fn settled_blocks(&self, piece: u32) -> Vec<BlockSpan> {
        let Some(active) = self.active.get(&piece) else { return Vec::new() };
        let settled = |block: &Block| block.state == BlockState::Received && block.settled;
        let list = (0u32..).zip(&active.blocks).filter(|(_, block)| settled(block));
        list.map(|(at, _)| self.span(piece, at)).collect()
    }

    /// Whether storage holds all blocks of an active piece, some of them unverified, and is not known to hold wrong ones.
    pub(super) fn is_settled(&self, piece: u32) -> bool {
        let settled = self.active.get(&piece).filter(|active| active.settled > 0 && active.settled == active.left);
        settled.is_some_and(|active| active.isolated.as_ref().is_none_or(|isolation| !isolation.is_put_off()))
    }

    /// Who delivered a received block.
    pub(super) fn deliverer(&self, number: u32) -> Option<Arc<PeerIdentity>> {
        let (piece, block) = self.place(number);
        Some(self.block(piece, block)?.from.clone()?.1)
    }

    /// Whether storage was given the block as it came over `conn` and has not answered. Answers to what was given up
    /// meanwhile are stale.
    pub(super) fn awaits_verdict(&self, number: u32, conn: ConnId) -> bool {
        let (piece, block) = self.place(number);
        self.block(piece, block).is_some_and(|block| {
            block.state == BlockState::Received
                && !block.settled
                && block.from.as_ref().is_some_and(|(from, _)| *from == conn)
        })
    }

    /// A block is verified in storage. Whether its piece is complete by that.
    pub(super) fn verified(&mut self, number: u32) -> bool {
        let (piece, block) = self.place(number);
        if !self.verified.insert(number) {
            return false;
        }
        self.verified_bytes += u64::from(self.span(piece, block).len);
        if let Some((active, at)) = self.block_mut(number) {
            let block = &mut active.blocks[at];
            active.gaps.set(at, false);
            active.settled -= u32::from(block.settled);
            active.left -= 1;
            block.state = BlockState::Verified;
            (block.settled, block.from) = (false, None);
            if active.gaps.count() == 0 {
                self.open.remove(&piece);
            }
        }
        let first = self.number(piece, 0);
        let blocks = self.blocks_in(piece);
        let complete = match self.active.get(&piece) {
            Some(active) => active.left == 0,
            None => (first..first + blocks).all(|number| self.verified.contains(number)),
        };
        complete && self.have.insert(piece)
    }

    /// A block is missing again, unless it is padding. Whether it was verified.
    pub(super) fn set_missing(&mut self, number: u32) -> bool {
        if self.is_padding(number) {
            return false;
        }
        let (piece, block) = self.place(number);
        let was_verified = self.verified.remove(number);
        if was_verified {
            self.verified_bytes -= u64::from(self.span(piece, block).len);
            self.have.remove(piece);
        }
        let Some((active, at)) = self.block_mut(number) else { return was_verified };
        let block = &mut active.blocks[at];
        if block.state != BlockState::Missing {
            active.left += u32::from(block.state == BlockState::Verified);
            active.settled -= u32::from(block.settled);
            // Copies still in flight keep it requested.
            block.state = if block.is_asked() { BlockState::Requested } else { BlockState::Missing };
            (block.settled, block.from) = (false, None);
            if block.state == BlockState::Missing {
                active.gaps.set(at, true);
                self.open.insert(piece);
            }
        }
        was_verified
    }

    /// Drops the bookkeeping of a piece that has nothing requested or received. What was learnt of its failures and
    /// of leaves that nobody tells is kept until it is complete.
    pub(super) fn retire(&mut self, piece: u32) {
        let Some(active) = self.active.get(&piece) else { return };
        let at_rest = |b: &Block| matches!(b.state, BlockState::Missing | BlockState::Verified) && !b.is_asked();
        let learnt =
            active.isolated.is_some() || active.leaves == Leaves::Unavailable || active.leaves == Leaves::Asked;
        let kept = learnt && !self.has(piece);
        if !kept && active.checking.is_none() && active.blocks.iter().all(at_rest) {
            self.active.remove(&piece);
            self.open.remove(&piece);
        }
    }

    /// Received blocks of a piece, by number.
    pub(super) fn received_blocks(&self, piece: u32) -> Vec<u32> {
        let Some(active) = self.active.get(&piece) else { return Vec::new() };
        let list = (0u32..).zip(&active.blocks).filter(|(_, block)| block.state == BlockState::Received);
        list.map(|(at, _)| self.number(piece, at)).collect()
    }
}

#[cfg(test)]
mod tests;
