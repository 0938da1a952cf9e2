//! Torrents whose files a web server has (BEP 19), with the real program, over loopback.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use support::process::{Mount, Seeder, both, create, finish, knot, wait_until};
use support::web::{Manners, WebServer};
use support::{compare, tree};

/// A web server with content, and the metainfo that names it.
struct Site {
    dir: tempfile::TempDir,
    web: WebServer,
}

impl Site {
    /// A torrent of the tree at `/files/source`.
    fn of_tree(items: &[tree::Item], options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        tree::write_tree(&dir.path().join("files/source"), items);
        Self::new(dir, "files/source", |web| web.url("files/"), options)
    }

    /// A torrent of one file at `/files/data.bin`, whose URL is whole.
    fn of_file(len: usize, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("files")).unwrap();
        fs::write(dir.path().join("files/data.bin"), tree::noise(5, len)).unwrap();
        Self::new(dir, "files/data.bin", |web| web.url("files/data.bin"), options)
    }

    fn new(dir: tempfile::TempDir, path: &str, url: impl Fn(&WebServer) -> String, options: &[&str]) -> Self {
        let web = WebServer::start(dir.path(), Manners::Good);
        let url = url(&web);
        let options = [&["--web-seed", &url], options].concat();
        create(&dir.path().join(path), &dir.path().join("a.torrent"), &options);
        Self { dir, web }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn metainfo(&self) -> String {
        self.path("a.torrent").to_str().unwrap().to_owned()
    }

    fn mount(&self, options: &[&str]) -> Mount {
        let default = if options.contains(&"--discovery") { &[][..] } else { &["--discovery", "webseed"] };
        let options = [default, options].concat();
        Mount::new(&self.metainfo(), &self.path("mnt"), &self.path("store"), &[], &options)
    }
}

const V1: [&str; 4] = ["--format", "torrent", "--piece-length", "65536"];

fn warnings(mount: &Mount) -> String {
    mount.status()["warnings"].to_string()
}

#[test]
fn every_byte_of_an_awkward_tree_comes_from_a_server() {
    for options in [&V1[..], &["--piece-length", "65536"], &["--piece-length", "65536", "--hash", "blake3"]] {
        // Of this name v1 torrents show another form.
        let items: Vec<_> = tree::awkward_tree(65536).into_iter().filter(|item| item.path != "names/%00").collect();
        let site = Site::of_tree(&items, options);
        let mount = site.mount(&[]);
        assert_eq!(site.web.requests(), 0, "nothing is asked before something is read");
        compare::at_random(&site.path("files/source"), &mount.at, 3, 100);
        let peers = mount.status()["torrents"][0]["peers"].clone();
        assert_eq!((&peers[0]["addr"], &peers[0]["client"]), (&site.web.url("files/").into(), &"web seed".into()));
        if options == V1 {
            compare::files(&site.path("files/source"), &mount.at);
        } else {
            compare::whole(&site.path("files/source"), &mount.at);
        }
        assert_eq!(warnings(&mount), "[]");
    }
}

#[test]
fn a_part_of_a_file_is_fetched_and_little_more() {
    let site = Site::of_file(32 << 20, &V1);
    let mount = site.mount(&[]);
    let file = fs::File::open(mount.at.join("data.bin")).unwrap();
    let mut got = vec![0; 100_000];
    file.read_exact_at(&mut got, 20 << 20).unwrap();
    assert!(got == fs::read(site.path("files/data.bin")).unwrap()[20 << 20..][..100_000]);
    assert!(site.web.sent() < 4 << 20, "{} bytes", site.web.sent());
    // All of it, in few requests.
    assert!(fs::read(mount.at.join("data.bin")).unwrap() == fs::read(site.path("files/data.bin")).unwrap());
    assert!(site.web.requests() < 200, "{} requests for 512 blocks of 64 KiB", site.web.requests());
    assert!(site.web.sent() < 34 << 20, "{} bytes", site.web.sent());
}

#[test]
fn get_and_cat_use_web_seeds_and_magnets_name_them() {
    let site = Site::of_file(3 << 20, &V1);
    let expected = fs::read(site.path("files/data.bin")).unwrap();
    let out = site.path("out");
    fs::create_dir(&out).unwrap();
    let listen = ["--listen", "/ip4/127.0.0.1/tcp/0"];
    let mut get = knot(&site.path("s1"));
    get.args(["get", &site.metainfo(), "--discovery", "webseed", "-o"]).arg(&out).args(listen);
    let output = finish(&mut get);
    assert!(output.status.success(), "{}", both(&output));
    assert!(fs::read(out.join("data.bin")).unwrap() == expected);
    let mut cat = knot(&site.path("s2"));
    let output = finish(cat.args(["cat", &site.metainfo(), "data.bin", "--discovery", "webseed"]).args(listen));
    assert!(output.status.success() && output.stdout == expected, "{}", String::from_utf8_lossy(&output.stderr));

    // A magnet link, whose metainfo comes from a peer that has nothing else.
    let bare = site.path("bare.torrent");
    let id = create(&site.path("files/data.bin"), &bare, &V1);
    let seeder = Seeder::start(&site.path("files/data.bin"), &bare, &site.path("s3"));
    let magnet = format!("magnet:?xt=urn:btih:{id}&ws={}", site.web.url("files/data.bin"));
    let mount = Mount::new(&magnet, &site.path("mnt"), &site.path("s4"), &[&seeder.addr], &["--discovery", "webseed"]);
    drop(seeder);
    assert!(fs::read(mount.at.join("data.bin")).unwrap() == expected);
    assert!(site.web.sent() > 6 << 20, "some of it is from the server");
}

