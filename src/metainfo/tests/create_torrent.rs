//! Making torrents for ordinary clients.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bendy::decoding::{Decoder, Object};
use proptest::prelude::*;

use crate::metainfo::testing::{MemSource, content, file};
use crate::metainfo::{
    CreateError, Entry, EntryKind, Form, Hints, Metainfo, SecretKey, TorrentOptions, TreePath, create_torrent,
    verify_source,
};
use crate::types::FileIndex;

fn options() -> TorrentOptions {
    let hints = Hints::default();
    TorrentOptions {
        name: "t".into(),
        form: Form::V1,
        piece_length: Some(1 << 14),
        created_at: None,
        is_private: false,
        hints,
    }
}

fn make(options: &TorrentOptions, entries: &[Entry], data: &[Vec<u8>]) -> Result<Metainfo, CreateError> {
    create_torrent(options, entries, &MemSource(data.to_vec()), &|_| ControlFlow::Continue(()))
}

fn of_kind(path: &str, kind: EntryKind) -> Entry {
    Entry { path: TreePath::new(path).unwrap(), kind }
}

fn link(path: &str, target: &str) -> Entry {
    of_kind(path, EntryKind::Symlink { target: target.into() })
}

/// The keys of a dictionary that a strict reader takes from the first to the last byte.
fn strict_keys(bytes: &[u8]) -> Vec<String> {
    let mut decoder = Decoder::new(bytes);
    let Some(Object::Dict(mut dict)) = decoder.next_object().unwrap() else { panic!("no dictionary") };
    let mut keys = Vec::new();
    while let Some((key, _)) = dict.next_pair().unwrap() {
        keys.push(String::from_utf8(key.to_vec()).unwrap());
    }
    assert_eq!(dict.into_raw().unwrap(), bytes);
    keys
}

#[test]
fn everything_that_can_be_in_one() {
    let executable = EntryKind::File { length: 20_000, root: None, executable: true };
    let entries = [
        file("a", 5),
        of_kind("d/e", EntryKind::Directory),
        of_kind("d/run", executable.clone()),
        link("d/up", "../a"),
        link("l", "d/./run"),
        link("top", "."),
    ];
    let data = [content(1, 5), vec![], content(2, 20_000), vec![], vec![], vec![]];
    let hints = Hints {
        trackers: vec![vec!["http://a/x".into(), "udp://b:1".into()], vec!["http://c".into()]],
        web_seeds: vec!["https://w/".into()],
        nodes: vec![("router".into(), 6881)],
        comment: Some("ü".into()),
        created_by: Some("knot".into()),
    };
    let options = TorrentOptions { created_at: Some(7), is_private: true, hints: hints.clone(), ..options() };
    let made = make(&options, &entries, &data).unwrap();
    assert_eq!((made.form(), made.name(), made.is_private()), (Form::V1, "t", true));
    assert_eq!((made.created_at(), made.hints()), (Some(7), &hints));
    let expected =
        [file("a", 5), of_kind("d/run", executable), link("d/up", "../a"), link("l", "d/run"), link("top", ".")];
    assert_eq!(made.entries(), expected);
    let keys = ["announce", "announce-list", "comment", "created by", "creation date", "info", "nodes", "url-list"];
    assert_eq!(strict_keys(made.bytes()), keys);
    assert_eq!(strict_keys(made.info_bytes()), ["files", "name", "piece length", "pieces", "private"]);

    // The same content has the same InfoHash, whatever stands around it; private is part of it.
    let other = TorrentOptions { created_at: None, hints: Hints::default(), ..options.clone() };
    assert_eq!(make(&other, &entries, &data).unwrap().info_hash(), made.info_hash());
    let public = TorrentOptions { is_private: false, ..options };
    assert_ne!(make(&public, &entries, &data).unwrap().info_hash(), made.info_hash());

    let key = SecretKey::from_seed(&[3; 32]);
    let signed = made.sign(&key).unwrap();
    assert_eq!(
        (signed.public_key(), signed.info_bytes(), signed.hints()),
        (Some(key.public()), made.info_bytes(), &hints)
    );
    strict_keys(signed.bytes());
}

#[test]
fn a_single_file_is_one() {
    let made = make(&options(), &[file("t", 3)], &[b"abc".to_vec()]).unwrap();
    assert!(made.is_single_file());
    let expected = b"d4:infod6:lengthi3e4:name1:t12:piece lengthi16384e6:pieces20:";
    assert!(made.bytes().starts_with(expected));
    assert_eq!(made.info_hash().to_string(), "81607417b49af77e9539d81d1b0c1ef8bcfa47d2");
    assert!(!make(&options(), &[file("d/t", 3)], &[b"abc".to_vec()]).unwrap().is_single_file());
}

#[test]
fn what_others_would_not_accept_is_not_made() {
    let abc = [b"abc".to_vec(), b"abc".to_vec()];
    let refused = |options: &TorrentOptions, entries: &[Entry]| make(options, entries, &abc).unwrap_err().to_string();
    assert!(refused(&options(), &[]).contains("at least one byte"));
    assert!(refused(&options(), &[file("a", 0), of_kind("d", EntryKind::Directory)]).contains("at least one byte"));
    assert!(refused(&options(), &[file("b", 3), file("a", 3)]).contains("order"));
    assert!(refused(&options(), &[file("a", 3), link("b", "../c")]).contains("inside"));
    assert!(refused(&options(), &[file("a", 4)]).contains("4 bytes at 0"));
    for length in [1 << 13, 3 << 14, 1 << 27] {
        let odd = TorrentOptions { piece_length: Some(length), ..options() };
        assert!(refused(&odd, &[file("a", 3)]).contains("piece length"));
    }
    let odd = TorrentOptions { name: "a/b".into(), ..options() };
    assert!(refused(&odd, &[file("a", 3)]).contains("one name"));
}

proptest! {
    #[test]
    fn what_is_made_is_read_and_verifies(
        files in prop::collection::btree_map("[a-c]{1,2}(/[d-f%]{1,2}){0,2}", 0usize..70_000, 1..6),
        blocks in 0u32..3,
    ) {
        // No path is a directory of another.
        let tops: BTreeMap<_, _> = files.iter().map(|(path, len)| (path.replace('/', "_"), *len)).collect();
        let data: Vec<_> = tops.values().zip(0..).map(|(len, seed)| content(seed, *len + 1)).collect();
        let entries: Vec<_> = tops.keys().zip(&data).map(|(path, data)| file(path, data.len() as u64)).collect();
        let options = TorrentOptions { piece_length: Some(1 << (14 + blocks)), ..options() };
        let made = make(&options, &entries, &data).unwrap();
        strict_keys(made.bytes());
        prop_assert_eq!(made.entries(), &entries[..]);
        let good = verify_source(&made, &MemSource(data), &|_| ControlFlow::Continue(())).unwrap();
        prop_assert_eq!(good.count(), made.piece_count());
        prop_assert!(made.web_seed_url("http://w", FileIndex(0)).is_some());
        let bare = Metainfo::from_info_bytes(made.info_bytes()).unwrap();
        prop_assert_eq!(bare.bytes(), made.bytes());
    }
}
