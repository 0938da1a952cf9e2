//! Blocks of objects in files: reading, writing, and looking at a file before it is used for the first time.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, MutexGuard};

use super::object::{DISK_BLOCK, Object, blocks_of_piece, blocks_of_span, flag};
use super::shared::{Shared, lock};
use crate::cache::DiskFile;
use crate::metainfo::Part;
use crate::types::{BlockSpan, FileIndex, FileSlice, PieceIndex};

impl Shared {
    /// The cache file, for reading. Before its first use in this process it is compared with the index.
    pub(super) fn file(&self, object: &Arc<Object>, file: FileIndex) -> io::Result<Arc<DiskFile>> {
        if !object.is_checked(file) {
            self.check_file(object, file)?;
        }
        self.files.existing(object.file_id(file), || object.place(file))
    }

    /// The cache file, for writing; made if it does not exist.
    pub(super) fn file_to_write(&self, object: &Arc<Object>, file: FileIndex) -> io::Result<Arc<DiskFile>> {
        if !object.is_checked(file) {
            self.check_file(object, file)?;
        }
        match self.files.existing(object.file_id(file), || object.place(file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Where something is verified in it, somebody removed it: a new file has holes there.
                self.suspect_file(object, file, false);
                let length = object.layout().file_length(file);
                self.files.create(object.file_id(file), length, || object.place(file))
            }
            other => other,
        }
    }

