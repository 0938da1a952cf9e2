//! What is kept, and across what.

use proptest::prelude::*;

use super::*;
use crate::types::Bitfield;

#[test]
fn what_was_verified_is_read_again_after_a_restart() {
    for algorithm in HashAlgorithm::ALL {
        let fixture = Fixture::new(algorithm, &awkward_sizes());
        let (store, torrent) = fixture.open();
        assert!(torrent.verified().is_empty());
        assert_eq!(fixture.missing(&torrent), fixture.metainfo.total_length());
        fixture.fill(&torrent);
        assert!(torrent.is_complete());
        assert_eq!(fixture.missing(&torrent), 0);
        let verified = torrent.verified();
        drop((torrent, store));
        let (store, torrent) = fixture.open();
        assert_eq!(torrent.verified(), verified);
        assert_eq!(fixture.missing(&torrent), 0);
        for (content, file) in fixture.files.iter().zip(0..) {
            assert_eq!(torrent.cached_bytes(FileIndex(file)), content.len() as u64);
        }
        assert!(store.used_bytes() >= fixture.metainfo.total_length());
        assert_eq!(fixture.events.lock().unwrap()[..], []);
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_flushed() {
    for algorithm in HashAlgorithm::ALL {
        let fixture = Fixture::new(algorithm, &awkward_sizes());
        let (store, torrent) = fixture.open();
        let half = fixture.metainfo.piece_count() / 2;
        fixture.pieces().take(half as usize).for_each(|piece| fixture.fill_piece(&torrent, piece));
        store.flush().unwrap();
        let flushed = torrent.verified();
        fixture.pieces().skip(half as usize).for_each(|piece| fixture.fill_piece(&torrent, piece));
        Fixture::kill(store, torrent);
        let (_store, torrent) = fixture.open();
        let verified = torrent.verified();
        assert!(flushed.iter().all(|block| verified.contains(block)));
        fixture.missing(&torrent);
        assert_eq!(fixture.lost(), []);
    }
}

#[test]
fn blocks_of_incomplete_pieces_survive_and_are_verified_by_their_leaves() {
    for algorithm in [HashAlgorithm::Sha256Merkle, HashAlgorithm::Blake3] {
        let fixture = Fixture::new(algorithm, &[3 * PIECE as usize]);
        let (store, torrent) = fixture.open();
        for piece in fixture.pieces() {
            torrent.set_leaves(piece, fixture.metainfo.piece_leaves(piece, &fixture.data(fixture.whole(piece))).into());
            let block = fixture.blocks(piece)[2];
            assert_eq!(fixture.write(&torrent, block, &fixture.data(block)), Verdict::Verified);
        }
        drop((torrent, store));
        // Another boot, and nothing synced: all of it is hashed again.
        let (_store, torrent) = fixture.open_with(ROOMY, "another boot");
        assert_eq!(torrent.verified().iter().collect::<Vec<_>>(), [2, 6, 10]);
        for piece in fixture.pieces() {
            let block = fixture.blocks(piece)[2];
            assert_eq!(torrent.read_block(block).unwrap().unwrap(), fixture.data(block));
        }
        assert_eq!(fixture.lost(), []);
    }
}

#[test]
fn only_synced_data_is_trusted_after_another_boot() {
    let fixture = Fixture::new(HashAlgorithm::Sha256, &[2 * PIECE as usize]);
    let (store, torrent) = fixture.open();
    fixture.fill_piece(&torrent, PieceIndex(0));
    store.sync().unwrap();
    fixture.fill_piece(&torrent, PieceIndex(1));
    drop((torrent, store));
    let (_store, torrent) = fixture.open_with(ROOMY, "another boot");
    let would_block = |piece| {
        let block = fixture.blocks(PieceIndex(piece))[0];
        torrent.read_block_nowait(block).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    // Looks at the file for the first time.
    assert!(torrent.read_block(fixture.blocks(PieceIndex(0))[0]).unwrap().is_some());
    assert!(!would_block(0));
    assert!(would_block(1));
    assert!(torrent.read_block(fixture.blocks(PieceIndex(1))[0]).unwrap().is_some());
    assert!(!would_block(1));
}

#[test]
fn corrupt_and_odd_blocks_are_not_kept() {
    let fixture = Fixture::new(HashAlgorithm::Blake3, &[2 * PIECE as usize, 100]);
    let (_store, torrent) = fixture.open();
    let piece = PieceIndex(0);
    let blocks = fixture.blocks(piece);
    let wrong = vec![0; blocks[0].len as usize];
    assert_eq!(fixture.write(&torrent, blocks[0], &wrong), Verdict::Unverified);
    assert_eq!(torrent.read_block(blocks[0]).unwrap(), None);
    torrent.set_leaves(piece, fixture.metainfo.piece_leaves(piece, &fixture.data(fixture.whole(piece))).into());
    assert_eq!(fixture.write(&torrent, blocks[1], &wrong), Verdict::Corrupt);
    assert_eq!(fixture.write(&torrent, blocks[1], &fixture.data(blocks[1])), Verdict::Verified);
    assert_eq!(torrent.check_piece(piece, &blocks[..1], false), PieceOutcome::Blocks { corrupt: vec![blocks[0]] });
    assert_eq!(torrent.verified().iter().collect::<Vec<_>>(), [1]);
    // The only block of a piece needs no leaves.
    let single = fixture.blocks(PieceIndex(2))[0];
    assert_eq!(fixture.write(&torrent, single, &vec![1; single.len as usize]), Verdict::Corrupt);
    assert_eq!(fixture.write(&torrent, single, &fixture.data(single)), Verdict::Verified);
    let outside = BlockSpan { piece: PieceIndex(3), begin: 0, len: 1 };
    let half = BlockSpan { len: 100, ..blocks[2] };
    for span in [outside, half] {
        assert_eq!(fixture.write(&torrent, span, &vec![0; span.len as usize]), Verdict::Failed);
        assert!(torrent.read_block(span).unwrap().is_none());
    }
    assert_eq!(fixture.write(&torrent, blocks[2], &wrong[..5]), Verdict::Failed);
}

#[test]
fn blocks_are_written_in_runs() {
    for algorithm in HashAlgorithm::ALL {
        let fixture = Fixture::new(algorithm, &awkward_sizes());
        let (_store, torrent) = fixture.open();
        let mut batch: Vec<(BlockSpan, bytes::Bytes)> = Vec::new();
        for piece in fixture.pieces() {
            if algorithm.verifies_blocks() {
                let leaves = fixture.metainfo.piece_leaves(piece, &fixture.data(fixture.whole(piece)));
                torrent.set_leaves(piece, leaves.into());
            }
            batch.extend(fixture.blocks(piece).into_iter().map(|block| (block, fixture.data(block).into())));
        }
        // As they come from several peers: not in order, one of them twice, some of no use.
        let count = batch.len();
        (0..count).for_each(|at| batch.swap(at, (at * 7 + 3) % count));
        let (span, data) = batch[1].clone();
        batch.push((span, data.clone()));
        batch.push((BlockSpan { begin: 5, ..span }, data.clone()));
        batch.push((span, data.slice(1..)));
        batch.push((span, vec![0xee; data.len()].into()));
        let verdicts = torrent.write_blocks(&batch[..count + 3]);
        for ((span, _), verdict) in batch.iter().zip(&verdicts).take(count + 1) {
            let known = algorithm.verifies_blocks() || fixture.metainfo.single_leaf(span.piece).is_some();
            assert_eq!(*verdict, if known { Verdict::Verified } else { Verdict::Unverified }, "{algorithm} {span:?}");
        }
        assert_eq!(verdicts[count + 1..], [Verdict::Failed; 2]);
        if !algorithm.verifies_blocks() {
            for piece in fixture.pieces().filter(|piece| fixture.metainfo.single_leaf(*piece).is_none()) {
                assert_eq!(torrent.check_piece(piece, &fixture.blocks(piece), false), PieceOutcome::Verified);
            }
        }
        // What is verified already is not written again.
        assert_eq!(torrent.write_blocks(&batch[count + 3..]), [Verdict::Verified]);
        assert_eq!(fixture.missing(&torrent), 0);
    }
}

#[test]
fn a_wrong_piece_stays_hidden_until_it_is_right() {
    for algorithm in HashAlgorithm::ALL {
        let fixture = Fixture::new(algorithm, &[1000, 2 * PIECE as usize]);
        let (_store, torrent) = fixture.open();
        let piece = PieceIndex(1);
        let blocks = fixture.blocks(piece);
        for block in &blocks {
            assert_eq!(fixture.write(&torrent, *block, &vec![9; block.len as usize]), Verdict::Unverified);
        }
        assert!(matches!(torrent.check_piece(piece, &blocks, false), PieceOutcome::Corrupt { .. }));
        assert!(torrent.verified().is_empty());
        blocks.iter().for_each(|block| {
            fixture.write(&torrent, *block, &fixture.data(*block));
        });
        assert_eq!(torrent.check_piece(piece, &blocks, false), PieceOutcome::Verified);
        assert_eq!(torrent.read_block(fixture.whole(piece)).unwrap().unwrap(), fixture.data(fixture.whole(piece)));
        let missing = fixture.blocks(PieceIndex(0));
        assert_eq!(torrent.check_piece(PieceIndex(0), &missing, false), PieceOutcome::Failed);
    }
}

#[test]
fn a_piece_that_is_right_tells_which_blocks_were_wrong_before() {
    for algorithm in HashAlgorithm::ALL {
        let fixture = Fixture::new(algorithm, &[1000, 2 * PIECE as usize]);
        let (_store, torrent) = fixture.open();
        let piece = PieceIndex(1);
        let blocks = fixture.blocks(piece);
        let attempt = |wrong: &[usize]| {
            for (at, block) in blocks.iter().enumerate() {
                let mut data = fixture.data(*block);
                data[at] ^= u8::from(wrong.contains(&at));
                assert_eq!(fixture.write(&torrent, *block, &data), Verdict::Unverified);
            }
            torrent.check_piece(piece, &blocks, true)
        };
        let spoiled = [&[0, 1, 2][..], &[1], &[0, 3]];
        let failed = spoiled.map(|wrong| match attempt(wrong) {
            PieceOutcome::Corrupt { digests } => digests,
            other => panic!("{algorithm}: {other:?}"),
        });
        let PieceOutcome::VerifiedAfter { digests: right } = attempt(&[]) else { panic!("{algorithm}") };
        for (wrong, digests) in spoiled.into_iter().zip(failed) {
            let differ: Vec<_> = (0..blocks.len()).filter(|at| digests[*at] != right[*at]).collect();
            assert_eq!((digests.len(), &differ[..]), (right.len(), wrong));
        }
        assert_eq!(torrent.read_block(fixture.whole(piece)).unwrap().unwrap(), fixture.data(fixture.whole(piece)));
    }
}

#[test]
fn files_of_the_same_root_are_shared() {
    let first = Fixture::new(HashAlgorithm::Sha256Merkle, &[200_000, 100_000]);
    let (store, torrent) = first.open();
    first.fill(&torrent);
    // The same second file behind another first one, twice.
    let files = vec![testing::content(99, 70_000), first.files[1].clone(), first.files[1].clone()];
    let (metainfo, _) = testing::torrent(HashAlgorithm::Sha256Merkle, PIECE, &files);
    let other = store.torrent(Arc::new(metainfo), Source::Cache).unwrap();
    assert_eq!(other.cached_bytes(FileIndex(0)), 0);
    for file in [1, 2] {
        assert_eq!(other.cached_bytes(FileIndex(file)), 100_000);
        assert_eq!(other.read_verified(FileIndex(file), 5, 20_000).unwrap().unwrap(), files[1][5..20_005]);
    }
    let used = store.used_bytes();
    let layout = other.metainfo().layout();
    let piece = PieceIndex(layout.pieces_of(FileIndex(2)).start);
    let span = layout.block_span(piece, BlockIndex(0));
    assert_eq!(first.write(&other, span, &files[1][..span.len as usize]), Verdict::Verified);
    assert_eq!(store.used_bytes(), used);
}

#[test]
fn a_metainfo_is_found_by_its_ids() {
    let fixture = Fixture::new(HashAlgorithm::Blake3, &[5]);
    let (store, _torrent) = fixture.open();
    let id = fixture.metainfo.info_id();
    assert_eq!(store.metainfo(&id).unwrap().unwrap().bytes(), fixture.metainfo.bytes());
    let other = Fixture::new(HashAlgorithm::Blake3, &[6]).metainfo.info_id();
    assert!(store.metainfo(&other).unwrap().is_none());
}

#[test]
fn leaves_are_served_and_verify_what_they_come_from() {
    for algorithm in [HashAlgorithm::Sha256Merkle, HashAlgorithm::Blake3] {
        let fixture = Fixture::new(algorithm, &[2 * PIECE as usize]);
        let (store, torrent) = fixture.open();
        fixture.fill(&torrent);
        drop((torrent, store));
        let (store, torrent) = fixture.open();
        let leaves = torrent.leaves(PieceIndex(0)).unwrap().unwrap();
        assert_eq!(
            leaves[..],
            fixture.metainfo.piece_leaves(PieceIndex(0), &fixture.data(fixture.whole(PieceIndex(0))))
        );
        let path = &fixture.cache_files()[0];
        let mut content = std::fs::read(path).unwrap();
        content[PIECE as usize + 1] ^= 1;
        std::fs::write(path, content).unwrap();
        assert_eq!(torrent.leaves(PieceIndex(1)).unwrap(), None);
        assert_eq!(fixture.lost(), [PieceIndex(1)]);
        drop(store);
    }
}

/// What a run of the machine does to a store.
#[derive(Clone, Debug)]
enum Step {
    Piece(u32),
    Block(u32, u32),
    Flush,
    Sync,
    Shrink,
    Read(u32),
    Restart,
    Kill,
    PowerCut,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u32..24).prop_map(Step::Piece),
        4 => (0u32..24, 0u32..4).prop_map(|(piece, block)| Step::Block(piece, block)),
        2 => Just(Step::Flush),
        1 => Just(Step::Sync),
        1 => Just(Step::Shrink),
        3 => (0u32..24).prop_map(Step::Read),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
        1 => Just(Step::PowerCut),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 64, ..ProptestConfig::default() })]

    /// Durable marks never say more than the data: whatever happens, what is called verified reads right, and blocks
    /// are never lost but by eviction.
    #[test]
    fn marks_never_say_more_than_the_data(algorithm in 0usize..4, steps in prop::collection::vec(step(), 1..40)) {
        let sizes = [5, 300_000, 20_000, 1 << 20];
        let fixture = Fixture::new(HashAlgorithm::ALL[algorithm], &sizes);
        let (mut store, mut torrent) = fixture.open_with(ROOMY, "boot 0");
        let mut flushed = torrent.verified();
        for (step, nth) in steps.into_iter().zip(1..) {
            match step {
                Step::Piece(piece) if piece < fixture.metainfo.piece_count() => {
                    fixture.fill_piece(&torrent, PieceIndex(piece));
                }
                Step::Block(piece, block) if block < fixture.metainfo.layout().blocks_in(PieceIndex(piece)) => {
                    let span = fixture.blocks(PieceIndex(piece))[block as usize];
                    fixture.write(&torrent, span, &fixture.data(span));
                }
                Step::Flush => {
                    store.flush().unwrap();
                    flushed = torrent.verified();
                }
                Step::Sync => store.sync().unwrap(),
                Step::Shrink => {
                    store.shared.evict_some(200_000);
                    flushed = Bitfield::new(flushed.len());
                }
                Step::Read(piece) => {
                    if let Ok(Some(bytes)) = torrent.read_block(fixture.whole(PieceIndex(piece))) {
                        prop_assert_eq!(&bytes[..], &fixture.data(fixture.whole(PieceIndex(piece)))[..]);
                    }
                }
                Step::Restart => {
                    flushed = torrent.verified();
                    drop((torrent, store));
                    (store, torrent) = fixture.open_with(ROOMY, "boot 0");
                }
                Step::Kill | Step::PowerCut => {
                    let boot = if matches!(step, Step::Kill) { "boot 0".to_owned() } else { format!("boot {nth}") };
                    Fixture::kill(store, torrent);
                    (store, torrent) = fixture.open_with(ROOMY, &boot);
                    let verified = torrent.verified();
                    prop_assert!(flushed.iter().all(|block| verified.contains(block)));
                }
                _ => {}
            }
            prop_assert_eq!(&torrent.verified(), &readable(&fixture, &torrent));
        }
    }
}

/// The blocks that can be read; all of them right.
fn readable(fixture: &Fixture, torrent: &TorrentStorage) -> Bitfield {
    let layout = fixture.metainfo.layout();
    let mut bits = Bitfield::new(layout.block_numbers());
    for block in fixture.pieces().flat_map(|piece| fixture.blocks(piece)) {
        if let Some(bytes) = torrent.read_block(block).unwrap() {
            assert_eq!(bytes, fixture.data(block), "{block:?}");
            bits.insert(layout.block_number(block.piece, block.block()));
        }
    }
    bits
}
