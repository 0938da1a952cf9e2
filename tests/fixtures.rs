//! The torrents of the npm package `webtorrent-fixtures`: what others test their clients with. `scripts/test` puts
//! the package where these tests look for it; they fail without it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::clients::{Libtorrent, libtorrent_creates_v2, libtorrent_refuses, mount};
use support::compare;
use support::process::{Mount, both, finish, knot, run};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/webtorrent-fixtures/package/fixtures");

/// Torrents whose content is in the package, and where.
const WITH_CONTENT: [(&str, &str); 6] = [
    ("alice", "alice.txt"),
    ("folder", "folder"),
    ("leaves", "Leaves of Grass by Walt Whitman.epub"),
    ("leaves-metadata", "Leaves of Grass by Walt Whitman.epub"),
    ("lots-of-numbers", "lots-of-numbers"),
    ("numbers", "numbers"),
];
/// Torrents of films that are not in the package: the one file of each, and its length.
const WITHOUT_CONTENT: [(&str, &str, u64); 2] = [
    ("bunny", "bbb_sunflower_1080p_30fps_stereo_abl.mp4", 434_839_491),
    ("sintel", "Sintel.2010.4K.DMRip.x264.DD.DTS.SRT-MaLLIeHbKa.mkv", 5_490_455_272),
];
const REFUSED: &str = "corrupt";

fn fixtures() -> PathBuf {
    let dir = PathBuf::from(FIXTURES);
    assert!(dir.is_dir(), "expected the npm package webtorrent-fixtures in {dir:?}: scripts/test puts it there");
    dir
}

fn torrent(name: &str) -> String {
    fixtures().join(format!("{name}.torrent")).to_str().unwrap().to_owned()
}

#[test]
fn no_torrent_of_the_package_is_left_out() {
    let tested = WITH_CONTENT.iter().map(|(name, _)| *name).chain(WITHOUT_CONTENT.iter().map(|(name, ..)| *name));
    let tested: BTreeSet<PathBuf> = tested.chain([REFUSED]).map(|name| format!("{name}.torrent").into()).collect();
    let files = fs::read_dir(fixtures()).unwrap().map(|entry| PathBuf::from(entry.unwrap().file_name()));
    let there = files.filter(|name| name.extension().is_some_and(|extension| extension == "torrent")).collect();
    assert_eq!(tested, there);
}

/// What a mount of `content` shows: a directory is the root itself, a file is in it.
fn as_mounted(content: &str, dir: &Path) -> PathBuf {
    let content = fixtures().join(content);
    if content.is_dir() {
        return content;
    }
    let alone = dir.join("alone");
    fs::create_dir(&alone).unwrap();
    fs::copy(&content, alone.join(content.file_name().unwrap())).unwrap();
    alone
}

fn fetched_everything(mount: &Mount) {
    let torrent = &mount.status()["torrents"][0];
    assert_eq!(torrent["verified_bytes"], torrent["total_bytes"], "{torrent}");
    assert!(torrent["downloaded_bytes"].as_u64() >= torrent["total_bytes"].as_u64(), "{torrent}");
}

/// By file and by magnet link, from a libtorrent that has the content as it lies in the package.
#[test]
fn what_has_content_is_mounted_and_every_byte_compared() {
    for (at, (name, content)) in WITH_CONTENT.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let (torrent, expected) = (torrent(name), as_mounted(content, dir.path()));
        let ip = |host: usize| format!("127.0.{}.{host}", 20 + at);
        let seed = Libtorrent::start(&fixtures(), &ip(1), "enabled", &torrent, &[]).complete();
        let by_file = ["--discovery", "none", "--peer", &seed.addr.to_string()];
        let by_file = mount(&torrent, &ip(2), &dir.path().join("by-file"), &by_file);
        compare::whole(&expected, &by_file.at);
        fetched_everything(&by_file);
        let shown = run(knot(&dir.path().join("no")).args(["inspect", "--json", &torrent]));
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let magnet = format!("{}&x.pe={}", shown["magnet"].as_str().unwrap(), seed.addr);
        let by_magnet = mount(&magnet, &ip(3), &dir.path().join("by-magnet"), &["--discovery", "none"]);
        compare::whole(&expected, &by_magnet.at);
        fetched_everything(&by_magnet);
    }
}

/// In a network namespace without a network: one of them names a web seed.
#[test]
fn what_has_no_content_shows_its_file_and_says_that_nobody_has_it() {
    for (name, file, len) in WITHOUT_CONTENT {
        let dir = tempfile::tempdir().unwrap();
        let mount = Mount { at: dir.path().join("mnt"), store: dir.path().join("store") };
        fs::create_dir(&mount.at).unwrap();
        let knot = [env!("CARGO_BIN_EXE_knot"), "mount", &torrent(name)].map(str::to_owned);
        run(Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
            .args(knot)
            .arg(&mount.at)
            .args(["--discovery", "none", "--listen", "127.0.0.1:0", "--read-timeout", "1s", "--store"])
            .arg(&mount.store));
        let names: Vec<_> = fs::read_dir(&mount.at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [file]);
        assert_eq!(fs::metadata(mount.at.join(file)).unwrap().len(), len);
        let error = fs::read(mount.at.join(file)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "EIO: {error}");
    }
}

fn refused(torrent: &str, dir: &Path) -> Output {
    let at = dir.join("mnt");
    fs::create_dir_all(&at).unwrap();
    let mut command = knot(&dir.join("store"));
    let output = finish(command.args(["mount", torrent]).arg(&at).args(["--discovery", "none", "--timeout", "5s"]));
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0, "nothing is mounted");
    output
}

#[test]
fn what_is_corrupt_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    libtorrent_refuses(Path::new(&torrent(REFUSED)));
    let output = both(&refused(&torrent(REFUSED), dir.path()));
    assert!(output.contains("expected a .knot or .torrent file with the key \"name\", got none"), "{output}");
    assert!(output.contains("corrupt.torrent"), "says which file: {output}");
}

/// Of the next version too, as libtorrent makes and serves it.
#[test]
fn a_torrent_of_the_next_version_is_mounted() {
    let dir = tempfile::tempdir().unwrap();
    let v2 = dir.path().join("alice.torrent");
    libtorrent_creates_v2(&fixtures().join("alice.txt"), &v2);
    let seed = Libtorrent::start(&fixtures(), "127.0.30.1", "enabled", v2.to_str().unwrap(), &[]).complete();
    let options = ["--discovery", "none", "--peer", &seed.addr.to_string()];
    let mount = mount(v2.to_str().unwrap(), "127.0.30.2", dir.path(), &options);
    compare::whole(&as_mounted("alice.txt", dir.path()), &mount.at);
    fetched_everything(&mount);
}
