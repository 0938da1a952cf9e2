//! BitTorrent v2 with a client that exists: libtorrent from Debian, each peer on a loopback address of its own (BEP 52).
//! Fails where it is not installed (`scripts/test` installs it).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
#[path = "hostile/peer.rs"]
mod peer;
#[allow(dead_code, unreachable_pub)]
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::BytesMut;
use knot::metainfo::{LeafRequest, Metainfo, Part};
use knot::types::{BlockSpan, PieceIndex, WirePeerId};
use knot::wire::{Decoder, Frame, Handshake, HashRequest, Message, MetadataMessage, encode};
use peer::{Peer, THEIR_METADATA};
use support::clients::{Libtorrent, Seed, libtorrent_creates, libtorrent_creates_v2, libtorrent_reads, mount};
use support::process::{both, create, finish, knot, run, status};
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
    let magnets = magnets(&world, &torrent);
    for (at, magnet) in (10..).zip([&magnets.v1, &magnets.v2]) {
        for (at, encryption) in [(at, "disabled"), (at + 10, "forced")] {
            let dir = world.place(&format!("by-magnet-{at}"));
            Libtorrent::start(&dir, &format!("127.0.62.{at}"), encryption, magnet, &[seed.addr]).complete();
            compare::whole(&world.source(), &dir.join("data"));
        }
    }
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

const BLOCKS: u64 = 64;

/// A world of one large file, and its bytes.
fn large() -> (World, Vec<u8>) {
    let world = World::new();
    fs::remove_dir_all(world.source()).unwrap();
    fs::create_dir_all(world.source()).unwrap();
    let whole = tree::noise(9, 64 << 20);
    fs::write(world.source().join("big"), &whole).unwrap();
    // libtorrent takes a directory of one file for the file.
    fs::write(world.source().join("other"), "other").unwrap();
    (world, whole.to_vec())
}

/// Mounts and reads single blocks of the large file, each in a piece of its own; the bytes fetched for each byte read,
/// in percent.
fn cost_of_random_reads(world: &World, whole: &[u8], name: &str, what: &str, ip: &str, options: &[&str]) -> u64 {
    let mount = mount(what, ip, &world.path(name), &[&NO_SOURCES[..], options].concat());
    let file = fs::File::open(mount.at.join("big")).unwrap();
    for at in 0..BLOCKS {
        // One block in a piece, now here, now there.
        let block = (at * 37 % BLOCKS) * 4 * 4 + at % 4;
        let (mut read, offset) = ([0; 16384], block * 16384);
        file.read_exact_at(&mut read, offset).unwrap();
        assert!(read == whole[offset as usize..][..16384]);
    }
    mount.status()["torrents"][0]["downloaded_bytes"].as_u64().unwrap() * 100 / (BLOCKS * 16384)
}

/// A random read of a block costs that block and its proof.
#[test]
fn random_reads_of_libtorrents_blocks_fetch_no_more_than_they_read() {
    let (world, whole) = large();
    let torrent = world.path("data.torrent");
    libtorrent_creates_v2(&world.source(), &torrent);
    let torrent = torrent.to_str().unwrap();
    let seed = Libtorrent::start(&world.here(), "127.0.63.1", "enabled", torrent, &[]).complete();
    let options = ["--peer", &seed.addr.to_string()];
    let cost = cost_of_random_reads(&world, &whole, "mount", torrent, "127.0.63.2", &options);
    assert!(cost <= 110, "{cost} %");
}

/// The same of a hybrid torrent, in the swarm of its v2 infohash, and in that of v1 with clients that change to v2:
/// whatever names it.
#[test]
fn random_reads_of_a_hybrid_torrent_fetch_no_more_than_they_read() {
    let (world, whole) = large();
    let torrent = world.path("data.torrent");
    libtorrent_creates(&world.source(), &torrent);
    let file = torrent.to_str().unwrap();
    let magnets = magnets(&world, file);
    let libtorrent = Libtorrent::start(&world.here(), "127.0.66.1", "enabled", file, &[]).complete();
    let knot = Seed::start(&world.source(), &torrent, "127.0.66.2", &world.path("seed"), &NO_SOURCES);
    let mut ip = 2;
    let peers = [
        ("libtorrent", libtorrent.addr.to_string()),
        ("knot", knot.addr.to_string()),
        ("libp2p", status(&knot.store)["listen"][0].as_str().unwrap().to_owned()),
    ];
    for (seeder, addr) in peers {
        for (by, what) in [("file", file), ("v1", &magnets.v1), ("v2", &magnets.v2), ("both", &magnets.both)] {
            ip += 1;
            let (name, at) = (format!("{seeder}-{by}"), format!("127.0.66.{ip}"));
            let cost = cost_of_random_reads(&world, &whole, &name, what, &at, &["--peer", &addr]);
            assert!(cost <= 110, "{name}: {cost} %");
        }
    }
}

/// Links to a hybrid torrent.
struct Magnets {
    v1: String,
    v2: String,
    both: String,
}

