//! A torrent's blocks in the cache.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

use super::StorageError;
use super::leaves::Leaves;
use super::object::{Object, Owner, Shape, blocks_of_piece, blocks_of_span, flag, root_key, torrent_key};
use super::shared::{Shared, lock};
use crate::cache::Nowait;
use crate::index::IndexError;
use crate::metainfo::{EntryKind, Metainfo, Part};
use crate::types::{Bitfield, BlockSpan, FileIndex, FileSlice, PieceIndex, TorrentKey};

/// How often a read starts again because pieces of the same object were given up meanwhile.
const READ_ATTEMPTS: u32 = 8;

/// A torrent in the cache: maps its pieces to those of objects, and knows the hashes.
pub(super) struct Cached {
    pub(super) shared: Arc<Shared>,
    pub(super) torrent: Arc<OnceLock<TorrentKey>>,
    pub(super) metainfo: Arc<Metainfo>,
    objects: Objects,
    /// Files before this one were complete when [`Shared::losses`] was what is beside it.
    complete_until: AtomicU32,
    complete_at_losses: AtomicU64,
    /// The hybrid torrent turned out to be of two contents.
    pub(super) is_contradictory: AtomicBool,
}

enum Objects {
    /// Files are aligned to pieces: an object each, where anything of it is here.
    Files(Vec<OnceLock<Arc<Object>>>),
    /// Pieces span files: one object.
    Whole(Arc<Object>),
}

/// Bytes that are wanted: where they lie, and the blocks that they are part of.
struct Wanted<'a> {
    object: &'a Arc<Object>,
    /// Pieces of the object.
    pieces: Range<u32>,
    /// Blocks of the object, in order.
    blocks: Vec<BlockSpan>,
    /// Parts of the object's files, and padding, in order.
    parts: Vec<Part>,
    /// What of the blocks, laid end to end, is wanted.
    cut: Range<usize>,
}

impl Wanted<'_> {
    fn slices(&self) -> impl Iterator<Item = FileSlice> + '_ {
        self.parts.iter().filter_map(|part| match part {
            Part::File(slice) => Some(*slice),
            Part::Padding(_) => None,
        })
    }

    /// The bytes, if they are nothing but padding.
    fn padding(&self) -> Option<Vec<u8>> {
        self.slices().next().is_none().then(|| vec![0; self.cut.len()])
    }
}

impl Cached {
    /// Opens a torrent with what the index knows of it.
    pub(super) fn open(
        shared: Arc<Shared>,
        torrent: Arc<OnceLock<TorrentKey>>,
        metainfo: Arc<Metainfo>,
    ) -> Result<Self, IndexError> {
        shared.note_piece_length(metainfo.piece_length());
        let objects = if metainfo.layout().is_aligned() {
            Objects::Files(metainfo.entries().iter().map(|_| OnceLock::new()).collect())
        } else {
            let shape = || Some(Shape::Torrent(metainfo.clone()));
            let key = torrent_key(&metainfo.info_hash());
            let known = shared.known_object(&key, |_| shape())?;
            let object = known.map_or_else(|| shared.object(key, shape), |known| Ok(Some(known)))?;
            let object = object.ok_or_else(|| IndexError::Failed("expected a layout, got none".to_owned()))?;
            lock(&object.owners).push(Owner { torrent: torrent.clone(), first_piece: 0 });
            Objects::Whole(object)
        };
        let (complete_until, complete_at_losses) = (AtomicU32::new(0), AtomicU64::new(shared.losses()));
        let is_contradictory = AtomicBool::new(false);
        let cached = Self { shared, torrent, metainfo, objects, complete_until, complete_at_losses, is_contradictory };
        if let Objects::Files(files) = &cached.objects {
            for file in (0..files.len() as u32).map(FileIndex) {
                let Some((key, shape)) = cached.file_object(file) else { continue };
                if let Some(object) = cached.shared.known_object(&key, |_| shape())? {
                    cached.attach(files, file, object);
                }
            }
        }
        Ok(cached)
    }

    /// The key of the object of an aligned file with bytes, and how to shape it.
    fn file_object(&self, file: FileIndex) -> Option<(String, impl FnOnce() -> Option<Shape>)> {
        let EntryKind::File { length, root: Some(root), .. } = &self.metainfo.entry(file)?.kind else { return None };
        let (length, piece_length) = (*length, self.metainfo.piece_length());
        let key = root_key(self.metainfo.algorithm(), piece_length, root, length);
        Some((key, move || Shape::file(length, piece_length).ok()))
    }

