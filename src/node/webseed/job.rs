//! Requests for blocks that follow each other, as requests for parts of files.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::metainfo::{Layout, Part};
use crate::types::{BlockIndex, BlockSpan, FileIndex, PieceIndex};

/// Bytes that are fetched with one request.
const MAX_LEN: u64 = 4 << 20;

/// What is fetched at once, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    /// The blocks, end to end.
    pub(super) spans: VecDeque<BlockSpan>,
    /// What they are made of.
    pub(super) steps: Vec<Step>,
}

/// Bytes of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Part of a file: to be fetched.
    Fetch { file: FileIndex, range: Range<u64> },
    /// Padding.
    Zeros(u32),
}

impl Job {
    /// Takes the first request out of the queue, and those for what follows it in the same file.
    pub(super) fn take(queue: &mut VecDeque<BlockSpan>, layout: &Layout) -> Option<Self> {
        let first = queue.pop_front()?;
        let mut job = Self { spans: VecDeque::new(), steps: Vec::new() };
        let (mut next, mut len) = (Some(first), 0);
        while let Some(span) = next {
            job.push(span, layout);
            len += u64::from(span.len);
            next = following(span, layout).filter(|next| len < MAX_LEN && job.goes_on_with(*next, layout));
            next = next.and_then(|next| queue.remove(queue.iter().position(|queued| *queued == next)?));
        }
        Some(job)
    }

    fn push(&mut self, span: BlockSpan, layout: &Layout) {
        self.spans.push_back(span);
        for part in layout.parts(span) {
            match (self.steps.last_mut(), part) {
                (Some(Step::Fetch { file, range }), Part::File(slice))
                    if *file == slice.file && range.end == slice.offset =>
                {
                    range.end = slice.range().end;
                }
                (_, Part::File(slice)) => self.steps.push(Step::Fetch { file: slice.file, range: slice.range() }),
                (_, Part::Padding(len)) => self.steps.push(Step::Zeros(len)),
            }
        }
    }

    /// Whether a block begins in the file that the job ends in.
    fn goes_on_with(&self, span: BlockSpan, layout: &Layout) -> bool {
        let (Some(Step::Fetch { file, range }), Some(Part::File(slice))) =
            (self.steps.last(), layout.parts(span).next())
        else {
            return false;
        };
        *file == slice.file && range.end == slice.offset
    }
}

/// The block behind another.
fn following(span: BlockSpan, layout: &Layout) -> Option<BlockSpan> {
    let in_piece = layout.block_span(span.piece, BlockIndex(span.block().0 + 1));
    let next = if in_piece.len > 0 {
        in_piece
    } else {
        layout.block_span(PieceIndex(span.piece.0.checked_add(1)?), BlockIndex(0))
    };
    (next.len > 0).then_some(next)
}

/// Cuts bytes into blocks.
#[derive(Debug)]
pub(super) struct Cutter {
    spans: VecDeque<BlockSpan>,
    block: BytesMut,
}

impl Cutter {
    pub(super) fn new(spans: VecDeque<BlockSpan>) -> Self {
        Self { spans, block: BytesMut::new() }
    }

    /// The next bytes; the blocks that are complete with them.
    pub(super) fn push(&mut self, mut bytes: Bytes) -> Vec<(BlockSpan, Bytes)> {
        let mut complete = Vec::new();
        while let Some(span) = self.spans.front().copied().filter(|_| !bytes.is_empty()) {
            let missing = span.len as usize - self.block.len();
            self.block.extend_from_slice(&bytes.split_to(missing.min(bytes.len())));
            if self.block.len() == span.len as usize {
                self.spans.pop_front();
                complete.push((span, self.block.split().freeze()));
            }
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metainfo::Run;
    use crate::types::BLOCK_LEN;

    fn all(layout: &Layout) -> VecDeque<BlockSpan> {
        let pieces = (0..layout.piece_count()).map(PieceIndex);
        pieces
            .flat_map(|piece| (0..layout.blocks_in(piece)).map(move |at| layout.block_span(piece, BlockIndex(at))))
            .collect()
    }

    fn jobs(mut queue: VecDeque<BlockSpan>, layout: &Layout) -> Vec<Job> {
        std::iter::from_fn(|| Job::take(&mut queue, layout)).collect()
    }

    fn fetch(file: u32, range: Range<u64>) -> Step {
        Step::Fetch { file: FileIndex(file), range }
    }

    #[test]
    fn neighbours_make_one_request_whatever_their_order_and_the_first_comes_first() {
        let layout = Layout::new(4 * BLOCK_LEN, true, &[10 * u64::from(BLOCK_LEN) + 5, 100]).unwrap();
        let mut queue = all(&layout);
        let block = u64::from(BLOCK_LEN);
        assert_eq!(jobs(queue.clone(), &layout)[0].steps, [fetch(0, 0..10 * block + 5)]);
        queue.make_contiguous().reverse();
        let got: Vec<_> = jobs(queue, &layout).into_iter().map(|job| job.steps).collect();
        assert_eq!(got[0], [fetch(1, 0..100)]);
        assert_eq!(got[1], [fetch(0, 10 * block..10 * block + 5)], "what is asked first is not held up");
        let mut queue = all(&layout);
        queue.make_contiguous()[3..].reverse();
        assert_eq!(jobs(queue, &layout)[0].steps, [fetch(0, 0..10 * block + 5)]);
    }

    #[test]
    fn no_request_is_for_too_much() {
        let block = u64::from(BLOCK_LEN);
        let layout = Layout::new(64 * BLOCK_LEN, false, &[1000 * block]).unwrap();
        let jobs = jobs(all(&layout), &layout);
        assert_eq!(jobs[0].steps, [fetch(0, 0..MAX_LEN)]);
        assert_eq!(jobs.iter().map(|job| job.spans.len()).sum::<usize>(), 1000);
        assert_eq!(jobs.len() as u64, (1000 * block).div_ceil(MAX_LEN));
    }

    #[test]
    fn small_files_and_padding_are_parts_of_a_block() {
        let runs = [Run::File(10), Run::Padding(6), Run::File(20_000), Run::File(7)];
        let layout = Layout::with_padding(BLOCK_LEN, &runs).unwrap();
        let jobs = jobs(all(&layout), &layout);
        let steps: Vec<_> = jobs.iter().map(|job| job.steps.clone()).collect();
        assert_eq!(steps, [vec![fetch(0, 0..10), Step::Zeros(6), fetch(1, 0..20_000), fetch(2, 0..7)]]);
    }

    #[test]
    fn bytes_are_cut_into_blocks_however_they_come() {
        let layout = Layout::new(2 * BLOCK_LEN, false, &[70_000]).unwrap();
        let bytes: Bytes = (0..70_000u32).map(|at| at as u8).collect::<Vec<_>>().into();
        for step in [1, 1000, 16384, 20_000, 70_000] {
            let mut cutter = Cutter::new(all(&layout));
            let chunks = bytes.chunks(step).map(Bytes::copy_from_slice);
            let blocks: Vec<_> = chunks.flat_map(|chunk| cutter.push(chunk)).collect();
            assert_eq!(blocks.iter().map(|(span, _)| *span).collect::<VecDeque<_>>(), all(&layout));
            assert!(blocks.iter().all(|(span, data)| data.len() == span.len as usize));
            assert_eq!(blocks.iter().flat_map(|(_, data)| data.to_vec()).collect::<Vec<_>>(), bytes);
            assert!(cutter.spans.is_empty());
        }
    }
}
