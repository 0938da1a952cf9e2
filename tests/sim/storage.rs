//! A model of a node's storage: which blocks it holds, and whether they are good.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::{PieceOutcome, Verdict};
use crate::metainfo::Metainfo;
use crate::types::{AttemptId, Bitfield, BlockIndex, BlockSpan, PieceIndex};

/// The blocks that a node holds, and what it knows to verify others with.
#[derive(Debug)]
pub(in crate::engine) struct Storage {
    stride: u32,
    verified: Bitfield,
    /// Whether each block that could not be verified when it came is a good one.
    unverified: BTreeMap<BlockSpan, bool>,
    pub(in crate::engine) leaves: BTreeSet<u32>,
    /// Wrong blocks of pieces that failed as a whole.
    failed: BTreeMap<u32, Vec<(AttemptId, BlockSpan)>>,
    attempts: u64,
}

impl Storage {
    /// Storage that holds these blocks, and padding, which is always there.
    pub(super) fn new(metainfo: &Metainfo, verified: &Bitfield) -> Self {
        let layout = metainfo.layout();
        let mut storage = Self {
            stride: layout.blocks_per_piece(),
            verified: verified.clone(),
            unverified: BTreeMap::new(),
            leaves: BTreeSet::new(),
            failed: BTreeMap::new(),
            attempts: 0,
        };
        storage.add_padding(metainfo);
        storage
    }

    fn add_padding(&mut self, metainfo: &Metainfo) {
        for span in metainfo.layout().padding_blocks() {
            self.verified.insert(self.number(span));
        }
    }

    fn number(&self, span: BlockSpan) -> u32 {
        span.piece.0 * self.stride + span.block().0
    }

    pub(super) fn store(&mut self, metainfo: &Metainfo, span: BlockSpan, good: bool) -> Verdict {
        let single = metainfo.single_leaf(span.piece).is_some();
        if !single && !self.leaves.contains(&span.piece.0) {
            self.unverified.insert(span, good);
            return Verdict::Unverified;
        }
        if good {
            self.verified.insert(self.number(span));
            return Verdict::Verified;
        }
        Verdict::Corrupt
    }

    pub(super) fn check(&mut self, piece: u32, spans: &[BlockSpan]) -> PieceOutcome {
        let is_bad = |span: &&BlockSpan| self.unverified.get(span) == Some(&false);
        let corrupt: Vec<BlockSpan> = spans.iter().filter(is_bad).copied().collect();
        let known = self.leaves.contains(&piece);
        if !known && !corrupt.is_empty() {
            self.attempts += 1;
            let attempt = AttemptId(self.attempts);
            self.failed.entry(piece).or_default().extend(corrupt.into_iter().map(|span| (attempt, span)));
            return PieceOutcome::Corrupt { attempt };
        }
        for span in spans {
            let held = self.unverified.remove(span);
            assert!(held.is_some() || self.is_verified(*span), "{span:?} was never stored");
            if !corrupt.contains(span) {
                self.verified.insert(self.number(*span));
            }
        }
        match self.failed.remove(&piece) {
            _ if known => PieceOutcome::Blocks { corrupt },
            Some(wrong) => PieceOutcome::VerifiedAfter { wrong },
            None => PieceOutcome::Verified,
        }
    }

    pub(in crate::engine) fn is_verified(&self, span: BlockSpan) -> bool {
        self.verified.contains(self.number(span))
    }

    pub(super) fn verified_bytes(&self, metainfo: &Metainfo) -> u64 {
        let place = |number| (PieceIndex(number / self.stride), BlockIndex(number % self.stride));
        let len = |(piece, block)| u64::from(metainfo.layout().block_span(piece, block).len);
        self.verified.iter().map(place).map(len).sum()
    }

    /// Pieces of which something is verified.
    pub(super) fn pieces(&self) -> BTreeSet<u32> {
        self.verified.iter().map(|number| number / self.stride).collect()
    }

    /// Gives a piece up.
    pub(super) fn evict(&mut self, metainfo: &Metainfo, piece: u32) {
        for number in piece * self.stride..(piece + 1) * self.stride {
            self.verified.remove(number);
        }
        self.unverified.retain(|span, _| span.piece.0 != piece);
        self.leaves.remove(&piece);
        self.add_padding(metainfo);
    }
}
