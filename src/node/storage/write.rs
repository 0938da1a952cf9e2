//! Writing blocks that came from peers: verified one by one, written in runs.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;

use super::cached::Cached;
use super::object::{Object, flag};
use super::shared::{Shared, lock};
use crate::metainfo::Part;
use crate::types::{BlockSpan, Verdict};

/// A block that is to be kept.
struct Kept<'a> {
    object: &'a Arc<Object>,
    /// Counted in pieces of the object.
    block: BlockSpan,
    data: &'a Bytes,
    verified: bool,
    /// Its place in the batch.
    at: usize,
}

impl Kept<'_> {
    /// Whether `next` lies right behind this block in the same piece.
    fn is_followed_by(&self, next: &Self) -> bool {
        self.object.id == next.object.id
            && self.block.piece == next.block.piece
            && self.block.end() == u64::from(next.block.begin)
    }
}

impl Cached {
    /// Keeps blocks; what became of each, in their order. Blocks that follow each other are written at once.
    pub(super) fn write_blocks(&self, blocks: &[(BlockSpan, Bytes)]) -> Vec<Verdict> {
        let mut kept = Vec::with_capacity(blocks.len());
        let mut verdicts = Vec::with_capacity(blocks.len());
        for (span, data) in blocks {
            verdicts.push(self.judge(verdicts.len(), *span, data, &mut kept));
        }
        // Stable: of two copies of a block the later one is written last.
        kept.sort_by_key(|kept| (kept.object.id, kept.block.piece, kept.block.begin));
        for run in kept.chunk_by(|block, next| block.is_followed_by(next)) {
            if self.shared.store(run) {
                continue;
            }
            let is_contradiction = run.first().is_some_and(|kept| self.contradicts(kept.object, kept.block.piece));
            let verdict = if is_contradiction { Verdict::Inconsistent } else { Verdict::Failed };
            run.iter().for_each(|kept| verdicts[kept.at] = verdict);
        }
        verdicts
    }

    /// Verifies a block, and adds it to `kept` if it is to be written.
    fn judge<'a>(&'a self, at: usize, span: BlockSpan, data: &'a Bytes, kept: &mut Vec<Kept<'a>>) -> Verdict {
        if !self.metainfo.layout().is_block(span) || data.len() != span.len as usize {
            return Verdict::Failed;
        }
        let Some((object, own)) = self.locate_or_make(span.piece) else { return Verdict::Failed };
        let block = BlockSpan { piece: own, ..span };
        if self.has_verified(object, block) {
            return Verdict::Verified;
        }
        let leaves = self.shared.leaves_in_memory(object, own);
        let leaf = match &leaves {
            Some(leaves) => leaves.get(span.block().0 as usize).copied(),
            None => self.metainfo.single_leaf(span.piece),
        };
        let verdict = match leaf {
            Some(leaf) if self.metainfo.leaf_hash(span, data) != Some(leaf) => return Verdict::Corrupt,
            Some(_) => Verdict::Verified,
            None => Verdict::Unverified,
        };
        kept.push(Kept { object, block, data, verified: verdict == Verdict::Verified, at });
        verdict
    }
}

impl Shared {
    /// Keeps a run of blocks: on the disk, or in memory if the disk has no room. False if it is kept, but does not
    /// complete its piece as its v1 hash says.
    fn store(&self, run: &[Kept<'_>]) -> bool {
        self.make_room(run.iter().map(|kept| kept.object.room(kept.block)).sum());
        let mut result = self.try_write(run);
        if result.is_err() && self.evict_for_write() {
            result = self.try_write(run);
        }
        let error = match result {
            Ok(agrees) => return agrees,
            Err(error) => error,
        };
        self.warn_once("write", || {
            format!("cannot write to the cache ({error}): reads go on, but what they fetch is not kept")
        });
        let mut agrees = true;
        for Kept { object, block, data, verified, .. } in run {
            let stripe = lock(self.stripe(object, block.piece));
            // What was there before may be overwritten in part.
            object.clear_block(*block);
            let pushed_out = self.overlay.put(object, *block, without_padding(object, *block, data), false);
            if *verified {
                agrees &= self.mark_verified(object, block.piece, &[*block]);
            }
            drop(stripe);
            self.mark_dirty(object, block.piece);
            for out in pushed_out {
                self.tell_lost(&out.object, out.piece);
            }
        }
        agrees
    }

    /// Writes a run; [`Self::store`].
    fn try_write(&self, run: &[Kept<'_>]) -> io::Result<bool> {
        let Some(Kept { object, block: BlockSpan { piece, .. }, .. }) = run.first() else { return Ok(true) };
        let (piece, slot) = (*piece, object.slot(*piece));
        let stripe = lock(self.stripe(object, piece));
        // A piece that is given up right now keeps its room.
        slot.clear(flag::EVICTING);
        self.write_run(object, run)?;
        self.charge(object, piece, run.iter().map(|kept| object.set_written(kept.block)).sum());
        run.iter().for_each(|kept| self.overlay.remove(object, kept.block));
        let verified: Vec<_> = run.iter().filter(|kept| kept.verified).map(|kept| kept.block).collect();
        let agrees = self.mark_verified(object, piece, &verified);
        self.touch(object, piece, self.now_us());
        self.list(object, piece);
        drop(stripe);
        self.mark_dirty(object, piece);
        if self.is_nearly_full() {
            self.wake(|wake| wake.room = true);
        }
        Ok(agrees)
    }

    /// Writes a run to its place, one write for each file.
    fn write_run(&self, object: &Arc<Object>, run: &[Kept<'_>]) -> io::Result<()> {
        let Some(first) = run.first() else { return Ok(()) };
        let len = run.iter().map(|kept| kept.block.len).sum();
        let mut data = Chain { rest: &[], blocks: run };
        for part in object.layout().parts(BlockSpan { len, ..first.block }) {
            match part {
                Part::Padding(len) => drop(data.take(len as usize)),
                Part::File(slice) => {
                    let file = self.file_to_write(object, slice.file)?;
                    self.files.write(&file, &mut data.take(slice.len as usize), slice.offset)?;
                    self.mark_changed(object, slice.file);
                }
            }
        }
        Ok(())
    }
}

/// A block in memory of its own: it may be a part of a larger buffer, which would be kept with it. What a peer says that
/// padding is counts for nothing.
fn without_padding(object: &Object, block: BlockSpan, data: &[u8]) -> Bytes {
    let mut own = data.to_vec();
    let mut at = 0;
    for part in object.layout().parts(block) {
        at += match part {
            Part::File(slice) => slice.len as usize,
            Part::Padding(len) => {
                own[at..].iter_mut().take(len as usize).for_each(|byte| *byte = 0);
                len as usize
            }
        };
    }
    own.into()
}

/// The bytes of a run that are left to be written.
struct Chain<'a> {
    rest: &'a [u8],
    blocks: &'a [Kept<'a>],
}

impl<'a> Chain<'a> {
    /// The next `len` bytes.
    fn take(&mut self, mut len: usize) -> Vec<IoSlice<'a>> {
        let mut parts = Vec::with_capacity(self.blocks.len() + 1);
        while len > 0 {
            if self.rest.is_empty() {
                let Some((next, later)) = self.blocks.split_first() else { break };
                (self.rest, self.blocks) = (next.data, later);
            }
            let (now, later) = self.rest.split_at(len.min(self.rest.len()));
            parts.push(IoSlice::new(now));
            self.rest = later;
            len -= now.len();
        }
        parts
    }
}
