//! Torrents that exist, with the clients that exist: libtorrent, aria2, transmission and opentracker from Debian, each
//! on a loopback address of its own. Fails where one of them is not installed (`scripts/test` installs them).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use support::clients::{
    Libtorrent, Seed, Tracker, aria2_fetches, aria2_seeds, aria2_shares, free_port, libtorrent_creates, mount,
    transmission,
};
use support::process::{both, create, finish, knot, run, status, wait_until};
use support::{compare, tree};

const NO_SOURCES: [&str; 2] = ["--discovery", "none"];
const ONLY_TRACKERS: [&str; 2] = ["--discovery", "trackers"];

/// A tree in `data`, as clients keep it, and places for everything else.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        // transmission may run as another user.
        let data = world.path("here/data");
        fs::create_dir_all(data.join("sub/deep")).unwrap();
        for (name, len) in
            [("a first.bin", 1_000_000), ("empty", 0), ("one", 1), ("sub/block", 16384), ("sub/deep/more", 300_001)]
        {
            fs::write(data.join(name), tree::noise(len as u64 + 1, len)).unwrap();
        }
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

    /// Makes a v1 torrent with knot; its path and infohash.
    fn torrent(&self, options: &[&str]) -> (String, String) {
        let torrent = self.path("data.torrent");
        let options = [&["--format", "torrent", "--piece-length", "65536"], options].concat();
        let hash = create(&self.source(), &torrent, &options);
        (torrent.to_str().unwrap().to_owned(), hash)
    }

    /// Mounts and compares every byte.
    fn mounts(&self, name: &str, what: &str, ip: &str, options: &[&str]) {
        let dir = self.path(name);
        let mount = mount(what, ip, &dir, options);
        compare::whole(&self.source(), &mount.at);
    }
}

#[test]
fn mounts_what_libtorrent_seeds_by_file_magnet_and_infohash() {
    let world = World::new();
    let (torrent, hash) = world.torrent(&[]);
    let seed = Libtorrent::start(&world.here(), "127.0.1.1", "enabled", &torrent, &[]).complete();
    let peer = ["--peer", &seed.addr.to_string()];
    world.mounts("by-file", &torrent, "127.0.1.2", &[&NO_SOURCES[..], &peer].concat());
    let magnet = format!("magnet:?xt=urn:btih:{hash}&dn=data&x.pe={}", seed.addr);
    world.mounts("by-magnet", &magnet, "127.0.1.3", &NO_SOURCES);
    world.mounts("by-hash", &hash, "127.0.1.4", &[&NO_SOURCES[..], &peer].concat());
    // Without encryption the streams are read by other code of that client, which wants another handshake.
    let plain = Libtorrent::start(&world.here(), "127.0.1.5", "disabled", &torrent, &[]).complete();
    let peer = ["--peer", &plain.addr.to_string()];
    world.mounts("plain-by-file", &torrent, "127.0.1.6", &[&NO_SOURCES[..], &peer].concat());
    world.mounts("plain-by-hash", &hash, "127.0.1.7", &[&NO_SOURCES[..], &peer].concat());
}

#[test]
fn mounts_what_libtorrent_makes() {
    let world = World::new();
    let torrent = world.path("data.torrent");
    libtorrent_creates(&world.source(), &torrent);
    let torrent = torrent.to_str().unwrap();
    let seed = Libtorrent::start(&world.here(), "127.0.2.1", "enabled", torrent, &[]).complete();
    let peer = ["--peer", &seed.addr.to_string()];
    world.mounts("by-file", torrent, "127.0.2.2", &[&NO_SOURCES[..], &peer].concat());
    let shown: serde_json::Value =
        serde_json::from_str(&run(knot(&world.path("no")).args(["inspect", "--json", torrent]))).unwrap();
    assert_eq!(shown["form"], "hybrid");
    let magnet = format!("{}&x.pe={}", shown["magnet"].as_str().unwrap(), seed.addr);
    world.mounts("by-magnet", &magnet, "127.0.2.3", &NO_SOURCES);
}

