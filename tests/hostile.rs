//! What knot must withstand, against the real program: peers, trackers and torrents as bad as they come, beside one
//! libtorrent that is honest. It comes last each time, so that everything else has been tried before.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "hostile/peer.rs"]
mod peer;
#[path = "hostile/server.rs"]
mod server;
#[allow(dead_code, unreachable_pub)]
mod support;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::Compression;
use knot::metainfo::Metainfo;
use knot::types::SwarmId;
use knot::wire::{Message, MetadataMessage, PexMessage, PexPeer};
use peer::{Conn, Peer};
use support::clients::{Libtorrent, Seed, free_port, mount};
use support::process::{Mount, both, create, finish, knot, wait_until};
use support::torrent::v1;
use support::{compare, tree};

/// Bytes of the one file.
const LEN: usize = 3 << 20;
const PIECE: usize = 65536;
/// What a node may take at most, whatever it is sent: far more than it needs, far less than it is offered.
const MAX_MEMORY_KIB: u64 = 300 << 10;

/// A directory that clients have as `here/data`, and its torrent.
struct World {
    dir: tempfile::TempDir,
    torrent: String,
    hash: String,
}

impl World {
    fn new(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("here/data");
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("file"), tree::noise(1, LEN)).unwrap();
        let torrent = dir.path().join("data.torrent");
        let options = [&["--format", "torrent", "--piece-length", "65536"], options].concat();
        let hash = create(&data, &torrent, &options);
        Self { torrent: torrent.to_str().unwrap().to_owned(), dir, hash }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn content(&self) -> Bytes {
        fs::read(self.path("here/data/file")).unwrap().into()
    }

    fn metainfo(&self) -> Metainfo {
        Metainfo::parse(&fs::read(&self.torrent).unwrap()).unwrap()
    }

    fn swarm(&self) -> SwarmId {
        self.metainfo().swarm_ids()[0]
    }

    fn magnet(&self) -> String {
        format!("magnet:?xt=urn:btih:{}&dn=data", self.hash)
    }

    /// The honest one. It dials `peers`.
    fn honest(&self, ip: &str, peers: &[SocketAddr]) -> Libtorrent {
        Libtorrent::start(&self.path("here"), ip, "enabled", &self.torrent, peers)
    }

    /// Mounts with these peers and no source, and has `meanwhile` happen before the honest one comes.
    fn survives(&self, what: &str, ip: &str, honest: &str, peers: &[&Peer], meanwhile: impl FnOnce()) -> Mount {
        let addr = SocketAddr::new(ip.parse().unwrap(), free_port(ip));
        let mut options = vec!["--discovery", "pex", "--encryption", "disabled"];
        let peers: Vec<String> = peers.iter().map(|peer| peer.addr.to_string()).collect();
        peers.iter().for_each(|peer| options.extend(["--peer", peer]));
        let dir = self.path("world");
        let mount = thread::scope(|scope| {
            let mounted = scope.spawn(|| {
                let mount = mount(what, &addr.to_string(), &dir, &options);
                compare::whole(&self.path("here/data"), &mount.at);
                mount
            });
            meanwhile();
            let _honest = self.honest(honest, &[addr]);
            mounted.join().unwrap()
        });
        assert!(memory_kib(&mount) < MAX_MEMORY_KIB, "{} KiB", memory_kib(&mount));
        mount
    }
}

/// The most memory that the node behind a mount has taken.
fn memory_kib(mount: &Mount) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", mount.node_pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn all_done(peers: &[&Peer]) {
    wait_until("all of them have done it", || peers.iter().all(|peer| peer.deeds() > 0));
}

#[test]
fn who_never_unchokes_chokes_midway_or_stalls_does_not_hold_up_a_read() {
    let world = World::new(&[]);
    let (swarm, content) = (world.swarm(), world.content());
    let start = |ip, behave: fn(Conn, &[u8]) -> Option<()>| {
        let content = content.clone();
        Peer::start(ip, swarm, move |conn| {
            let _ = behave(conn, &content);
        })
    };
    let miser = start("127.0.40.1", |mut conn, _| {
        conn.say(&Message::HaveAll)?;
        while conn.hear()? != Message::Interested {}
        conn.deed();
        conn.hear_out();
        None
    });
    let staller = start("127.0.40.2", |mut conn, _| {
        conn.say(&Message::HaveAll)?;
        conn.say(&Message::Unchoke)?;
        while !matches!(conn.hear()?, Message::Request(_)) {}
        conn.deed();
        conn.hear_out();
        None
    });
    let turncoat = start("127.0.40.3", |mut conn, content| {
        conn.say(&Message::HaveAll)?;
        conn.say(&Message::Unchoke)?;
        let mut given = 0;
        while given < 4 {
            if let Message::Request(span) = conn.hear()? {
                let at = span.piece.0 as usize * PIECE + span.begin as usize;
                conn.give(span, &content[at..at + span.len as usize])?;
                given += 1;
            }
        }
        conn.say(&Message::Choke)?;
        conn.deed();
        conn.hear_out();
        None
    });
    let peers = [&miser, &staller, &turncoat];
    world.survives(&world.torrent, "127.0.40.4", "127.0.40.5", &peers, || all_done(&peers));
}