    /// Compares a file with what the index says of it. If it was changed by somebody else, or by a node that was
    /// killed before it could tell the index, then all that is verified in it is verified again before it is used.
    pub(super) fn check_file(&self, object: &Arc<Object>, file: FileIndex) -> io::Result<()> {
        let mut stamps = lock(&object.stamps);
        if object.is_checked(file) {
            return Ok(());
        }
        let expected = stamps.iter().position(|(index, _)| *index == file.0).map(|at| stamps.swap_remove(at).1);
        let found = match self.files.existing(object.file_id(file), || object.place(file)) {
            Ok(handle) => Some(handle.stamp()?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if found.is_none() || found != expected {
            self.suspect_file(object, file, found.is_some());
        }
        if found.is_some_and(|found| found.size != object.layout().file_length(file)) {
            // Opened again by whoever reads or writes it next, with its right length.
            self.files.close(object.file_id(file));
            self.files.create(object.file_id(file), object.layout().file_length(file), || object.place(file))?;
            self.mark_changed(object, file);
        }
        object.set_checked(file);
        Ok(())
    }

    /// Has all that is here of a file verified again, and gives room back that nobody counts: blocks that a killed
    /// node had not told the index of.
    pub(super) fn suspect_file(&self, object: &Arc<Object>, file: FileIndex, exists: bool) {
        for piece in object.layout().pieces_of(file).map(PieceIndex) {
            let slot = object.slot(piece);
            if slot.has(flag::LISTED) {
                if slot.set(flag::SUSPECT) {
                    self.mark_dirty(object, piece);
                }
            } else if exists && !object.real_blocks(piece).any(|block| object.is_written(block)) {
                let whole = BlockSpan { piece, begin: 0, len: object.layout().piece_len(piece) };
                let slices = object.layout().slices(whole).filter(|slice| slice.file == file);
                for slice in slices {
                    if let Ok(handle) = self.files.existing(object.file_id(file), || object.place(file)) {
                        // Only room: nothing in it is used.
                        let _ = self.punch_slice(object, &handle, slice);
                    }
                }
            }
        }
        if exists {
            self.mark_changed(object, file);
        }
    }

    /// Gives the room of a part of a file, from the start to the end of the file or a piece, back to the disk; under
    /// the stripe of its piece. The filesystem gives room in blocks: that of the first and last one too, unless they
    /// hold something of the pieces before and after.
    pub(super) fn punch_slice(&self, object: &Arc<Object>, file: &DiskFile, slice: FileSlice) -> io::Result<()> {
        let Range { start, end } = slice.range();
        let (outer_start, outer_end) = (start - start % DISK_BLOCK, end.next_multiple_of(DISK_BLOCK));
        let before = self.hold_unwritten(object, slice.file, outer_start..start);
        let after = self.hold_unwritten(object, slice.file, end..outer_end);
        let from = if before.is_some() { outer_start } else { start };
        let to = if after.is_some() { outer_end } else { end };
        file.punch(from, to - from)
    }

    /// Keeps everybody from writing to a range of a file, if nothing in it is written and nobody is at it.
    fn hold_unwritten(
        &self,
        object: &Arc<Object>,
        file: FileIndex,
        range: Range<u64>,
    ) -> Option<Vec<MutexGuard<'_, ()>>> {
        let pieces = object.layout().pieces_of_range(file, range.clone()).map(PieceIndex);
        let held = pieces.map(|piece| self.stripe(object, piece).try_lock().ok()).collect::<Option<Vec<_>>>()?;
        let written = object.layout().blocks_of_range(file, range).any(|block| object.is_written(block));
        (!written).then_some(held)
    }

    /// Appends parts of files, and padding, to `buf`.
    pub(super) fn read_parts(
        &self,
        object: &Arc<Object>,
        parts: impl Iterator<Item = Part>,
        buf: &mut Vec<u8>,
    ) -> io::Result<()> {
        for part in parts {
            match part {
                Part::Padding(len) => buf.resize(buf.len() + len as usize, 0),
                Part::File(slice) => {
                    self.file(object, slice.file)?.read_into(buf, slice.len as usize, slice.offset)?;
                }
            }
        }
        Ok(())
    }

    /// The bytes of a block that is written or in the overlay, verified or not, appended to `buf`; false if it is
    /// neither.
    pub(super) fn read_written(&self, object: &Arc<Object>, block: BlockSpan, buf: &mut Vec<u8>) -> io::Result<bool> {
        if object.is_written(block) {
            self.read_parts(object, object.layout().parts(block), buf)?;
            return Ok(true);
        }
        let held = self.overlay.get(object, block);
        if let Some((data, _)) = &held {
            buf.extend_from_slice(data);
        }
        Ok(held.is_some())
    }

    /// [`Self::read_written`] for whole blocks of a piece, at once where none of them is in the overlay.
    pub(super) fn read_written_span(
        &self,
        object: &Arc<Object>,
        span: BlockSpan,
        buf: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let mut blocks = blocks_of_span(object.layout(), span);
        if blocks.clone().all(|block| object.is_written(block)) {
            self.read_parts(object, object.layout().parts(span), buf)?;
            return Ok(true);
        }
        blocks.try_fold(true, |all, block| Ok(all && self.read_written(object, block, buf)?))
    }

    /// The bytes of a verified block, appended to `buf`; false if it is not verified. May be called for pieces that
    /// are given up meanwhile: the caller compares epochs.
    pub(super) fn read_block(&self, object: &Arc<Object>, block: BlockSpan, buf: &mut Vec<u8>) -> io::Result<bool> {
        if object.is_verified(block) {
            self.read_parts(object, object.layout().parts(block), buf)?;
            return Ok(true);
        }
        match self.overlay.get(object, block) {
            Some((data, true)) => {
                buf.extend_from_slice(&data);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Gives up what is verified of a piece, since it is damaged; under its stripe. Its room stays taken until it is
    /// overwritten or evicted.
    pub(super) fn lose(&self, object: &Arc<Object>, piece: PieceIndex) {
        let slot = object.slot(piece);
        self.clear_verified(object, piece);
        slot.clear(flag::SUSPECT);
        lock(&self.leaves).forget(object.id, piece.0);
        for block in blocks_of_piece(object.layout(), piece) {
            self.overlay.remove(object, block);
        }
        self.mark_dirty(object, piece);
    }

    /// The bytes a piece takes on the disk.
    pub(super) fn bytes_of(object: &Object, piece: PieceIndex) -> u64 {
        u64::from(object.slot(piece).bytes.load(SeqCst))
    }
}
