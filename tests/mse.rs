//! Encrypted streams to libtorrent, which accepts and dials nothing else here: whole torrents are fetched through them.
//!
//! Needs Debian's `python3-libtorrent`, and fails without it. Each libtorrent has a loopback address of its own.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use bytes::BytesMut;
use knot::transports::mse::{Cipher, Encryption, EncryptionPolicy, ServedSwarms};
use knot::transports::socket::{PortInUse, SocketConfig, SocketNetwork, UtpPolicy};
use knot::transports::{ByteStream, PeerStream};
use knot::types::{BlockSpan, PeerAddr, PieceIndex, SwarmId, WirePeerId};
use knot::wire::{Decoder, Frame, Handshake, Message, encode};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);
const PIECE_LEN: u32 = 256 * 1024;
const BLOCK_LEN: u32 = 16 * 1024;
/// What the seed has: the bytes 0 to 250 over and over.
const DATA_LEN: u32 = (2 * 1024 * 1024 / 251) * 251;
/// The libtorrent script.
const SEED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mse/seed.py");

/// A running libtorrent.
struct Seed {
    // Its standard input ends with it, and so does the process.
    _process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    swarm: SwarmId,
    addr: SocketAddr,
    _dir: TempDir,
}

impl Seed {
    async fn start(ip: &str, carrier: &str, level: &str, peer: Option<SocketAddr>) -> Self {
        let dir = TempDir::new().unwrap();
        let mut command = Command::new("/usr/bin/python3");
        command.arg(SEED).arg(dir.path()).args([ip, carrier, level]).kill_on_drop(true);
        if let Some(peer) = peer {
            command.args([peer.ip().to_string(), peer.port().to_string()]);
        }
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 does not start");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
        let ready = ready.expect("libtorrent does not start: is Debian's python3-libtorrent installed?");
        let [_, hash, port] = ready.split(' ').collect::<Vec<_>>()[..] else { panic!("unexpected: {ready}") };
        let swarm = SwarmId(hex::decode(hash).unwrap().try_into().unwrap());
        let addr = SocketAddr::new(ip.parse().unwrap(), port.parse().unwrap());
        Self { _process: process, lines, swarm, addr, _dir: dir }
    }

    /// How libtorrent says that the stream to `ip` is encrypted.
    async fn sees(&mut self, ip: &str) -> String {
        let prefix = format!("peer {ip} ");
        timeout(PATIENCE, async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("libtorrent ended");
                if let Some(how) = line.strip_prefix(&prefix) {
                    return how.to_owned();
                }
            }
        })
        .await
        .unwrap()
    }
}

async fn network(ip: &str, policy: EncryptionPolicy, swarms: ServedSwarms) -> SocketNetwork {
    let ip: IpAddr = ip.parse().unwrap();
    let config = SocketConfig {
        listen: vec![SocketAddr::new(ip, 0)],
        need_all: true,
        port_in_use: PortInUse::Fail,
        dial_from: vec![ip],
        encryption: Encryption { policy, prefer: Cipher::Rc4 },
        utp: UtpPolicy::AfterTcp,
        ..SocketConfig::default()
    };
    SocketNetwork::start(config, swarms).await.unwrap()
}

/// Shakes hands and fetches everything, comparing each block. The stream: as long as it lives the other end shows it.
async fn fetch_all(stream: PeerStream, swarm: SwarmId) -> Box<dyn ByteStream> {
    let mut io = stream.io;
    let ours = Handshake::new(swarm, WirePeerId(*b"-KN0001-tests/mse.rs"));
    io.write_all(&ours.encode()).await.unwrap();
    io.flush().await.unwrap();
    let mut decoder = Decoder::new();
    let theirs = loop {
        match decoder.next_handshake().unwrap() {
            Some(handshake) => break handshake,
            None => read_more(&mut io, &mut decoder).await,
        }
    };
    assert_eq!(theirs.swarm, swarm);
    assert!(theirs.supports_extensions() && theirs.supports_fast());
    send(&mut io, &[Message::HaveNone, Message::Interested]).await;
    let mut unchoked = false;
    let mut wanted = blocks().into_iter();
    let mut missing = blocks();
    while !missing.is_empty() {
        match decoder.next_frame().unwrap() {
            Some(Frame::Piece { span, data }) => {
                let start = u64::from(span.piece.0) * u64::from(PIECE_LEN) + u64::from(span.begin);
                assert!(data.iter().zip(start..).all(|(byte, at)| u64::from(*byte) == at % 251), "{span:?} differs");
                missing.retain(|block| *block != span);
                send(&mut io, &wanted.next().map(Message::Request).into_iter().collect::<Vec<_>>()).await;
            }
            Some(Frame::Message(Message::Unchoke)) if !unchoked => {
                unchoked = true;
                let first: Vec<Message> = wanted.by_ref().take(32).map(Message::Request).collect();
                send(&mut io, &first).await;
            }
            Some(Frame::Message(_)) => {}
            None => read_more(&mut io, &mut decoder).await,
        }
    }
    io
}