/// Pieces of v1 torrents fail as a whole. Several peers deliver each, and some blocks of two of them are wrong.
#[test]
fn of_those_who_deliver_a_piece_together_the_liars_are_banned() {
    let world = World::new(&[]);
    let (swarm, content) = (world.swarm(), world.content());
    let start = |at: u8, lies: bool| {
        let content = content.clone();
        Peer::start(&format!("127.0.48.{at}"), swarm, move |mut conn| {
            let mut serve = || {
                conn.say(&Message::HaveAll)?;
                conn.say(&Message::Unchoke)?;
                loop {
                    let Message::Request(span) = conn.hear()? else { continue };
                    let begin = span.piece.0 as usize * PIECE + span.begin as usize;
                    let mut data = content[begin..begin + span.len as usize].to_vec();
                    if lies && (span.piece.0 + span.block().0) % 3 == 0 {
                        data[7] ^= at;
                        conn.deed();
                    }
                    // Whoever is quick would have delivered everything before the others are asked.
                    thread::sleep(Duration::from_millis(10));
                    conn.give(span, &data)?;
                }
            };
            let _: Option<()> = serve();
        })
    };
    let peers = [1, 2, 3, 4, 5].map(|at| start(at, at > 3));
    let addrs: Vec<String> = peers.iter().map(|peer| peer.addr.to_string()).collect();
    let peer_options = addrs.iter().flat_map(|addr| ["--peer", addr]);
    let options: Vec<&str> =
        ["--discovery", "none", "--encryption", "disabled"].into_iter().chain(peer_options).collect();
    let mount = mount(&world.torrent, "127.0.48.6", &world.path("world"), &options);
    compare::whole(&world.path("here/data"), &mount.at);
    all_done(&[&peers[3], &peers[4]]);
    let warnings = mount.status()["warnings"].to_string();
    let banned = |at: u8| warnings.contains(&format!("banned peer 127.0.48.{at}: sent wrong bytes"));
    assert_eq!([1, 2, 3, 4, 5].map(banned), [false, false, false, true, true], "{warnings}");
}

#[test]
fn lies_about_the_metadata_do_not_keep_the_truth_away() {
    let world = World::new(&[]);
    let (swarm, info) = (world.swarm(), world.metainfo().info_bytes().len() as u64);
    // Offers metadata of some size, and answers every request with a piece of noise.
    let liar = |ip, size: u64| {
        Peer::start(ip, swarm, move |mut conn| {
            let _ = conn.introduce(Some(size));
            conn.deed();
            while let Some(piece) = conn.asked_for_metadata() {
                let len = size.saturating_sub(u64::from(piece) * 16384).clamp(1, 16384) as usize;
                let data = tree::noise(u64::from(piece), len);
                let _ = conn.answer_metadata(&MetadataMessage::Data { piece, total_size: size, data });
            }
        })
    };
    let liars = [
        liar("127.0.41.1", 1 << 40),
        liar("127.0.41.2", i64::MAX as u64),
        liar("127.0.41.3", 1),
        liar("127.0.41.4", 0),
        liar("127.0.41.5", info),
        liar("127.0.41.6", 8 << 20),
    ];
    let refuser = Peer::start("127.0.41.7", swarm, move |mut conn| {
        let _ = conn.introduce(Some(info));
        conn.deed();
        while let Some(piece) = conn.asked_for_metadata() {
            let _ = conn.answer_metadata(&MetadataMessage::Reject { piece });
        }
    });
    let silent = Peer::start("127.0.41.8", swarm, move |mut conn| {
        let _ = conn.introduce(Some(info));
        conn.deed();
        conn.hear_out();
    });
    let peers: Vec<&Peer> = liars.iter().chain([&refuser, &silent]).collect();
    world.survives(&world.magnet(), "127.0.41.9", "127.0.41.10", &peers, || all_done(&peers));
}