#[test]
fn encryption_is_as_both_sides_want_it() {
    let world = World::new();
    let (torrent, _) = world.torrent(&[]);
    let seed = Libtorrent::start(&world.here(), "127.0.3.1", "forced", &torrent, &[]).complete();
    let options = |encryption| ["--discovery", "none", "--peer", addr(&seed), "--encryption", encryption];
    fn addr(seed: &Libtorrent) -> &'static str {
        seed.addr.to_string().leak()
    }
    world.mounts("preferred", &torrent, "127.0.3.2", &options("preferred"));
    world.mounts("required", &torrent, "127.0.3.3", &options("required"));
    // The other way round: whoever encrypts nothing gets nothing.
    let required = Seed::start(
        &world.source(),
        Path::new(&torrent),
        "127.0.3.4",
        &world.path("seed"),
        &["--discovery", "none", "--encryption", "required"],
    );
    let fetched = world.path("fetched");
    fs::create_dir(&fetched).unwrap();
    Libtorrent::start(&fetched, "127.0.3.5", "forced", &torrent, &[required.addr]).complete();
    compare::whole(&world.source(), &fetched.join("data"));
    let refused = finish(
        knot(&world.path("plain"))
            .args(["get", &torrent, "-o"])
            .arg(world.path("out"))
            .args(["--listen", "127.0.3.6:0", "--encryption", "disabled", "--peer", &required.addr.to_string()])
            .args(["--discovery", "none", "--read-timeout", "2s"]),
    );
    assert_eq!(refused.status.code(), Some(3), "{}", both(&refused));
}

/// A torrent that names its tracker, whose URLs come with it: HTTP, then UDP.
fn tracked(world: &World, ip: &str) -> (Tracker, String, String, [String; 2]) {
    let mut made = None;
    let tracker = Tracker::start(ip, |http, udp| {
        let (torrent, hash) = world.torrent(&["--tracker", &format!("{udp},{http}"), "--comment", "a test"]);
        made = Some((torrent, hash.clone(), [http.to_owned(), udp.to_owned()]));
        vec![hash]
    });
    let (torrent, hash, urls) = made.unwrap();
    (tracker, torrent, hash, urls)
}

#[test]
fn mounts_from_aria2_that_a_tracker_names() {
    let world = World::new();
    let (tracker, torrent, hash, [_, udp]) = tracked(&world, "127.0.4.1");
    let _seed = aria2_seeds(&world.here(), "127.0.4.2", &torrent);
    tracker.wait_for_seed(&hash);
    world.mounts("by-file", &torrent, "127.0.4.3", &ONLY_TRACKERS);
    world.mounts("by-magnet", &format!("magnet:?xt=urn:btih:{hash}&tr={udp}"), "127.0.4.4", &ONLY_TRACKERS);
}

#[test]
fn mounts_from_transmission_that_a_tracker_names() {
    let world = World::new();
    let (tracker, torrent, hash, [http, _]) = tracked(&world, "127.0.8.1");
    let _seed = transmission(&world.path("tr"), &world.here(), "127.0.8.2", Path::new(&torrent));
    tracker.wait_for_seed(&hash);
    world.mounts("by-magnet", &format!("magnet:?xt=urn:btih:{hash}&tr={http}"), "127.0.8.3", &ONLY_TRACKERS);
    world.mounts("by-file", &torrent, "127.0.8.4", &ONLY_TRACKERS);
}

#[test]
fn clients_fetch_what_knot_creates_and_seeds() {
    let world = World::new();
    let (tracker, torrent, hash, _) = tracked(&world, "127.0.5.1");
    let path = Path::new(&torrent);
    let seed = Seed::start(&world.source(), path, "127.0.5.2", &world.path("seed"), &ONLY_TRACKERS);
    tracker.wait_for_seed(&hash);
    let place = |name: &str| {
        fs::create_dir(world.path(name)).unwrap();
        world.path(name)
    };
    let aria2 = place("aria2");
    aria2_fetches(&aria2, "127.0.5.3", &torrent);
    compare::whole(&world.source(), &aria2.join("data"));
    let by_file = place("libtorrent");
    Libtorrent::start(&by_file, "127.0.5.4", "enabled", &torrent, &[seed.addr]).complete();
    compare::whole(&world.source(), &by_file.join("data"));
    let by_magnet = place("magnet");
    let magnet = format!("magnet:?xt=urn:btih:{hash}");
    Libtorrent::start(&by_magnet, "127.0.5.5", "disabled", &magnet, &[seed.addr]).complete();
    compare::whole(&world.source(), &by_magnet.join("data"));
    let torrent = &status(&seed.store)["torrents"][0];
    let total = torrent["total_bytes"].as_f64().unwrap();
    assert!(torrent["uploaded_bytes"].as_f64().unwrap() >= 2.5 * total, "{torrent}");
    assert!(torrent["ratio"].as_f64().unwrap() >= 2.5, "{torrent}");
}

