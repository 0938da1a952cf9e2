//! Torrents of shapes that few programs make and all should read: names that are no text, pieces of odd lengths.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use knot::metainfo::raw_name;
use support::clients::{Libtorrent, Seed, mount};
use support::torrent::{File, v1};
use support::{compare, tree};

const NO_SOURCES: [&str; 2] = ["--discovery", "none"];

/// `here/data` with these files in it, and their torrent.
fn world(piece_length: usize, files: &[File<'_>]) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path: PathBuf = path.iter().map(|name| OsStr::from_bytes(name)).collect();
        let path = dir.path().join("here/data").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let torrent = dir.path().join("data.torrent");
    fs::write(&torrent, v1(piece_length, files)).unwrap();
    (dir, torrent.to_str().unwrap().to_owned())
}

/// Read from libtorrent, and by libtorrent.
#[test]
fn pieces_of_any_length_are_fetched_and_served() {
    for (at, piece_length) in [49_152, 50_000, 16_385, 131_071].into_iter().enumerate() {
        let files: [File<'_>; 4] = [
            (vec![b"a"], tree::noise(1, 300_007).to_vec()),
            (vec![b"empty"], Vec::new()),
            (vec![b"one"], vec![7]),
            (vec![b"sub", b"b"], tree::noise(2, 123_456).to_vec()),
        ];
        let (dir, torrent) = world(piece_length, &files);
        let (here, data) = (dir.path().join("here"), dir.path().join("here/data"));
        let ip = |host: usize| format!("127.0.{}.{host}", 50 + at);
        let seed = Libtorrent::start(&here, &ip(1), "enabled", &torrent, &[]).complete();
        let peer = ["--discovery", "none", "--peer", &seed.addr.to_string()];
        let mounted = mount(&torrent, &ip(2), &dir.path().join("mounted"), &peer);
        compare::whole(&data, &mounted.at);
        compare::at_random(&data, &mounted.at, 5, 100);

        let source = Seed::start(&data, Path::new(&torrent), &ip(3), &dir.path().join("seed"), &NO_SOURCES);
        let fetched = dir.path().join("fetched");
        fs::create_dir(&fetched).unwrap();
        Libtorrent::start(&fetched, &ip(4), "enabled", &torrent, &[source.addr]).complete();
        compare::whole(&data, &fetched.join("data"));
    }
}

#[test]
fn names_that_are_no_text_are_shown_and_told_apart() {
    let names: [Vec<&[u8]>; 10] = [
        vec![b"100%"],
        vec![b"caf%E9"],
        vec![b"caf%25E9"],
        vec!["café".as_bytes()],
        vec![b"caf\xe9"],
        vec![b"caf\xe9 d'\xe9t\xe9", b"\xff\xfe"],
        vec![b"caf\xea"],
        vec![b"\xc3"],
        vec![b"\xe8\xaa"],
        vec!["語".as_bytes()],
    ];
    let files = names.clone().map(|name| (name.clone(), name.concat()));
    let (dir, torrent) = world(16_384, &files);
    let data = dir.path().join("here/data");
    let seed = Seed::start(&data, Path::new(&torrent), "127.0.54.1", &dir.path().join("seed"), &NO_SOURCES);
    let peer = ["--discovery", "none", "--peer", &seed.addr.to_string()];
    let mounted = mount(&torrent, "127.0.54.2", &dir.path().join("mounted"), &peer);
    let mut seen = Vec::new();
    let mut dirs = vec![mounted.at.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
                continue;
            }
            let below = entry.path().strip_prefix(&mounted.at).unwrap().to_owned();
            let shown = below.iter().map(|name| name.to_owned().into_vec());
            let raw: Vec<Vec<u8>> = shown.map(|name| raw_name(str::from_utf8(&name).expect("text"))).collect();
            assert_eq!(fs::read(entry.path()).unwrap(), raw.concat(), "{below:?} is what its name says");
            seen.push(raw);
        }
    }
    seen.sort();
    let mut expected: Vec<Vec<Vec<u8>>> =
        names.iter().map(|path| path.iter().map(|name| name.to_vec()).collect()).collect();
    expected.sort();
    assert_eq!(seen, expected);
}