fn blocks() -> Vec<BlockSpan> {
    (0..DATA_LEN)
        .step_by(BLOCK_LEN as usize)
        .map(|at| BlockSpan {
            piece: PieceIndex(at / PIECE_LEN),
            begin: at % PIECE_LEN,
            len: BLOCK_LEN.min(DATA_LEN - at),
        })
        .collect()
}

async fn send(io: &mut Box<dyn ByteStream>, messages: &[Message]) {
    let mut bytes = BytesMut::new();
    for message in messages {
        encode(message, &mut bytes);
    }
    io.write_all(&bytes).await.unwrap();
    io.flush().await.unwrap();
}

async fn read_more(io: &mut Box<dyn ByteStream>, decoder: &mut Decoder) {
    let read = timeout(PATIENCE, io.read_buf(decoder.buffer())).await.unwrap().unwrap();
    assert_ne!(read, 0, "libtorrent closed the stream");
}

async fn dial_libtorrent(ours: &str, theirs: &str, carrier: &str, level: &str, policy: EncryptionPolicy) {
    let network = network(ours, policy, ServedSwarms::new()).await;
    let mut seed = Seed::start(theirs, carrier, level, None).await;
    let stream = network.transport().dial(PeerAddr::Socket(seed.addr), seed.swarm).await.unwrap();
    let fetched = tokio::spawn(fetch_all(stream, seed.swarm));
    assert_eq!(seed.sees(ours).await, if level == "both" { "rc4" } else { level });
    drop(fetched.await.unwrap());
}

async fn let_libtorrent_dial(ours: &str, theirs: &str, carrier: &str, level: &str, policy: EncryptionPolicy) {
    let swarms = ServedSwarms::new();
    let mut network = network(ours, policy, swarms.clone()).await;
    let mut incoming = network.take_incoming().unwrap();
    // The seed dials as soon as it is up, so its swarm must be served before; the torrent is the same each time.
    swarms.insert(Seed::start(theirs, carrier, level, None).await.swarm);
    let mut seed = Seed::start(theirs, carrier, level, Some(network.listen_addrs()[0])).await;
    let stream = timeout(PATIENCE, incoming.recv()).await.expect("libtorrent did not get through").unwrap();
    let fetched = tokio::spawn(fetch_all(stream, seed.swarm));
    assert_eq!(seed.sees(ours).await, if level == "both" { "rc4" } else { level });
    drop(fetched.await.unwrap());
}

#[tokio::test]
async fn libtorrent_is_dialled_with_rc4() {
    dial_libtorrent("127.0.10.1", "127.0.10.2", "tcp", "rc4", EncryptionPolicy::Required).await;
    dial_libtorrent("127.0.10.1", "127.0.10.2", "tcp", "both", EncryptionPolicy::Preferred).await;
}

#[tokio::test]
async fn libtorrent_is_dialled_with_plaintext_after_the_handshake() {
    dial_libtorrent("127.0.10.3", "127.0.10.4", "tcp", "plaintext", EncryptionPolicy::Preferred).await;
}

#[tokio::test]
async fn libtorrent_dials_with_rc4() {
    let_libtorrent_dial("127.0.10.5", "127.0.10.6", "tcp", "rc4", EncryptionPolicy::Required).await;
    let_libtorrent_dial("127.0.10.5", "127.0.10.6", "tcp", "both", EncryptionPolicy::Preferred).await;
}

#[tokio::test]
async fn libtorrent_dials_with_plaintext_after_the_handshake() {
    let_libtorrent_dial("127.0.10.7", "127.0.10.8", "tcp", "plaintext", EncryptionPolicy::Preferred).await;
}

#[tokio::test]
async fn libtorrent_over_utp() {
    dial_libtorrent("127.0.10.9", "127.0.10.10", "utp", "rc4", EncryptionPolicy::Required).await;
    let_libtorrent_dial("127.0.10.9", "127.0.10.10", "utp", "rc4", EncryptionPolicy::Required).await;
}

#[tokio::test]
async fn libtorrent_lets_no_plain_dial_in() {
    let network = network("127.0.10.11", EncryptionPolicy::Disabled, ServedSwarms::new()).await;
    let seed = Seed::start("127.0.10.12", "tcp", "both", None).await;
    let mut stream = network.transport().dial(PeerAddr::Socket(seed.addr), seed.swarm).await.unwrap();
    let ours = Handshake::new(seed.swarm, WirePeerId(*b"-KN0001-tests/mse.rs"));
    stream.io.write_all(&ours.encode()).await.unwrap();
    let closed = timeout(PATIENCE, stream.io.read(&mut [0])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)), "so these tests would pass without encryption");
}