#[test]
fn transmission_fetches_what_knot_creates_and_seeds() {
    let world = World::new();
    // It makes no empty files.
    fs::remove_file(world.source().join("empty")).unwrap();
    let (torrent, _) = world.torrent(&[]);
    let (fetched, at) = (world.path("fetched"), format!("127.0.12.1:{}", free_port("127.0.12.1")));
    fs::create_dir(&fetched).unwrap();
    let _transmission = transmission(&world.path("tr"), &fetched, &at, Path::new(&torrent));
    let options = ["--discovery", "none", "--peer", &at];
    let _seed = Seed::start(&world.source(), Path::new(&torrent), "127.0.12.2", &world.path("seed"), &options);
    wait_until("transmission has everything", || has_all(&fetched.join("data"), &world.source()));
    compare::whole(&world.source(), &fetched.join("data"));
}

#[test]
fn a_native_torrent_travels_over_tcp_and_encrypted() {
    let world = World::new();
    let metainfo = world.path("data.knot");
    let id = create(&world.source(), &metainfo, &[]);
    let options = ["--discovery", "none", "--encryption", "required"];
    let seed = Seed::start(&world.source(), &metainfo, "127.0.6.1", &world.path("seed"), &options);
    let peer = ["--peer", &seed.addr.to_string()];
    world.mounts("mount", &id, "127.0.6.2", &[&options[..], &peer].concat());
}

#[test]
fn a_torrent_is_named_by_its_url_too() {
    let world = World::new();
    let (torrent, hash) = world.torrent(&[]);
    let seed = Libtorrent::start(&world.here(), "127.0.7.1", "enabled", &torrent, &[]).complete();
    let server = serve_file(fs::read(&torrent).unwrap());
    let url = format!("http://{server}/data.torrent");
    world.mounts("mount", &url, "127.0.7.2", &[&NO_SOURCES[..], &["--peer", &seed.addr.to_string()]].concat());
    let shown = run(knot(&world.path("no")).args(["inspect", &url]));
    assert!(shown.contains(&hash), "{shown}");
    let missing = finish(knot(&world.path("no")).args(["inspect", &format!("http://{server}/missing")]));
    assert_eq!(missing.status.code(), Some(3), "{}", both(&missing));
    assert!(both(&missing).contains("404"), "{}", both(&missing));
}

#[test]
fn swarms_meet_in_the_mainline_dht() {
    let world = World::new();
    let (torrent, hash) = world.torrent(&[]);
    let testnet = mainline::Testnet::builder(8).bind_address(std::net::Ipv4Addr::LOCALHOST).build().unwrap();
    let nodes = testnet.bootstrap.join(",");
    let options = ["--discovery", "dht", "--dht-bootstrap", &nodes];
    let seed = Seed::start(&world.source(), Path::new(&torrent), "127.0.9.1", &world.path("seed"), &options);
    wait_until("the seed is announced", || {
        status(&seed.store)["sources"][0]["state"]
            .as_str()
            .is_some_and(|state| state.contains("1 of 1 swarms announced"))
    });
    world.mounts("mount", &format!("magnet:?xt=urn:btih:{hash}&dn=data"), "127.0.9.2", &options);
    // knot's own swarms meet there too.
    let metainfo = world.path("data.knot");
    let id = create(&world.source(), &metainfo, &[]);
    let _native = Seed::start(&world.source(), &metainfo, "127.0.9.3", &world.path("native"), &options);
    world.mounts("native-mount", &id, "127.0.9.4", &options);
}

#[test]
fn rates_are_limited() {
    let world = World::new();
    let (torrent, _) = world.torrent(&[]);
    let seed = Libtorrent::start(&world.here(), "127.0.10.1", "enabled", &torrent, &[]).complete();
    let total = fs::metadata(world.source().join("a first.bin")).unwrap().len();
    let started = std::time::Instant::now();
    run(knot(&world.path("store"))
        .args(["get", &torrent, "--listen", "127.0.10.2:0", "--discovery", "none", "--download-limit", "300KiB", "-o"])
        .arg(world.path("out"))
        .args(["--peer", &seed.addr.to_string()]));
    // A burst of a second is let through.
    let least = total as f64 / (300.0 * 1024.0) - 1.5;
    assert!(started.elapsed().as_secs_f64() > least, "{:?}", started.elapsed());
    compare::whole(&world.source(), &world.path("out/data"));
}