#[test]
fn floods_of_peer_exchange_are_let_pass() {
    let world = World::new(&[]);
    let flooder = Peer::start("127.0.42.1", world.swarm(), |mut conn| {
        let _ = conn.introduce(None);
        let _ = conn.say(&Message::HaveNone);
        while conn.pex_id == 0 && conn.hear().is_some() {}
        for round in 0..20_000u32 {
            // Nobody is there.
            let peer = |at: u32| {
                let [_, b, c, d] = (round * 50 + at).to_be_bytes();
                PexPeer { addr: ([127, 200 + b % 50, c, d], 9).into(), is_seed: true, is_reachable: true }
            };
            let message = PexMessage { added: (0..50).map(peer).collect(), dropped: Vec::new() };
            if conn.say_pex(message.encode()).is_none() {
                break;
            }
            if round == 1000 {
                conn.deed();
            }
        }
        conn.hear_out();
    });
    let mount = world.survives(&world.torrent, "127.0.42.2", "127.0.42.3", &[&flooder], || all_done(&[&flooder]));
    let peers = mount.status()["torrents"][0]["peers"].as_array().unwrap().len();
    assert!(peers <= 2, "{peers} peers, of which two are real");
}

#[test]
fn garbage_and_hundreds_of_connections_keep_nobody_out() {
    let world = World::new(&[]);
    let options = ["--discovery", "none"];
    let source = world.path("here/data");
    let seed = Seed::start(&source, Path::new(&world.torrent), "127.0.43.1", &world.path("store"), &options);
    let handshake = [b"\x13BitTorrent protocol".as_slice(), &[0; 8], &world.swarm().0, &[b'x'; 20]].concat();
    let mut held = Vec::new();
    for nth in 0..400u16 {
        let stream = connect_from([127, 0, 43, 2 + (nth % 4) as u8], seed.addr);
        let said: &[u8] = match nth % 5 {
            0 => &[],
            1 => b"GET / HTTP/1.1\r\nHost: there\r\n\r\n",
            2 => &[0xff; 5000],
            3 => &handshake[..40],
            _ => &handshake,
        };
        // Those beyond the bounds may be closed already.
        if let Some(mut stream) = stream {
            let _ = stream.write_all(said);
            held.push(stream);
        }
    }
    let fetched = world.path("fetched");
    fs::create_dir(&fetched).unwrap();
    Libtorrent::start(&fetched, "127.0.43.9", "enabled", &world.torrent, &[seed.addr]).complete();
    compare::whole(&source, &fetched.join("data"));
    let peers = &support::process::status(&seed.store)["torrents"][0]["peers"];
    assert!(peers.as_array().unwrap().len() < 100, "{peers}");
    drop(held);
}

/// A connection from an address of this host.
fn connect_from(ip: [u8; 4], to: SocketAddr) -> Option<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
    socket.connect_timeout(&to.into(), Duration::from_secs(5)).ok()?;
    Some(socket.into())
}

#[test]
fn a_port_in_use_is_said() {
    let world = World::new(&[]);
    let tcp = TcpListener::bind("127.0.44.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.44.1:0").unwrap();
    for addr in [tcp.local_addr().unwrap(), udp.local_addr().unwrap()] {
        let mut command = knot(&world.path("store"));
        command.arg("seed").arg(world.path("here/data")).args(["--metainfo", &world.torrent, "--discovery", "none"]);
        let output = finish(command.args(["--listen", &addr.to_string()]));
        assert_eq!(output.status.code(), Some(1), "{}", both(&output));
        assert!(both(&output).contains(&addr.to_string()), "{}", both(&output));
    }
}

#[test]
fn a_dht_that_never_answers_stops_nothing() {
    let world = World::new(&[]);
    let nowhere = server::udp("127.0.45.1", None).to_string();
    let noise = server::udp("127.0.45.1", Some(b"d1:rd2:id20:")).to_string();
    let only_dht = ["--discovery", "dht", "--dht-bootstrap", &nowhere, "--dht-bootstrap", &noise];
    let seed = world.honest("127.0.45.2", &[]).complete();
    let magnet = format!("{}&x.pe={}", world.magnet(), seed.addr);
    {
        let mount = mount(&magnet, "127.0.45.3", &world.path("with-a-peer"), &only_dht);
        compare::whole(&world.path("here/data"), &mount.at);
    }
    let (started, at) = (Instant::now(), world.path("mnt"));
    fs::create_dir(&at).unwrap();
    let mut command = knot(&world.path("store"));
    command.args(["mount", &world.magnet()]).arg(&at).args(["--listen", "127.0.45.4:0", "--timeout", "3s"]);
    let output = finish(command.args(only_dht));
    assert_eq!(output.status.code(), Some(3), "{}", both(&output));
    assert!(started.elapsed() < Duration::from_secs(30), "it gave up in time: {:?}", started.elapsed());
}

/// So many bytes of zeros, of which little is sent.
fn gzip_bomb(mib: usize) -> Vec<u8> {
    let mut member = flate2::write::GzEncoder::new(Vec::new(), Compression::best());
    member.write_all(&vec![0; 1 << 20]).unwrap();
    member.finish().unwrap().repeat(mib)
}

