//! Making metainfo, signing it, and checking content against it.

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use crate::metainfo::testing::{MemSource, content, file, options, torrent};
use crate::metainfo::{
    CreateError, CreateOptions, DatasetVersion, Entry, EntryKind, Metainfo, MetainfoError, SecretKey, Source, TreePath,
    create, default_piece_length, verify_source,
};
use crate::types::{BLOCK_LEN, FileIndex, HashAlgorithm, InfoId};

fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn awkward() -> (Vec<Entry>, MemSource) {
    let entry = |path: &str, kind| Entry { path: TreePath::new(path).unwrap(), kind };
    let executable = EntryKind::File { length: 20_000, root: None, executable: true };
    let entries = vec![
        entry("bin/run", executable),
        entry("bin/run it", EntryKind::Symlink { target: "run".into() }),
        entry("empty dir", EntryKind::Directory),
        file("empty file", 0),
        file("line\nbreak", 70_000),
        file("ünï…", 16_384),
    ];
    let source =
        MemSource(entries.iter().enumerate().map(|(at, entry)| content(at as u64, entry.length() as usize)).collect());
    (entries, source)
}

fn without_roots(entries: &[Entry]) -> Vec<Entry> {
    let mut entries = entries.to_vec();
    for entry in &mut entries {
        if let EntryKind::File { root, .. } = &mut entry.kind {
            *root = None;
        }
    }
    entries
}

#[test]
fn what_is_made_keeps_the_tree() {
    for algorithm in HashAlgorithm::ALL {
        let (entries, source) = awkward();
        let mut options = options(algorithm, 32 << 10);
        options.created_at = Some(1_700_000_000);
        options.peers = vec!["127.0.0.1:4001".parse().unwrap(), "/ip4/127.0.0.2/tcp/1".parse().unwrap()];
        let made = create(&options, entries.clone(), &source, &go_on).unwrap();
        let read = Metainfo::parse(made.bytes()).unwrap();
        assert_eq!(without_roots(read.entries()), entries);
        assert_eq!((read.name(), read.algorithm(), read.piece_length()), ("t", algorithm, 32 << 10));
        assert_eq!((read.created_at(), read.peers()), (Some(1_700_000_000), &options.peers[..]));
        assert_eq!(read.info_hash().as_bytes().len(), algorithm.digest_len());
        assert!(verify_source(&read, &source, &go_on).unwrap().is_full());

        // Neither the time nor the peers are part of the value.
        let plain = create(&super::super::testing::options(algorithm, 32 << 10), entries, &source, &go_on).unwrap();
        assert_eq!(plain.info_hash(), made.info_hash());
        assert_ne!(plain.bytes(), made.bytes());
    }
}

#[test]
fn nothing_and_files_of_nothing_are_torrents() {
    for algorithm in HashAlgorithm::ALL {
        for files in [vec![], vec![vec![]], vec![vec![], content(1, 5), vec![]]] {
            let (made, source) = torrent(algorithm, 16 << 10, &files);
            assert_eq!(made.entries().len(), files.len());
            assert_eq!(u64::from(made.piece_count()), made.total_length().div_ceil(5));
            assert!(verify_source(&made, &source, &go_on).unwrap().is_full());
        }
    }
}

