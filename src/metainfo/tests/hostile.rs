//! Bytes from strangers.

use proptest::prelude::*;

use crate::metainfo::testing::{Value, content, envelope_of, info_of, torrent};
use crate::metainfo::{EntryKind, MAX_METAINFO_LEN, Metainfo, MetainfoError, SecretKey};
use crate::types::{HashAlgorithm, InfoHash};

fn parse_info(info: &Value) -> Result<Metainfo, MetainfoError> {
    Metainfo::parse(&envelope_of(HashAlgorithm::Sha256Merkle, info).encode())
}

fn info() -> Value {
    info_of(HashAlgorithm::Sha256Merkle, "a")
}

fn abc_file(path: &str) -> Value {
    Value::dict([("length", 3.into()), ("path", path.into())])
}

fn abc_hash() -> Value {
    let Value::Dict(pairs) = info() else { unreachable!() };
    let Value::List(pieces) = &pairs[&b"pieces"[..]] else { unreachable!() };
    pieces[0].clone()
}

fn with_files(files: Vec<Value>) -> Value {
    let pieces = vec![abc_hash(); files.len()];
    info().set("files", files).set("pieces", pieces)
}

#[test]
fn the_plain_cases_are_accepted() {
    for algorithm in HashAlgorithm::ALL {
        let bytes = envelope_of(algorithm, &info_of(algorithm, "a")).encode();
        let metainfo = Metainfo::parse(&bytes).unwrap();
        assert_eq!((&metainfo.bytes()[..], metainfo.total_length()), (&bytes[..], 3));
        assert!(metainfo.check_piece(crate::types::PieceIndex(0), [b"abc"]));
    }
    // Keys that a later knot may add do not matter, inside `info` and outside.
    assert!(parse_info(&info().set("serial", 1)).is_ok());
    let more = envelope_of(HashAlgorithm::Sha256Merkle, &info()).set("zzz", vec![Value::from(1)]);
    assert!(Metainfo::parse(&more.encode()).is_ok());
}

#[test]
fn a_version_names_its_dataset_and_its_number() {
    let origin = Value::from("o".repeat(64).as_str());
    let version = info().set("origin", origin.clone()).set("seq", 7);
    let parsed = parse_info(&version).unwrap().version().unwrap();
    assert_eq!((parsed.origin.0, parsed.seq), ([b'o'; 64], 7));
    assert_eq!(parse_info(&info()).unwrap().version(), None);
    assert_eq!(parse_info(&info().set("seq", 1)).unwrap_err(), MetainfoError::Missing("origin"));
    assert_eq!(parse_info(&info().set("origin", origin)).unwrap_err(), MetainfoError::Missing("seq"));
    for odd in [version.clone().set("seq", 0), version.clone().set("seq", -1), version.set("origin", "short")] {
        assert!(matches!(parse_info(&odd).unwrap_err(), MetainfoError::Field { key: "seq" | "origin", .. }));
    }
}

#[test]
fn what_is_missing_is_named() {
    for key in ["files", "name", "piece hash algo", "piece length", "pieces"] {
        assert_eq!(parse_info(&info().without(key)).unwrap_err(), MetainfoError::Missing(key));
    }
    for key in ["info", "infohash"] {
        let bytes = envelope_of(HashAlgorithm::Sha256Merkle, &info()).without(key).encode();
        assert_eq!(Metainfo::parse(&bytes).unwrap_err(), MetainfoError::Missing(key));
    }
    for key in ["length", "path"] {
        assert_eq!(parse_info(&with_files(vec![abc_file("a").without(key)])).unwrap_err(), MetainfoError::Missing(key));
    }
}

#[test]
fn truncation_and_trailing_bytes_are_refused() {
    let (metainfo, _) = torrent(HashAlgorithm::Blake3, 16 << 10, &[content(1, 50_000), vec![]]);
    let bytes = metainfo.sign(&SecretKey::from_seed(&[1; 32])).unwrap().bytes().clone();
    for end in 0..bytes.len() {
        assert!(Metainfo::parse(&bytes[..end]).is_err(), "cut at {end}");
    }
    let longer = [&bytes[..], b"e"].concat();
    let error = MetainfoError::TrailingBytes { expected: bytes.len(), got: bytes.len() + 1 };
    assert_eq!(Metainfo::parse(&longer).unwrap_err(), error);
    let twice = [&bytes[..], &bytes[..]].concat();
    assert!(matches!(Metainfo::parse(&twice).unwrap_err(), MetainfoError::TrailingBytes { .. }));
}

