//! What is given up, and when the disk is full.

use std::sync::atomic::Ordering::SeqCst;

use super::*;

/// The smallest cap that is kept for pieces of this length.
const SMALLEST: u64 = 4 * PIECE as u64 + (4 << 20);

#[test]
fn the_cache_stays_below_its_cap() {
    for algorithm in [HashAlgorithm::Sha256, HashAlgorithm::Sha256Merkle] {
        let fixture = Fixture::new(algorithm, &[10_000_000, 1000, 6_000_000]);
        let (store, torrent) = fixture.open_with(SMALLEST, "boot");
        for piece in fixture.pieces() {
            fixture.fill_piece(&torrent, piece);
            assert!(store.used_bytes() <= store.cap_bytes(), "{} bytes used", store.used_bytes());
        }
        // Without the background thread: nothing is on its way.
        store.shared.evict_to_cap();
        assert!(fixture.bytes_on_disk() <= SMALLEST + 64 * 1024, "{} on the disk", fixture.bytes_on_disk());
        let missing = fixture.missing(&torrent);
        assert!(missing >= 16_001_000 - SMALLEST, "{missing} missing");
        let lost = fixture.lost();
        assert!(lost.contains(&PieceIndex(0)) && !lost.contains(&PieceIndex(fixture.metainfo.piece_count() - 1)));
        drop((torrent, store));
        let (store, torrent) = fixture.open_with(SMALLEST, "boot");
        assert_eq!(fixture.missing(&torrent), missing);
        drop((torrent, store));
        // A cap without room for a few pieces is raised.
        let (store, _torrent) = fixture.open_with(1, "boot");
        assert_eq!(store.cap_bytes(), SMALLEST);
        assert!(store.used_bytes() <= SMALLEST);
    }
}

#[test]
fn what_was_used_last_stays_also_across_a_restart() {
    let fixture = Fixture::new(HashAlgorithm::Blake3, &[8 * PIECE as usize]);
    let has = |torrent: &TorrentStorage, piece| {
        let first = fixture.metainfo.layout().block_number(PieceIndex(piece), BlockIndex(0));
        torrent.verified().contains(first)
    };
    let (store, torrent) = fixture.open();
    fixture.fill(&torrent);
    assert!(torrent.read_block(fixture.blocks(PieceIndex(0))[0]).unwrap().is_some());
    store.shared.evict_some(2 * u64::from(PIECE));
    assert_eq!((0..8).filter(|piece| has(&torrent, *piece)).collect::<Vec<_>>(), [0, 3, 4, 5, 6, 7]);
    assert!(torrent.read_verified(FileIndex(0), 3 * u64::from(PIECE), 1).unwrap().is_some());
    drop((torrent, store));
    let (store, torrent) = fixture.open();
    store.shared.evict_some(3 * u64::from(PIECE));
    assert_eq!((0..8).filter(|piece| has(&torrent, *piece)).collect::<Vec<_>>(), [0, 3, 7]);
    fixture.missing(&torrent);
}

#[test]
fn torrents_that_are_not_open_are_given_up_too() {
    for algorithm in [HashAlgorithm::Sha1, HashAlgorithm::Blake3] {
        let fixture = Fixture::new(algorithm, &[PIECE as usize, 3 * PIECE as usize, 5]);
        let (store, torrent) = fixture.open();
        fixture.fill(&torrent);
        drop((torrent, store));
        let events = fixture.events.clone();
        let store = Store::open(fixture.dir.path(), ROOMY, Box::new(move |event| events.lock().unwrap().push(event)));
        let store = store.unwrap();
        assert!(store.used_bytes() > 4 * u64::from(PIECE));
        store.shared.evict_some(u64::MAX);
        assert_eq!((store.used_bytes(), fixture.bytes_on_disk()), (0, 0));
        assert_eq!(fixture.events.lock().unwrap()[..], []);
        let torrent = store.torrent(fixture.metainfo.clone(), Source::Cache).unwrap();
        assert!(torrent.verified().is_empty());
    }
}

