//! BitTorrent v2 torrents: made, read and verified (BEP 52).

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use proptest::prelude::*;

use crate::metainfo::testing::{MemSource, content, file};
use crate::metainfo::{
    Entry, EntryKind, Form, HashRange, Hints, Metainfo, MetainfoError, TorrentOptions, create_torrent, verify_source,
};
use crate::types::{FileIndex, HashAlgorithm, PieceIndex};

const PIECE: usize = 32 << 10;

fn make_of(form: Form, entries: &[Entry], data: &[Vec<u8>]) -> Metainfo {
    let options = TorrentOptions {
        name: "t".into(),
        form,
        piece_length: Some(PIECE as u32),
        created_at: None,
        is_private: false,
        hints: Hints::default(),
    };
    create_torrent(&options, entries, &MemSource(data.to_vec()), &|_| ControlFlow::Continue(())).unwrap()
}

fn make(form: Form, lens: &[usize]) -> (Metainfo, Vec<Vec<u8>>) {
    let data: Vec<_> = lens.iter().enumerate().map(|(at, len)| content(at as u64, *len)).collect();
    let entries: Vec<_> = (0..).zip(&data).map(|(at, data)| file(&format!("f{at:03}"), data.len() as u64)).collect();
    (make_of(form, &entries, &data), data)
}

/// The layers of all files of several pieces, and the metainfo without them.
fn taken_apart(metainfo: &Metainfo) -> (Metainfo, BTreeMap<[u8; 32], Bytes>) {
    let files = (0..metainfo.entries().len() as u32).map(FileIndex);
    let layers = files.filter_map(|file| {
        let pieces = metainfo.layout().pieces_of(file);
        let hashes =
            pieces.clone().flat_map(|piece| metainfo.piece_hash(PieceIndex(piece)).unwrap().as_bytes().to_vec());
        (pieces.len() > 1).then(|| (metainfo.file_root(file).unwrap().0, hashes.collect()))
    });
    (Metainfo::from_info_bytes(metainfo.info_bytes()).unwrap(), layers.collect())
}

#[test]
fn a_v2_torrent_has_the_trees_of_a_native_one() {
    let lens = [0, 1, 16384, 16385, PIECE, PIECE + 1, 3 * PIECE, 9 * PIECE + 5];
    let (made, data) = make(Form::V2, &lens);
    let (native, source) = crate::metainfo::testing::torrent(HashAlgorithm::Sha256Merkle, PIECE as u32, &data);
    assert_eq!((made.form(), made.algorithm()), (Form::V2, HashAlgorithm::Sha256Merkle));
    for at in 0..lens.len() as u32 {
        assert_eq!(made.file_root(FileIndex(at)), native.file_root(FileIndex(at)));
    }
    assert!(
        (0..made.piece_count()).all(|piece| made.piece_hash(PieceIndex(piece)) == native.piece_hash(PieceIndex(piece)))
    );
    let all = verify_source(&made, &source, &|_| ControlFlow::Continue(())).unwrap();
    assert!(all.is_full() && made.has_layers() && made.check_mountable().is_ok());
    let public = Metainfo::parse(&made.public_bytes()).unwrap();
    assert_eq!((public.has_layers(), public.info_hash()), (true, made.info_hash()));
}

#[test]
fn the_tree_has_an_order_of_its_own() {
    // By their paths' bytes `a-b` comes before `a/c`; in the tree `a` comes before `a-b`.
    let data = vec![content(1, 10), content(2, 40_000), content(3, 5)];
    let entries = [file("a-b", 10), file("a/c", 40_000), file("b", 5)];
    for form in [Form::V2, Form::Hybrid] {
        let made = make_of(form, &entries, &data);
        let shown: Vec<_> = made.entries().iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(shown, ["a/c", "a-b", "b"]);
        let source = MemSource(vec![data[1].clone(), data[0].clone(), data[2].clone()]);
        assert!(verify_source(&made, &source, &|_| ControlFlow::Continue(())).unwrap().is_full(), "{form}");
    }
}

