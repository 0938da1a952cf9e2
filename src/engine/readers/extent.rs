//! Blocks that follow each other in a file.

use std::ops::Range;

use crate::engine::pieces::{BlockState, PieceManager};
use crate::types::FileIndex;

/// Blocks that follow each other in a file: possibly part of the first piece, all between, part of the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::engine) struct Extent {
    pub(in crate::engine) pieces: Range<u32>,
    /// First block in the first piece.
    pub(super) from: u32,
    /// One past the last block in the last piece.
    to: u32,
}

impl Extent {
    /// The blocks that bytes of a file touch.
    pub(super) fn new(pieces: &PieceManager, file: FileIndex, bytes: Range<u64>) -> Self {
        let layout = pieces.layout();
        let range = layout.pieces_of_range(file, bytes.clone());
        let Some(last) = range.end.checked_sub(1).filter(|last| *last >= range.start) else { return Self::default() };
        let first = layout.blocks_of_range(file, bytes.clone()).next().map_or(0, |span| span.block().0);
        let end = bytes.end.min(layout.file_length(file));
        let at_end = layout.blocks_of_range(file, end.saturating_sub(1)..end).next();
        let to = at_end.map_or_else(|| pieces.blocks_in(last), |span| span.block().0 + 1);
        Self { pieces: range, from: first, to }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The blocks of `piece` that are to be fetched: more than the extent's own where only whole pieces verify.
    pub(in crate::engine) fn wanted_in(&self, piece: u32, pieces: &PieceManager) -> Range<u32> {
        if !self.pieces.contains(&piece) {
            return 0..0;
        }
        if pieces.needs_whole(piece) { 0..pieces.blocks_in(piece) } else { self.own_in(piece, pieces) }
    }

    /// Blocks of the extent itself that are not verified.
    pub(super) fn missing(&self, pieces: &PieceManager) -> Vec<u32> {
        let numbers = self.pieces.clone().flat_map(|piece| {
            let own = self.own_in(piece, pieces);
            own.map(move |block| pieces.number(piece, block))
        });
        numbers.filter(|number| !pieces.is_verified(*number)).collect()
    }

    /// Blocks of the extent that were asked for and have not come.
    pub(super) fn on_their_way<'a>(&self, pieces: &'a PieceManager) -> impl Iterator<Item = u32> + use<'a> {
        let extent = self.clone();
        let open = self.pieces.clone().filter(|piece| pieces.active(*piece).is_some());
        let all =
            open.flat_map(move |piece| extent.wanted_in(piece, pieces).map(move |block| pieces.number(piece, block)));
        all.filter(|number| pieces.state(*number) == BlockState::Requested)
    }

    pub(super) fn own_in(&self, piece: u32, pieces: &PieceManager) -> Range<u32> {
        let from = if piece == self.pieces.start { self.from } else { 0 };
        let to = if piece + 1 == self.pieces.end { self.to } else { pieces.blocks_in(piece) };
        from..to
    }
}
