//! Torrents of other forms, as others make them.

use std::collections::HashSet;
use std::ops::ControlFlow;

use proptest::prelude::*;
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use crate::metainfo::testing::{MemSource, Value, content};
use crate::metainfo::{
    EntryKind, Form, MAX_TORRENT_LEN, Metainfo, MetainfoError, Part, SecretKey, TreePath, raw_name, verify_source,
};
use crate::types::{BlockSpan, FileIndex, HashAlgorithm, PieceIndex};

/// An `info` of v1 whose line of bytes is `line`.
pub(super) fn v1_info(piece_length: usize, line: &[u8], files: Vec<Value>) -> Value {
    Value::dict([
        ("files", files.into()),
        ("name", "t".into()),
        ("piece length", (piece_length as i64).into()),
        ("pieces", hashes(piece_length, line)),
    ])
}

fn hashes(piece_length: usize, line: &[u8]) -> Value {
    Value::Bytes(line.chunks(piece_length).flat_map(|piece| <[u8; 20]>::from(Sha1::digest(piece))).collect())
}

fn path(names: &[&[u8]]) -> Value {
    names.iter().map(|name| Value::from(*name)).collect::<Vec<_>>().into()
}

fn file(length: usize, names: &[&[u8]]) -> Value {
    Value::dict([("length", (length as i64).into()), ("path", path(names))])
}

fn torrent_of(info: &Value) -> Value {
    Value::dict([("info", info.clone())])
}

pub(super) fn parse(info: &Value) -> Result<Metainfo, MetainfoError> {
    Metainfo::parse(&torrent_of(info).encode())
}

/// The metainfo of files of 3 bytes at `paths`.
fn at(paths: &[&[&[u8]]]) -> Metainfo {
    let files: Vec<_> = paths.iter().map(|names| file(3, names)).collect();
    parse(&v1_info(1 << 14, &vec![0; 3 * paths.len()], files)).unwrap()
}

fn shown(metainfo: &Metainfo) -> Vec<String> {
    metainfo.entries().iter().map(|entry| entry.path.to_string()).collect()
}

fn sha1_hex(bytes: &[u8]) -> String {
    hex::encode(Sha1::digest(bytes))
}

#[test]
fn one_file_and_many() {
    let data = content(1, 50_000);
    let many = v1_info(16384, &data, vec![file(20_000, &[b"d", b"a"]), file(0, &[b"e"]), file(30_000, &[b"b"])]);
    let metainfo = parse(&many).unwrap();
    assert_eq!((metainfo.form(), metainfo.algorithm(), metainfo.name()), (Form::V1, HashAlgorithm::Sha1, "t"));
    assert_eq!(shown(&metainfo), ["d/a", "e", "b"]);
    assert_eq!((metainfo.piece_count(), metainfo.total_length()), (4, 50_000));
    assert_eq!(metainfo.info_hash().to_string(), sha1_hex(&many.encode()));
    assert_eq!(metainfo.swarm_ids(), [metainfo.info_hash().swarm_id()]);
    assert!(metainfo.info_id().swarm_candidates().contains(&metainfo.swarm_ids()[0]));
    assert!(metainfo.matches(&metainfo.info_id()) && metainfo.check_mountable().is_ok());
    assert!(!metainfo.is_single_file() && !metainfo.is_private());
    for (piece, bytes) in data.chunks(16384).zip(0..).map(|(bytes, piece)| (PieceIndex(piece), bytes)) {
        assert!(metainfo.check_piece(piece, [bytes]) && !metainfo.check_piece(piece, [&vec![0; bytes.len()]]));
        assert!(metainfo.leaf_requests(piece).is_empty());
    }

    let one = many.without("files").set("length", 50_000).set("name", "film.mkv").set("attr", "x").set("private", 1);
    let metainfo = parse(&one).unwrap();
    assert_eq!(shown(&metainfo), ["film.mkv"]);
    assert_eq!(metainfo.entries()[0].kind, EntryKind::File { length: 50_000, root: None, executable: true });
    assert!(metainfo.is_single_file() && metainfo.is_private());
    // A directory of one file with its name is a directory.
    assert!(!parse(&v1_info(1 << 14, b"abc", vec![file(3, &[b"t"])])).unwrap().is_single_file());
}