#[test]
fn a_hybrid_torrent_is_of_the_same_files_twice() {
    let (v2, data) = make(Form::V2, &[5, 0, 2 * PIECE + 1, 0, 7]);
    let (made, _) = make(Form::Hybrid, &[5, 0, 2 * PIECE + 1, 0, 7]);
    assert_eq!((made.form(), made.entries().len()), (Form::Hybrid, 5));
    assert!((0..5).map(FileIndex).all(|file| made.claimed_root(file) == v2.file_root(file)), "the forms agree");
    assert!(verify_source(&made, &MemSource(data), &|_| ControlFlow::Continue(())).unwrap().is_full());
    assert!(made.layout().has_padding());
    let single = make_of(Form::Hybrid, &[file("t", 3)], &[b"abc".to_vec()]);
    assert!(single.is_single_file() && single.claimed_root(FileIndex(0)).is_some());
    assert!(make_of(Form::V2, &[file("t", 3)], &[b"abc".to_vec()]).is_single_file());
}

#[test]
fn layers_are_those_of_their_roots_or_refused() {
    let (made, _) = make(Form::V2, &[3 * PIECE, 5, 2 * PIECE]);
    let (bare, layers) = taken_apart(&made);
    assert_eq!(layers.len(), 2);
    assert!(!bare.has_layers() && bare.entries() == made.entries());
    assert_eq!(bare.check_mountable(), Err(MetainfoError::NoLayers));
    assert!(bare.piece_hash(PieceIndex(0)).is_none());
    let whole = bare.with_layers(&layers).unwrap();
    assert_eq!((whole.has_layers(), whole.info_bytes()), (true, made.info_bytes()));
    let (root, layer) = layers.iter().find(|(_, layer)| layer.len() == 96).unwrap();
    let with = |layer: &[u8]| {
        let mut layers = layers.clone();
        layers.insert(*root, layer.to_vec().into());
        bare.with_layers(&layers)
    };
    let mut wrong = layer.to_vec();
    wrong[40] ^= 1;
    assert!(matches!(with(&wrong).unwrap_err(), MetainfoError::Root { .. }));
    for odd in [&layer[..64], &layer[..95], &[&layer[..], &[0; 32]].concat(), &[]] {
        assert!(matches!(with(odd).unwrap_err(), MetainfoError::PieceLayer { expected: 96, .. }));
    }
    // What is not there has to come from peers; what nobody needs does not matter.
    let mut fewer = layers.clone();
    fewer.remove(root);
    assert!(!bare.with_layers(&fewer).unwrap().has_layers());
    fewer.insert([9; 32], layer.clone());
    assert!(!bare.with_layers(&fewer).unwrap().has_layers());
}

#[test]
fn missing_layers_are_asked_for_and_proven() {
    // 700 pieces take two requests of 512, of which the second is padded.
    let (made, _) = make(Form::V2, &[700 * PIECE, PIECE, 3 * PIECE, 3]);
    let (bare, layers) = taken_apart(&made);
    let requests = bare.layer_requests();
    assert!(made.layer_requests().is_empty());
    assert_eq!(requests.len(), 3);
    let mut got: BTreeMap<[u8; 32], Vec<u8>> = BTreeMap::new();
    for request in &requests {
        let answer = made.answer_range(request, |_| None).unwrap();
        got.entry(request.root).or_default().extend(bare.verify_layer(request, &answer).unwrap());
        for len in [0, 32, answer.len() - 32, answer.len() - 1] {
            assert_eq!(bare.verify_layer(request, &answer[..len]), None);
        }
        assert_eq!(bare.verify_layer(request, &[&answer[..], &[0; 32]].concat()), None);
        for at in (0..answer.len()).step_by(32) {
            let mut wrong = answer.clone();
            wrong[at] ^= 1;
            assert_eq!(bare.verify_layer(request, &wrong), None);
        }
        assert_eq!(bare.answer_range(request, |_| None), None, "nobody tells what it does not know");
        let other = HashRange { root: [1; 32], ..*request };
        assert_eq!((bare.verify_layer(&other, &answer), made.answer_range(&other, |_| None)), (None, None));
    }
    assert!(got.iter().all(|(root, layer)| layers[root] == layer[..]));
}

