//! BitTorrent v2 with a client that exists: libtorrent from Debian, each peer on a loopback address of its own (BEP 52).
//! Fails where it is not installed (`scripts/test` installs it).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use support::clients::{Libtorrent, Seed, libtorrent_creates, libtorrent_creates_v2, libtorrent_reads, mount};
use support::process::{create, knot, run, status};
use support::{compare, tree};

const NO_SOURCES: [&str; 2] = ["--discovery", "none"];
const PIECE: usize = 64 << 10;

/// A tree in `data`, as clients keep it, and places for everything else.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        let data = world.source();
        fs::create_dir_all(data.join("sub/deep")).unwrap();
        for (name, len) in [
            ("a first.bin", 1_000_000),
            ("empty", 0),
            ("one", 1),
            ("sub-way", 40_000),
            ("sub/block", 16384),
            ("sub/deep/more", PIECE + 1),
            ("sub/whole", PIECE),
            ("sub/two", 2 * PIECE),
        ] {
            fs::write(data.join(name), tree::noise(len as u64 + 1, len)).unwrap();
        }
        // The same content has the same root.
        fs::copy(data.join("a first.bin"), data.join("sub/again")).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn source(&self) -> PathBuf {
        self.path("here/data")
    }

    /// The directory that the content is in, for clients.
    fn here(&self) -> PathBuf {
        self.path("here")
    }

    fn place(&self, name: &str) -> PathBuf {
        fs::create_dir(self.path(name)).unwrap();
        self.path(name)
    }

    /// Makes a torrent with knot; its path and infohash.
    fn torrent(&self, format: &str) -> (String, String) {
        let torrent = self.path(&format!("{format}.torrent"));
        let hash = create(&self.source(), &torrent, &["--format", format, "--piece-length", "65536"]);
        (torrent.to_str().unwrap().to_owned(), hash)
    }

    /// Mounts and compares every byte.
    fn mounts(&self, name: &str, what: &str, ip: &str, options: &[&str]) {
        let mount = mount(what, ip, &self.path(name), options);
        compare::whole(&self.source(), &mount.at);
    }
}

fn inspect(world: &World, torrent: &str) -> serde_json::Value {
    serde_json::from_str(&run(knot(&world.path("no")).args(["inspect", "--json", torrent]))).unwrap()
}

#[test]
fn mounts_what_libtorrent_makes_and_seeds() {
    let world = World::new();
    let torrent = world.path("data.torrent");
    libtorrent_creates_v2(&world.source(), &torrent);
    let torrent = torrent.to_str().unwrap();
    assert_eq!(inspect(&world, torrent)["form"], "v2");
    let seed = Libtorrent::start(&world.here(), "127.0.60.1", "enabled", torrent, &[]).complete();
    let peer = ["--peer", &seed.addr.to_string()];
    world.mounts("by-file", torrent, "127.0.60.2", &[&NO_SOURCES[..], &peer].concat());
    let plain = Libtorrent::start(&world.here(), "127.0.60.3", "disabled", torrent, &[]).complete();
    let peer = ["--peer", &plain.addr.to_string()];
    world.mounts("plain", torrent, "127.0.60.4", &[&NO_SOURCES[..], &peer].concat());
    run(knot(&world.path("store"))
        .args(["get", torrent, "--listen", "127.0.60.5:0", "-o"])
        .arg(world.path("out"))
        .args(NO_SOURCES)
        .args(peer));
    compare::whole(&world.source(), &world.path("out/data"));
}

#[test]
fn makes_what_libtorrent_makes() {
    let world = World::new();
    fs::set_permissions(world.source().join("one"), fs::Permissions::from_mode(0o755)).unwrap();
    for (format, theirs) in [("torrent-v2", libtorrent_creates_v2 as fn(&Path, &Path)), ("hybrid", libtorrent_creates)]
    {
        let (ours, _) = world.torrent(format);
        let torrent = world.path("theirs.torrent");
        theirs(&world.source(), &torrent);
        let [ours, theirs] = [ours.as_str(), torrent.to_str().unwrap()].map(libtorrent_reads);
        // Theirs has padding at the very end, where nothing needs it: files with their places and roots are compared.
        let files =
            |said: &str| said.lines().filter(|line| line.contains("data")).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(files(&ours), files(&theirs), "{format}");
        assert!(ours == theirs || format == "hybrid");
    }
}

#[test]
fn libtorrent_fetches_what_knot_creates_and_seeds() {
    let world = World::new();
    let (torrent, hash) = world.torrent("torrent-v2");
    let seed = Seed::start(&world.source(), Path::new(&torrent), "127.0.61.1", &world.path("seed"), &NO_SOURCES);
    let by_file = world.place("by-file");
    Libtorrent::start(&by_file, "127.0.61.2", "enabled", &torrent, &[seed.addr]).complete();
    compare::whole(&world.source(), &by_file.join("data"));
    // A link has no piece layers: libtorrent asks for them.
    let by_magnet = world.place("by-magnet");
    let magnet = format!("magnet:?xt=urn:btmh:1220{hash}");
    Libtorrent::start(&by_magnet, "127.0.61.3", "disabled", &magnet, &[seed.addr]).complete();
    compare::whole(&world.source(), &by_magnet.join("data"));
    assert!(status(&seed.store)["torrents"][0]["ratio"].as_f64().unwrap() >= 1.5);
}

