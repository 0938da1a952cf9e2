//! Torrents of v1 with padding between their files (BEP 47).

use std::ops::ControlFlow;

use sha1::{Digest as _, Sha1};

use super::*;
use crate::metainfo::testing::Value;
use crate::node::tree::TreeSource;
use crate::types::Bitfield;

/// Files, and the zeros behind each: none, parts of blocks, whole blocks, whole pieces.
const RUNS: [(usize, usize); 6] =
    [(5, 65_531), (100_000, 31_072), (20_000, 300_000), (0, 7), (70_000, 1), (3 * PIECE as usize, 100_000)];

fn fixture() -> Fixture {
    let files: Vec<_> = (1..).zip(RUNS).map(|(seed, (len, _))| testing::content(seed, len)).collect();
    let (mut line, mut list) = (Vec::new(), Vec::new());
    for ((content, (len, padding)), at) in files.iter().zip(RUNS).zip(0..) {
        let file = |name: String, len: usize| {
            let path = vec![Value::from(name.as_str())];
            Value::dict([("length", (len as i64).into()), ("path", path.into())])
        };
        list.push(file(format!("{at:04}"), len));
        list.push(file(format!("pad{at}"), padding).set("attr", "p"));
        line.extend_from_slice(content);
        line.resize(line.len() + padding, 0);
    }
    let pieces = line.chunks(PIECE as usize).flat_map(|piece| <[u8; 20]>::from(Sha1::digest(piece)));
    let info = Value::dict([
        ("files", list.into()),
        ("name", "t".into()),
        ("piece length", i64::from(PIECE).into()),
        ("pieces", Value::Bytes(pieces.collect())),
    ]);
    let metainfo = Metainfo::parse(&Value::dict([("info", info)]).encode()).unwrap();
    assert!(metainfo.layout().has_padding());
    Fixture::of(metainfo, files)
}

/// The blocks that are nothing but zeros of no file.
fn padding(fixture: &Fixture) -> Bitfield {
    let layout = fixture.metainfo.layout();
    let mut bits = Bitfield::new(layout.block_numbers());
    for block in layout.padding_blocks() {
        bits.insert(layout.block_number(block.piece, block.block()));
    }
    assert!(bits.count() > 10 && bits.count() < layout.block_numbers() / 2 + 10, "{}", bits.count());
    bits
}

#[test]
fn padding_is_here_without_being_stored() {
    let fixture = fixture();
    let padding = padding(&fixture);
    let (store, torrent) = fixture.open();
    assert_eq!(torrent.verified(), padding);
    for block in fixture.metainfo.layout().padding_blocks() {
        let zeros = vec![0; block.len as usize];
        assert_eq!(torrent.read_block(block).unwrap().unwrap(), zeros);
        assert_eq!(torrent.read_block_nowait(block).unwrap().unwrap(), zeros);
        assert_eq!(fixture.write(&torrent, block, &zeros), Verdict::Verified);
    }
    assert_eq!((store.used_bytes(), torrent.verified_bytes()), (0, 0));
    assert_eq!(fixture.cache_files(), Vec::<PathBuf>::new());
    assert_eq!(fixture.missing(&torrent), fixture.metainfo.total_length());
    fixture.fill(&torrent);
    assert!(torrent.is_complete());
    assert_eq!(fixture.missing(&torrent), 0);
    for piece in fixture.pieces() {
        let whole = fixture.whole(piece);
        assert_eq!(torrent.read_block(whole).unwrap().unwrap(), fixture.data(whole));
    }
    let full = torrent.verified();
    drop((torrent, store));
    // After another boot all of it is hashed again, zeros and all.
    let (store, torrent) = fixture.open_with(ROOMY, "another boot");
    assert_eq!((torrent.verified(), fixture.missing(&torrent)), (full, 0));
    store.shared.evict_some(u64::MAX);
    assert_eq!(torrent.verified(), padding);
    assert_eq!((store.used_bytes(), torrent.verified_bytes(), fixture.bytes_on_disk()), (0, 0, 0));
    assert_eq!(fixture.missing(&torrent), fixture.metainfo.total_length());
}

#[test]
fn what_is_wrong_between_padding_is_noticed() {
    let fixture = fixture();
    let (_store, torrent) = fixture.open();
    for piece in fixture.pieces() {
        let layout = fixture.metainfo.layout();
        let real: Vec<_> = fixture.blocks(piece).into_iter().filter(|block| !layout.is_padding(*block)).collect();
        let Some(wrong) = real.first() else { continue };
        for block in &real {
            fixture.write(&torrent, *block, &fixture.data(*block));
        }
        let mut data = fixture.data(*wrong);
        // Padding is not looked at, whatever a peer says that it is.
        let first = match layout.parts(*wrong).next().unwrap() {
            Part::Padding(len) => len as usize,
            Part::File(_) => 0,
        };
        data[..first].fill(7);
        data[first] ^= 1;
        assert_eq!(fixture.write(&torrent, *wrong, &data), Verdict::Unverified);
        let PieceOutcome::Corrupt { digests } = torrent.check_piece(piece, &real, false) else { panic!("{piece:?}") };
        assert_eq!(torrent.read_block(*wrong).unwrap(), None);
        fixture.write(&torrent, *wrong, &fixture.data(*wrong));
        let PieceOutcome::VerifiedAfter { digests: right } = torrent.check_piece(piece, &real, true) else { panic!() };
        let differ: Vec<_> = (0..right.len()).filter(|at| digests[*at] != right[*at]).collect();
        assert_eq!(differ, [wrong.block().0 as usize]);
    }
    assert!(torrent.is_complete());
    assert_eq!(fixture.missing(&torrent), 0);
}

#[test]
fn padded_torrents_are_served_in_place() {
    let fixture = fixture();
    let path = fixture.dir.path().join("t");
    std::fs::create_dir(&path).unwrap();
    let place = |file: usize| path.join(format!("{file:04}"));
    for (content, file) in fixture.files.iter().zip(0..) {
        std::fs::write(place(file), content).unwrap();
    }
    let open = || {
        let events = fixture.events.clone();
        let store =
            Store::open(fixture.dir.path(), ROOMY, Box::new(move |event| events.lock().unwrap().push(event))).unwrap();
        let files = TreeSource::for_metainfo(&path, &fixture.metainfo).unwrap();
        let source = Source::InPlace { path: path.clone(), files, is_fresh: false };
        let torrent = store.torrent(fixture.metainfo.clone(), source).unwrap();
        torrent.check(&|_, _| ControlFlow::Continue(())).unwrap();
        (store, torrent)
    };
    let (store, torrent) = open();
    assert!(torrent.is_complete());
    assert_eq!(fixture.missing(&torrent), 0);
    for piece in fixture.pieces() {
        let whole = fixture.whole(piece);
        assert_eq!(torrent.read_block(whole).unwrap().unwrap(), fixture.data(whole));
    }
    drop((torrent, store));
    // The padding that is served does not make up for bytes that are not.
    std::fs::write(place(2), vec![0; 20_000]).unwrap();
    let (_store, torrent) = open();
    assert!(!torrent.is_complete());
    assert_eq!(fixture.missing(&torrent), 20_000);
}
