//! Lanes: what is missing of each read and window, and whose turn it is.

use crate::engine::pieces::PieceManager;
use crate::types::{BLOCK_LEN, ReadId, ReaderId};

use super::extent::Extent;

/// What a lane is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A read that is blocked on it.
    Read(ReadId),
    /// What is ahead of a reader.
    Window,
    /// One end of a file that somebody began to play.
    End,
}

/// Missing blocks of a read, or of what is wanted ahead of one, in order.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Lane {
    pub(in crate::engine) reader: ReaderId,
    pub(super) kind: Kind,
    pub(super) extent: Extent,
    /// No block before this one, of a piece, is missing.
    pub(super) cursor: (u32, u32),
    /// Byte offset of a read, to order the reads of one reader.
    pub(super) offset: u64,
}

impl Lane {
    /// Whether a read is blocked on these.
    pub(in crate::engine) fn is_blocked(&self) -> bool {
        matches!(self.kind, Kind::Read(_))
    }

    /// Brings the cursor up to date.
    pub(super) fn advance(&mut self, pieces: &PieceManager) {
        while !self.is_done() {
            let wanted = self.extent.wanted_in(self.cursor.0, pieces);
            if let Some(block) = pieces.next_missing(self.cursor.0, wanted.start.max(self.cursor.1), wanted.end) {
                self.cursor.1 = block;
                break;
            }
            self.cursor = (self.cursor.0 + 1, 0);
        }
    }

    /// How many blocks are missing.
    pub(super) fn missing(&self, pieces: &PieceManager) -> u32 {
        let count = |piece: u32| {
            let wanted = self.extent.wanted_in(piece, pieces);
            pieces.pass_over(piece, wanted.start, wanted.end, u32::MAX).0
        };
        (self.cursor.0..self.extent.pieces.end).filter(|piece| !pieces.has(*piece)).map(count).sum()
    }

    /// Whether nothing of it is missing, as far as the cursor says.
    pub(in crate::engine) fn is_done(&self) -> bool {
        self.cursor.0 >= self.extent.pieces.end
    }

    /// The first place to look at.
    pub(in crate::engine) fn start(&self) -> (u32, u32) {
        self.cursor
    }

    /// The first missing block at or after `place`, in pieces that `usable` accepts.
    pub(in crate::engine) fn next(
        &self,
        place: (u32, u32),
        pieces: &PieceManager,
        mut usable: impl FnMut(u32) -> bool,
    ) -> Option<(u32, u32)> {
        let place = place.max(self.cursor);
        (place.0..self.extent.pieces.end).filter(|piece| !pieces.has(*piece)).find_map(|piece| {
            let wanted = self.extent.wanted_in(piece, pieces);
            let from = if piece == place.0 { wanted.start.max(place.1) } else { wanted.start };
            let block = pieces.next_missing(piece, from, wanted.end)?;
            usable(piece).then_some((piece, block))
        })
    }

    /// Passes over `most` missing blocks at most, from `place` on, up to the one with the index `until` in the same
    /// piece, and over one at least. How many they are, and the place behind them.
    pub(in crate::engine) fn pass_over(
        &self,
        (piece, block): (u32, u32),
        most: u32,
        until: u32,
        pieces: &PieceManager,
    ) -> (u32, (u32, u32)) {
        let end = self.extent.wanted_in(piece, pieces).end.min(until);
        match pieces.pass_over(piece, block, end, most.max(1)) {
            (passed, Some(last)) if passed == most => (passed, (piece, last + 1)),
            (passed, _) => (passed.max(1), (piece, end.max(block + 1))),
        }
    }

    /// Bytes from the start of the lane to a block, about.
    fn distance(&self, place: (u32, u32), piece_length: u32) -> u64 {
        let ahead = i64::from(place.0.saturating_sub(self.extent.pieces.start)) * i64::from(piece_length)
            + (i64::from(place.1) - i64::from(self.extent.from)) * i64::from(BLOCK_LEN);
        ahead.max(0) as u64
    }
}

/// When a block ahead of a reader is needed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::engine) struct Urgency {
    /// Seconds from now.
    pub(in crate::engine) deadline_s: f64,
    /// Bytes a second at which the reader gets there.
    pub(in crate::engine) rate: f64,
}

impl Urgency {
    /// Of the block at `place` of a lane ahead of a reader that reads at `rate`.
    pub(in crate::engine) fn of(lane: &Lane, place: (u32, u32), rate: f64, piece_length: u32) -> Self {
        Self { deadline_s: lane.distance(place, piece_length) as f64 / rate, rate }
    }

    /// How many blocks a second the reader needs.
    pub(in crate::engine) fn blocks_per_s(&self) -> f64 {
        self.rate / f64::from(BLOCK_LEN)
    }

    /// How many blocks further on the reader gets to what it needs after `deadline_s`.
    pub(in crate::engine) fn blocks_until(&self, deadline_s: f64) -> u32 {
        ((deadline_s - self.deadline_s).max(0.0) * self.blocks_per_s()).ceil() as u32
    }
}

/// A lane that a read is blocked on, in its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::engine) struct Turn {
    pub(super) turn: u64,
    pub(super) offset: u64,
    pub(super) at: usize,
    pub(super) reader: ReaderId,
}

/// In which order lanes are served: those that reads are blocked on come first, by turns of their readers; then what
/// is needed soonest of those ahead.
#[derive(Debug)]
pub(in crate::engine) struct Agenda {
    blocked: Vec<Turn>,
    /// Blocks that reads are blocked on and nobody was asked for.
    missing: u32,
    ahead: Vec<(usize, f64)>,
    /// Readers take turns.
    is_shared: bool,
}

impl Agenda {
    pub(super) fn new(mut blocked: Vec<Turn>, missing: u32, ahead: Vec<(usize, f64)>) -> Self {
        blocked.sort_unstable();
        let is_shared = blocked.first().is_some_and(|first| blocked.iter().any(|turn| turn.reader != first.reader));
        Self { blocked, missing, ahead, is_shared }
    }

    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.blocked.is_empty() && self.ahead.is_empty()
    }

    /// Indices of the lanes that reads are blocked on, in their order.
    pub(in crate::engine) fn blocked(&self) -> impl Iterator<Item = usize> + '_ {
        self.blocked.iter().map(|turn| turn.at)
    }

    /// Blocks that reads are blocked on and nobody was asked for, about.
    pub(in crate::engine) fn missing(&self) -> u32 {
        self.missing
    }

    /// Indices of the lanes ahead of readers, and the bytes a second that those read.
    pub(in crate::engine) fn ahead(&self) -> &[(usize, f64)] {
        &self.ahead
    }

    /// Nothing of a lane is missing any more.
    pub(super) fn drop_lane(&mut self, at: usize) {
        self.blocked.retain(|turn| turn.at != at);
        self.ahead.retain(|(ahead, _)| *ahead != at);
    }

    /// A block of a reader was asked for; its next turn is `turn`.
    pub(super) fn served(&mut self, reader: ReaderId, turn: u64) {
        self.missing = self.missing.saturating_sub(1);
        if self.is_shared {
            self.blocked.iter_mut().filter(|lane| lane.reader == reader).for_each(|lane| lane.turn = turn);
            self.blocked.sort_unstable();
        }
    }
}