#[test]
fn bombs_are_refused() {
    let too_large = envelope_of(HashAlgorithm::Sha256Merkle, &info()).set("zzz", &vec![0; MAX_METAINFO_LEN][..]);
    assert!(matches!(Metainfo::parse(&too_large.encode()), Err(MetainfoError::TooLarge { .. })));
    assert!(Metainfo::parse(&vec![b'd'; MAX_METAINFO_LEN + 1]).is_err());
    for bomb in [
        b"l".repeat(1 << 20),
        b"d1:a".repeat(1 << 20),
        [b"d4:info".to_vec(), b"l".repeat(1 << 20)].concat(),
        [b"d4:info".to_vec(), b"d1:a".repeat(200), b"le".to_vec(), b"e".repeat(201)].concat(),
        b"99999999999999999999:a".to_vec(),
        b"d4:info18446744073709551615:".to_vec(),
        b"i1e".to_vec(),
        b"d".to_vec(),
        b"de".to_vec(),
        b"d4:infoi-0ee".to_vec(),
        b"d4:info04:abcde".to_vec(),
    ] {
        assert!(Metainfo::parse(&bomb).is_err());
    }
}

#[test]
fn sloppy_dictionaries_are_refused() {
    for info in ["d4:name1:a4:name1:be", "d4:name1:a3:abc1:be", "di1e1:ae", "d4:namee", "d4:namei01ee"] {
        let hash = InfoHash(crate::types::Digest::from([0; 32]));
        let bytes = [b"d4:info", info.as_bytes(), b"8:infohash32:", hash.as_bytes(), b"e"].concat();
        assert!(matches!(Metainfo::parse(&bytes), Err(MetainfoError::Bencode(_))), "{info}");
    }
}

