//! A store and a torrent to put in it.

mod damage;
mod eviction;
mod hand_over;
mod hybrid;
mod in_place;
mod keeping;
mod padding;

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Mutex;

use super::*;
use crate::metainfo::{Part, testing};
use crate::types::{BlockIndex, BlockSpan, HashAlgorithm, PieceIndex, PieceOutcome, TorrentKey, Verdict};

pub(super) const PIECE: u32 = 64 << 10;
pub(super) const KEY: TorrentKey = TorrentKey(7);
const ROOMY: u64 = 1 << 30;

/// A directory for a store, and a torrent with its content.
pub(super) struct Fixture {
    pub(super) dir: tempfile::TempDir,
    pub(super) metainfo: Arc<Metainfo>,
    pub(super) files: Vec<Vec<u8>>,
    pub(super) events: Arc<Mutex<Vec<StoreEvent>>>,
}

/// Sizes round the borders of blocks and pieces.
pub(super) fn awkward_sizes() -> Vec<usize> {
    let (block, piece) = (16 << 10, PIECE as usize);
    vec![0, 1, block - 1, block, block + 1, 0, piece - 1, piece, piece + 1, 3 * piece + 2 * block + 5, 100]
}

impl Fixture {
    pub(super) fn new(algorithm: HashAlgorithm, sizes: &[usize]) -> Self {
        let files: Vec<_> = (1..).zip(sizes).map(|(seed, size)| testing::content(seed, *size)).collect();
        Self::of(testing::torrent(algorithm, PIECE, &files).0, files)
    }

    pub(super) fn of(metainfo: Metainfo, files: Vec<Vec<u8>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, metainfo: Arc::new(metainfo), files, events: Arc::default() }
    }

    pub(super) fn open(&self) -> (Store, Arc<TorrentStorage>) {
        self.open_with(ROOMY, "boot")
    }

    pub(super) fn open_with(&self, cap_bytes: u64, boot_id: &str) -> (Store, Arc<TorrentStorage>) {
        let events = self.events.clone();
        let sink = Box::new(move |event| events.lock().unwrap().push(event));
        let store = Store::open_in_boot(self.dir.path(), cap_bytes, sink, boot_id).unwrap();
        let torrent = store.torrent(self.metainfo.clone(), Source::Cache).unwrap();
        torrent.bind(KEY);
        (store, torrent)
    }

    /// Ends everything as it is: what is not in the index by now never will be.
    pub(super) fn kill(store: Store, torrent: Arc<TorrentStorage>) {
        store.shared.wake(|wake| (wake.stop, wake.killed) = (true, true));
        drop((torrent, store));
    }

    pub(super) fn data(&self, span: BlockSpan) -> Vec<u8> {
        let bytes = |part| match part {
            Part::File(slice) => self.files[slice.file.0 as usize][range(slice.range())].to_vec(),
            Part::Padding(len) => vec![0; len as usize],
        };
        self.metainfo.layout().parts(span).flat_map(bytes).collect()
    }

    /// Stores one block.
    pub(super) fn write(&self, torrent: &TorrentStorage, span: BlockSpan, data: &[u8]) -> Verdict {
        torrent.write_blocks(&[(span, data.to_vec().into())])[0]
    }

    pub(super) fn pieces(&self) -> impl Iterator<Item = PieceIndex> + use<> {
        (0..self.metainfo.piece_count()).map(PieceIndex)
    }

    pub(super) fn blocks(&self, piece: PieceIndex) -> Vec<BlockSpan> {
        let layout = self.metainfo.layout();
        (0..layout.blocks_in(piece)).map(|block| layout.block_span(piece, BlockIndex(block))).collect()
    }

    pub(super) fn whole(&self, piece: PieceIndex) -> BlockSpan {
        BlockSpan { piece, begin: 0, len: self.metainfo.layout().piece_len(piece) }
    }

    /// Stores a piece as the engine would.
    pub(super) fn fill_piece(&self, torrent: &TorrentStorage, piece: PieceIndex) {
        if self.metainfo.algorithm().verifies_blocks() {
            torrent.set_leaves(piece, self.metainfo.piece_leaves(piece, &self.data(self.whole(piece))).into());
            for block in self.blocks(piece) {
                assert_eq!(self.write(torrent, block, &self.data(block)), Verdict::Verified);
            }
            return;
        }
        let mut is_verified = true;
        for block in self.blocks(piece) {
            is_verified &= self.write(torrent, block, &self.data(block)) == Verdict::Verified;
        }
        if !is_verified {
            assert_eq!(torrent.check_piece(piece, &self.blocks(piece), false), PieceOutcome::Verified);
        }
    }

    pub(super) fn fill(&self, torrent: &TorrentStorage) {
        self.pieces().for_each(|piece| self.fill_piece(torrent, piece));
    }

    /// Reads everything in reads of a FUSE kernel's size: what came is right. The bytes that did not come.
    pub(super) fn missing(&self, torrent: &TorrentStorage) -> u64 {
        let mut missing = 0;
        for (content, file) in self.files.iter().zip(0..) {
            for offset in (0..content.len()).step_by(30_000) {
                let expected = &content[offset..content.len().min(offset + 30_000)];
                match torrent.read_verified(FileIndex(file), offset as u64, 30_000).unwrap() {
                    Some(bytes) => assert!(bytes == expected, "wrong bytes of file {file} at {offset}"),
                    None => missing += expected.len() as u64,
                }
            }
        }
        for block in self.pieces().flat_map(|piece| self.blocks(piece)) {
            if let Some(bytes) = torrent.read_block(block).unwrap() {
                assert_eq!(bytes, self.data(block), "{block:?}");
            }
            if let Ok(Some(bytes)) = torrent.read_block_nowait(block) {
                assert_eq!(bytes, self.data(block), "{block:?}");
            }
        }
        missing
    }

    pub(super) fn lost(&self) -> Vec<PieceIndex> {
        let events = std::mem::take(&mut *self.events.lock().unwrap());
        let lost = events.iter().filter_map(|event| match event {
            StoreEvent::Lost { torrent: KEY, piece } => Some(*piece),
            _ => None,
        });
        lost.collect()
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        let events = self.events.lock().unwrap();
        let warnings = events.iter().filter_map(|event| match event {
            StoreEvent::Warning(warning) => Some(warning.clone()),
            StoreEvent::Lost { .. } => None,
        });
        warnings.collect()
    }

    /// The cache files with bytes.
    pub(super) fn cache_files(&self) -> Vec<PathBuf> {
        let walk = walkdir::WalkDir::new(self.dir.path().join("cache")).sort_by_file_name();
        let entries = walk.into_iter().map(Result::unwrap).filter(|entry| entry.file_type().is_file());
        entries.map(|entry| entry.path().to_owned()).collect()
    }

    pub(super) fn bytes_on_disk(&self) -> u64 {
        self.cache_files().iter().map(|path| std::fs::metadata(path).unwrap().blocks() * 512).sum()
    }
}

pub(super) fn range(range: std::ops::Range<u64>) -> std::ops::Range<usize> {
    range.start as usize..range.end as usize
}
