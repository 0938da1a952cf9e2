//! One torrent in a store.

use std::io;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::cached::Cached;
use super::in_place::{InPlace, OnCheck};
use super::{Leaves, StorageError};
use crate::metainfo::{Metainfo, Part};
use crate::types::{Bitfield, BlockSpan, FileIndex, FileSlice, PieceIndex, PieceOutcome, TorrentKey, Verdict};

/// The bytes of one torrent: what is verified of them, on this machine.
///
/// Every method may be called from any thread. Methods that may wait for the disk or hash say so; the others take
/// microseconds. What is said to be verified may be gone a moment later; then [`super::StoreEvent::Lost`] says so.
pub(crate) struct TorrentStorage {
    metainfo: Arc<Metainfo>,
    torrent: Arc<OnceLock<TorrentKey>>,
    cached: Cached,
    in_place: OnceLock<InPlace>,
}

impl TorrentStorage {
    pub(super) fn new(
        metainfo: Arc<Metainfo>,
        torrent: Arc<OnceLock<TorrentKey>>,
        cached: Cached,
        in_place: Option<InPlace>,
    ) -> Self {
        let in_place = in_place.map_or_else(OnceLock::new, OnceLock::from);
        Self { metainfo, torrent, cached, in_place }
    }

    /// Names the torrent in events; before that, it has none. Once only.
    pub(crate) fn bind(&self, torrent: TorrentKey) {
        let _ = self.torrent.set(torrent);
    }

    pub(super) fn name(&self) -> &Arc<OnceLock<TorrentKey>> {
        &self.torrent
    }

    pub(super) fn cached(&self) -> &Cached {
        &self.cached
    }

    pub(super) fn in_place(&self) -> Option<&InPlace> {
        self.in_place.get()
    }

    /// Serves from files of the user from now on. Once only.
    pub(super) fn serve_in_place(&self, in_place: InPlace) {
        let _ = self.in_place.set(in_place);
    }

    /// Whether files of the user are served where they lie.
    pub(crate) fn is_in_place(&self) -> bool {
        self.in_place.get().is_some()
    }

    /// What the bytes are verified with.
    pub(crate) fn metainfo(&self) -> &Arc<Metainfo> {
        &self.metainfo
    }

    /// Hashes what is served in place and not known to match; nothing to do for other torrents, or where no file has
    /// changed since the last time. Until then only what is known is in [`TorrentStorage::verified`]. Takes as long
    /// as reading the files; uses all cores. `on_progress` gets the bytes hashed so far and in all.
    ///
    /// # Errors
    /// [`StorageError::Cancelled`] when `on_progress` breaks it off; or when the index cannot be written.
    pub(crate) fn check(&self, on_progress: &OnCheck<'_>) -> Result<(), StorageError> {
        self.in_place.get().map_or(Ok(()), |in_place| in_place.check(on_progress))
    }

    /// The verified blocks, by [`crate::metainfo::Layout::block_number`]. Those of nothing but padding always are.
    pub(crate) fn verified(&self) -> Bitfield {
        let mut bits = Bitfield::new(self.metainfo.layout().block_numbers());
        self.cached.add_verified(&mut bits);
        if let Some(in_place) = self.in_place.get() {
            in_place.add_verified(&mut bits);
        }
        let layout = self.metainfo.layout();
        for block in layout.padding_blocks() {
            bits.insert(layout.block_number(block.piece, block.block()));
        }
        bits
    }

    /// Verified bytes on this machine; of what is served in place and lies in the cache too, those in place.
    pub(crate) fn verified_bytes(&self) -> u64 {
        self.in_place.get().map_or(0, InPlace::good_bytes).max(self.cached.verified_bytes())
    }

    /// Whether every byte is verified and here: all in place, or all in the cache. Costs little.
    pub(crate) fn is_complete(&self) -> bool {
        self.in_place.get().is_some_and(InPlace::is_complete) || self.cached.is_complete()
    }

