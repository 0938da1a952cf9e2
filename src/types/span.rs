//! Positions and lengths inside a torrent.

use std::ops::Range;

/// Bytes of a block: the unit of requests on the wire and the leaf of hash trees.
pub const BLOCK_LEN: u32 = 16 * 1024;

/// Index of a piece in its torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PieceIndex(pub u32);

/// Index of a 16 KiB block in its piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockIndex(pub u32);

/// Index of a file in its torrent, in the order of the metainfo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileIndex(pub u32);

/// A torrent of this node, for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TorrentKey(pub u32);

/// An open handle that reads: has a position and a read-ahead window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReaderId(pub u64);

/// One read that waits for blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReadId(pub u64);

/// Bytes `begin .. begin + len` of a piece: what `request`, `piece` and `cancel` name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockSpan {
    /// The piece.
    pub piece: PieceIndex,
    /// First byte, counted from the start of the piece.
    pub begin: u32,
    /// Bytes.
    pub len: u32,
}

impl BlockSpan {
    /// The block that the span starts in.
    pub fn block(&self) -> BlockIndex {
        BlockIndex(self.begin / BLOCK_LEN)
    }

    /// One past the last byte, counted from the start of the piece. Wider than the fields: it cannot overflow.
    pub fn end(&self) -> u64 {
        u64::from(self.begin) + u64::from(self.len)
    }
}

/// Part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileSlice {
    /// The file.
    pub file: FileIndex,
    /// First byte, counted from the start of the file.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

impl FileSlice {
    /// The bytes of the file that the slice covers.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + u64::from(self.len)
    }
}
