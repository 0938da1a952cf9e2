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

/// What tells copies of a block apart: the first half of its BLAKE3 hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockDigest(pub [u8; 16]);

/// What became of a piece that storage was asked to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PieceOutcome {
    /// Its hash matched: all its blocks are verified now.
    Verified,
    /// [`PieceOutcome::Verified`], of a piece that had failed before.
    VerifiedAfter {
        /// What each of its blocks is, in order: whoever sent another one sent wrong bytes.
        digests: Vec<BlockDigest>,
    },
    /// Its hash did not match, and leaf hashes to blame blocks with are not known.
    Corrupt {
        /// What each of its blocks is now, in order.
        digests: Vec<BlockDigest>,
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