#[test]
fn sloppy_files_are_read_and_hashed_as_they_are() {
    let hash = [&b"6:pieces20:"[..], &Sha1::digest(b"abc")].concat();
    let info =
        [&b"d6:lengthi003e6:lengthi9e3:zzzi-0e12:piece lengthi16384e4:name1:a"[..], &hash, b"3:abci1e4:name1:be"]
            .concat();
    let bytes = [b"d7:comment1:c4:info", &info[..], b"13:creation datei-7e4:infod4:name1:xeejunk"].concat();
    let metainfo = Metainfo::parse(&bytes).unwrap();
    assert_eq!((&metainfo.info_bytes()[..], metainfo.name(), metainfo.total_length()), (&info[..], "a", 3));
    assert_eq!(metainfo.info_hash().to_string(), sha1_hex(&info));
    assert_eq!(&metainfo.bytes()[..], &bytes[..bytes.len() - 4]);
    assert_eq!((metainfo.created_at(), metainfo.hints().comment.as_deref()), (None, Some("c")));
    assert!(metainfo.check_piece(PieceIndex(0), [b"abc"]));

    // Bare, as peers send it; there every byte is hashed.
    let bare = Metainfo::from_info_bytes(&info).unwrap();
    assert_eq!((bare.info_hash(), bare.info_bytes()), (metainfo.info_hash(), metainfo.info_bytes()));
    assert_eq!(Metainfo::parse(bare.bytes()).unwrap().info_hash(), metainfo.info_hash());
    let longer = [&info[..], b"e"].concat();
    assert!(matches!(Metainfo::from_info_bytes(&longer), Err(MetainfoError::TrailingBytes { .. })));

    // A signature over it holds for the same bytes.
    let key = SecretKey::from_seed(&[1; 32]);
    let signed = metainfo.sign(&key).unwrap();
    assert_eq!(
        (signed.info_bytes(), signed.info_sig()),
        (metainfo.info_bytes(), Some(key.sign(&metainfo.info_hash())))
    );
}

#[test]
fn a_bare_native_info_is_a_metainfo_too() {
    for algorithm in HashAlgorithm::ALL {
        let (made, _) = crate::metainfo::testing::torrent(algorithm, 1 << 14, &[content(1, 40_000), vec![]]);
        let bare = Metainfo::from_info_bytes(made.info_bytes()).unwrap();
        assert_eq!((bare.form(), bare.info_hash(), bare.bytes()), (Form::Native, made.info_hash(), made.bytes()));
        assert_eq!(bare.swarm_ids(), [made.info_id().swarm_id()]);
        assert_eq!(made.public_bytes(), made.bytes());
    }
    for odd in [&b"de"[..], b"i1e", b"", b"d15:piece hash algo3:md5e", b"d15:piece hash algoi1ee"] {
        assert!(Metainfo::from_info_bytes(odd).is_err());
    }
}

#[test]
fn padding_is_hidden_and_counts() {
    let (a, b) = (content(1, 20_000), content(2, 5));
    let line = [&a[..], &[0; 12_768], &b, &[0; 100], &[0; 40_000]].concat();
    let pad = |length, names: &[&[u8]]| file(length, names).set("attr", "p");
    let files = vec![
        file(20_000, &[b"a"]),
        pad(12_768, &[b".pad", b"12768"]),
        file(5, &[b"b"]).set("attr", "hx"),
        file(100, &[b"_____padding_file_0_if you see this file, please update"]),
        pad(40_000, &[]).without("path"),
    ];
    let metainfo = parse(&v1_info(32_768, &line, files)).unwrap();
    assert_eq!(shown(&metainfo), ["a", "b"]);
    assert_eq!(metainfo.entries()[1].kind, EntryKind::File { length: 5, root: None, executable: true });
    let layout = metainfo.layout();
    assert_eq!((metainfo.total_length(), layout.pieces_length(), layout.piece_count()), (20_005, 72_873, 3));
    assert_eq!(layout.pieces_of(FileIndex(1)), 1..2);
    assert!(metainfo.check_piece(PieceIndex(1), [&line[32_768..65_536]]));
    let source = MemSource(vec![a, b]);
    let good = verify_source(&metainfo, &source, &|_| ControlFlow::Continue(())).unwrap();
    assert_eq!(good.count(), 3);
    let blocks: Vec<_> = layout.padding_blocks().map(|block| (block.piece.0, block.begin, block.len)).collect();
    assert_eq!(blocks, [(1, 16_384, 16_384), (2, 0, 7337)]);
    let parts = layout.parts(BlockSpan { piece: PieceIndex(0), begin: 16_384, len: 16_384 });
    assert_eq!(parts.map(|part| matches!(part, Part::Padding(12_768))).collect::<Vec<_>>(), [false, true]);
    // A selection counts the files that the torrent lists.
    assert_eq!(metainfo.selected(&[2..=2, 4..=9]), [FileIndex(1)]);
    assert_eq!(metainfo.selected(&[0..=1]), [FileIndex(0)]);
}