#[test]
fn room_between_pieces_is_given_back_with_the_last_of_them() {
    // Pieces begin and end inside the filesystem's blocks.
    let fixture = Fixture::new(HashAlgorithm::Sha256, &[1000, 5 * PIECE as usize, 70_000]);
    let (store, torrent) = fixture.open();
    fixture.fill(&torrent);
    let mut missing = 0;
    while store.shared.evict_some(1) > 0 {
        let now = fixture.missing(&torrent);
        assert!(now >= missing);
        missing = now;
    }
    assert_eq!(missing, fixture.metainfo.total_length());
    assert_eq!((store.used_bytes(), fixture.bytes_on_disk()), (0, 0));
}

#[test]
fn a_smaller_cap_is_reached_in_the_background() {
    let fixture = Fixture::new(HashAlgorithm::Blake3, &[10_000_000]);
    let (store, torrent) = fixture.open();
    fixture.fill(&torrent);
    store.set_cap(1);
    while store.used_bytes() > store.cap_bytes() {
        std::thread::yield_now();
    }
    fixture.missing(&torrent);
}

#[test]
fn reads_go_on_when_the_disk_is_full() {
    for algorithm in HashAlgorithm::ALL {
        let fixture = Fixture::new(algorithm, &[300_000, 2 * PIECE as usize]);
        let (store, torrent) = fixture.open();
        fixture.fill_piece(&torrent, PieceIndex(0));
        store.shared.files.full.store(true, SeqCst);
        fixture.pieces().skip(1).for_each(|piece| fixture.fill_piece(&torrent, piece));
        // What was in the cache went first, since that could have made room.
        let first = u64::from(fixture.metainfo.layout().piece_len(PieceIndex(0)));
        assert!(fixture.missing(&torrent) <= first + 30_000);
        assert_eq!(fixture.warnings().len(), 1, "{:?}", fixture.warnings());
        assert_eq!(fixture.lost(), [PieceIndex(0)]);
        fixture.fill_piece(&torrent, PieceIndex(0));
        assert_eq!(fixture.missing(&torrent), 0);
        store.shared.files.full.store(false, SeqCst);
        drop((torrent, store));
        let (_store, torrent) = fixture.open();
        assert_eq!(fixture.missing(&torrent), fixture.metainfo.total_length());
    }
}

#[test]
fn wrong_blocks_on_a_disk_that_is_full_are_replaced_in_memory() {
    for algorithm in [HashAlgorithm::Sha1, HashAlgorithm::Blake3] {
        let fixture = Fixture::new(algorithm, &[2 * PIECE as usize]);
        let (store, torrent) = fixture.open();
        let (piece, blocks) = (PieceIndex(1), fixture.blocks(PieceIndex(1)));
        for block in &blocks {
            assert_eq!(fixture.write(&torrent, *block, &vec![9; block.len as usize]), Verdict::Unverified);
        }
        assert!(matches!(torrent.check_piece(piece, &blocks, false), PieceOutcome::Corrupt { .. }));
        store.shared.files.full.store(true, SeqCst);
        for block in &blocks {
            assert_eq!(fixture.write(&torrent, *block, &fixture.data(*block)), Verdict::Unverified);
        }
        assert_eq!(torrent.check_piece(piece, &blocks, false), PieceOutcome::Verified);
        assert_eq!(torrent.read_block(fixture.whole(piece)).unwrap().unwrap(), fixture.data(fixture.whole(piece)));
        drop((torrent, store));
        let (_store, torrent) = fixture.open();
        assert!(torrent.verified().is_empty());
    }
}

#[test]
fn blocks_in_memory_are_bounded() {
    let fixture = Fixture::new(HashAlgorithm::Blake3, &[70 << 20]);
    let (store, torrent) = fixture.open();
    store.shared.files.full.store(true, SeqCst);
    fixture.fill(&torrent);
    let lost = fixture.lost();
    assert_eq!(lost.len(), (6 << 20) / PIECE as usize);
    assert_eq!(lost[0], PieceIndex(0));
    assert_eq!(torrent.read_block(fixture.whole(PieceIndex(0))).unwrap(), None);
    let last = fixture.whole(PieceIndex(fixture.metainfo.piece_count() - 1));
    assert_eq!(torrent.read_block(last).unwrap().unwrap(), fixture.data(last));
}

