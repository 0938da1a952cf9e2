//! Which pieces to give up first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The queue of all pieces in the cache, those longest unused first.
///
/// A use only writes the time to the piece itself. The queue holds the time that it last saw; whoever takes a piece
/// out compares and puts a piece that was used since back in. So a use costs one store, and each piece moves at most
/// once for all its uses between two evictions.
#[derive(Default)]
pub(super) struct Lru(BinaryHeap<Reverse<Queued>>);

/// A piece in the queue: ordered by time, the rest only makes the order total.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Queued {
    /// When it was last seen to be used, in microseconds of Unix time.
    pub(super) used_us: u64,
    /// The number of the object.
    pub(super) object: u32,
    /// The piece, counted from the start of the object.
    pub(super) piece: u32,
}

impl Lru {
    /// A queue of `pieces`, in any order.
    pub(super) fn new(pieces: Vec<Queued>) -> Self {
        Self(pieces.into_iter().map(Reverse).collect())
    }

    pub(super) fn push(&mut self, piece: Queued) {
        self.0.push(Reverse(piece));
    }

    pub(super) fn pop(&mut self) -> Option<Queued> {
        self.0.pop().map(|Reverse(piece)| piece)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