fn magnets(world: &World, torrent: &str) -> Magnets {
    let both = inspect(world, torrent)["magnet"].as_str().unwrap().to_owned();
    let name = |scheme: &str| {
        let names = both.trim_start_matches("magnet:?").split('&');
        format!("magnet:?{}", names.filter(|part| part.contains(scheme)).collect::<Vec<_>>().join("&"))
    };
    let (v1, v2) = (name("urn:btih:"), name("urn:btmh:"));
    assert!(v1.len() > 40 && v2.len() > 64, "{both}");
    Magnets { v1, v2, both }
}

#[test]
fn mounts_hybrid_torrents_that_libtorrent_seeds() {
    let world = World::new();
    let (ours, _) = world.torrent("hybrid");
    let theirs = world.path("theirs.torrent");
    libtorrent_creates(&world.source(), &theirs);
    for (torrent, net) in [(ours.as_str(), 67), (theirs.to_str().unwrap(), 68)] {
        let ip = |host: u32| format!("127.0.{net}.{host}");
        let magnets = magnets(&world, torrent);
        let seed = Libtorrent::start(&world.here(), &ip(1), "enabled", torrent, &[]).complete();
        let plain = Libtorrent::start(&world.here(), &ip(2), "disabled", torrent, &[]).complete();
        for (at, what) in (10..).zip([torrent, &magnets.v1, &magnets.v2]) {
            for (addr, at) in [(seed.addr, at), (plain.addr, at + 10)] {
                let addr = addr.to_string();
                let options = [&NO_SOURCES[..], &["--peer", &addr]].concat();
                world.mounts(&format!("{net}-{at}"), what, &ip(at), &options);
            }
        }
    }
}

/// A client that knows nothing of v2 gets a hybrid torrent as one of v1, padding included, and no hashes. (aria2 1.36
/// mistakes the infohash of a hybrid torrent, and transmission 3 takes none at all: this is one written for the test.)
#[test]
fn a_client_of_v1_fetches_a_hybrid_torrent() {
    let world = World::new();
    let (torrent, _) = world.torrent("hybrid");
    let seed = Seed::start(&world.source(), Path::new(&torrent), "127.0.69.1", &world.path("seed"), &NO_SOURCES);
    let metainfo = Metainfo::parse(&fs::read(&torrent).unwrap()).unwrap();
    let mut stream = TcpStream::connect(seed.addr).unwrap();
    let ours = Handshake::new(metainfo.info_hash().swarm_id(), WirePeerId(*b"-XX0000-a-v1-client-")).without_hashes();
    stream.write_all(&ours.encode()).unwrap();
    let mut decoder = Decoder::new();
    let read = |decoder: &mut Decoder, stream: &mut TcpStream| {
        let mut buffer = [0; 65536];
        let len = stream.read(&mut buffer).unwrap();
        assert!(len > 0, "knot has closed the connection");
        decoder.feed(&buffer[..len]);
    };
    let theirs = loop {
        match decoder.next_handshake().unwrap() {
            Some(theirs) => break theirs,
            None => read(&mut decoder, &mut stream),
        }
    };
    assert_eq!(theirs.swarm, ours.swarm);
    let hear = |decoder: &mut Decoder, stream: &mut TcpStream| loop {
        match decoder.next_frame().unwrap() {
            Some(frame) => return frame,
            None => read(decoder, stream),
        }
    };
    let say = |stream: &mut TcpStream, message: &Message| {
        let mut bytes = BytesMut::new();
        encode(message, &mut bytes);
        stream.write_all(&bytes).unwrap();
    };
    say(&mut stream, &Message::Interested);
    while hear(&mut decoder, &mut stream) != Frame::Message(Message::Unchoke) {}
    for piece in (0..metainfo.piece_count()).map(PieceIndex) {
        let len = metainfo.layout().piece_len(piece);
        let mut whole = Vec::new();
        for begin in (0..len).step_by(16384) {
            say(&mut stream, &Message::Request(BlockSpan { piece, begin, len: 16384.min(len - begin) }));
            let data = loop {
                if let Frame::Piece { data, .. } = hear(&mut decoder, &mut stream) {
                    break data;
                }
            };
            whole.extend_from_slice(&data);
        }
        assert!(metainfo.check_piece(piece, [&whole]), "{piece:?}");
    }
    let LeafRequest { root, index, length, proof_layers } = metainfo.leaf_requests(PieceIndex(0))[0];
    let request = HashRequest { root, base_layer: 0, index, length, proof_layers };
    say(&mut stream, &Message::HashRequest(request));
    while hear(&mut decoder, &mut stream) != Frame::Message(Message::HashReject(request)) {}
}

/// Peers that know nothing of v2 are asked for whole pieces, and never for hashes.
#[test]
fn mounts_hybrid_torrents_from_peers_of_v1() {
    let world = World::new();
    let (torrent, hash) = world.torrent("hybrid");
    let peer = peer_of(&world, Path::new(&torrent), "127.0.72.1", false);
    let addr = peer.addr.to_string();
    world.mounts("by-file", &torrent, "127.0.72.2", &[&NO_SOURCES[..], &["--peer", &addr]].concat());
    let magnet = format!("magnet:?xt=urn:btih:{hash}&x.pe={addr}");
    world.mounts("by-magnet", &magnet, "127.0.72.3", &NO_SOURCES);
    assert_eq!(peer.deeds(), 0);
}