#[test]
fn any_range_of_a_tree_is_told_with_its_proof() {
    let (made, data) = make(Form::V2, &[5 * PIECE + 100, 20_000, 100]);
    let leaves = |piece: PieceIndex| {
        let (file, offset) = made.layout().file_of_piece(piece).unwrap();
        let data = &data[file.0 as usize][offset as usize..];
        Some(made.piece_leaves(piece, &data[..data.len().min(PIECE)]))
    };
    let of = |file: u32, base_layer, index, length, proof_layers| {
        let root = made.file_root(FileIndex(file)).unwrap().0;
        HashRange { root, base_layer, index, length, proof_layers }
    };
    // The leaves of the second piece, with proof to the root: 16 leaves, 4 layers, the first of which they tell.
    let range = of(0, 0, 2, 2, 3);
    let answer = made.answer_range(&range, leaves).unwrap();
    assert_eq!(answer.len(), 32 * 5);
    let join = |left: &[u8], right: &[u8]| {
        use sha2::Digest;
        sha2::Sha256::digest([left, right].concat()).to_vec()
    };
    let nodes: Vec<_> = answer.chunks(32).collect();
    let piece = join(nodes[0], nodes[1]);
    assert_eq!(piece, made.piece_hash(PieceIndex(1)).unwrap().as_bytes());
    let top = join(&join(&join(nodes[2], &piece), nodes[3]), nodes[4]);
    assert_eq!(top, range.root);
    // Beyond the end there is nothing but padding, and it is told as well.
    assert_eq!(made.answer_range(&of(0, 0, 14, 2, 0), leaves).unwrap(), [0; 64]);
    assert!(made.answer_range(&of(1, 0, 0, 2, 0), leaves).is_some(), "a file of one piece");
    for odd in [
        of(0, 0, 2, 4, 0),
        of(0, 0, 16, 2, 0),
        of(0, 0, 2, 2, 4),
        of(0, 0, 2, 3, 0),
        of(0, 0, 1, 2, 0),
        of(0, 4, 0, 1, 0),
        of(0, 40, 0, 2, 0),
        of(0, 1, 8, 2, 0),
        // The last piece has one block: its leaf is not kept, only its hash.
        of(0, 0, 10, 2, 0),
        of(2, 0, 0, 2, 0),
    ] {
        assert_eq!(made.answer_range(&odd, leaves), None, "{odd:?}");
    }
    assert_eq!(made.answer_range(&range, |_| None), None, "leaves that are not here");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn what_is_made_is_read_again(
        lens in prop::collection::vec(prop_oneof![Just(0), 1..100usize, 16000..70_000usize, 0..400_000usize], 1..6),
        hybrid: bool,
    ) {
        prop_assume!(lens.iter().any(|len| *len > 0));
        let form = if hybrid { Form::Hybrid } else { Form::V2 };
        let (made, data) = make(form, &lens);
        let read = Metainfo::parse(made.bytes()).unwrap();
        prop_assert_eq!((read.form(), read.info_hash(), read.entries()), (form, made.info_hash(), made.entries()));
        prop_assert!(verify_source(&read, &MemSource(data), &|_| ControlFlow::Continue(())).unwrap().is_full());
        if !hybrid {
            let (bare, _) = taken_apart(&made);
            let mut got: BTreeMap<[u8; 32], Vec<u8>> = BTreeMap::new();
            for request in bare.layer_requests() {
                let answer = made.answer_range(&request, |_| None).unwrap();
                got.entry(request.root).or_default().extend(bare.verify_layer(&request, &answer).unwrap());
            }
            let got = got.into_iter().map(|(root, layer)| (root, layer.into())).collect();
            prop_assert_eq!(bare.with_layers(&got).unwrap().public_bytes(), made.public_bytes());
        }
        let lengths = |metainfo: &Metainfo| metainfo.entries().iter().map(Entry::length).collect::<Vec<_>>();
        prop_assert_eq!(lengths(&read), lens.iter().map(|len| *len as u64).collect::<Vec<_>>());
        prop_assert!(read.entries().iter().all(|entry| !matches!(entry.kind, EntryKind::Directory)));
    }
}
