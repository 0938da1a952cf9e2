//! How files lie on pieces.
//!
//! A torrent is a line of bytes cut into pieces of one length. In an *aligned* layout every non-empty file starts
//! at a piece and its last piece is short: the gap behind it is never stored, hashed or requested. Otherwise
//! files lie end to end and only the torrent's last piece is short.
//!
//! BitTorrent v1 fills the gaps between files, where there are any, with *padding* (BEP 47): bytes of no file, which
//! are zeros. They count in pieces and their hashes, and peers may ask for them, but they are never asked for, and
//! nobody has to store them. [`Layout::slices`] leaves them out, [`Layout::parts`] tells where they are.

use std::ops::Range;

use crate::types::{BLOCK_LEN, BlockIndex, BlockSpan, FileIndex, FileSlice, PieceIndex};

/// Where each file's bytes lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    piece_length: u32,
    aligned: bool,
    piece_count: u32,
    total_length: u64,
    /// One past the last byte on the line.
    end: u64,
    files: Vec<Placed>,
    /// Non-empty files by start: what a position is looked up in.
    by_start: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placed {
    /// First byte on the line; `piece index * piece length` in an aligned layout.
    start: u64,
    length: u64,
}

/// What lies on the line, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// The next file, of so many bytes.
    File(u64),
    /// So many zeros that belong to no file.
    Padding(u64),
}

/// Part of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Bytes of a file.
    File(FileSlice),
    /// Zeros, so many.
    Padding(u32),
}

/// Why lengths cannot be laid out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Pieces of no bytes.
    #[error("expected a piece length above 0")]
    ZeroPieceLength,
    /// More pieces than an index can name.
    #[error("expected at most {max} pieces, got {got}: choose a larger piece length", max = u32::MAX)]
    TooManyPieces {
        /// Pieces that the files would take.
        got: u128,
    },
}

impl Layout {
    /// Lays out files of `lengths` bytes, in their order.
    ///
    /// # Errors
    /// When the piece length is 0 or there would be more than 2^32 - 1 pieces.
    pub fn new(piece_length: u32, aligned: bool, lengths: &[u64]) -> Result<Self, LayoutError> {
        Self::place(piece_length, aligned, lengths.iter().map(|length| Run::File(*length)))
    }

    /// Lays out files end to end, with padding between them.
    ///
    /// # Errors
    /// As [`Layout::new`].
    pub fn with_padding(piece_length: u32, runs: &[Run]) -> Result<Self, LayoutError> {
        Self::place(piece_length, false, runs.iter().copied())
    }

    fn place(piece_length: u32, aligned: bool, runs: impl Iterator<Item = Run>) -> Result<Self, LayoutError> {
        if piece_length == 0 {
            return Err(LayoutError::ZeroPieceLength);
        }
        let unit = u128::from(piece_length);
        let (mut end, mut total_length): (u128, u64) = (0, 0);
        let mut files = Vec::with_capacity(runs.size_hint().0);
        for run in runs {
            match run {
                Run::Padding(length) => end += u128::from(length),
                Run::File(length) => {
                    if aligned {
                        end = end.div_ceil(unit) * unit;
                    }
                    files.push(Placed { start: u64::try_from(end).unwrap_or(u64::MAX), length });
                    end += u128::from(length);
                    // Where this does not fit, there are too many pieces.
                    total_length = total_length.saturating_add(length);
                }
            }
        }
        let pieces = end.div_ceil(unit);
        let piece_count = u32::try_from(pieces).map_err(|_| LayoutError::TooManyPieces { got: pieces })?;
        let by_start = (0..files.len() as u32).filter(|&at| files[at as usize].length > 0).collect();
        let end = u64::try_from(end).unwrap_or(u64::MAX);
        Ok(Self { piece_length, aligned, piece_count, total_length, end, files, by_start })
    }

    /// Bytes of every piece but short ones.
    pub fn piece_length(&self) -> u32 {
        self.piece_length
    }

    /// Whether files start at pieces.
    pub fn is_aligned(&self) -> bool {
        self.aligned
    }

