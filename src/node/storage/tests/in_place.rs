//! Serving the user's own files.

use std::fs;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::*;
use crate::metainfo::{CreateOptions, create};
use crate::node::tree::scan;

struct Seed {
    fixture: Fixture,
    path: PathBuf,
}

impl Seed {
    /// A directory with the files of a fixture, whose metainfo was made of it.
    fn new(algorithm: HashAlgorithm, sizes: &[usize]) -> Self {
        let fixture = Fixture::new(algorithm, sizes);
        let path = fixture.dir.path().join("t");
        fs::create_dir(&path).unwrap();
        for (content, file) in fixture.files.iter().zip(0..) {
            fs::write(path.join(format!("{file:04}")), content).unwrap();
        }
        Self { fixture, path }
    }

    fn file(&self, file: u32) -> PathBuf {
        self.path.join(format!("{file:04}"))
    }

    fn open(&self, is_fresh: bool) -> (Store, Arc<TorrentStorage>) {
        let events = self.fixture.events.clone();
        let sink = Box::new(move |event| events.lock().unwrap().push(event));
        let store = Store::open(self.fixture.dir.path(), ROOMY, sink).unwrap();
        let files = scan(&self.path, None).unwrap().source;
        let source = Source::InPlace { path: self.path.clone(), files, is_fresh };
        let torrent = store.torrent(self.fixture.metainfo.clone(), source).unwrap();
        torrent.bind(KEY);
        (store, torrent)
    }
}

/// The bytes that had to be hashed.
fn check(torrent: &TorrentStorage) -> u64 {
    let hashed = AtomicU64::new(0);
    let on_progress = |done, _| {
        hashed.fetch_max(done, SeqCst);
        ControlFlow::Continue(())
    };
    torrent.check(&on_progress).unwrap();
    hashed.into_inner()
}

#[test]
fn files_are_served_and_hashed_once() {
    for algorithm in HashAlgorithm::ALL {
        let seed = Seed::new(algorithm, &awkward_sizes());
        let total = seed.fixture.metainfo.total_length();
        let (store, torrent) = seed.open(false);
        assert!(torrent.verified().is_empty());
        assert_eq!(check(&torrent), total);
        assert!(torrent.is_complete());
        assert_eq!(seed.fixture.missing(&torrent), 0);
        drop((torrent, store));
        let (store, torrent) = seed.open(false);
        assert!(torrent.is_complete());
        assert_eq!(check(&torrent), 0);
        assert_eq!(seed.fixture.missing(&torrent), 0);
        assert_eq!(store.used_bytes(), 0);
        assert_eq!(seed.fixture.cache_files(), Vec::<PathBuf>::new());
        assert_eq!(seed.fixture.events.lock().unwrap()[..], []);
    }
}

#[test]
fn what_was_just_hashed_is_not_hashed_again() {
    let seed = Seed::new(HashAlgorithm::Sha256Merkle, &awkward_sizes());
    let (store, torrent) = seed.open(true);
    assert!(torrent.is_complete());
    assert_eq!(check(&torrent), 0);
    drop((torrent, store));
    let (_store, torrent) = seed.open(false);
    assert_eq!(check(&torrent), 0);
}

#[test]
fn the_metainfo_of_an_unchanged_tree_is_known() {
    let seed = Seed::new(HashAlgorithm::Blake3, &[100, 100_000]);
    let listed = scan(&seed.path, None).unwrap();
    let options = CreateOptions {
        name: listed.name.clone(),
        algorithm: HashAlgorithm::Blake3,
        piece_length: None,
        created_at: None,
        peers: Vec::new(),
        version: None,
    };
    let made = create(&options, listed.entries.clone(), &listed.source, &|_| ControlFlow::Continue(())).unwrap();
    let made = Arc::new(made);
    let (store, _torrent) = seed.fixture.open();
    assert!(store.seeded(&seed.path, &listed).unwrap().is_none());
    let source = Source::InPlace { path: seed.path.clone(), files: listed.source, is_fresh: true };
    store.torrent(made.clone(), source).unwrap();
    let known = |expected: bool| {
        let found = store.seeded(&seed.path, &scan(&seed.path, None).unwrap()).unwrap();
        assert_eq!(found.map(|found| found.info_hash()), expected.then(|| made.info_hash()));
    };
    known(true);
    fs::write(seed.path.join("new"), b"").unwrap();
    known(false);
    fs::remove_file(seed.path.join("new")).unwrap();
    known(true);
    fs::write(seed.file(0), [7; 100]).unwrap();
    known(false);
}