#[test]
fn names_are_shown_and_never_merge() {
    let metainfo = at(&[
        &[b"..", b"a"],
        &[b"a"],
        &[b"a", b"b"],
        &[b"a/b"],
        &[b"/etc/passwd"],
        &[b"..", b""],
        &[b"\xc4\xe3.txt"],
        &[b"%C4%E3.txt"],
        &[b"%E4%BD%A0.txt"],
        &[b"a\0b"],
        &["ü".as_bytes(), b"."],
    ]);
    let expected = [
        "a~2",
        "a~3",
        "a/b",
        "a%2Fb",
        "%2Fetc%2Fpasswd",
        "_",
        "%C4%E3.txt",
        "%25C4%25E3.txt",
        "%E4%BD%A0.txt",
        "a%00b",
        "ü",
    ];
    assert_eq!(shown(&metainfo), expected);
    assert_eq!(raw_name(metainfo.entries()[6].path.file_name()), b"\xc4\xe3.txt");

    assert_eq!(metainfo.raw_path(FileIndex(3)).unwrap(), [b"a/b"]);
    assert_eq!(metainfo.raw_path(FileIndex(0)).unwrap(), [b"a"]);

    // A web seed is asked for the names of the torrent.
    let url = |at| metainfo.web_seed_url("http://w/x/", FileIndex(at)).unwrap();
    assert_eq!(url(6), "http://w/x/t/%C4%E3.txt");
    assert_eq!(url(7), "http://w/x/t/%25C4%25E3.txt");
    assert_eq!(url(0), "http://w/x/t/a");
}

#[test]
fn web_seeds_have_files_where_bep_19_says_whatever_the_form() {
    let urls = |metainfo: &Metainfo, file| {
        ["http://w/x", "http://w/x/"].map(|base| metainfo.web_seed_url(base, FileIndex(file)).unwrap())
    };
    let one = Value::dict([
        ("length", 3.into()),
        ("name", "a b#?.txt".into()),
        ("piece length", (1 << 14).into()),
        ("pieces", hashes(1 << 14, b"abc")),
    ]);
    let one = parse(&one).unwrap();
    assert_eq!(urls(&one, 0), ["http://w/x", "http://w/x/a%20b%23%3F.txt"]);
    let many = v1_info(1 << 14, b"abc", vec![file(1, &[b"d", b"1%"]), file(2, &["é".as_bytes()])]);
    let many = parse(&many).unwrap();
    assert_eq!(urls(&many, 0), ["http://w/x/t/d/1%25"; 2]);
    assert_eq!(urls(&many, 1), ["http://w/x/t/%C3%A9"; 2]);
    let (native, _) = crate::metainfo::testing::torrent(HashAlgorithm::Blake3, 1 << 14, &[vec![1], vec![2]]);
    assert_eq!(urls(&native, 1), [0; 2].map(|_| format!("http://w/x/{}/0001", native.name())));
    assert_eq!(native.web_seed_url("http://w/", FileIndex(99)), None);
}

#[test]
fn the_key_that_promises_utf_8_comes_first() {
    let info = |promise: &[u8]| {
        let file = file(3, &[b"\xff"]).set("path.utf-8", path(&[promise]));
        v1_info(1 << 14, b"abc", vec![file]).set("name", &b"\xfe"[..]).set("name.utf-8", promise)
    };
    let kept = parse(&info("ü".as_bytes())).unwrap();
    assert_eq!((kept.name(), &shown(&kept)[..]), ("ü", &["ü".to_owned()][..]));
    for broken in [&b"\xfd"[..], b""] {
        let broken = parse(&info(broken)).unwrap();
        assert_eq!((broken.name(), &shown(&broken)[..]), ("%FE", &["%FF".to_owned()][..]));
    }
    // A torrent that is called nothing that a file can be called.
    let nameless = parse(&v1_info(1 << 14, b"abc", vec![file(3, &[b"a"])]).set("name", "..")).unwrap();
    assert_eq!(nameless.name(), nameless.info_hash().to_string());
    let nameless = parse(&v1_info(1 << 14, b"abc", vec![]).without("files").set("length", 3).set("name", "")).unwrap();
    assert_eq!((shown(&nameless), nameless.is_single_file()), (vec![nameless.info_hash().to_string()], true));
}