    /// Whether each piece is of one file, from the piece's start on: in an aligned layout, and where padding makes the
    /// same grid.
    pub fn has_file_pieces(&self) -> bool {
        let unit = u64::from(self.piece_length);
        let files = self.by_start.iter().map(|&at| self.files[at as usize]);
        let pieces = files.clone().map(|placed| placed.length.div_ceil(unit)).fold(0, u64::saturating_add);
        pieces == u64::from(self.piece_count) && files.into_iter().all(|placed| placed.start.is_multiple_of(unit))
    }

    /// How many pieces there are.
    pub fn piece_count(&self) -> u32 {
        self.piece_count
    }

    /// Bytes of all files.
    pub fn total_length(&self) -> u64 {
        self.total_length
    }

    /// Bytes of all pieces: those of all files, and of the padding between them.
    pub fn pieces_length(&self) -> u64 {
        if self.aligned { self.total_length } else { self.end }
    }

    /// Whether there is padding: zeros that belong to no file.
    pub fn has_padding(&self) -> bool {
        self.pieces_length() > self.total_length
    }

    /// How many files there are, empty ones and other entries of no bytes included.
    pub fn file_count(&self) -> u32 {
        self.files.len() as u32
    }

    /// Bytes of `file`; 0 if there is no such file.
    pub fn file_length(&self, file: FileIndex) -> u64 {
        self.files.get(file.0 as usize).map_or(0, |placed| placed.length)
    }

    /// Bytes of `piece`; 0 if there is no such piece.
    pub fn piece_len(&self, piece: PieceIndex) -> u32 {
        if piece.0 >= self.piece_count {
            return 0;
        }
        let start = self.piece_start(piece);
        let end = match self.aligned {
            true => self.file_at(start).map_or(start, |(_, placed)| placed.start + placed.length),
            false => self.end,
        };
        (end - start).min(u64::from(self.piece_length)) as u32
    }

    /// Blocks of `piece`; the last one may be short.
    pub fn blocks_in(&self, piece: PieceIndex) -> u32 {
        self.piece_len(piece).div_ceil(BLOCK_LEN)
    }

    /// Blocks of a piece of full length: the stride of [`Layout::block_number`].
    pub fn blocks_per_piece(&self) -> u32 {
        self.piece_length.div_ceil(BLOCK_LEN)
    }

    /// A number for every block of the torrent: `piece * blocks_per_piece + block`. Numbers of gaps are unused.
    pub fn block_number(&self, piece: PieceIndex, block: BlockIndex) -> u32 {
        piece.0 * self.blocks_per_piece() + block.0
    }

    /// One past the highest block number; the length of a bitfield of blocks. At most 2^32 - 1 for layouts that
    /// [`crate::metainfo`] accepts, whose pieces are bounded.
    pub fn block_numbers(&self) -> u32 {
        self.piece_count.saturating_mul(self.blocks_per_piece())
    }

    /// Block `block` of `piece`; of 0 bytes if there is no such block.
    pub fn block_span(&self, piece: PieceIndex, block: BlockIndex) -> BlockSpan {
        let begin = block.0.saturating_mul(BLOCK_LEN);
        BlockSpan { piece, begin, len: self.piece_len(piece).saturating_sub(begin).min(BLOCK_LEN) }
    }

    /// Whether `span` has bytes and lies inside its piece.
    pub fn contains(&self, span: BlockSpan) -> bool {
        span.len > 0 && span.end() <= u64::from(self.piece_len(span.piece))
    }

    /// `span` without what of it lies in the gap behind the file, in an aligned layout. Nobody needs to ask for a gap,
    /// but libtorrent does, whose blocks are all of full length; it takes zeros for it.
    pub fn without_gap(&self, span: BlockSpan) -> BlockSpan {
        let len = self.piece_len(span.piece);
        if !self.aligned || span.begin >= len || span.end() > u64::from(self.piece_length) {
            return span;
        }
        BlockSpan { len: span.len.min(len - span.begin), ..span }
    }