#[test]
fn none_means_no_web_seeds_either() {
    let site = Site::of_file(1 << 20, &V1);
    let mount = site.mount(&["--discovery", "none", "--read-timeout", "5s"]);
    assert_eq!(fs::read(mount.at.join("data.bin")).unwrap_err().raw_os_error(), Some(5));
    assert_eq!(site.web.requests(), 0);
}

#[test]
fn a_server_that_knows_no_ranges_is_read_in_order() {
    let site = Site::of_file(24 << 20, &V1);
    site.web.set(Manners::NoRanges);
    let mount = site.mount(&["--read-timeout", "6s"]);
    let file = fs::File::open(mount.at.join("data.bin")).unwrap();
    let expected = fs::read(site.path("files/data.bin")).unwrap();
    // Far behind the start of the file nothing can be had of it, which is said.
    let mut got = vec![0; 4096];
    assert_eq!(file.read_exact_at(&mut got, 23 << 20).unwrap_err().raw_os_error(), Some(5));
    wait_until("there is a warning", || warnings(&mount).contains("knows no ranges"));
    // A second file of the kind is not held against it; after a while neither is this one.
    let site = Site::of_file(24 << 20, &V1);
    site.web.set(Manners::NoRanges);
    let mount = site.mount(&[]);
    assert!(fs::read(mount.at.join("data.bin")).unwrap() == expected);
    assert!(site.web.sent() < 72 << 20, "{} bytes", site.web.sent());
}

#[test]
fn wrong_bytes_are_never_seen_and_the_server_is_named() {
    for options in [&V1[..], &["--piece-length", "65536"]] {
        let site = Site::of_file(1 << 20, options);
        site.web.set(Manners::Corrupt);
        let mount = site.mount(&["--read-timeout", "5s"]);
        let started = Instant::now();
        assert_eq!(fs::read(mount.at.join("data.bin")).unwrap_err().raw_os_error(), Some(5));
        assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
        let warnings = warnings(&mount);
        let named = format!("banned peer {}: sent wrong bytes", site.web.url("files/data.bin"));
        assert!(warnings.contains(&named), "{warnings}");
        let requests = site.web.requests();
        assert!(fs::read(mount.at.join("data.bin")).is_err());
        assert_eq!(site.web.requests(), requests, "it is not asked again");
    }
}

#[test]
fn pages_that_say_that_there_is_nothing_are_no_content() {
    for (manners, said) in [(Manners::Missing, "404"), (Manners::Page, "text/html")] {
        let site = Site::of_file(1 << 20, &V1);
        site.web.set(manners);
        let mount = site.mount(&["--read-timeout", "5s"]);
        assert_eq!(fs::read(mount.at.join("data.bin")).unwrap_err().raw_os_error(), Some(5));
        let warnings = warnings(&mount);
        assert!(warnings.contains(said) && !warnings.contains("banned"), "{warnings}");
        assert!(site.web.requests() <= 2, "{} requests", site.web.requests());
    }
}

#[test]
fn a_server_that_dies_midway_is_used_again_when_it_is_back() {
    let site = Site::of_file(8 << 20, &V1);
    let expected = fs::read(site.path("files/data.bin")).unwrap();
    site.web.set(Manners::Breaks(300_000));
    let mount = site.mount(&["--read-timeout", "4s"]);
    let file = fs::File::open(mount.at.join("data.bin")).unwrap();
    let mut got = vec![0; 65536];
    file.read_exact_at(&mut got, 0).unwrap();
    assert!(got == expected[..65536]);
    site.web.set(Manners::Down);
    assert_eq!(file.read_exact_at(&mut got, 6 << 20).unwrap_err().raw_os_error(), Some(5));
    assert!(warnings(&mount).contains("left alone"), "{}", warnings(&mount));
    site.web.set(Manners::Good);
    wait_until("it is used again", || file.read_exact_at(&mut got, 6 << 20).is_ok());
    assert!(fs::read(mount.at.join("data.bin")).unwrap() == expected);
}

#[test]
fn while_a_peer_has_everything_the_server_is_left_alone() {
    let site = Site::of_file(16 << 20, &V1);
    let expected = fs::read(site.path("files/data.bin")).unwrap();
    let mut seeder = Seeder::start(&site.path("files/data.bin"), &site.path("a.torrent"), &site.path("s1"));
    let mount = Mount::new(
        &site.metainfo(),
        &site.path("mnt"),
        &site.path("store"),
        &[&seeder.addr],
        &["--discovery", "webseed"],
    );
    let file = fs::File::open(mount.at.join("data.bin")).unwrap();
    let mut got = vec![0; 8 << 20];
    file.read_exact_at(&mut got, 0).unwrap();
    assert!(got == expected[..8 << 20]);
    assert_eq!(site.web.requests(), 0);
    // The peer goes: the server is the last resort.
    seeder.kill();
    assert!(fs::read(mount.at.join("data.bin")).unwrap() == expected);
    assert!((1..9 << 20).contains(&site.web.sent()), "{} bytes", site.web.sent());
}