    /// Why nothing more of it can be had, if it turned out to be a hybrid torrent that contradicts itself.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let is_contradictory = self.cached.is_contradictory.load(std::sync::atomic::Ordering::SeqCst);
        is_contradictory.then(|| super::verify::contradiction(&self.metainfo))
    }

    /// Whether blocks had to be kept in memory lately because the disk has no room.
    pub(crate) fn lacks_room(&self) -> bool {
        !self.cached.shared.overlay.is_empty()
    }

    /// Verified bytes of `file` on this machine.
    pub(crate) fn cached_bytes(&self, file: FileIndex) -> u64 {
        let in_place = self.in_place.get().map_or(0, |in_place| in_place.good_bytes_of(file));
        in_place.max(self.cached.cached_bytes(file))
    }

    /// Bytes `offset .. offset + len` of `file`, cut at its end, if all of them are verified. Reads from the page
    /// cache or the disk; the first read of a piece that may be torn (after an unclean stop) hashes it.
    ///
    /// # Errors
    /// When the system fails to read what is there.
    pub(crate) fn read_verified(&self, file: FileIndex, offset: u64, len: u32) -> Result<Option<Bytes>, StorageError> {
        let layout = self.metainfo.layout();
        let end = offset.saturating_add(u64::from(len)).min(layout.file_length(file));
        if offset >= end {
            return Ok(Some(Bytes::new()));
        }
        if let Some(in_place) = self.in_place.get() {
            let slice = FileSlice { file, offset, len: (end - offset) as u32 };
            let pieces = layout.pieces_of_range(file, offset..end);
            if let Some(bytes) = in_place.read(pieces, &[Part::File(slice)]) {
                return Ok(Some(bytes.into()));
            }
        }
        Ok(self.cached.read_file(file, offset..end)?.map(Bytes::from))
    }

    /// The bytes of `span`, inside one piece, if all of them are verified. As [`TorrentStorage::read_verified`].
    ///
    /// # Errors
    /// When the system fails to read what is there.
    pub(crate) fn read_block(&self, span: BlockSpan) -> io::Result<Option<Bytes>> {
        if !self.metainfo.layout().contains(span) {
            return Ok(None);
        }
        if let Some(in_place) = self.in_place.get() {
            let parts: Vec<_> = self.metainfo.layout().parts(span).collect();
            if let Some(bytes) = in_place.read(span.piece.0..span.piece.0 + 1, &parts) {
                return Ok(Some(bytes.into()));
            }
        }
        self.cached.read_span(span).map(|bytes| bytes.map(Bytes::from)).map_err(io::Error::other)
    }

    /// [`TorrentStorage::read_block`] if that needs neither disk nor hashing.
    ///
    /// # Errors
    /// Of kind `WouldBlock` when it may: call [`TorrentStorage::read_block`] from a thread that may wait.
    pub(crate) fn read_block_nowait(&self, span: BlockSpan) -> io::Result<Option<Bytes>> {
        if let Some(in_place) = self.in_place.get() {
            let layout = self.metainfo.layout();
            let mut parts = layout.contains(span).then(|| layout.parts(span)).into_iter().flatten();
            let bytes = match (parts.next(), parts.next()) {
                (Some(Part::File(slice)), None) => in_place.read_nowait(span.piece, slice),
                _ => None,
            };
            return bytes.map(|bytes| Some(bytes.into())).ok_or_else(|| io::ErrorKind::WouldBlock.into());
        }
        self.cached.read_span_nowait(span).map(|bytes| bytes.map(Bytes::from))
    }

    /// Keeps blocks that came from peers; what became of each, in their order. Writes to the page cache, and evicts
    /// when the cache is full. Each span must be exactly a block, and its data as long: else the verdict is `Failed`.
    pub(crate) fn write_blocks(&self, blocks: &[(BlockSpan, Bytes)]) -> Vec<Verdict> {
        let Some(in_place) = self.in_place.get() else { return self.cached.write_blocks(blocks) };
        let is_here: Vec<bool> = blocks.iter().map(|(span, _)| in_place.is_good(span.piece)).collect();
        let missing = blocks.iter().zip(&is_here).filter(|(_, is_here)| !**is_here).map(|(block, _)| block.clone());
        let mut verdicts = self.cached.write_blocks(&missing.collect::<Vec<_>>()).into_iter();
        let verdict = |is_here| if is_here { Some(Verdict::Verified) } else { verdicts.next() };
        is_here.into_iter().map(verdict).map(|verdict| verdict.unwrap_or(Verdict::Failed)).collect()
    }

    /// Keeps the leaf hashes of all blocks of a piece, which the caller has verified: blocks that come are verified
    /// with them.
    pub(crate) fn set_leaves(&self, piece: PieceIndex, leaves: Leaves) {
        self.cached.set_leaves(piece, leaves);
    }

    /// The leaf hashes of a piece, if they are in memory.
    pub(crate) fn known_leaves(&self, piece: PieceIndex) -> Option<Leaves> {
        let (object, own) = self.cached.locate(piece)?;
        self.cached.shared.leaves_in_memory(object, own)
    }

    /// Has the cache give up first what no other open torrent has, as it is of the past; all of it at once where
    /// nobody is to have it any more.
    pub(crate) fn retire(&self, all: bool) {
        self.cached.retire(all);
    }

    /// Verifies blocks that were stored unverified: those in `blocks` where the leaves of the piece are known, else
    /// the whole piece. Reads back and hashes. Of a piece that `failed_before` it tells what it is now.
    pub(crate) fn check_piece(&self, piece: PieceIndex, blocks: &[BlockSpan], failed_before: bool) -> PieceOutcome {
        self.cached.check_piece(piece, blocks, failed_before)
    }

    /// The leaf hashes of a piece that is here in full, for peers that ask. Where they are not in memory, they are
    /// computed from the data, which verifies that again.
    ///
    /// # Errors
    /// When the system fails to read what is there.
    pub(crate) fn leaves(&self, piece: PieceIndex) -> Result<Option<Leaves>, StorageError> {
        if let Some(leaves) = self.in_place.get().and_then(|in_place| in_place.leaves(piece)) {
            return Ok(Some(leaves));
        }
        self.cached.leaves(piece)
    }
}