#[test]
fn links_lead_to_what_is_meant() {
    let link = |at: &[&[u8]], to: &[&[u8]]| file(7, at).set("attr", "l").set("symlink path", path(to));
    let files = vec![
        file(3, &[b"a"]),
        file(3, &[b"d", b"e", b"one"]),
        // From the top, as BEP 47 has it; from the link, as libtorrent writes it.
        link(&[b"d", b"top"], &[b"d", b"e", b"one"]),
        link(&[b"d", b"beside"], &[b"e", b"one"]),
        link(&[b"d", b"up"], &[b"..", b"a"]),
        link(&[b"d", b"both"], &[b"a"]),
        link(&[b"dir"], &[b"d", b"e"]),
        link(&[b"self"], &[]),
        link(&[b"d", b"out"], &[b"..", b"..", b"..", b"etc", b"passwd"]),
        link(&[b"gone"], &[b"x"]),
        file(0, &[b"no link"]).set("attr", "l"),
        link(&[b"d", b"deep"], &[&b"x"[..]; 300]),
    ];
    let metainfo = parse(&v1_info(1 << 14, &[0; 6], files)).unwrap();
    let targets = metainfo.entries()[2..].iter().map(|entry| match &entry.kind {
        EntryKind::Symlink { target } => target.as_str(),
        _ => "a file",
    });
    let targets: Vec<_> = targets.collect();
    let expected = ["e/one", "e/one", "../a", "../a", "d/e", ".", "../etc/passwd", "x", "a file", "deep"];
    assert_eq!(targets, expected);
    assert_eq!(metainfo.total_length(), 6);
}

fn tree_of(leaf: Value) -> Value {
    Value::dict([("d", Value::dict([("a", Value::dict([("", leaf)]))]))])
}

#[test]
fn hybrid_torrents_are_v1_and_v2() {
    let data = content(1, 20_000);
    let leaf = Value::dict([("length", 20_000.into()), ("pieces root", (&[7u8; 32][..]).into())]);
    let info = v1_info(16384, &data, vec![file(20_000, &[b"d", b"a"])]);
    let info = info.set("file tree", tree_of(leaf.clone())).set("meta version", 2);
    let metainfo = parse(&info).unwrap();
    assert_eq!((metainfo.form(), shown(&metainfo)), (Form::Hybrid, vec!["d/a".to_owned()]));
    assert_eq!(metainfo.info_hash().to_string(), sha1_hex(&info.encode()));
    let v2 = metainfo.v2_info_hash().unwrap();
    assert_eq!(v2.to_string(), hex::encode(Sha256::digest(info.encode())));
    assert_eq!(metainfo.swarm_ids(), [metainfo.info_hash().swarm_id(), v2.swarm_id()]);
    assert!(metainfo.matches(&crate::types::InfoId::Hash(v2)) && metainfo.check_mountable().is_ok());
    assert_eq!(metainfo.magnet().ids().count(), 2);
    // A claim, which nothing here verifies: never the root of the entry, by which content is shared.
    assert_eq!(metainfo.claimed_root(FileIndex(0)).unwrap().0, [7; 32]);
    assert_eq!(metainfo.file_root(FileIndex(0)), None);
    // Two forms of two things: the v1 one is what counts.
    for other in [
        info.clone().set("file tree", tree_of(leaf.clone().set("length", 19_999))),
        info.clone().set("file tree", Value::dict([("a", Value::dict([("", leaf.clone())]))])),
        info.clone().set("file tree", Value::dict([])),
    ] {
        let metainfo = parse(&other).unwrap();
        assert_eq!((metainfo.form(), metainfo.claimed_root(FileIndex(0))), (Form::Hybrid, None));
    }
    assert_eq!(parse(&info.without("meta version")).unwrap().form(), Form::V1);
}