#[test]
fn a_changed_file_is_refused_and_the_rest_is_served() {
    for algorithm in HashAlgorithm::ALL {
        let seed = Seed::new(algorithm, &[200_000, 300_000, 50_000]);
        let (_store, torrent) = seed.open(true);
        let mut content = seed.fixture.files[1].clone();
        content[150_000] ^= 1;
        fs::write(seed.file(1), &content).unwrap();
        let missing = seed.fixture.missing(&torrent);
        assert!(missing > 0 && missing < 200_000, "{missing} missing");
        let lost = seed.fixture.lost();
        assert_eq!(lost.len(), 1, "{lost:?}");
        let layout = seed.fixture.metainfo.layout();
        assert!(layout.pieces_of_range(FileIndex(1), 150_000..150_001).contains(&lost[0].0));
        // The right content back: served again.
        fs::write(seed.file(1), &seed.fixture.files[1]).unwrap();
        assert_eq!(seed.fixture.missing(&torrent), 0);
    }
}

#[test]
fn a_change_is_reported_in_plain_words() {
    let seed = Seed::new(HashAlgorithm::Sha256, &[200_000]);
    let (_store, torrent) = seed.open(true);
    fs::write(seed.file(0), vec![1; 200_000]).unwrap();
    assert_eq!(seed.fixture.missing(&torrent), 200_000);
    let warnings = seed.fixture.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("0000\" changed while it is being seeded"), "{warnings:?}");
    assert!(warnings[1].contains("it is not served"), "{warnings:?}");
}

#[test]
fn removed_shortened_and_strange_files_are_not_served() {
    let seed = Seed::new(HashAlgorithm::Sha256Merkle, &[100_000, 100_000, 100_000, 100_000]);
    let (_store, torrent) = seed.open(true);
    assert_eq!(seed.fixture.missing(&torrent), 0);
    fs::remove_file(seed.file(0)).unwrap();
    fs::OpenOptions::new().write(true).open(seed.file(1)).unwrap().set_len(PIECE.into()).unwrap();
    fs::remove_file(seed.file(2)).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        seed.file(2),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    seed.fixture.missing(&torrent);
    let read = |file| torrent.read_verified(FileIndex(file), 99_000, 1000).unwrap();
    assert_eq!([0, 1, 2].map(read), [None, None, None]);
    assert_eq!(read(3).unwrap(), seed.fixture.files[3][99_000..]);
    assert!(torrent.read_verified(FileIndex(1), 0, 100).unwrap().is_some());
}

#[test]
fn touched_and_replaced_files_are_hashed_again_and_served() {
    let seed = Seed::new(HashAlgorithm::Blake3, &[100_000, 100_000]);
    let (store, torrent) = seed.open(true);
    fs::OpenOptions::new().write(true).open(seed.file(0)).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    fs::copy(seed.file(1), seed.path.join("copy")).unwrap();
    fs::rename(seed.path.join("copy"), seed.file(1)).unwrap();
    assert_eq!(seed.fixture.missing(&torrent), 0);
    assert_eq!(seed.fixture.lost(), []);
    drop((torrent, store));
    let (_store, torrent) = seed.open(false);
    assert_eq!(check(&torrent), 200_000);
    assert!(torrent.is_complete());
}

#[test]
fn parts_that_do_not_match_are_fetched_into_the_cache() {
    let seed = Seed::new(HashAlgorithm::Sha256Merkle, &[300_000]);
    let mut content = seed.fixture.files[0].clone();
    content[0] ^= 1;
    fs::write(seed.file(0), &content).unwrap();
    let (_store, torrent) = seed.open(false);
    check(&torrent);
    assert!(!torrent.is_complete());
    seed.fixture.fill_piece(&torrent, PieceIndex(0));
    assert_eq!(torrent.verified().count(), 300_000_u32.div_ceil(16 << 10));
    assert_eq!(torrent.read_block(seed.fixture.whole(PieceIndex(0))).unwrap().unwrap(), seed.fixture.files[0][..65536]);
    assert_eq!(fs::read(seed.file(0)).unwrap(), content);
}

#[test]
fn checking_can_be_broken_off() {
    let seed = Seed::new(HashAlgorithm::Sha1, &[1 << 20]);
    let (_store, torrent) = seed.open(false);
    assert!(matches!(torrent.check(&|_, _| ControlFlow::Break(())), Err(StorageError::Cancelled)));
    // Each thread that had begun has hashed one piece.
    let threads = std::thread::available_parallelism().unwrap().get() as u64;
    let hashed = (1 << 20) - check(&torrent);
    assert!((1..=threads).contains(&(hashed / u64::from(PIECE))), "{hashed} hashed");
    assert!(torrent.is_complete());
}