#[test]
fn bad_trackers_do_not_hold_up_a_good_one_nor_fill_the_memory() {
    let ip = "127.0.46.1";
    let dead = TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap();
    let redirect = "Location: http://127.0.46.1:1/\r\n";
    let moved = format!("HTTP/1.1 301 Moved\r\n{redirect}Content-Length: 0\r\n\r\n");
    let seed_at = SocketAddr::new([127, 0, 46, 2].into(), free_port("127.0.46.2"));
    let peers = [&[127, 0, 46, 2][..], &seed_at.port().to_be_bytes()].concat();
    let good = [b"d8:intervali1800e5:peers6:".as_slice(), &peers, b"e"].concat();
    let bad = [
        ("dead", dead),
        ("silent", server::http(ip, |_| thread::sleep(Duration::from_secs(600)))),
        ("slow", server::endless(ip, b"x".to_vec(), Duration::from_millis(200))),
        ("10 MB", server::says(ip, "", &vec![b'x'; 10 << 20])),
        ("endless", server::endless(ip, vec![b'x'; 1 << 20], Duration::ZERO)),
        ("bomb", server::says(ip, "Content-Encoding: gzip\r\n", &gzip_bomb(900))),
        ("page", server::says(ip, "Content-Type: text/html\r\n", b"<html><body>gone\x1b[2J</body></html>")),
        ("nested", server::says(ip, "", &[b'l'; 100_000])),
        ("nonsense", server::http(ip, |stream| drop(stream.write_all(&[0xfe; 100_000])))),
        ("moved", server::http(ip, move |stream| drop(stream.write_all(moved.as_bytes())))),
    ];
    let mut urls: Vec<String> = bad.iter().map(|(_, addr)| format!("http://{addr}/announce")).collect();
    urls.push(format!("udp://{}/announce", server::udp(ip, None)));
    urls.push(format!("udp://{}/announce", server::udp(ip, Some(&[0xff; 1400]))));
    urls.push(format!("http://{}/announce", server::says(ip, "", &good)));
    let options: Vec<&str> = urls.iter().flat_map(|url| ["--tracker", url]).collect();
    let world = World::new(&options);
    let source = world.path("here/data");
    let (torrent, at) = (Path::new(&world.torrent), seed_at.to_string());
    let _seed = Seed::start(&source, torrent, &at, &world.path("seed"), &["--discovery", "none"]);
    let mount = mount(&world.torrent, "127.0.46.3", &world.path("world"), &["--discovery", "trackers"]);
    compare::whole(&source, &mount.at);
    wait_until("the failures are told", || {
        let state = mount.status()["sources"][0]["state"].to_string();
        state.contains("working") && state.matches("failed").count() >= 5
    });
    assert!(memory_kib(&mount) < MAX_MEMORY_KIB, "{} KiB", memory_kib(&mount));
}

#[test]
fn a_hundred_thousand_files_are_mounted_listed_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<[String; 2]> =
        (0..100_000).map(|at| [format!("{:03}", at / 200), format!("{:03}", at % 200)]).collect();
    let files: Vec<(Vec<&[u8]>, Vec<u8>)> = names
        .iter()
        .map(|[parent, name]| (vec![parent.as_bytes(), name.as_bytes()], format!("{parent} {name}\n").into_bytes()))
        .collect();
    let torrent = dir.path().join("data.torrent");
    fs::write(&torrent, v1(16_384, &files)).unwrap();
    let swarm = Metainfo::parse(&fs::read(&torrent).unwrap()).unwrap().swarm_ids()[0];
    let content: Vec<u8> = files.iter().flat_map(|(_, content)| content).copied().collect();
    let seed = Peer::start("127.0.47.1", swarm, move |mut conn| {
        let _ = conn.say(&Message::HaveAll).and_then(|()| conn.say(&Message::Unchoke));
        while let Some(message) = conn.hear() {
            if let Message::Request(span) = message {
                let at = span.piece.0 as usize * 16_384 + span.begin as usize;
                let _ = conn.give(span, &content[at..at + span.len as usize]);
            }
        }
    });
    let options = ["--discovery", "none", "--encryption", "disabled", "--peer", &seed.addr.to_string()];
    let mount = mount(torrent.to_str().unwrap(), "127.0.47.2", &dir.path().join("mounted"), &options);
    let mut listed = 0;
    for parent in fs::read_dir(&mount.at).unwrap().map(Result::unwrap) {
        for file in fs::read_dir(parent.path()).unwrap().map(Result::unwrap) {
            listed += usize::from(file.metadata().unwrap().len() == 8);
        }
    }
    assert_eq!(listed, files.len());
    for (path, content) in files.iter().step_by(9_973) {
        let path = mount.at.join(OsStr::from_bytes(path[0])).join(OsStr::from_bytes(path[1]));
        assert_eq!(fs::read(path).unwrap(), *content);
    }
    assert!(memory_kib(&mount) < MAX_MEMORY_KIB, "{} KiB", memory_kib(&mount));
}