    fn attach<'a>(
        &self,
        files: &'a [OnceLock<Arc<Object>>],
        file: FileIndex,
        object: Arc<Object>,
    ) -> Option<&'a Arc<Object>> {
        let cell = files.get(file.0 as usize)?;
        let owner = Owner { torrent: self.torrent.clone(), first_piece: self.metainfo.layout().pieces_of(file).start };
        Some(cell.get_or_init(|| {
            lock(&object.owners).push(owner);
            object
        }))
    }

    /// The object that `piece` belongs to, if anything of it may be here, and which piece of it that is.
    pub(super) fn locate(&self, piece: PieceIndex) -> Option<(&Arc<Object>, PieceIndex)> {
        match &self.objects {
            Objects::Whole(object) => (piece.0 < self.metainfo.piece_count()).then_some((object, piece)),
            Objects::Files(files) => {
                let (file, offset) = self.metainfo.layout().file_of_piece(piece)?;
                let object = files.get(file.0 as usize)?.get()?;
                Some((object, PieceIndex((offset / u64::from(self.metainfo.piece_length())) as u32)))
            }
        }
    }

    /// [`Self::locate`], for a piece of which something is to be kept.
    pub(super) fn locate_or_make(&self, piece: PieceIndex) -> Option<(&Arc<Object>, PieceIndex)> {
        if let Some(found) = self.locate(piece) {
            return Some(found);
        }
        let Objects::Files(files) = &self.objects else { return None };
        let (file, offset) = self.metainfo.layout().file_of_piece(piece)?;
        let (key, shape) = self.file_object(file)?;
        let object = match self.shared.object(key, shape) {
            Ok(object) => self.attach(files, file, object?)?,
            Err(error) => {
                self.shared.note_index_error(&error);
                return None;
            }
        };
        Some((object, PieceIndex((offset / u64::from(self.metainfo.piece_length())) as u32)))
    }

    /// Every object of which something may be here, and the torrent's piece where it starts.
    fn each_object(&self) -> Vec<(&Arc<Object>, u32)> {
        match &self.objects {
            Objects::Whole(object) => vec![(object, 0)],
            Objects::Files(files) => files
                .iter()
                .zip(0..)
                .filter_map(|(cell, file)| Some((cell.get()?, self.metainfo.layout().pieces_of(FileIndex(file)).start)))
                .collect(),
        }
    }

    pub(super) fn add_verified(&self, bits: &mut Bitfield) {
        let layout = self.metainfo.layout();
        for (object, first) in self.each_object() {
            for (slot, piece) in object.slots().iter().zip(0..) {
                if !slot.has(flag::LISTED) {
                    continue;
                }
                for block in blocks_of_piece(object.layout(), PieceIndex(piece)) {
                    if object.is_verified(block) {
                        bits.insert(layout.block_number(PieceIndex(first + piece), block.block()));
                    }
                }
            }
        }
    }

    pub(super) fn cached_bytes(&self, file: FileIndex) -> u64 {
        match &self.objects {
            Objects::Files(files) => {
                files.get(file.0 as usize).and_then(OnceLock::get).map_or(0, |object| object.verified_bytes())
            }
            Objects::Whole(object) => object.verified_bytes_of(file),
        }
    }

    pub(super) fn verified_bytes(&self) -> u64 {
        self.each_object().iter().map(|(object, _)| object.verified_bytes()).sum()
    }

    /// Whether every byte is verified and here. Asked at every read: looks only at the first file that was not
    /// complete the last time, or at all of them again when anything was lost since.
    pub(super) fn is_complete(&self) -> bool {
        let losses = self.shared.losses();
        if self.complete_at_losses.swap(losses, SeqCst) != losses {
            self.complete_until.store(0, SeqCst);
        }
        let (layout, start) = (self.metainfo.layout(), self.complete_until.load(SeqCst));
        let is_missing = |file: &u32| self.cached_bytes(FileIndex(*file)) < layout.file_length(FileIndex(*file));
        let end = (start..layout.file_count()).find(is_missing).unwrap_or(layout.file_count());
        if end > start {
            self.complete_until.store(end, SeqCst);
        }
        end == layout.file_count()
    }

    fn wanted_of_file(&self, file: FileIndex, range: Range<u64>) -> Option<Wanted<'_>> {
        let (object, own) = self.object_of_file(file)?;
        let layout = object.layout();
        let blocks: Vec<_> = layout.blocks_of_range(own, range.clone()).collect();
        // Bytes of the first block before the range: padding and those of other files, then those of this one.
        let mut start = 0;
        for part in layout.parts(*blocks.first()?) {
            match part {
                Part::File(slice) if slice.file == own => {
                    start += (range.start - slice.offset) as usize;
                    break;
                }
                Part::File(FileSlice { len, .. }) | Part::Padding(len) => start += len as usize,
            }
        }
        let len = range.end - range.start;
        Some(Wanted {
            object,
            pieces: layout.pieces_of_range(own, range.clone()),
            blocks,
            parts: vec![Part::File(FileSlice { file: own, offset: range.start, len: u32::try_from(len).ok()? })],
            cut: start..start + len as usize,
        })
    }

    fn wanted_of_span(&self, span: BlockSpan) -> Option<Wanted<'_>> {
        if !self.metainfo.layout().contains(span) {
            return None;
        }
        let (object, piece) = self.locate(span.piece)?;
        let own = BlockSpan { piece, ..span };
        let layout = object.layout();
        let start = (span.begin % crate::types::BLOCK_LEN) as usize;
        Some(Wanted {
            object,
            pieces: piece.0..piece.0 + 1,
            blocks: blocks_of_span(layout, own).collect(),
            parts: layout.parts(own).collect(),
            cut: start..start + span.len as usize,
        })
    }

    /// Every file of the torrent.
    pub(super) fn files(&self) -> impl Iterator<Item = FileIndex> {
        (0..self.metainfo.layout().file_count()).map(FileIndex)
    }

    /// Every object of which something may be here.
    pub(super) fn objects(&self) -> Vec<&Arc<Object>> {
        self.each_object().into_iter().map(|(object, _)| object).collect()
    }

    /// The object that `file` belongs to, if anything of it may be here, and which of its files that is.
    pub(super) fn object_of_file(&self, file: FileIndex) -> Option<(&Arc<Object>, FileIndex)> {
        match &self.objects {
            Objects::Whole(object) => Some((object, file)),
            Objects::Files(files) => Some((files.get(file.0 as usize)?.get()?, FileIndex(0))),
        }
    }

    /// Part of a file, if all of it is verified.
    pub(super) fn read_file(&self, file: FileIndex, range: Range<u64>) -> Result<Option<Vec<u8>>, StorageError> {
        self.wanted_of_file(file, range).map_or(Ok(None), |wanted| self.read(&wanted))
    }

    /// Part of a piece, if all of it is verified.
    pub(super) fn read_span(&self, span: BlockSpan) -> Result<Option<Vec<u8>>, StorageError> {
        self.wanted_of_span(span).map_or(Ok(None), |wanted| self.read(&wanted))
    }

    /// [`Self::read_span`] if it needs no disk, hash or lock of the index.
    ///
    /// # Errors
    /// `WouldBlock` when it may.
    pub(super) fn read_span_nowait(&self, span: BlockSpan) -> io::Result<Option<Vec<u8>>> {
        let would_block = || Err(io::ErrorKind::WouldBlock.into());
        let Some(wanted) = self.wanted_of_span(span) else { return Ok(None) };
        let object = wanted.object;
        let epoch = object.epoch();
        if !wanted.blocks.iter().all(|block| object.is_verified(*block)) {
            return if self.shared.overlay.is_empty() { Ok(None) } else { would_block() };
        }
        if let Some(zeros) = wanted.padding() {
            return Ok(Some(zeros));
        }
        let [Part::File(slice)] = wanted.parts[..] else { return would_block() };
        let suspect = wanted.pieces.clone().any(|piece| object.slot(PieceIndex(piece)).has(flag::SUSPECT));
        if suspect || !object.is_checked(slice.file) {
            return would_block();
        }
        let file = self.shared.file(object, slice.file);
        match file.and_then(|file| file.read_nowait(slice.len as usize, slice.offset)) {
            Ok(Nowait::Read(bytes)) if object.epoch() == epoch => {
                self.touch(&wanted);
                Ok(Some(bytes))
            }
            _ => would_block(),
        }
    }

    fn read(&self, wanted: &Wanted<'_>) -> Result<Option<Vec<u8>>, StorageError> {
        let object = wanted.object;
        if let Some(zeros) = wanted.padding() {
            return Ok(Some(zeros));
        }
        for _ in 0..READ_ATTEMPTS {
            let epoch = object.epoch();
            let on_disk = wanted.blocks.iter().all(|block| object.is_verified(*block));
            if !on_disk && self.shared.overlay.is_empty() {
                return Ok(None);
            }
            for slice in wanted.slices().filter(|slice| !object.is_checked(slice.file)) {
                self.shared.check_file(object, slice.file).map_err(|error| self.io_error("open", object, error))?;
            }
            for piece in wanted.pieces.clone().map(PieceIndex) {
                if object.slot(piece).has(flag::SUSPECT) && !self.verify_again(object, piece)? {
                    return Ok(None);
                }
            }
            let result = match on_disk {
                true => {
                    let mut buf = Vec::with_capacity(wanted.cut.len());
                    self.shared.read_parts(object, wanted.parts.iter().copied(), &mut buf).map(|()| Some(buf))
                }
                false => self.read_by_block(wanted),
            };
            match result {
                // Pieces may have been given up and their holes read.
                _ if object.epoch() != epoch => {}
                Ok(bytes) => {
                    if bytes.is_some() {
                        self.touch(wanted);
                    }
                    return Ok(bytes);
                }
                Err(error) if is_damage(&error) => self.note_damage(wanted, &error),
                Err(error) => return Err(self.io_error("read", object, error)),
            }
        }
        Ok(None)
    }

    /// Reads blocks of which some are in the overlay.
    fn read_by_block(&self, wanted: &Wanted<'_>) -> io::Result<Option<Vec<u8>>> {
        let mut buf = Vec::new();
        for block in &wanted.blocks {
            if !self.shared.read_block(wanted.object, *block, &mut buf)? {
                return Ok(None);
            }
        }
        buf.truncate(wanted.cut.end);
        Ok(Some(buf.split_off(wanted.cut.start.min(buf.len()))))
    }

    fn touch(&self, wanted: &Wanted<'_>) {
        let now_us = self.shared.now_us();
        wanted.pieces.clone().for_each(|piece| self.shared.touch(wanted.object, PieceIndex(piece), now_us));
    }

    /// A file ends too early, is gone or cannot be read: nothing in it is trusted any more until it was verified
    /// again.
    fn note_damage(&self, wanted: &Wanted<'_>, error: &io::Error) {
        let object = wanted.object;
        self.shared.warn_once(&format!("damage {}", object.key), || {
            format!("{:?} in the cache is damaged ({error}): what is missing is fetched again", object.key)
        });
        for slice in wanted.slices() {
            self.shared.files.close(object.file_id(slice.file));
            self.shared.suspect_file(object, slice.file, false);
        }
    }

    pub(super) fn io_error(&self, action: &'static str, object: &Object, error: io::Error) -> StorageError {
        StorageError::Io { action, path: object.key.as_str().into(), error }
    }

    /// The piece of the torrent that is piece `own` of `object`.
    pub(super) fn torrent_piece(&self, object: &Arc<Object>, own: PieceIndex) -> Option<PieceIndex> {
        let owners = lock(&object.owners);
        let owner = owners.iter().find(|owner| Arc::ptr_eq(&owner.torrent, &self.torrent))?;
        Some(PieceIndex(owner.first_piece + own.0))
    }

    pub(super) fn has_verified(&self, object: &Arc<Object>, block: BlockSpan) -> bool {
        let is_suspect = object.slot(block.piece).has(flag::SUSPECT);
        let in_memory = || self.shared.overlay.get(object, block).is_some_and(|(_, verified)| verified);
        (object.is_verified(block) && !is_suspect) || in_memory()
    }

    pub(super) fn set_leaves(&self, piece: PieceIndex, leaves: Leaves) {
        if leaves.len() != self.metainfo.leaf_count(piece) as usize {
            return;
        }
        if let Some((object, own)) = self.locate_or_make(piece) {
            lock(&self.shared.leaves).put(object.id, own.0, leaves);
        }
    }
}

impl Drop for Cached {
    fn drop(&mut self) {
        for (object, _) in self.each_object() {
            lock(&object.owners).retain(|owner| !Arc::ptr_eq(&owner.torrent, &self.torrent));
        }
    }
}

/// Whether an error says that the bytes are gone, rather than that they could not be read just now.
pub(super) fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::UnexpectedEof | K::NotFound)
        || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}
