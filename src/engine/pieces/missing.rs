//! What is missing: neither verified nor asked for nor received.

use super::PieceManager;

impl PieceManager {
    /// The first missing block of `piece` in `from..to`.
    pub(in crate::engine) fn next_missing(&self, piece: u32, from: u32, to: u32) -> Option<u32> {
        if self.has(piece) {
            return None;
        }
        let to = to.min(self.blocks_in(piece));
        match self.active.get(&piece) {
            Some(active) => active.gaps.next(from, to),
            None => (from..to).find(|block| !self.is_verified(self.number(piece, *block))),
        }
    }

    /// How many missing blocks `from..to` of a piece has, `most` at most, and where the last one that counts is.
    pub(in crate::engine) fn pass_over(&self, piece: u32, from: u32, to: u32, most: u32) -> (u32, Option<u32>) {
        match self.active.get(&piece) {
            Some(active) => active.gaps.pass_over(from, to, most),
            None => {
                let missing = (from..to).filter(|block| !self.is_verified(self.number(piece, *block)));
                missing.take(most as usize).fold((0, None), |(passed, _), block| (passed + 1, Some(block)))
            }
        }
    }
}
