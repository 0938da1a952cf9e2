//! What storage says about blocks and pieces that it was given.

use super::BlockSpan;

/// What became of a block that storage was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It matched its leaf hash and can be read.
    Verified,
    /// It was written, but nothing to verify it with is known yet: readers do not see it.
    Unverified,
    /// It did not match its leaf hash and was thrown away.
    Corrupt,
    /// It matched its leaf hash and was the last of its piece, which does not match its v1 hash: the hybrid torrent
    /// contradicts itself.
    Inconsistent,
    /// It could not be kept: it is missing again.
    Failed,
}

/// An attempt at a piece that failed its check, as storage numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttemptId(pub u64);

/// What became of a piece that storage was asked to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PieceOutcome {
    /// Its hash matched: all its blocks are verified now.
    Verified,
    /// [`PieceOutcome::Verified`], and storage still knew what it was in attempts that had failed.
    VerifiedAfter {
        /// The blocks that had been wrong, each with the attempt in which it was; at least one.
        wrong: Vec<(AttemptId, BlockSpan)>,
    },
    /// Its hash did not match, and leaf hashes to blame blocks with are not known.
    Corrupt {
        /// What [`PieceOutcome::VerifiedAfter`] calls this attempt.
        attempt: AttemptId,
    },
    /// Its leaf hashes are known: these blocks did not match, the other received ones are verified now.
    Blocks {
        /// The ones that did not match.
        corrupt: Vec<BlockSpan>,
    },
    /// It is what one form of a hybrid torrent says, and not what the other does.
    Inconsistent,
    /// It could not be read back: all its unverified blocks are missing again.
    Failed,
}