/// Whether every file of `source` is in `copy` as it is.
fn has_all(copy: &Path, source: &Path) -> bool {
    fs::read_dir(source).unwrap().map(Result::unwrap).all(|entry| {
        let copy = copy.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => has_all(&copy, &entry.path()),
            false => fs::read(copy).is_ok_and(|bytes| bytes == fs::read(entry.path()).unwrap()),
        }
    })
}

/// What a client has of `data` at first: some pieces of the one file, and nothing of the other.
fn give_part(source: &Path, dir: &Path, has: impl Fn(usize) -> bool) {
    const PIECE: usize = 65536;
    let mut part = fs::read(source.join("shared")).unwrap();
    let lacking = part.chunks_mut(PIECE).enumerate().filter(|(piece, _)| !has(*piece));
    lacking.for_each(|(_, piece)| piece.fill(0));
    fs::create_dir_all(dir.join("data")).unwrap();
    fs::write(dir.join("data/shared"), part).unwrap();
}

#[test]
fn a_swarm_in_which_nobody_had_everything_completes() {
    let world = World::new();
    fs::remove_dir_all(world.source()).unwrap();
    fs::create_dir(world.source()).unwrap();
    // Whole pieces, so that who has one file knows nothing of the other.
    let (at_knot, shared) = (16 * 65536, 48 * 65536);
    fs::write(world.source().join("at knot"), tree::noise(1, at_knot)).unwrap();
    fs::write(world.source().join("shared"), tree::noise(2, shared)).unwrap();
    let knot_dir = world.path("knot");
    {
        let (torrent, _) = world.torrent(&[]);
        let seed = Libtorrent::start(&world.here(), "127.0.11.2", "enabled", &torrent, &[]).complete();
        let peer = ["--peer", &seed.addr.to_string()];
        let mount = mount(&torrent, "127.0.11.3", &knot_dir, &[&NO_SOURCES[..], &peer].concat());
        assert!(fs::read(mount.at.join("at knot")).unwrap() == fs::read(world.source().join("at knot")).unwrap());
        assert_eq!(mount.status()["torrents"][0]["verified_bytes"], at_knot, "it has no more than that");
        fs::remove_file(torrent).unwrap();
    }
    let (tracker, torrent, hash, _) = tracked(&world, "127.0.11.1");
    let dirs = ["libtorrent", "aria2", "transmission"].map(|name| world.path(name));
    for (at, dir) in dirs.iter().enumerate() {
        give_part(&world.source(), dir, |piece| piece % 3 == at);
    }
    let [libtorrent, aria2, in_transmission] = &dirs;
    let _transmission = transmission(&world.path("tr"), in_transmission, "127.0.11.4", Path::new(&torrent));
    let _aria2 = aria2_shares(aria2, "127.0.11.5", &torrent);
    let libtorrent = Libtorrent::start(libtorrent, "127.0.11.6", "enabled", &torrent, &[]);
    tracker.wait_for(&hash, "8:completei0e10:downloadedi0e10:incompletei3e");
    let mount = mount(&torrent, "127.0.11.3", &knot_dir, &ONLY_TRACKERS);
    compare::whole(&world.source(), &mount.at);
    libtorrent.complete();
    for dir in &dirs {
        wait_until("every client has everything", || has_all(&dir.join("data"), &world.source()));
    }
    let torrent = &mount.status()["torrents"][0];
    let useful = torrent["downloaded_bytes"].as_u64().unwrap() - torrent["wasted_bytes"].as_u64().unwrap();
    assert_eq!(useful, shared as u64, "knot fetched what it lacked, and not what it had: {torrent}");
    assert!(torrent["uploaded_bytes"].as_u64().unwrap() >= at_knot as u64, "only knot had it: {torrent}");
}

/// An HTTP server that has `body` at `/data.torrent`, for as long as the test runs.
fn serve_file(body: Vec<u8>) -> SocketAddr {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let request = lines.next().unwrap_or_default();
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let (status, body) = match request.starts_with("GET /data.torrent ") {
                true => ("200 OK", &body[..]),
                false => ("404 Not Found", &b""[..]),
            };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(&[head.as_bytes(), body].concat());
        }
    });
    addr
}
