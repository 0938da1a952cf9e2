//! Sources of peers that are left with nothing beside them: peers that tell of others, and the local network. At the
//! other end is libtorrent.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use support::clients::{Libtorrent, mount};
use support::process::{Mount, both, create, finish, knot, wait_until};
use support::{compare, tree};

/// A directory that clients have as `here/data`, and its torrent.
struct World {
    dir: tempfile::TempDir,
    torrent: String,
    hash: String,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("here/data");
        fs::create_dir_all(data.join("sub")).unwrap();
        fs::write(data.join("large"), tree::noise(1, 700_000)).unwrap();
        fs::write(data.join("sub/small"), tree::noise(2, 40_000)).unwrap();
        let torrent = dir.path().join("data.torrent");
        let hash = create(&data, &torrent, &["--format", "torrent", "--piece-length", "65536"]);
        Self { torrent: torrent.to_str().unwrap().to_owned(), dir, hash }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn new_dir(&self, name: &str) -> PathBuf {
        fs::create_dir(self.path(name)).unwrap();
        self.path(name)
    }

    fn magnet(&self) -> String {
        format!("magnet:?xt=urn:btih:{}&dn=data", self.hash)
    }

    fn is_at(&self, mount: &Mount) {
        compare::whole(&self.path("here/data"), &mount.at);
    }

    fn seed(&self, ip: &str, options: &[&str]) -> Libtorrent {
        Libtorrent::start_with(options, &self.path("here"), ip, "enabled", &self.torrent, &[]).complete()
    }

    /// With the source off, the rest is off too: nobody is found.
    fn is_lost_without(&self, magnet: &str, ip: &str) {
        let at = self.new_dir("lost");
        let mut command = knot(&self.path("lost-store"));
        let output = finish(command.args(["mount", magnet]).arg(&at).args([
            "--discovery",
            "none",
            "--timeout",
            "3s",
            "--listen",
            &format!("{ip}:0"),
        ]));
        assert_eq!(output.status.code(), Some(3), "{}", both(&output));
    }
}

fn text<'a>(value: &'a serde_json::Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(|found| found.as_str()).unwrap_or_else(|| panic!("{pointer} in {value}"))
}

#[test]
fn a_magnet_whose_only_peer_has_nothing_and_tells_of_one_that_has() {
    let world = World::new();
    let seed = world.seed("127.0.30.1", &[]);
    let teller = world.new_dir("teller");
    let options = ["--fetch-nothing"];
    let teller = Libtorrent::start_with(&options, &teller, "127.0.30.2", "enabled", &world.torrent, &[seed.addr])
        .connected(seed.addr);
    let magnet = format!("{}&x.pe={}", world.magnet(), teller.addr);
    {
        let mount = mount(&magnet, "127.0.30.3", &world.path("by-pex"), &["--discovery", "pex"]);
        world.is_at(&mount);
        let status = mount.status();
        assert_eq!(status["sources"].as_array().unwrap().len(), 1, "{status}");
        assert_eq!(text(&status, "/sources/0/name"), "pex");
    }
    seed.process.until("the seed gave it", |line| (line == "sent 127.0.30.3").then_some(()));
    assert!(!teller.process.rest().contains(&"sent 127.0.30.3".to_owned()), "the other gave it nothing");
    // Without it, the same peer gives the metainfo and no more.
    let at = world.path("no-pex");
    let mount = mount(&magnet, "127.0.30.4", &at, &["--discovery", "none", "--read-timeout", "3s"]);
    let error = fs::read(mount.at.join("sub/small")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
}

#[test]
fn knot_that_has_nothing_tells_libtorrent_of_one_that_has() {
    let world = World::new();
    let seed = world.seed("127.0.31.1", &[]);
    let options = ["--discovery", "pex", "--peer", &seed.addr.to_string()];
    let teller = mount(&world.torrent, "127.0.31.2", &world.path("teller"), &options);
    wait_until("knot knows the seed", || {
        let status = teller.status();
        status["torrents"][0]["peers"].as_array().is_some_and(|peers| !peers.is_empty())
    });
    let addrs = &teller.status()["listen"];
    let addr = addrs.as_array().unwrap().iter().find_map(|addr| addr.as_str()?.parse().ok()).unwrap();
    let fetched = world.new_dir("fetched");
    Libtorrent::start(&fetched, "127.0.31.3", "enabled", &world.magnet(), &[addr]).complete();
    compare::whole(&world.path("here/data"), &fetched.join("data"));
    assert_eq!(teller.status()["torrents"][0]["downloaded_bytes"], 0, "there was nothing that knot could give");
}

/// All clients of a network hear each other, also those of other tests: this one makes itself a network namespace.
#[test]
fn a_magnet_is_found_on_the_local_network() {
    let setup = "ip link set lo multicast on up && exec \"$0\" --exact --ignored --nocapture on_a_network_of_its_own";
    let output =
        finish(Command::new("unshare").args(["--net", "sh", "-c", setup]).arg(std::env::current_exe().unwrap()));
    assert!(output.status.success() && both(&output).contains("1 passed"), "{}", both(&output));
}

#[test]
#[ignore = "runs in a network namespace that another test makes"]
fn on_a_network_of_its_own() {
    let world = World::new();
    let only_lsd = ["--discovery", "lsd"];
    world.is_lost_without(&world.magnet(), "127.0.32.2");
    // The seed has announced itself before: it is knot that is heard.
    let seed = world.seed("127.0.32.1", &["--lsd"]);
    {
        let mount = mount(&world.magnet(), "127.0.32.3", &world.path("later"), &only_lsd);
        world.is_at(&mount);
    }
    drop(seed);
    // knot waits for a seed that comes: knot hears it.
    thread::scope(|scope| {
        let early = scope.spawn(|| mount(&world.magnet(), "127.0.32.4", &world.path("early"), &only_lsd));
        wait_until("knot has announced the swarm", || {
            let status = finish(knot(&world.path("early/store")).args(["status", "--json"]));
            let status: Option<serde_json::Value> = serde_json::from_slice(&status.stdout).ok();
            status.is_some_and(|status| text(&status, "/sources/0/state").starts_with("1 swarms announced"))
        });
        let _seed = world.seed("127.0.32.5", &["--lsd"]);
        let mount = early.join().unwrap();
        world.is_at(&mount);
        let state = mount.status();
        assert!(text(&state, "/sources/0/state").contains("1 local peers heard"), "{state}");
    });
}