#[test]
fn libtorrent_fetches_a_hybrid_torrent() {
    let world = World::new();
    let (torrent, _) = world.torrent("hybrid");
    let seed = Seed::start(&world.source(), Path::new(&torrent), "127.0.62.1", &world.path("seed"), &NO_SOURCES);
    let by_file = world.place("by-file");
    Libtorrent::start(&by_file, "127.0.62.2", "enabled", &torrent, &[seed.addr]).complete();
    compare::whole(&world.source(), &by_file.join("data"));
    world.mounts("mount", &torrent, "127.0.62.3", &[&NO_SOURCES[..], &["--peer", &seed.addr.to_string()]].concat());
}

/// A link names nothing but `info`, which has no piece hashes: libtorrent tells them, once.
#[test]
fn mounts_by_magnet_link_and_again_without_peers() {
    let world = World::new();
    // More pieces than one request can ask for: the proof has uncles.
    fs::write(world.source().join("large"), tree::noise(3, 600 * 16384 + 5)).unwrap();
    let torrent = world.path("data.torrent");
    let hash = create(&world.source(), &torrent, &["--format", "torrent-v2", "--piece-length", "16384"]);
    let torrent = torrent.to_str().unwrap();
    let seed = Libtorrent::start(&world.here(), "127.0.65.1", "enabled", torrent, &[]).complete();
    let magnet = format!("magnet:?xt=urn:btmh:1220{hash}&dn=data&x.pe={}", seed.addr);
    world.mounts("mount", &magnet, "127.0.65.2", &NO_SOURCES);
    drop(seed);
    // What it was told is in its store.
    world.mounts("mount", &hash, "127.0.65.3", &NO_SOURCES);
    // A torrent file may lack them just as well: here knot tells them.
    let seed = Seed::start(&world.source(), Path::new(torrent), "127.0.65.4", &world.path("seed"), &NO_SOURCES);
    let bytes = fs::read(torrent).unwrap();
    let at = bytes.windows(15).position(|part| part == b"12:piece layers").unwrap();
    let bare = world.path("bare.torrent");
    fs::write(&bare, [&bytes[..at], b"e"].concat()).unwrap();
    let peer = seed.addr.to_string();
    world.mounts("bare", bare.to_str().unwrap(), "127.0.65.5", &[&NO_SOURCES[..], &["--peer", &peer]].concat());
}

/// A random read of a block costs that block and its proof.
#[test]
fn random_reads_of_libtorrents_blocks_fetch_no_more_than_they_read() {
    const BLOCKS: u64 = 64;
    let world = World::new();
    fs::remove_dir_all(world.source()).unwrap();
    fs::create_dir_all(world.source()).unwrap();
    let whole = tree::noise(9, 64 << 20);
    fs::write(world.source().join("big"), &whole).unwrap();
    // libtorrent takes a directory of one file for the file.
    fs::write(world.source().join("other"), "other").unwrap();
    let torrent = world.path("data.torrent");
    libtorrent_creates_v2(&world.source(), &torrent);
    let torrent = torrent.to_str().unwrap();
    let seed = Libtorrent::start(&world.here(), "127.0.63.1", "enabled", torrent, &[]).complete();
    let addr = seed.addr.to_string();
    let options = [&NO_SOURCES[..], &["--peer", &addr]].concat();
    let mount = mount(torrent, "127.0.63.2", &world.path("mount"), &options);
    let file = fs::File::open(mount.at.join("big")).unwrap();
    for at in 0..BLOCKS {
        // One block in a piece, now here, now there.
        let block = (at * 37 % BLOCKS) * 4 * 4 + at % 4;
        let (mut read, offset) = ([0; 16384], block * 16384);
        file.read_exact_at(&mut read, offset).unwrap();
        assert!(read == whole[offset as usize..][..16384]);
    }
    let torrent = &mount.status()["torrents"][0];
    let fetched = torrent["downloaded_bytes"].as_u64().unwrap();
    assert!(fetched * 10 <= BLOCKS * 16384 * 11, "{fetched} bytes for {} read", BLOCKS * 16384);
}

#[test]
fn links_and_modes_are_as_the_file_tree_says() {
    let world = World::new();
    symlink("../one", world.source().join("sub/up")).unwrap();
    fs::set_permissions(world.source().join("one"), fs::Permissions::from_mode(0o755)).unwrap();
    let (torrent, _) = world.torrent("torrent-v2");
    let seed = Seed::start(&world.source(), Path::new(&torrent), "127.0.64.1", &world.path("seed"), &NO_SOURCES);
    let addr = seed.addr.to_string();
    let options = [&NO_SOURCES[..], &["--peer", &addr]].concat();
    let mount = mount(&torrent, "127.0.64.2", &world.path("mount"), &options);
    compare::whole(&world.source(), &mount.at);
    assert_eq!(fs::read_link(mount.at.join("sub/up")).unwrap(), Path::new("../one"));
    assert_eq!(fs::metadata(mount.at.join("one")).unwrap().permissions().mode() & 0o111, 0o111);
}