#[test]
fn pure_v2_torrents_are_recognised_and_not_mounted_without_their_layers() {
    let leaf = Value::dict([("length", 20_000.into()), ("pieces root", (&[7u8; 32][..]).into())]);
    let plain = [("meta version", 2.into()), ("name", "t".into()), ("piece length", 16384.into())];
    let info = Value::dict(plain).set("file tree", tree_of(leaf.clone()));
    let metainfo = parse(&info).unwrap();
    assert_eq!((metainfo.form(), shown(&metainfo), metainfo.total_length()), (Form::V2, vec!["d/a".into()], 20_000));
    assert_eq!(metainfo.info_hash().to_string(), hex::encode(Sha256::digest(info.encode())));
    assert_eq!(metainfo.swarm_ids(), [metainfo.info_hash().swarm_id()]);
    assert!(metainfo.magnet().to_string().contains("urn:btmh:1220"));
    let message = metainfo.check_mountable().unwrap_err().to_string();
    assert!(message.contains("\"piece layers\""), "{message}");
    let metainfo = Metainfo::from_info_bytes(&info.encode()).unwrap();
    assert!(!metainfo.check_piece(PieceIndex(0), [[0; 16384]]) && !metainfo.has_layers());
    for wrong in [
        info.clone().set("file tree", tree_of(leaf.without("pieces root"))),
        info.clone().set("file tree", Value::dict([])),
        info.clone().set("piece length", 20_000),
        info.set("meta version", 3),
    ] {
        assert!(parse(&wrong).is_err());
    }
}

#[test]
fn hints_are_read_and_written() {
    let info = v1_info(1 << 14, b"abc", vec![file(3, &[b"a"])]);
    let list = |items: &[&str]| Value::from(items.iter().map(|item| Value::from(*item)).collect::<Vec<_>>());
    let full = torrent_of(&info)
        .set("announce", "http://only/if/there/is/no/list")
        .set(
            "announce-list",
            vec![
                list(&["http://a/x", "udp://b:1"]),
                list(&[]),
                "http://a/x".into(),
                list(&["odd"]),
                list(&[" wss://c "]),
            ],
        )
        .set("url-list", "https://w/")
        .set("nodes", vec![vec!["h".into(), 1.into()].into(), vec!["h".into(), 70_000.into()].into(), 5.into()])
        .set("creation date", 1_700_000_000)
        .set("comment", &b"\xff!"[..])
        .set("created by", "maker/1");
    let metainfo = Metainfo::parse(&full.encode()).unwrap();
    let hints = metainfo.hints().clone();
    assert_eq!(hints.trackers, [vec!["http://a/x".to_owned(), "udp://b:1".into()], vec!["wss://c".into()]]);
    assert_eq!((&hints.web_seeds[..], &hints.nodes[..]), (&["https://w/".to_owned()][..], &[("h".to_owned(), 1)][..]));
    assert_eq!((hints.comment.as_deref(), hints.created_by.as_deref()), (Some("\u{fffd}!"), Some("maker/1")));
    assert_eq!(metainfo.created_at(), Some(1_700_000_000));
    let one = Metainfo::parse(&torrent_of(&info).set("announce", "udp://d").encode()).unwrap();
    assert_eq!(one.hints().trackers, [["udp://d"]]);

    // They can be put round another, and are kept from strangers.
    assert_eq!(one.with_hints(&hints).unwrap().hints(), &hints);
    let public = Metainfo::parse(&metainfo.public_bytes()).unwrap();
    assert_eq!((public.info_hash(), public.hints()), (metainfo.info_hash(), &Default::default()));
    assert_eq!(public.created_at(), metainfo.created_at());
    let magnet = metainfo.magnet();
    assert_eq!(magnet.to_string().parse::<crate::types::Magnet>().unwrap(), magnet);
    assert_eq!(magnet.trackers, ["http://a/x", "udp://b:1", "wss://c"]);

    // A native torrent can have them as well.
    let (native, _) = crate::metainfo::testing::torrent(HashAlgorithm::Blake3, 1 << 14, &[content(1, 5)]);
    let found = native.with_hints(&hints).unwrap();
    assert_eq!((found.hints(), found.info_hash()), (&hints, native.info_hash()));

    for odd in [Value::from(1), "x".into(), vec![Value::dict([])].into(), Value::dict([])] {
        let mut torrent = torrent_of(&info);
        for key in ["announce", "announce-list", "url-list", "nodes", "creation date", "peers"] {
            torrent = torrent.set(key, odd.clone());
        }
        let hints = Metainfo::parse(&torrent.encode()).unwrap().hints().clone();
        assert!(hints.trackers.is_empty() && hints.web_seeds.is_empty() && hints.nodes.is_empty());
    }
}

