//! A model of a node's storage: which blocks it holds, and whether they are right.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::{PieceOutcome, Verdict};
use crate::metainfo::Metainfo;
use crate::types::{Bitfield, BlockDigest, BlockIndex, BlockSpan, PieceIndex};

/// The bytes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Bytes {
    Right,
    /// Wrong in one of many ways.
    Wrong(u64),
}

impl Bytes {
    fn digest(self) -> BlockDigest {
        BlockDigest(match self {
            Self::Right => [0xff; 16],
            Self::Wrong(way) => u128::from(way).to_be_bytes(),
        })
    }
}

/// The blocks that a node holds, and what it knows to verify others with.
#[derive(Debug)]
pub(in crate::engine) struct Storage {
    stride: u32,
    verified: Bitfield,
    /// The blocks that could not be verified when they came.
    unverified: BTreeMap<BlockSpan, Bytes>,
    pub(in crate::engine) leaves: BTreeSet<u32>,
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

    pub(super) fn store(&mut self, metainfo: &Metainfo, span: BlockSpan, bytes: Bytes) -> Verdict {
        let single = metainfo.single_leaf(span.piece).is_some();
        if !single && !self.leaves.contains(&span.piece.0) {
            self.unverified.insert(span, bytes);
            return Verdict::Unverified;
        }
        if bytes == Bytes::Right {
            self.verified.insert(self.number(span));
            return Verdict::Verified;
        }
        Verdict::Corrupt
    }

    pub(super) fn check(
        &mut self,
        metainfo: &Metainfo,
        piece: u32,
        spans: &[BlockSpan],
        failed_before: bool,
    ) -> PieceOutcome {
        let is_bad = |span: &&BlockSpan| matches!(self.unverified.get(span), Some(Bytes::Wrong(_)));
        let corrupt: Vec<BlockSpan> = spans.iter().filter(is_bad).copied().collect();
        let known = self.leaves.contains(&piece);
        if !known && !corrupt.is_empty() {
            return PieceOutcome::Corrupt { digests: self.digests(metainfo, piece) };
        }
        for span in spans {
            let held = self.unverified.remove(span);
            assert!(held.is_some() || self.is_verified(*span), "{span:?} was never stored");
            if !corrupt.contains(span) {
                self.verified.insert(self.number(*span));
            }
        }
        match known {
            true => PieceOutcome::Blocks { corrupt },
            false if failed_before => PieceOutcome::VerifiedAfter { digests: self.digests(metainfo, piece) },
            false => PieceOutcome::Verified,
        }
    }

    /// What the blocks of a piece are; those that are verified are right.
    fn digests(&self, metainfo: &Metainfo, piece: u32) -> Vec<BlockDigest> {
        let blocks = 0..metainfo.layout().blocks_in(PieceIndex(piece));
        let span = |block| metainfo.layout().block_span(PieceIndex(piece), BlockIndex(block));
        blocks.map(|block| self.unverified.get(&span(block)).copied().unwrap_or(Bytes::Right).digest()).collect()
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