#[test]
fn readers_writers_and_eviction_at_once() {
    for algorithm in [HashAlgorithm::Sha1, HashAlgorithm::Sha256Merkle] {
        let fixture = Fixture::new(algorithm, &[6_000_000, 3_000_000]);
        let (store, torrent) = fixture.open_with(1, "boot");
        std::thread::scope(|scope| {
            for start in [0, 40] {
                let (fixture, torrent) = (&fixture, &torrent);
                scope.spawn(move || {
                    for nth in 0..2 * fixture.metainfo.piece_count() {
                        let piece = PieceIndex((start + nth) % fixture.metainfo.piece_count());
                        for block in fixture.blocks(piece) {
                            fixture.write(torrent, block, &fixture.data(block));
                        }
                        torrent.check_piece(piece, &fixture.blocks(piece), false);
                    }
                });
                scope.spawn(move || (0..6).map(|_| fixture.missing(torrent)).max());
            }
            scope.spawn(|| (0..20).for_each(|_| store.flush().unwrap()));
        });
        fixture.missing(&torrent);
        drop((torrent, store));
        let (_store, torrent) = fixture.open();
        fixture.missing(&torrent);
        assert!(fixture.warnings().is_empty(), "{:?}", fixture.warnings());
    }
}

#[test]
fn what_is_checked_while_it_is_given_up_stays() {
    for algorithm in HashAlgorithm::ALL {
        let fixture = Fixture::new(algorithm, &[4 * PIECE as usize]);
        let (store, torrent) = fixture.open();
        fixture.fill(&torrent);
        let victims = store.shared.choose(u64::from(PIECE));
        assert_eq!(victims.len(), 1);
        assert_eq!(torrent.read_block(fixture.whole(PieceIndex(0))).unwrap(), None);
        torrent.check_piece(PieceIndex(0), &fixture.blocks(PieceIndex(0)), false);
        store.shared.give_up(victims);
        assert_eq!(fixture.missing(&torrent), 0);
        assert!(torrent.is_complete());
        drop((torrent, store));
        let (store, torrent) = fixture.open();
        assert_eq!(fixture.missing(&torrent), 0);
        store.shared.evict_some(1);
        assert!(!torrent.is_complete());
    }
}

#[test]
fn files_of_which_all_was_given_up_go_with_the_next_start() {
    let fixture = Fixture::new(HashAlgorithm::Blake3, &[2 * PIECE as usize]);
    let (store, torrent) = fixture.open();
    fixture.fill(&torrent);
    store.shared.evict_some(u64::MAX);
    drop((torrent, store));
    let (_store, torrent) = fixture.open();
    assert_eq!(fixture.cache_files(), Vec::<PathBuf>::new());
    fixture.fill(&torrent);
    assert_eq!(fixture.missing(&torrent), 0);
}

#[test]
fn what_only_an_old_version_has_goes_first_and_what_it_shares_stays() {
    for algorithm in [HashAlgorithm::Sha256Merkle, HashAlgorithm::Blake3] {
        let sizes = [3 * PIECE as usize, 2 * PIECE as usize + 5];
        let fixture = Fixture::new(algorithm, &sizes);
        let (store, old) = fixture.open();
        fixture.fill(&old);
        // The next version has the first file, and another one in place of the second.
        let files = [fixture.files[0].clone(), testing::content(99, 4 * PIECE as usize)];
        let next = Fixture::of(testing::torrent(algorithm, PIECE, &files).0, files.to_vec());
        let new = store.torrent(next.metainfo.clone(), Source::Cache).unwrap();
        new.bind(TorrentKey(8));
        next.fill(&new);
        // Used last, and yet the first to go.
        assert_eq!(fixture.missing(&old), 0);
        old.retire(false);
        assert_eq!(fixture.missing(&old), 0);
        old.retire(false);
        store.shared.evict_some(1);
        assert!(next.missing(&new) == 0 && fixture.missing(&old) > 0, "{algorithm}");
        old.retire(true);
        assert_eq!((next.missing(&new), fixture.missing(&old)), (0, sizes[1] as u64), "{algorithm}");
    }
}
