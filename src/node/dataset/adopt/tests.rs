//! What is taken over, between torrents in one store.

use super::*;
use crate::metainfo::testing::{self, content};
use crate::node::storage::{Source, Store};
use crate::types::{BLOCK_LEN, HashAlgorithm};

const PIECE: u32 = 4 * BLOCK_LEN;

struct Versions {
    _dir: tempfile::TempDir,
    store: Store,
}

impl Versions {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 1 << 30, Box::new(|_| {})).unwrap();
        Self { _dir: dir, store }
    }

    fn open(&self, key: u32, algorithm: HashAlgorithm, files: &[Vec<u8>]) -> Arc<TorrentStorage> {
        let metainfo = Arc::new(testing::torrent(algorithm, PIECE, files).0);
        let storage = self.store.torrent(metainfo, Source::Cache).unwrap();
        storage.bind(TorrentKey(key));
        storage
    }

    /// A version that is here in full.
    fn full(&self, key: u32, algorithm: HashAlgorithm, files: &[Vec<u8>]) -> Arc<TorrentStorage> {
        let storage = self.open(key, algorithm, files);
        let line = files.concat();
        let metainfo = storage.metainfo().clone();
        for piece in (0..metainfo.piece_count()).map(PieceIndex) {
            let data = |span: BlockSpan| match metainfo.layout().file_of_piece(piece) {
                Some((file, offset)) if algorithm.verifies_blocks() => {
                    let at = (offset + u64::from(span.begin)) as usize;
                    files[file.0 as usize][at..at + span.len as usize].to_vec()
                }
                _ => {
                    let at = (u64::from(piece.0) * u64::from(PIECE) + u64::from(span.begin)) as usize;
                    line[at..at + span.len as usize].to_vec()
                }
            };
            let blocks: Vec<_> = blocks_of(&metainfo, piece).map(|span| (span, data(span).into())).collect();
            storage.write_blocks(&blocks);
            storage.check_piece(piece, &blocks.iter().map(|(span, _)| *span).collect::<Vec<_>>(), false);
        }
        assert!(storage.is_complete());
        storage
    }
}

fn here(storage: &TorrentStorage) -> u64 {
    storage.verified_bytes()
}

fn later() -> std::time::Instant {
    std::time::Instant::now() + Duration::from_secs(60)
}

#[test]
fn pieces_that_an_old_version_has_are_copied_wherever_they_were() {
    for algorithm in HashAlgorithm::ALL {
        let versions = Versions::new();
        let piece = PIECE as usize;
        let (one, two) = (content(1, 3 * piece), content(2, 2 * piece));
        let old = versions.full(1, algorithm, &[one.clone(), two.clone()]);
        // The last piece of the first file has changed, and the second file has moved to another piece.
        let mut changed = one.clone();
        changed[3 * piece - 1] ^= 1;
        let new = versions.open(2, algorithm, &[changed, content(3, piece), two]);
        let before = here(&new);
        let heir = Heir { new: new.clone(), old: vec![old] };
        let (found, _) = heir.copy_pieces(later());
        assert_eq!(here(&new), 4 * u64::from(PIECE), "{algorithm}: all but the two pieces that are new");
        let told: u64 = found.iter().map(|span| u64::from(span.len)).sum();
        assert_eq!(told, here(&new) - before, "{algorithm}: the engine is told of what it cannot know");
    }
}

#[test]
fn unchanged_blocks_of_changed_pieces_are_copied_once_their_leaves_are_known() {
    for algorithm in [HashAlgorithm::Sha256Merkle, HashAlgorithm::Blake3] {
        let versions = Versions::new();
        let block = BLOCK_LEN as usize;
        let file = content(1, 6 * block);
        let old = versions.full(1, algorithm, std::slice::from_ref(&file));
        let mut next = file.clone();
        next[block] ^= 1;
        next.extend(content(2, block / 2));
        let new = versions.open(2, algorithm, std::slice::from_ref(&next));
        let heir = Heir { new: new.clone(), old: vec![old] };
        let (found, changed) = heir.copy_pieces(later());
        let pieces: Vec<_> = changed.iter().map(|(piece, _)| piece.0).collect();
        assert_eq!((found.len(), pieces), (0, vec![0, 1]), "{algorithm}");
        assert!(heir.copy_blocks(&changed).is_empty(), "{algorithm}: nothing proves that they are the same");
        for (piece, data) in (0..).map(PieceIndex).zip(next.chunks(PIECE as usize)) {
            new.set_leaves(piece, new.metainfo().piece_leaves(piece, data).into());
        }
        let found = heir.copy_blocks(&changed);
        assert_eq!(found.len(), 5, "{algorithm}: all but the changed and the new one");
        assert_eq!(here(&new), 5 * u64::from(BLOCK_LEN));
        assert!(new.read_verified(FileIndex(0), BLOCK_LEN.into(), 1).unwrap().is_none());
        let last = new.read_verified(FileIndex(0), 5 * u64::from(BLOCK_LEN), BLOCK_LEN).unwrap().unwrap();
        assert!(last == file[5 * block..]);
    }
}

#[test]
fn versions_of_another_algorithm_have_nothing_in_common_and_time_is_bounded() {
    let versions = Versions::new();
    let file = [content(1, 3 * PIECE as usize)];
    let old = versions.full(1, HashAlgorithm::Sha256, &file);
    let new = versions.open(2, HashAlgorithm::Sha256Merkle, &file);
    let heir = Heir { new: new.clone(), old: vec![old] };
    assert_eq!(heir.copy_pieces(later()).0, []);
    let heir = Heir { new: versions.open(3, HashAlgorithm::Sha256, &[file[0].clone(), vec![1]]), old: heir.old };
    assert_eq!(heir.copy_pieces(std::time::Instant::now()).0, [], "no time, no copies");
    assert_eq!(heir.copy_pieces(later()).0.len(), 12);
}
