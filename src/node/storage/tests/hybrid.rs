//! Hybrid torrents: blocks by the trees of v2, and whole pieces by both hashes (BEP 52).

use super::*;
use crate::types::PieceOutcome;

fn fixture() -> Fixture {
    let files: Vec<_> = (1..).zip(awkward_sizes()).map(|(seed, size)| testing::content(seed, size)).collect();
    Fixture::of(testing::hybrid_torrent(PIECE, &files).0, files)
}

/// The same with another metainfo, in the same store.
fn with(fixture: Fixture, metainfo: Metainfo) -> Fixture {
    Fixture { metainfo: Arc::new(metainfo), ..fixture }
}

fn set_leaves(fixture: &Fixture, torrent: &TorrentStorage, piece: PieceIndex) {
    torrent.set_leaves(piece, fixture.metainfo.piece_leaves(piece, &fixture.data(fixture.whole(piece))).into());
}

/// The blocks of a piece that have bytes of a file.
fn real(fixture: &Fixture, piece: PieceIndex) -> Vec<BlockSpan> {
    let layout = fixture.metainfo.layout();
    fixture.blocks(piece).into_iter().filter(|block| !layout.is_padding(*block)).collect()
}

/// A piece of several blocks, of which the last is the end of a file.
fn last_of_many(fixture: &Fixture) -> PieceIndex {
    let is_it = |piece: &PieceIndex| {
        let blocks = real(fixture, *piece);
        blocks.len() == 3 && fixture.blocks(*piece).len() == 4
    };
    fixture.pieces().find(is_it).unwrap()
}

#[test]
fn blocks_can_be_read_before_their_piece_is_whole() {
    let fixture = fixture();
    let (store, torrent) = fixture.open();
    let piece = last_of_many(&fixture);
    set_leaves(&fixture, &torrent, piece);
    for (at, block) in real(&fixture, piece).into_iter().enumerate().rev() {
        let mut data = fixture.data(block);
        assert_eq!(torrent.read_block(block).unwrap(), None);
        // What a peer says that padding is counts for nothing.
        let bytes: usize = fixture.metainfo.layout().slices(block).map(|slice| slice.len as usize).sum();
        data[bytes..].fill(9);
        assert_eq!(fixture.write(&torrent, block, &data), Verdict::Verified, "{at}");
        assert_eq!(torrent.read_block(block).unwrap().unwrap(), fixture.data(block));
    }
    for piece in fixture.pieces() {
        set_leaves(&fixture, &torrent, piece);
        for block in real(&fixture, piece) {
            let mut wrong = fixture.data(block);
            wrong[0] ^= 1;
            if torrent.read_block(block).unwrap().is_none() {
                assert_eq!(fixture.write(&torrent, block, &wrong), Verdict::Corrupt);
            }
            assert_eq!(fixture.write(&torrent, block, &fixture.data(block)), Verdict::Verified);
        }
    }
    assert!(torrent.is_complete());
    assert_eq!(fixture.missing(&torrent), 0);
    for piece in fixture.pieces().filter(|piece| fixture.metainfo.leaf_count(*piece) > 1) {
        assert!(fixture.metainfo.leaves_match(piece, &torrent.leaves(piece).unwrap().unwrap()));
    }
    drop((torrent, store));
    let (_store, torrent) = fixture.open_with(ROOMY, "another boot");
    assert_eq!(fixture.missing(&torrent), 0);
}

/// What an earlier version kept, which read hybrid torrents as v1, is of the same use as before.
#[test]
fn what_was_verified_as_v1_stays() {
    let fixture = fixture();
    let whole = (*fixture.metainfo).clone();
    let bare = with(fixture, Metainfo::from_info_bytes(whole.info_bytes()).unwrap());
    assert!(!bare.metainfo.verifies_blocks());
    let (store, torrent) = bare.open();
    bare.fill(&torrent);
    let verified = torrent.verified();
    drop((torrent, store));
    let fixture = with(bare, whole);
    let (_store, torrent) = fixture.open();
    assert_eq!((torrent.verified(), torrent.is_complete()), (verified, true));
    assert_eq!(fixture.missing(&torrent), 0);
    let piece = last_of_many(&fixture);
    assert!(fixture.metainfo.leaves_match(piece, &torrent.leaves(piece).unwrap().unwrap()));
}

#[test]
fn a_piece_that_only_one_form_agrees_with_is_never_whole() {
    let right = fixture();
    let piece = last_of_many(&right);
    let fixture = {
        let wrong = testing::contradictory(&right.metainfo, piece);
        with(right, wrong)
    };
    let blocks = real(&fixture, piece);
    let is_whole = |torrent: &TorrentStorage| {
        let verified = torrent.verified();
        let layout = fixture.metainfo.layout();
        blocks.iter().all(|block| verified.contains(layout.block_number(piece, block.block())))
    };
    // With leaves: the last block tells.
    let (store, torrent) = fixture.open();
    set_leaves(&fixture, &torrent, piece);
    let batch: Vec<_> = blocks.iter().map(|block| (*block, fixture.data(*block).into())).collect();
    for (at, block) in batch.iter().enumerate() {
        let expected = if at + 1 < batch.len() { Verdict::Verified } else { Verdict::Inconsistent };
        assert_eq!(torrent.write_blocks(std::slice::from_ref(block)), [expected]);
    }
    assert!(!is_whole(&torrent) && torrent.contradiction().unwrap().contains("inconsistent"));
    assert!(fixture.warnings().iter().any(|warning| warning.contains("inconsistent")));
    // All of the others are as good as ever.
    fixture.pieces().filter(|other| *other != piece).for_each(|piece| fixture.fill_piece(&torrent, piece));
    drop((torrent, store));
    // Without leaves: the check of the whole piece does. Likewise where the blocks came before the leaves.
    for leaves_come in [false, true] {
        let (store, torrent) = fixture.open();
        store.shared.evict_some(u64::MAX);
        for block in &batch {
            assert_eq!(torrent.write_blocks(std::slice::from_ref(block)), [Verdict::Unverified]);
        }
        if leaves_come {
            set_leaves(&fixture, &torrent, piece);
        }
        assert_eq!(torrent.check_piece(piece, &blocks, false), PieceOutcome::Inconsistent);
        assert!(!is_whole(&torrent) && torrent.contradiction().is_some());
        drop((torrent, store));
    }
}

/// Bytes that went bad on the disk are nobody's contradiction.
#[test]
fn damage_is_not_taken_for_a_contradiction() {
    let fixture = fixture();
    let (_store, torrent) = fixture.open();
    let piece = last_of_many(&fixture);
    set_leaves(&fixture, &torrent, piece);
    let blocks = real(&fixture, piece);
    let (last, first) = blocks.split_last().unwrap();
    for block in first {
        assert_eq!(fixture.write(&torrent, *block, &fixture.data(*block)), Verdict::Verified);
    }
    for file in fixture.cache_files() {
        let len = std::fs::metadata(&file).unwrap().len();
        std::fs::write(&file, vec![7; len as usize]).unwrap();
    }
    assert_eq!(fixture.write(&torrent, *last, &fixture.data(*last)), Verdict::Failed);
    assert!(torrent.contradiction().is_none() && !fixture.lost().is_empty());
    set_leaves(&fixture, &torrent, piece);
    for block in &blocks {
        assert_eq!(fixture.write(&torrent, *block, &fixture.data(*block)), Verdict::Verified);
    }
    assert_eq!(torrent.read_block(fixture.whole(piece)).unwrap().unwrap(), fixture.data(fixture.whole(piece)));
}
