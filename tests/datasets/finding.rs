//! How a newer version is heard of: from peers, through a Kademlia and a mainline DHT of the test's own, by gossip.

use std::fs;
use std::time::Instant;

use crate::readers::{FILES, path, version_of, write};
use crate::support::clients::{self, Libtorrent};
use crate::support::process::{Mount, create, knot, run, wait_until};
use crate::support::{compare, tree};
use crate::world::{OFFLINE, World, address, crash, dataset, shows};

fn published(versions: u64) -> World {
    let world = World::new(&["--piece-length", "16KiB"], |world| write(world, 1));
    for seq in 2..=versions {
        next(&world, seq, &[]);
    }
    world
}

fn next(world: &World, seq: u64, options: &[&str]) {
    write(world, seq);
    assert_eq!(world.update_as(options), seq);
}

fn is_at(mount: &Mount, seq: u64) {
    shows(mount, seq);
    (0..FILES).for_each(|at| assert_eq!(version_of(&fs::read(mount.at.join(path(at))).unwrap(), at), seq));
}

/// The InfoSig of the first version is all that newcomers have; nobody has that version.
#[test]
fn a_newcomer_gets_the_newest_version_from_one_who_has_no_other() {
    let world = published(3);
    let mut serving = world.serve();
    let early = world.mount("early", &[&serving.addr], &[]);
    is_at(&early, 3);
    serving.kill();
    let late = world.mount("late", &[&address(&early.store)], &[]);
    is_at(&late, 3);
}

#[test]
fn what_is_published_is_shown_at_once() {
    let world = published(1);
    let serving = world.serve();
    let mount = world.mount("follower", &[&serving.addr], &[]);
    is_at(&mount, 1);
    for seq in 2..=4 {
        write(&world, seq);
        let began = Instant::now();
        assert_eq!(world.update(), seq);
        let published = began.elapsed();
        wait_until("it is shown", || version_of(&fs::read(mount.at.join(path(0))).unwrap(), 0) == seq);
        println!("version {seq} was published after {published:?} and shown after {:?}", began.elapsed());
        assert!(began.elapsed().as_secs() < 30);
    }
}

#[test]
fn a_newcomer_finds_the_newest_version_in_a_kademlia() {
    let world = published(2);
    let mut hub = knot(&world.path("hub"));
    hub.args(["daemon", "--discovery", "kad", "--listen", "/ip4/127.0.0.1/tcp/0"]);
    let _hub = crate::world::Process(hub.spawn().unwrap());
    wait_until("the hub is there", || world.path("hub").exists() && crate::world::is_up(&world.path("hub")));
    let hub = address(&world.path("hub"));
    let options = ["--discovery", "kad", "--bootstrap", &hub];
    let _serving = world.serve_as("store", &options);
    let mount = world.mount("follower", &[], &options);
    is_at(&mount, 2);
    next(&world, 3, &options);
    is_at(&mount, 3);
    let newcomer = world.mount("newcomer", &[], &options);
    is_at(&newcomer, 3);
}

/// The publisher knows nobody who follows, but one node through which news spread.
#[test]
fn news_spread_by_gossip() {
    let world = published(1);
    let serving = world.serve();
    let with_gossip = ["--discovery", "gossip"];
    let mount = world.mount("follower", &[&serving.addr], &with_gossip);
    is_at(&mount, 1);
    drop(serving);
    let follower = address(&mount.store);
    next(&world, 2, &["--discovery", "gossip", "--bootstrap", &follower]);
    wait_until("the follower has heard", || dataset(&mount)["newest"]["seq"] == 2);
    // The mount dials nobody who could have it: it is dialled.
    let _serving = world.serve_as("store", &["--discovery", "none", "--peer", &follower]);
    is_at(&mount, 2);
}

/// Whoever knows the publisher's key finds its records there, though nobody is there who follows.
#[test]
fn a_follower_finds_newer_versions_in_the_mainline_dht() {
    let world = published(1);
    let testnet = mainline::Testnet::builder(8).bind_address(std::net::Ipv4Addr::LOCALHOST).build().unwrap();
    let nodes = testnet.bootstrap.join(",");
    let options = ["--discovery", "dht", "--dht-bootstrap", &nodes];
    let mut serving = world.serve();
    let dir = world.path("follower");
    let peer = ["--peer", &serving.addr, "--listen", "/ip4/127.0.0.1/tcp/0"];
    let mount = clients::mount(&world.sig, "127.0.72.2", &dir, &[&peer[..], &OFFLINE].concat());
    is_at(&mount, 1);
    serving.kill();
    let (at, store) = crash(mount);
    next(&world, 2, &options);
    let mount = Mount::new(&world.sig, &at, &store, &[], &[&["--listen", "127.0.72.2:0"], &options[..]].concat());
    wait_until("the follower has heard", || dataset(&mount)["newest"]["seq"] == 2);
    let _serving = world.serve_as("store", &[&["--listen", "127.0.72.1:0"], &options[..]].concat());
    is_at(&mount, 2);
}

/// Ordinary clients have the content of the first two versions; the publisher gives none.
#[test]
fn versions_that_are_ordinary_torrents_come_from_ordinary_clients() {
    let torrent = ["--format", "torrent", "--piece-length", "16KiB"];
    let world = World::new(&torrent, |world| {
        world.write("one", &tree::noise(1, 200_000));
        world.write("sub/two", &tree::noise(2, 50_000));
    });
    // What clients have: a copy of the folder, and its torrent as `knot create` makes it.
    let client = |seq: u64, ip: &str| {
        let dir = world.path(&format!("client-{seq}"));
        run(std::process::Command::new("mkdir").arg(&dir));
        run(std::process::Command::new("cp").arg("-r").arg(world.data()).arg(&dir));
        let made = dir.join("made.torrent");
        let hash = create(&world.data(), &made, &torrent);
        assert_eq!(hash, world.hash(seq).to_string(), "the torrent of version {seq}");
        Libtorrent::start(&dir, ip, "enabled", made.to_str().unwrap(), &[]).complete()
    };
    let first = client(1, "127.0.73.1");
    let serving = world.serve_as("store", &["--no-upload", "--discovery", "none"]);
    world.write("three", &tree::noise(3, 100_000));
    // Its address has to be known before the version is.
    let later = format!("127.0.73.2:{}", clients::free_port("127.0.73.2"));
    let peers = ["--peer", &serving.addr, "--peer", &first.addr.to_string(), "--peer", &later];
    let options = [&peers[..], &OFFLINE, &["--listen", "/ip4/127.0.0.1/tcp/0"]].concat();
    let mount = clients::mount(&world.sig, "127.0.73.3", &world.path("follower"), &options);
    shows(&mount, 1);
    assert_eq!(fs::read(mount.at.join("one")).unwrap(), tree::noise(1, 200_000));
    assert_eq!(fs::read(mount.at.join("sub/two")).unwrap(), tree::noise(2, 50_000));
    first.process.until("libtorrent gave it", |line| (line == "sent 127.0.73.3").then_some(()));
    assert_eq!(world.update_as(&["--format", "torrent"]), 2);
    shows(&mount, 2);
    let home = world.path("transmission");
    fs::create_dir(&home).unwrap();
    let dir = world.path("second");
    run(std::process::Command::new("mkdir").arg(&dir));
    run(std::process::Command::new("cp").arg("-r").arg(world.data()).arg(&dir));
    let made = world.path("second.torrent");
    assert_eq!(create(&world.data(), &made, &torrent), world.hash(2).to_string());
    let _transmission = clients::transmission(&home, &dir, &later, &made);
    compare::whole(&world.data(), &mount.at);
}