/// A peer with the content of `torrent`, by its v2 hashes, whatever those of v1 are. `speaks_v2`: it changes to v2 and
/// tells hashes.
fn peer_of(world: &World, torrent: &Path, ip: &str, speaks_v2: bool) -> Peer {
    let metainfo = Metainfo::parse(&fs::read(torrent).unwrap()).unwrap();
    let files = metainfo.entries().iter().map(|entry| fs::read(world.source().join(entry.path.as_str())).unwrap());
    let files: Vec<_> = files.collect();
    let swarm = if speaks_v2 { metainfo.v2_swarm().unwrap() } else { metainfo.info_hash().swarm_id() };
    Peer::start(ip, swarm, move |mut conn| {
        let data = |span| {
            let bytes = |part| match part {
                Part::File(slice) => {
                    files[slice.file.0 as usize][slice.offset as usize..][..slice.len as usize].to_vec()
                }
                Part::Padding(len) => vec![0; len as usize],
            };
            metainfo.layout().parts(span).flat_map(bytes).collect::<Vec<_>>()
        };
        let hashes = |request: &HashRequest| {
            let HashRequest { root, index, length, proof_layers, .. } = *request;
            let request = LeafRequest { root, index, length, proof_layers };
            let piece = metainfo.pieces_of_leaf_request(&request)[0];
            let whole = BlockSpan { piece, begin: 0, len: metainfo.layout().piece_len(piece) };
            let leaves = metainfo.piece_leaves(piece, &data(whole));
            metainfo.answer_leaf_request(piece, &request, &leaves).unwrap()
        };
        let info = metainfo.info_bytes();
        let greeted = conn.introduce(Some(info.len() as u64)).and_then(|()| conn.say(&Message::HaveAll));
        let mut open = greeted.and_then(|()| conn.say(&Message::Unchoke));
        while open.is_some() {
            open = match conn.hear() {
                None => None,
                Some(Message::Request(span)) => conn.give(span, &data(span)),
                Some(Message::HashRequest(request)) => {
                    conn.deed();
                    conn.say(&Message::Hashes { request, hashes: hashes(&request).into() })
                }
                Some(Message::Extended { id: THEIR_METADATA, payload }) => match MetadataMessage::decode(&payload) {
                    Ok(Some(MetadataMessage::Request { piece })) => {
                        let start = piece as usize * 16384;
                        let data = info.slice(start..info.len().min(start + 16384));
                        conn.answer_metadata(&MetadataMessage::Data { piece, total_size: info.len() as u64, data })
                    }
                    _ => Some(()),
                },
                Some(_) => Some(()),
            };
        }
    })
}

/// A torrent that is of one content by its v1 hashes and of another by those of v2.
#[test]
fn a_hybrid_torrent_that_contradicts_itself_is_refused_and_nobody_banned() {
    let world = World::new();
    let (torrent, hash) = world.torrent("hybrid");
    let mut bytes = fs::read(&torrent).unwrap();
    let at = bytes.windows(8).position(|part| part == b"6:pieces").unwrap() + 8;
    let start = at + bytes[at..].iter().position(|byte| *byte == b':').unwrap() + 1;
    // The v1 hash of the third piece.
    bytes[start + 2 * 20 + 7] ^= 1;
    let torrent = world.path("wrong.torrent");
    fs::write(&torrent, &bytes).unwrap();
    let what = torrent.to_str().unwrap();
    let shown = inspect(&world, what);
    assert!(shown["form"] == "hybrid" && shown["info_hash"] != hash.as_str(), "{shown}");
    for (speaks_v2, net) in [(false, 70), (true, 71)] {
        let ip = |host: u32| format!("127.0.{net}.{host}");
        let peer = peer_of(&world, &torrent, &ip(1), speaks_v2);
        let addr = peer.addr.to_string();
        let options = [&NO_SOURCES[..], &["--peer", &addr]].concat();
        let mount = mount(what, &ip(2), &world.path(&format!("mount-{net}")), &options);
        let (started, mut whole) = (Instant::now(), Vec::new());
        let error = fs::File::open(mount.at.join("a first.bin")).unwrap().read_to_end(&mut whole).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "{error}");
        assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
        let status = mount.status().to_string();
        assert!(status.contains("is inconsistent") && !status.contains("banned"), "{status}");
        assert_eq!(peer.deeds() > 0, speaks_v2);
        let mut get = knot(&world.path(&format!("store-{net}")));
        get.args(["get", what, "--listen", &format!("{}:0", ip(3)), "-o"]).arg(world.path(&format!("out-{net}")));
        let refused = finish(get.args(&options));
        assert_eq!(refused.status.code(), Some(4), "{}", both(&refused));
        assert!(both(&refused).contains("is inconsistent"), "{}", both(&refused));
    }
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