#[test]
fn a_wrong_hash_or_signature_is_refused() {
    let envelope = envelope_of(HashAlgorithm::Sha256Merkle, &info());
    let wrong = envelope.clone().set("infohash", &[7u8; 32][..]).encode();
    assert!(matches!(Metainfo::parse(&wrong), Err(MetainfoError::InfoHash { .. })));
    // The InfoHash of another algorithm is of another value.
    let wrong = envelope_of(HashAlgorithm::Blake3, &info()).encode();
    assert!(matches!(Metainfo::parse(&wrong), Err(MetainfoError::InfoHash { .. })));
    let wrong = envelope.clone().set("infohash", &[7u8; 31][..]).encode();
    assert!(matches!(Metainfo::parse(&wrong), Err(MetainfoError::Field { key: "infohash", .. })));

    let key = SecretKey::from_seed(&[1; 32]);
    let metainfo = Metainfo::parse(&envelope.encode()).unwrap();
    let sig = key.sign(&metainfo.info_hash());
    let signed = envelope.set("infosig", &sig.0[..]).set("pub key", &key.public().0[..]);
    assert_eq!(Metainfo::parse(&signed.encode()).unwrap().info_sig(), Some(sig));
    let other = SecretKey::from_seed(&[2; 32]).public();
    let mut damaged = sig.0;
    damaged[63] ^= 1;
    for (change, expected) in [
        (signed.clone().set("pub key", &other.0[..]), "public key"),
        (signed.clone().set("infosig", &damaged[..]), "public key"),
        (signed.clone().set("infosig", &sig.0[..63]), "64 bytes"),
        (signed.clone().set("pub key", &other.0[..31]), "32 bytes"),
        (signed.clone().set("infosig algo", "rsa"), "ed25519"),
        (signed.clone().without("infosig"), "infosig"),
        (signed.clone().without("pub key"), "pub key"),
    ] {
        let message = Metainfo::parse(&change.encode()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn hostile_paths_are_refused() {
    let deep = vec!["d"; 10_000].join("/");
    for path in ["..", "../x", "/etc/passwd", "a\0b", "", "a//b", "a/", "./a", "a/../../b", &deep, &"x".repeat(256)] {
        let error = parse_info(&info_of(HashAlgorithm::Sha256Merkle, path)).unwrap_err();
        assert!(matches!(error, MetainfoError::Path(_)), "{path:.20}: {error}");
    }
    for name in ["..", ".", "", "a/b", "a\0"] {
        assert!(parse_info(&info().set("name", name)).is_err(), "{name:?}");
    }
    let latin = info_of(HashAlgorithm::Sha256Merkle, "a").set("name", &b"caf\xe9"[..]);
    assert!(matches!(parse_info(&latin), Err(MetainfoError::Field { key: "name", .. })));
}

#[test]
fn symlinks_out_are_refused() {
    let link = |target: &str| {
        Value::dict([
            ("attr", "l".into()),
            ("length", 0.into()),
            ("path", "d/l".into()),
            ("symlink path", target.into()),
        ])
    };
    let parse = |target| parse_info(&info().set("files", vec![link(target)]).set("pieces", vec![]));
    assert!(matches!(&parse("../x").unwrap().entries()[0].kind, EntryKind::Symlink { target } if target == "../x"));
    for target in ["../../x", "/x", "", "x\0"] {
        assert!(matches!(parse(target), Err(MetainfoError::Symlink { .. })), "{target:?}");
    }
    let untold = info().set("files", vec![link("x").without("symlink path")]).set("pieces", vec![]);
    assert_eq!(parse_info(&untold).unwrap_err(), MetainfoError::Missing("symlink path"));
    let heavy = info().set("files", vec![link("x").set("length", 3)]);
    assert!(matches!(parse_info(&heavy), Err(MetainfoError::Field { key: "length", .. })));
}

#[test]
fn conflicts_are_renamed() {
    let files = vec![abc_file("a"), abc_file("a"), abc_file("a/b"), abc_file("c")];
    let metainfo = parse_info(&with_files(files)).unwrap();
    let paths: Vec<_> = metainfo.entries().iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(paths, ["a~2", "a~3", "a/b", "c"]);
}

#[test]
fn odd_numbers_are_refused() {
    for digits in ["0", "-1", "1", "16383", "16385", "49152", "134217728", "4294967296", "9223372036854775808"] {
        let error = parse_info(&info().set("piece length", Value::Digits(digits.into()))).unwrap_err();
        assert!(matches!(error, MetainfoError::PieceLength { .. }), "{digits}: {error}");
    }
    let huge = "9".repeat(100_000);
    for digits in ["-1", "9223372036854775808", "18446744073709551616", &huge] {
        let file = abc_file("a").set("length", Value::Digits(digits.into()));
        let error = parse_info(&with_files(vec![file])).unwrap_err();
        assert!(matches!(error, MetainfoError::Field { key: "length", .. }), "{digits:.20}: {error:.200}");
    }
    // Lengths whose sum or piece count leaves every integer.
    let file = |path| abc_file(path).set("length", i64::MAX);
    assert!(parse_info(&with_files(vec![file("a"), file("b"), file("c")])).is_err());
    let pieces = abc_file("a").set("length", 16384 * 2_000_001);
    assert!(matches!(parse_info(&with_files(vec![pieces])), Err(MetainfoError::TooManyPieces)));
    // Few pieces, but more blocks than can be numbered.
    let blocks = abc_file("a").set("length", (64i64 << 20) * (1 << 20));
    let error = parse_info(&with_files(vec![blocks]).set("piece length", 64 << 20)).unwrap_err();
    assert_eq!(error, MetainfoError::TooManyPieces);
    for date in ["-1", "253402300800", "99999999999999999999"] {
        let dated = envelope_of(HashAlgorithm::Sha256Merkle, &info()).set("creation date", Value::Digits(date.into()));
        assert!(matches!(Metainfo::parse(&dated.encode()), Err(MetainfoError::Field { key: "creation date", .. })));
    }
}

#[test]
fn pieces_must_fit_the_files() {
    for pieces in [vec![], vec![abc_hash(), abc_hash()]] {
        let got = pieces.len();
        let error = parse_info(&info().set("pieces", pieces)).unwrap_err();
        assert_eq!(error, MetainfoError::PieceCount { expected: 1, got });
    }
    assert!(matches!(
        parse_info(&info().set("pieces", vec![Value::from(&[0u8; 20][..])])),
        Err(MetainfoError::Field { key: "pieces", .. })
    ));
    // The concatenated form of other clients is not ours.
    assert!(matches!(parse_info(&info().set("pieces", &[0u8; 32][..])), Err(MetainfoError::Field { .. })));
    assert!(matches!(parse_info(&info().set("piece hash algo", "md5")), Err(MetainfoError::HashAlgorithm(_))));
}

/// A cache may be shared by root: a root that is not the content's would let one torrent poison another.
#[test]
fn a_root_must_be_that_of_the_pieces() {
    let good = abc_file("a").set("root", abc_hash());
    assert!(parse_info(&with_files(vec![good.clone()])).is_ok());
    let wrong = good.clone().set("root", &[7u8; 32][..]);
    assert!(matches!(parse_info(&with_files(vec![wrong])), Err(MetainfoError::Root { .. })));
    let short = good.set("root", &[7u8; 20][..]);
    assert!(matches!(parse_info(&with_files(vec![short])), Err(MetainfoError::Field { key: "root", .. })));

    // Where it cannot be checked it is not believed.
    let claimed = abc_file("a").set("root", &[7u8; 32][..]);
    let info = info_of(HashAlgorithm::Sha256, "a").set("files", vec![claimed]);
    let metainfo = Metainfo::parse(&envelope_of(HashAlgorithm::Sha256, &info).encode()).unwrap();
    assert!(matches!(metainfo.entries()[0].kind, EntryKind::File { root: None, .. }));
    let empty = abc_file("a").set("length", 0).set("root", &[7u8; 32][..]);
    let metainfo = parse_info(&self::info().set("files", vec![empty]).set("pieces", vec![])).unwrap();
    assert!(matches!(metainfo.entries()[0].kind, EntryKind::File { root: None, .. }));
}

#[test]
fn values_of_the_wrong_kind_are_named() {
    for (key, value) in [
        ("files", Value::from(1)),
        ("files", vec![Value::from(1)].into()),
        ("name", 1.into()),
        ("piece length", "16384".into()),
        ("pieces", vec![Value::from(1)].into()),
        ("piece hash algo", vec![].into()),
    ] {
        let error = parse_info(&info().set(key, value)).unwrap_err();
        assert!(matches!(error, MetainfoError::Field { key: named, .. } if named == key), "{key}: {error}");
    }
}

#[test]
fn peers_are_only_hints() {
    let odd = vec![
        Value::from(1),
        "nonsense".into(),
        (&b"\xff"[..]).into(),
        "127.0.0.1:1".into(),
        Value::from(&*"/x".repeat(1000)),
    ];
    let envelope = envelope_of(HashAlgorithm::Sha256Merkle, &info());
    let metainfo = Metainfo::parse(&envelope.clone().set("peers", odd).encode()).unwrap();
    assert_eq!(metainfo.peers(), ["127.0.0.1:1".parse().unwrap()]);
    let many = vec![Value::from("127.0.0.1:1"); 5000];
    assert_eq!(Metainfo::parse(&envelope.set("peers", many).encode()).unwrap().peers().len(), 1000);
}

#[test]
fn very_many_files_take_no_longer_than_they_should() {
    let file = |at| Value::dict([("length", 0.into()), ("path", format!("{at}").as_str().into())]);
    let files: Vec<_> = (0..50_000).map(file).collect();
    let metainfo = parse_info(&info().set("files", files).set("pieces", vec![])).unwrap();
    assert_eq!(metainfo.entries().len(), 50_000);
}

proptest! {
    /// Nothing that anyone sends makes the reader panic, and nothing damaged is accepted under the same InfoID.
    #[test]
    fn damage_is_noticed(at: prop::sample::Index, to: u8, cut: prop::sample::Index, insert in prop::collection::vec(any::<u8>(), 0..4)) {
        let (metainfo, _) = torrent(HashAlgorithm::Sha256Merkle, 16 << 10, &[content(1, 40_000), content(2, 3)]);
        let signed = metainfo.sign(&SecretKey::from_seed(&[1; 32])).unwrap();
        let mut bytes = signed.bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = to;
        let cut = cut.index(bytes.len());
        bytes.splice(cut..cut, insert);
        if let Ok(read) = Metainfo::parse(&bytes) {
            prop_assert_eq!(read.info_bytes(), signed.info_bytes());
        }
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(prop_oneof![Just(b'd'), Just(b'l'), Just(b'e'), Just(b'i'), b'0'..=b'9', Just(b':'), any::<u8>()], 0..200)) {
        prop_assert!(Metainfo::parse(&bytes).is_err());
        let _ = crate::metainfo::TreePath::new(&String::from_utf8_lossy(&bytes));
    }
}