    /// Whether `span` is exactly one block of its piece.
    pub fn is_block(&self, span: BlockSpan) -> bool {
        span.begin.is_multiple_of(BLOCK_LEN) && span.len > 0 && self.block_span(span.piece, span.block()) == span
    }

    /// The pieces that `file` touches; empty for an empty file.
    pub fn pieces_of(&self, file: FileIndex) -> Range<u32> {
        self.pieces_of_range(file, 0..self.file_length(file))
    }

    /// The pieces that a range of `file` touches, cut at its end.
    pub fn pieces_of_range(&self, file: FileIndex, range: Range<u64>) -> Range<u32> {
        let Some(placed) = self.files.get(file.0 as usize) else { return 0..0 };
        let (from, to) = (range.start.min(placed.length), range.end.min(placed.length));
        if from >= to {
            return 0..0;
        }
        let unit = u64::from(self.piece_length);
        ((placed.start + from) / unit) as u32..(placed.start + to).div_ceil(unit) as u32
    }

    /// The blocks that a range of `file` touches, in order, the range cut at the file's end.
    pub fn blocks_of_range(&self, file: FileIndex, range: Range<u64>) -> impl Iterator<Item = BlockSpan> + '_ {
        let start = self.files.get(file.0 as usize).map_or(0, |placed| placed.start);
        let length = self.file_length(file);
        let (from, to) = (start + range.start.min(length), start + range.end.min(length));
        self.pieces_of_range(file, range).flat_map(move |piece| {
            let piece = PieceIndex(piece);
            let origin = self.piece_start(piece);
            let first = (from.saturating_sub(origin) / u64::from(BLOCK_LEN)) as u32;
            let in_piece = (to - origin).min(u64::from(self.piece_len(piece)));
            let last = in_piece.div_ceil(u64::from(BLOCK_LEN)) as u32;
            (first..last).map(move |block| self.block_span(piece, BlockIndex(block)))
        })
    }

    /// The parts of files that `span` covers, in order; between them, and around, may be padding. Spans outside the
    /// torrent cover nothing.
    pub fn slices(&self, span: BlockSpan) -> impl Iterator<Item = FileSlice> + '_ {
        let from = self.piece_start(span.piece) + u64::from(span.begin);
        let to = if self.contains(span) { from + u64::from(span.len) } else { from };
        let first = self.by_start.partition_point(|&at| {
            let placed = self.files[at as usize];
            placed.start + placed.length <= from
        });
        self.by_start[first..].iter().map_while(move |&at| {
            let placed = self.files[at as usize];
            let (start, end) = (from.max(placed.start), to.min(placed.start + placed.length));
            (start < end).then(|| FileSlice {
                file: FileIndex(at),
                offset: start - placed.start,
                len: (end - start) as u32,
            })
        })
    }

    /// All that `span` covers, end to end: parts of files, and padding. Spans outside the torrent cover nothing.
    pub fn parts(&self, span: BlockSpan) -> impl Iterator<Item = Part> + '_ {
        let mut at = self.piece_start(span.piece) + u64::from(span.begin);
        let end = if self.contains(span) { at + u64::from(span.len) } else { at };
        let mut slices = self.slices(span).peekable();
        std::iter::from_fn(move || {
            let start = slices.peek().map_or(end, |slice| self.files[slice.file.0 as usize].start + slice.offset);
            if at < start {
                let padding = (start - at) as u32;
                at = start;
                return Some(Part::Padding(padding));
            }
            let slice = slices.next()?;
            at += u64::from(slice.len);
            Some(Part::File(slice))
        })
    }

    /// Whether all of `span` is padding: zeros, to be served but never asked for.
    pub fn is_padding(&self, span: BlockSpan) -> bool {
        self.contains(span) && self.slices(span).next().is_none()
    }

    /// The blocks that are nothing but padding, in order: what is here from the start.
    pub fn padding_blocks(&self) -> impl Iterator<Item = BlockSpan> + '_ {
        let (unit, block) = (u64::from(self.piece_length), u64::from(BLOCK_LEN));
        let files = self.by_start.iter().map(|&at| self.files[at as usize]);
        let starts = files.clone().map(|placed| placed.start).chain([self.end]);
        let gaps = [0].into_iter().chain(files.map(|placed| placed.start + placed.length)).zip(starts);
        let gaps = gaps.filter(|(from, to)| self.has_padding() && from < to);
        gaps.flat_map(move |(from, to)| {
            let pieces = (from / unit) as u32..to.div_ceil(unit) as u32;
            pieces.map(PieceIndex).flat_map(move |piece| {
                let origin = self.piece_start(piece);
                let first = from.saturating_sub(origin).div_ceil(block) as u32;
                let blocks = (first..self.blocks_in(piece)).map(move |at| self.block_span(piece, BlockIndex(at)));
                blocks.take_while(move |span| origin + span.end() <= to)
            })
        })
    }

    /// Where `piece` starts in the file that it belongs to: (file, byte offset). For aligned layouts, in which a
    /// piece belongs to one file.
    pub fn file_of_piece(&self, piece: PieceIndex) -> Option<(FileIndex, u64)> {
        let start = self.piece_start(piece);
        self.file_at(start).map(|(file, placed)| (file, start - placed.start))
    }

    fn piece_start(&self, piece: PieceIndex) -> u64 {
        u64::from(piece.0) * u64::from(self.piece_length)
    }

    /// The non-empty file whose bytes include position `at`.
    fn file_at(&self, at: u64) -> Option<(FileIndex, Placed)> {
        let next = self.by_start.partition_point(|&file| self.files[file as usize].start <= at);
        let file = *self.by_start.get(next.checked_sub(1)?)?;
        let placed = self.files[file as usize];
        (at < placed.start + placed.length).then_some((FileIndex(file), placed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn aligned_files_start_at_pieces() {
        let layout = Layout::new(32768, true, &[1, 0, 40000, 32768]).unwrap();
        assert_eq!(layout.piece_count(), 4);
        let lens: Vec<_> = (0..4).map(|piece| layout.piece_len(PieceIndex(piece))).collect();
        assert_eq!(lens, [1, 32768, 40000 - 32768, 32768]);
        assert_eq!(layout.pieces_of(FileIndex(2)), 1..3);
        assert_eq!(layout.pieces_of(FileIndex(1)), 0..0);
        assert_eq!(layout.file_of_piece(PieceIndex(2)), Some((FileIndex(2), 32768)));
    }

    #[test]
    fn nothing_is_laid_out_beyond_the_index() {
        assert_eq!(Layout::new(0, false, &[1]), Err(LayoutError::ZeroPieceLength));
        assert!(matches!(Layout::new(1, false, &[u64::MAX, u64::MAX]), Err(LayoutError::TooManyPieces { .. })));
    }

    #[test]
    fn a_gap_may_be_asked_for_behind_a_file_only() {
        let layout = Layout::new(32768, true, &[20_000, 5]).unwrap();
        let span = |piece, begin, len| BlockSpan { piece: PieceIndex(piece), begin, len };
        assert_eq!(layout.without_gap(span(0, 16384, 16384)), span(0, 16384, 20_000 - 16384));
        assert_eq!(layout.without_gap(span(1, 0, 16384)), span(1, 0, 5));
        for other in [span(0, 0, 16384), span(1, 5, 5), span(1, 0, 32769), span(0, u32::MAX, 2), span(2, 0, 1)] {
            assert_eq!(layout.without_gap(other), other);
        }
        let v1 = Layout::new(32768, false, &[20_000, 5]).unwrap();
        assert_eq!(v1.without_gap(span(0, 16384, 16384)), span(0, 16384, 16384));
    }

    proptest! {
        #[test]
        fn blocks_and_slices_cover_every_byte_once(
            aligned: bool,
            blocks_per_piece in 1u32..5,
            lengths in prop::collection::vec(prop_oneof![Just(0u64), 1u64..100, 16000u64..16400, 0u64..300_000], 0..8),
        ) {
            let layout = Layout::new(blocks_per_piece * BLOCK_LEN, aligned, &lengths).unwrap();
            let mut seen: Vec<u64> = vec![0; lengths.len()];
            for piece in 0..layout.piece_count() {
                let mut in_piece = 0;
                for block in 0..layout.blocks_in(PieceIndex(piece)) {
                    let span = layout.block_span(PieceIndex(piece), BlockIndex(block));
                    prop_assert!(layout.is_block(span) && layout.contains(span));
                    for slice in layout.slices(span) {
                        prop_assert_eq!(slice.offset, seen[slice.file.0 as usize]);
                        seen[slice.file.0 as usize] += u64::from(slice.len);
                        in_piece += slice.len;
                    }
                }
                prop_assert_eq!(in_piece, layout.piece_len(PieceIndex(piece)));
            }
            prop_assert_eq!(seen, lengths);
            prop_assert!(!layout.has_padding() && layout.padding_blocks().next().is_none());
        }

        #[test]
        fn parts_cover_files_and_padding(
            piece_length in prop_oneof![1000u32..100_000, Just(BLOCK_LEN), Just(4 * BLOCK_LEN)],
            runs in prop::collection::vec(prop_oneof![
                (0u64..100_000).prop_map(Run::File), Just(Run::File(1)), (0u64..200_000).prop_map(Run::Padding),
            ], 0..8),
        ) {
            let layout = Layout::with_padding(piece_length, &runs).unwrap();
            // The line, byte by byte: the file that it belongs to.
            let mut line: Vec<Option<u32>> = Vec::new();
            let mut files = 0;
            for run in &runs {
                match run {
                    Run::File(length) => {
                        line.extend(vec![Some(files); *length as usize]);
                        files += 1;
                    }
                    Run::Padding(length) => line.extend(vec![None; *length as usize]),
                }
            }
            prop_assert_eq!(layout.pieces_length(), line.len() as u64);
            prop_assert_eq!(layout.total_length(), line.iter().flatten().count() as u64);
            let (mut at, mut padding_blocks) = (0, Vec::new());
            for piece in (0..layout.piece_count()).map(PieceIndex) {
                prop_assert!(layout.blocks_in(piece) <= layout.blocks_per_piece());
                for block in 0..layout.blocks_in(piece) {
                    let span = layout.block_span(piece, BlockIndex(block));
                    prop_assert!(layout.is_block(span));
                    let from = at;
                    for part in layout.parts(span) {
                        let (file, len) = match part {
                            Part::File(slice) => (Some(slice.file.0), slice.len),
                            Part::Padding(len) => (None, len),
                        };
                        prop_assert!(len > 0 && line[at..at + len as usize].iter().all(|owner| *owner == file));
                        at += len as usize;
                    }
                    prop_assert_eq!(at - from, span.len as usize);
                    if line[from..at].iter().all(Option::is_none) {
                        padding_blocks.push(span);
                    }
                    prop_assert_eq!(layout.is_padding(span), padding_blocks.last() == Some(&span));
                }
            }
            prop_assert_eq!(at, line.len());
            prop_assert_eq!(layout.padding_blocks().collect::<Vec<_>>(), padding_blocks);
        }

        #[test]
        fn blocks_of_a_range_cover_it(aligned: bool, lengths in prop::collection::vec(0u64..200_000, 1..5), at: u64, len in 0u64..100_000) {
            let layout = Layout::new(2 * BLOCK_LEN, aligned, &lengths).unwrap();
            let file = FileIndex((at % lengths.len() as u64) as u32);
            let from = at % (lengths[file.0 as usize] + 1);
            let mut next = from;
            for span in layout.blocks_of_range(file, from..from + len) {
                let slice = layout.slices(span).find(|slice| slice.file == file).unwrap();
                prop_assert!(slice.offset <= next && slice.range().end > next);
                next = slice.range().end;
            }
            prop_assert!(next >= (from + len).min(lengths[file.0 as usize]));
        }
    }
}