#[test]
fn a_signature_names_the_dataset() {
    let (plain, _) = torrent(HashAlgorithm::Sha256Merkle, 16 << 10, &[content(1, 5)]);
    let (alice, bob) = (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
    let signed = plain.sign(&alice).unwrap();
    assert_eq!(plain.info_id(), InfoId::Hash(plain.info_hash()));
    assert_eq!(signed.info_id(), InfoId::Sig(signed.info_sig().unwrap()));
    assert_eq!((signed.public_key(), signed.info_hash()), (Some(alice.public()), plain.info_hash()));
    assert!(signed.matches(&plain.info_id()) && signed.matches(&signed.info_id()));
    assert!(!plain.matches(&signed.info_id()));
    // In the swarm of its InfoSig meets who follows the dataset, at whatever version.
    let content = vec![plain.info_id().swarm_id()];
    assert_eq!((signed.swarm_ids(), plain.swarm_ids()), (content.clone(), content));

    let again = signed.sign(&bob).unwrap();
    assert_eq!(again.public_key(), Some(bob.public()));
    assert_eq!(again.bytes(), plain.sign(&bob).unwrap().bytes());
    assert_eq!(Metainfo::parse(signed.bytes()).unwrap().info_id(), signed.info_id());
}

#[test]
fn a_later_version_belongs_to_the_dataset_of_the_first() {
    let key = SecretKey::from_seed(&[1; 32]);
    let make = |version| {
        let options = CreateOptions { version, ..options(HashAlgorithm::Blake3, 1 << 16) };
        create(&options, vec![file("a", 3)], &MemSource(vec![b"abc".to_vec()]), &go_on).unwrap().sign(&key).unwrap()
    };
    let first = make(None);
    let origin = first.info_sig().unwrap();
    assert_eq!((first.version(), first.origin()), (None, Some(origin)));
    let version = DatasetVersion { origin, seq: 2 };
    let second = make(Some(version));
    assert_eq!((second.version(), second.origin()), (Some(version), Some(origin)));
    assert_ne!(second.info_hash(), first.info_hash());
    let ids = [second.info_id(), InfoId::Hash(second.info_hash())].map(|id| id.swarm_id());
    assert_eq!(second.swarm_ids(), ids);
}

#[test]
fn signing_keeps_the_rest_of_the_envelope() {
    let (plain, _) = torrent(HashAlgorithm::Sha1, 16 << 10, &[content(1, 5)]);
    let mut bytes = b"d13:announce-listll4:http4:httpee".to_vec();
    bytes.extend_from_slice(&plain.bytes()[1..plain.bytes().len() - 1]);
    bytes.extend_from_slice(b"5:nodesll1:ai1eee7:unknowni-3ee");
    let signed = Metainfo::parse(&bytes).unwrap().sign(&SecretKey::from_seed(&[1; 32])).unwrap();
    for kept in ["13:announce-listll4:http4:httpee", "5:nodesll1:ai1eee", "7:unknowni-3e"] {
        assert!(signed.bytes().windows(kept.len()).any(|window| window == kept.as_bytes()), "{kept}");
    }
}

#[test]
fn damaged_content_is_found_by_piece() {
    for algorithm in HashAlgorithm::ALL {
        let files = vec![content(1, 100_000), content(2, 50_000)];
        let (metainfo, mut source) = torrent(algorithm, 32 << 10, &files);
        source.0[0][40_000] ^= 1;
        source.0[1].truncate(49_999);
        let good = verify_source(&metainfo, &source, &go_on).unwrap();
        let bad: Vec<_> = (0..metainfo.piece_count()).filter(|piece| !good.contains(*piece)).collect();
        // Aligned: pieces 0..=3 and 4..=5. End to end: 0..=4.
        assert_eq!(bad, [1, metainfo.piece_count() - 1], "{algorithm}");
    }
}

/// Says of file 0 that it changed, or cannot be read past a point.
struct Troubled(MemSource, u64);

impl Source for Troubled {
    fn read_at(&self, file: FileIndex, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if offset + buf.len() as u64 > self.1 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.read_at(file, offset, buf)
    }

    fn check_unchanged(&self, _: FileIndex) -> io::Result<()> {
        Err(io::Error::other("its mtime is another"))
    }
}

#[test]
fn a_source_that_shrinks_or_changes_gives_no_metainfo() {
    let entries = || vec![file("a", 300_000)];
    let options = options(HashAlgorithm::Blake3, 64 << 10);
    let shrunk = Troubled(MemSource(vec![content(1, 300_000)]), 200_000);
    let error = create(&options, entries(), &shrunk, &go_on).unwrap_err();
    assert!(matches!(&error, CreateError::Read { path, offset: 196_608, .. } if path == "a"), "{error}");
    let touched = Troubled(MemSource(vec![content(1, 300_000)]), u64::MAX);
    let error = create(&options, entries(), &touched, &go_on).unwrap_err();
    assert!(matches!(error, CreateError::Changed { .. }), "{error}");
}

#[test]
fn progress_is_told_and_can_stop() {
    let files = vec![content(1, 1_000_000)];
    let (metainfo, source) = torrent(HashAlgorithm::Sha1, 64 << 10, &files);
    let most = AtomicU64::new(0);
    let told = |done| {
        most.fetch_max(done, Ordering::Relaxed);
        ControlFlow::Continue(())
    };
    verify_source(&metainfo, &source, &told).unwrap();
    assert_eq!(most.into_inner(), 1_000_000);

    let stop = |done| if done > 300_000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    assert!(verify_source(&metainfo, &source, &stop).is_err());
    let options = options(HashAlgorithm::Sha1, 64 << 10);
    let error = create(&options, vec![file("a", 1_000_000)], &source, &stop).unwrap_err();
    assert!(matches!(error, CreateError::Cancelled(_)), "{error}");
}

#[test]
fn what_would_not_be_accepted_is_not_made() {
    let none = MemSource(Vec::new());
    let make = |piece_length, entries| {
        let mut options = options(HashAlgorithm::Sha256Merkle, 0);
        options.piece_length = piece_length;
        create(&options, entries, &none, &go_on).unwrap_err()
    };
    for odd in [0, 1, 8 << 10, 48 << 10, 128 << 20, u32::MAX] {
        let error = make(Some(odd), vec![]);
        assert!(matches!(error, CreateError::Invalid(MetainfoError::PieceLength { .. })), "{odd}: {error}");
    }
    assert!(matches!(make(None, vec![file("b", 0), file("a", 0)]), CreateError::Unsorted { .. }));
    assert!(matches!(make(None, vec![file("a", 0), file("a", 0)]), CreateError::Unsorted { .. }));
    // Refused before anything is read, which `none` would not survive.
    assert!(matches!(make(Some(16 << 10), vec![file("a", 1 << 40)]), CreateError::TooLarge { .. }));
    assert!(matches!(make(Some(16 << 10), vec![file("a", i64::MAX as u64)]), CreateError::Layout(_)));
    let mut named = options(HashAlgorithm::Sha1, 16 << 10);
    named.name = "../t".into();
    let error = create(&named, vec![], &none, &go_on).unwrap_err();
    assert!(matches!(error, CreateError::Invalid(MetainfoError::Path(_))), "{error}");
}

#[test]
fn a_single_file_is_told_from_a_directory() {
    let source = MemSource(vec![content(1, 5)]);
    let make = |entries| create(&options(HashAlgorithm::Sha1, 16 << 10), entries, &source, &go_on).unwrap();
    assert!(make(vec![file("t", 5)]).is_single_file());
    assert!(!make(vec![file("u", 5)]).is_single_file());
}

#[test]
fn default_piece_lengths() {
    for (total, expected) in [
        (0, 64 << 10),
        (100 << 20, 64 << 10),
        (1 << 30, 512 << 10),
        (8 << 30, 4 << 20),
        (256 << 30, 4 << 20),
        (1 << 40, 16 << 20),
        (1 << 50, 64 << 20),
        (u64::MAX, 64 << 20),
    ] {
        assert_eq!(default_piece_length(total), expected, "{total}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the tree, what is made can be read, describes the same tree, and its content verifies.
    #[test]
    fn create_and_parse_agree(
        algorithm in prop::sample::select(HashAlgorithm::ALL.to_vec()),
        blocks in 0u32..3,
        lengths in prop::collection::vec(prop_oneof![Just(0usize), 1usize..100, 16_000usize..150_000], 0..8),
    ) {
        let files: Vec<_> = lengths.iter().enumerate().map(|(seed, len)| content(seed as u64, *len)).collect();
        let (made, source) = torrent(algorithm, BLOCK_LEN << blocks, &files);
        let read = Metainfo::parse(made.bytes()).unwrap();
        prop_assert_eq!(read.entries(), made.entries());
        prop_assert_eq!(read.layout(), made.layout());
        prop_assert!(verify_source(&read, &source, &go_on).unwrap().is_full());
        let (again, _) = torrent(algorithm, BLOCK_LEN << blocks, &files);
        prop_assert_eq!(again.bytes(), made.bytes());
    }
}