#[test]
fn an_ordinary_torrent_can_be_signed() {
    let info = v1_info(1 << 14, b"abc", vec![file(3, &[b"a"])]);
    let torrent = Metainfo::parse(&torrent_of(&info).set("announce", "http://a/passkey").encode()).unwrap();
    let key = SecretKey::from_seed(&[1; 32]);
    let signed = torrent.sign(&key).unwrap();
    let sig = signed.info_sig().unwrap();
    assert_eq!(signed.info_id(), crate::types::InfoId::Sig(sig));
    assert_eq!(signed.swarm_ids(), [signed.info_hash().swarm_id()]);
    assert_eq!((signed.info_bytes(), signed.hints()), (torrent.info_bytes(), torrent.hints()));
    let public = Metainfo::parse(&signed.public_bytes()).unwrap();
    assert_eq!((public.info_sig(), public.public_key()), (Some(sig), Some(key.public())));
    assert!(!signed.public_bytes().windows(7).any(|bytes| bytes == b"passkey"));
    let magnet = signed.magnet();
    assert!(magnet.is_native() && magnet.v1 == Some(signed.info_hash()));

    let envelope = torrent_of(&info).set("infohash", signed.info_hash().as_bytes());
    let envelope = envelope.set("infosig", &sig.0[..]).set("pub key", &key.public().0[..]);
    assert_eq!(Metainfo::parse(&envelope.encode()).unwrap().info_sig(), Some(sig));
    for (wrong, expected) in [
        (envelope.clone().set("infosig", &[1; 64][..]), "does not verify"),
        (envelope.clone().without("pub key"), "pub key"),
        (envelope.clone().set("infohash", &[1; 20][..]), "damaged or forged"),
        (envelope.set("info", info.set("name", "other")).without("infohash"), "does not verify"),
    ] {
        let message = Metainfo::parse(&wrong.encode()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn what_has_no_meaning_is_refused() {
    let info = v1_info(1 << 14, b"abc", vec![file(3, &[b"a"])]);
    let with = |file: Value| info.clone().set("files", vec![file]);
    for (wrong, expected) in [
        (info.clone().without("piece length"), "\"piece length\""),
        (info.clone().without("name"), "\"name\""),
        (info.clone().set("piece length", 0), "from 1 to"),
        (info.clone().set("piece length", -1), "from 1 to"),
        (info.clone().set("piece length", 1i64 << 40), "from 1 to"),
        (info.clone().set("pieces", ""), "expected 1 piece hashes"),
        (info.clone().set("pieces", &[0; 21][..]), "expected 1 piece hashes"),
        (info.clone().set("pieces", &[0; 40][..]), "expected 1 piece hashes"),
        (info.clone().set("files", Vec::<Value>::new()), "a list of files"),
        (info.clone().set("files", vec![Value::from(1)]), "a list of dictionaries"),
        (info.clone().set("files", 1), "\"length\""),
        (with(file(3, &[b"a"]).without("length")), "\"length\""),
        (with(file(3, &[b"a"]).without("path")), "\"path\""),
        (with(file(3, &[b"a"]).set("length", -1)), "0 to 2^63 - 1"),
        (with(file(3, &[b"a"]).set("length", Value::Digits("9".repeat(30)))), "0 to 2^63 - 1"),
        (with(file(3, &[b"a"]).set("length", i64::MAX)), "at most"),
    ] {
        let message = parse(&wrong).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    let huge = vec![file(3, &[b"a"]).set("length", i64::MAX); 4];
    assert!(parse(&info.clone().set("files", huge).set("piece length", 1)).is_err());
    assert!(matches!(Metainfo::parse(&vec![b'd'; MAX_TORRENT_LEN + 1]), Err(MetainfoError::TooLarge { .. })));
    // A knot `info` is read strictly, whatever else is in it.
    assert!(matches!(parse(&info.set("piece hash algo", "sha1")), Err(MetainfoError::Missing("infohash"))));
}

#[test]
fn very_many_files_take_no_longer_than_they_should() {
    let name = |at: usize| format!("a name that is not very short, {at}").into_bytes();
    let files: Vec<_> = (0..100_000).map(|at| file(1, &[b"directory", &name(at % 50_000)])).collect();
    let metainfo = parse(&v1_info(1 << 14, &vec![0; 100_000], files)).unwrap();
    let paths: HashSet<_> = metainfo.entries().iter().map(|entry| &entry.path).collect();
    assert_eq!(paths.len(), 100_000);
    assert!(metainfo.entries()[99_999].path.as_str().ends_with("49999~2"));
    assert!(metainfo.web_seed_url("http://w/", FileIndex(99_999)).unwrap().ends_with("short%2C%2049999"));
}

proptest! {
    #[test]
    fn any_files_are_laid_out_and_verified(
        piece_length in prop_oneof![Just(16384usize), Just(50_000), 1000usize..40_000],
        files in prop::collection::vec((0usize..60_000, any::<bool>()), 1..6),
    ) {
        let data: Vec<_> = files.iter().zip(0..).map(|((len, pad), seed)| if *pad { vec![0; *len] } else { content(seed, *len) }).collect();
        let list = files.iter().enumerate().map(|(at, (len, pad))| {
            let plain = file(*len, &[at.to_string().as_bytes()]);
            if *pad { plain.set("attr", "p") } else { plain }
        });
        let metainfo = parse(&v1_info(piece_length, &data.concat(), list.collect())).unwrap();
        let shown: Vec<_> = files.iter().zip(data).filter(|((_, pad), _)| !pad).map(|(_, data)| data).collect();
        prop_assert_eq!(metainfo.total_length(), shown.iter().map(Vec::len).sum::<usize>() as u64);
        let good = verify_source(&metainfo, &MemSource(shown), &|_| ControlFlow::Continue(())).unwrap();
        prop_assert_eq!(good.count(), metainfo.piece_count());
    }

    #[test]
    fn any_paths_are_shown_apart(paths in prop::collection::vec(
        prop::collection::vec(prop::sample::select(vec![
            &b"a"[..], b"b", b"..", b"", b"a/b", b"\xff", b"%FF", b"%25FF", b"~2", b"a~2", b"a%2Fb",
        ]), 0..4), 1..12,
    )) {
        let paths: Vec<&[&[u8]]> = paths.iter().map(Vec::as_slice).collect();
        let metainfo = at(&paths);
        let shown = shown(&metainfo);
        let set: HashSet<&str> = shown.iter().map(String::as_str).collect();
        prop_assert_eq!((set.len(), shown.len()), (paths.len(), paths.len()));
        for entry in metainfo.entries() {
            prop_assert!(TreePath::new(entry.path.as_str()).is_ok());
            prop_assert!(entry.path.ancestors().all(|above| !set.contains(above)));
        }
    }

    #[test]
    fn damage_never_panics(at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
        let leaf = Value::dict([("length", 9.into()), ("pieces root", (&[7u8; 32][..]).into())]);
        let link = file(0, &[b"d", b"l"]).set("attr", "l").set("symlink path", path(&[b"..", b"a"]));
        let info = v1_info(4, &[0; 9], vec![file(3, &[b"a"]), link, file(6, &[b"d", b"b"]).set("attr", "p")]);
        let info = info.set("file tree", tree_of(leaf)).set("meta version", 2).set("private", 1);
        let mut bytes = torrent_of(&info).set("announce", "udp://a").set("url-list", "http://w").encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
            if let Ok(metainfo) = Metainfo::parse(bytes) {
                let again = Metainfo::parse(metainfo.bytes()).unwrap();
                prop_assert_eq!(again.info_hash(), metainfo.info_hash());
                prop_assert_eq!(again.entries(), metainfo.entries());
                prop_assert!(metainfo.magnet().to_string().parse::<crate::types::Magnet>().is_ok());
                let _ = metainfo.web_seed_url("http://w/", FileIndex(0));
                prop_assert!(metainfo.sign(&SecretKey::from_seed(&[1; 32])).is_ok());
            }
        }
    }
}
