//! Real sockets on loopback.

use std::net::UdpSocket;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::transports::mse::{self, Cipher, EncryptionPolicy};
use crate::types::{PeerAddr, PeerIdentity, SwarmId};

const SWARM: SwarmId = SwarmId([7; 20]);
const HANDSHAKE: &[u8; 20] = b"\x13BitTorrent protocol";
const PATIENCE: Duration = Duration::from_secs(30);

fn swarms() -> ServedSwarms {
    let swarms = ServedSwarms::new();
    swarms.insert(SWARM);
    swarms
}

/// A network at `ip`, which it also dials from, with a port of its own.
fn at(ip: &str, policy: EncryptionPolicy, utp: UtpPolicy) -> SocketConfig {
    let ip: IpAddr = ip.parse().unwrap();
    SocketConfig {
        listen: vec![SocketAddr::new(ip, 0)],
        need_all: true,
        port_in_use: PortInUse::Fail,
        dial_from: vec![ip],
        encryption: Encryption { policy, prefer: Cipher::Rc4 },
        utp,
        ..SocketConfig::default()
    }
}

async fn start(config: SocketConfig) -> (SocketNetwork, mpsc::Receiver<PeerStream>) {
    let mut network = SocketNetwork::start(config, swarms()).await.unwrap();
    let incoming = network.take_incoming().unwrap();
    (network, incoming)
}

async fn plain_at(ip: &str) -> (SocketNetwork, mpsc::Receiver<PeerStream>) {
    start(at(ip, EncryptionPolicy::Disabled, UtpPolicy::Off)).await
}

async fn next(incoming: &mut mpsc::Receiver<PeerStream>) -> PeerStream {
    timeout(PATIENCE, incoming.recv()).await.unwrap().unwrap()
}

async fn dial(network: &SocketNetwork, addr: SocketAddr) -> Result<PeerStream, String> {
    network.transport().dial(PeerAddr::Socket(addr), SWARM).await.map_err(|error| error.reason)
}

/// Both ends of a stream on which the dialler has sent the beginning of its handshake.
async fn meet(
    near: &SocketNetwork,
    to: SocketAddr,
    incoming: &mut mpsc::Receiver<PeerStream>,
) -> Result<(PeerStream, PeerStream), String> {
    let mut dialled = dial(near, to).await?;
    dialled.io.write_all(HANDSHAKE).await.unwrap();
    dialled.io.flush().await.unwrap();
    let mut accepted = next(incoming).await;
    let mut got = [0; 20];
    accepted.io.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, HANDSHAKE);
    Ok((dialled, accepted))
}

/// Sends `len` bytes each way at once, and compares them.
async fn exchange(near: PeerStream, far: PeerStream, len: usize) {
    let data: Arc<Vec<u8>> = Arc::new((0..len).map(|at| (at * 31 % 251) as u8).collect());
    let mut ends = JoinSet::new();
    for stream in [near, far] {
        let (mut reader, mut writer) = tokio::io::split(stream.io);
        let (sent, expected) = (data.clone(), data.clone());
        ends.spawn(async move {
            for chunk in sent.chunks(100_000) {
                writer.write_all(chunk).await.unwrap();
                writer.flush().await.unwrap();
            }
            // Kept until the other side has everything.
            Some(writer)
        });
        ends.spawn(async move {
            let mut got = vec![0; expected.len()];
            reader.read_exact(&mut got).await.unwrap();
            assert!(got == *expected, "the bytes differ");
            None
        });
    }
    timeout(PATIENCE * 4, ends.join_all()).await.unwrap();
}

#[tokio::test]
async fn every_pair_of_policies() {
    use EncryptionPolicy::{Disabled, Preferred, Required};
    for listener in [Disabled, Preferred, Required] {
        let (far, mut incoming) = start(at("127.0.0.2", listener, UtpPolicy::Off)).await;
        for dialler in [Disabled, Preferred, Required] {
            let (near, _) = start(at("127.0.0.3", dialler, UtpPolicy::Off)).await;
            let possible = !matches!((dialler, listener), (Disabled, Required) | (Required, Disabled));
            if !possible {
                // A plain dial ends when the listener sees what it is.
                match dial(&near, far.listen_addrs()[0]).await {
                    Ok(mut stream) => {
                        stream.io.write_all(HANDSHAKE).await.unwrap();
                        let closed = timeout(PATIENCE, stream.io.read(&mut [0])).await.unwrap();
                        assert!(matches!(closed, Ok(0) | Err(_)), "{dialler:?} → {listener:?} was let in");
                    }
                    Err(reason) => assert!(reason.contains("encryption is required"), "{reason}"),
                }
                continue;
            }
            let (dialled, accepted) = meet(&near, far.listen_addrs()[0], &mut incoming).await.unwrap();
            assert_eq!(dialled.identity, PeerIdentity::Ip("127.0.0.2".parse().unwrap()));
            assert_eq!(accepted.identity, PeerIdentity::Ip("127.0.0.3".parse().unwrap()));
            assert_eq!(dialled.addr, PeerAddr::Socket(far.listen_addrs()[0]));
            exchange(dialled, accepted, 300_000).await;
        }
        assert!(incoming.try_recv().is_err());
    }
}

#[tokio::test]
async fn bulk_goes_through_both_ways_at_once() {
    for policy in [EncryptionPolicy::Required, EncryptionPolicy::Disabled] {
        let (far, mut incoming) = start(at("127.0.0.2", policy, UtpPolicy::Off)).await;
        let (near, _) = start(at("127.0.0.3", policy, UtpPolicy::Off)).await;
        let (dialled, accepted) = meet(&near, far.listen_addrs()[0], &mut incoming).await.unwrap();
        exchange(dialled, accepted, 32 << 20).await;
    }
}

#[tokio::test]
async fn encryption_hides_the_handshake_and_falls_back_on_a_new_connection() {
    let client = TcpListener::bind("127.0.0.4:0").await.unwrap();
    let addr = client.local_addr().unwrap();
    let plain_client = tokio::spawn(async move {
        let mut first = [0; 20];
        let (mut encrypted, from) = client.accept().await.unwrap();
        assert_eq!(from.ip(), "127.0.0.3".parse::<IpAddr>().unwrap());
        encrypted.read_exact(&mut first).await.unwrap();
        assert_ne!(&first, HANDSHAKE);
        drop(encrypted);
        let (mut plain, _) = client.accept().await.unwrap();
        plain.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, HANDSHAKE);
        plain
    });
    let (near, _) = start(at("127.0.0.3", EncryptionPolicy::Preferred, UtpPolicy::Off)).await;
    let mut stream = dial(&near, addr).await.unwrap();
    stream.io.write_all(HANDSHAKE).await.unwrap();
    timeout(PATIENCE, plain_client).await.unwrap().unwrap();
}

#[tokio::test]
async fn one_address_cannot_take_every_place() {
    let mut config = at("127.0.0.2", EncryptionPolicy::Preferred, UtpPolicy::Off);
    (config.max_per_address, config.max_accepted) = (3, 5);
    let (far, mut incoming) = start(config).await;
    let to = far.listen_addrs()[0];
    let (greedy, _) = plain_at("127.0.0.3").await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(meet(&greedy, to, &mut incoming).await.unwrap());
    }
    let mut refused = dial(&greedy, to).await.unwrap();
    let closed = timeout(PATIENCE, refused.io.read(&mut [0])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)));
    let (other, _) = plain_at("127.0.0.4").await;
    held.push(meet(&other, to, &mut incoming).await.unwrap());
    held.push(meet(&other, to, &mut incoming).await.unwrap());
    let mut refused = dial(&other, to).await.unwrap();
    let closed = timeout(PATIENCE, refused.io.read(&mut [0])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)), "more than all places were given");
    // A place comes back with the end of its connection.
    held.truncate(1);
    meet(&greedy, to, &mut incoming).await.unwrap();
}

#[tokio::test]
async fn garbage_and_silence_keep_nobody_out() {
    let (far, mut incoming) = start(at("127.0.0.2", EncryptionPolicy::Preferred, UtpPolicy::Off)).await;
    let to = far.listen_addrs()[0];
    let mut strangers = Vec::new();
    for round in 0..10u8 {
        let mut stranger = TcpStream::connect(to).await.unwrap();
        // Silence, some garbage, more of it than the longest padding.
        let garbage: Vec<u8> = (0..usize::from(round % 3) * 1500).map(|at| at as u8 ^ round).collect();
        let _ = stranger.write_all(&garbage).await;
        strangers.push(stranger);
    }
    let (near, _) = start(at("127.0.0.3", EncryptionPolicy::Required, UtpPolicy::Off)).await;
    meet(&near, to, &mut incoming).await.unwrap();
    assert!(incoming.try_recv().is_err(), "garbage was let in");
}

#[tokio::test]
async fn ports_in_use_are_said_or_passed_over() {
    let (first, _) = plain_at("127.0.0.5").await;
    let taken = first.listen_addrs()[0];
    let mut config = at("127.0.0.5", EncryptionPolicy::Preferred, UtpPolicy::AfterTcp);
    config.listen = vec![taken];
    let error = SocketNetwork::start(config.clone(), swarms()).await.err().unwrap();
    assert!(matches!(error, ListenError::InUse { addr, protocol: "TCP" } if addr == taken), "{error}");
    config.port_in_use = PortInUse::TryNext(20);
    let (next, _) = start(config.clone()).await;
    assert!(next.port().unwrap() > taken.port() && next.port().unwrap() <= taken.port() + 20);
    first.shutdown().await;
    config.port_in_use = PortInUse::Fail;
    let (again, _) = start(config).await;
    assert_eq!(again.listen_addrs(), [taken]);
}

#[tokio::test]
async fn a_port_whose_udp_half_is_taken_is_in_use() {
    let udp = UdpSocket::bind("127.0.0.6:0").unwrap();
    let mut config = at("127.0.0.6", EncryptionPolicy::Preferred, UtpPolicy::AfterTcp);
    config.listen = vec![udp.local_addr().unwrap()];
    let error = SocketNetwork::start(config.clone(), swarms()).await.err().unwrap();
    assert!(matches!(error, ListenError::InUse { protocol: "UDP", .. }), "{error}");
    config.utp = UtpPolicy::Off;
    start(config).await;
}

#[tokio::test]
async fn several_addresses_share_a_chosen_port() {
    let mut config = at("127.0.0.7", EncryptionPolicy::Preferred, UtpPolicy::AfterTcp);
    config.listen = ["127.0.0.7:0", "[::1]:0", "127.0.0.8:0"].map(|addr| addr.parse().unwrap()).to_vec();
    config.dial_from = Vec::new();
    let (far, mut incoming) = start(config.clone()).await;
    let ports: Vec<u16> = far.listen_addrs().iter().map(SocketAddr::port).collect();
    assert_eq!(ports, [far.port().unwrap(); 3]);
    let (near, _) = start(config.clone()).await;
    for addr in far.listen_addrs() {
        let (_, accepted) = meet(&near, *addr, &mut incoming).await.unwrap();
        assert!(matches!(accepted.identity, PeerIdentity::Ip(ip) if ip.is_ipv4() == addr.is_ipv4()));
    }
    // An address that this host does not have: one is enough, unless all are needed.
    config.listen = vec!["192.0.2.1:0".parse().unwrap(), "127.0.0.7:0".parse().unwrap()];
    let error = SocketNetwork::start(config.clone(), swarms()).await.err().unwrap().to_string();
    assert!(error.contains("cannot listen on 192.0.2.1:0 (TCP)"), "{error}");
    config.need_all = false;
    assert_eq!(start(config).await.0.listen_addrs().len(), 1);
}

#[tokio::test]
async fn every_address_at_the_default_port() {
    let (far, _) = start(SocketConfig::default()).await;
    assert!(far.port().unwrap() >= DEFAULT_PORT);
    assert!(far.listen_addrs().iter().all(|addr| addr.port() == far.port().unwrap()));
}

#[tokio::test]
async fn what_is_no_host_is_not_dialled() {
    let (near, _) = plain_at("127.0.0.3").await;
    for addr in ["127.0.0.1:0", "0.0.0.0:6881", "224.0.0.1:6881", "[::]:6881", "[ff02::1]:6881"] {
        assert!(dial(&near, addr.parse().unwrap()).await.err().unwrap().contains("expected the address"));
    }
    let transport = near.transport();
    assert!(!transport.can_dial(&PeerAddr::Memory(1)));
    assert!(transport.dial(PeerAddr::Memory(1), SWARM).await.is_err());
}

/// A peer that has nothing but uTP.
struct UtpOnly {
    endpoint: Endpoint,
    encryption: Encryption,
}

impl UtpOnly {
    fn start(ip: &str, encryption: Encryption) -> Self {
        let udp = utp::bind(SocketAddr::new(ip.parse().unwrap(), 0)).unwrap();
        Self { endpoint: Endpoint::start(udp, 9, CancellationToken::new()).unwrap(), encryption }
    }

    async fn accept(&self) -> PeerStream {
        let (stream, from) = self.endpoint.accept().await.unwrap();
        let io = mse::accept(stream, &self.encryption, &swarms()).await.unwrap();
        PeerStream { io: Box::new(io), addr: PeerAddr::Socket(from), identity: PeerIdentity::Ip(from.ip()) }
    }
}

#[tokio::test]
async fn utp_is_dialled_where_tcp_does_not_get_through() {
    use EncryptionPolicy::{Disabled, Preferred, Required};
    for (policy, utp) in [(Required, UtpPolicy::AfterTcp), (Preferred, UtpPolicy::Race), (Disabled, UtpPolicy::Race)] {
        let far = UtpOnly::start("127.0.0.2", Encryption { policy, prefer: Cipher::Rc4 });
        let (near, _) = start(at("127.0.0.3", policy, utp)).await;
        let dialled = async {
            let mut dialled = dial(&near, far.endpoint.addr()).await.unwrap();
            dialled.io.write_all(HANDSHAKE).await.unwrap();
            dialled.io.flush().await.unwrap();
            dialled
        };
        let (dialled, mut accepted) = timeout(PATIENCE, async { tokio::join!(dialled, far.accept()) }).await.unwrap();
        assert_eq!(accepted.addr, PeerAddr::Socket(near.listen_addrs()[0]), "not from the listening port");
        let mut got = [0; 20];
        accepted.io.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, HANDSHAKE);
        exchange(dialled, accepted, 4 << 20).await;
    }
}

#[tokio::test]
async fn utp_is_accepted_and_tcp_comes_first() {
    for utp in [UtpPolicy::AfterTcp, UtpPolicy::Race] {
        let (far, mut incoming) = start(at("127.0.0.2", EncryptionPolicy::Preferred, utp)).await;
        let to = far.listen_addrs()[0];
        let (near, _) = start(at("127.0.0.3", EncryptionPolicy::Preferred, utp)).await;
        let (_, accepted) = meet(&near, to, &mut incoming).await.unwrap();
        assert_ne!(accepted.addr, PeerAddr::Socket(near.listen_addrs()[0]), "TCP has ports of its own");
        let stream = near.transport.over_utp(to).await.unwrap();
        let dialled = async { mse::initiate(stream, &SWARM, mse::Ciphers::BOTH).await.unwrap() };
        let (mut dialled, mut accepted) = tokio::join!(dialled, next(&mut incoming));
        assert_eq!(accepted.addr, PeerAddr::Socket(near.listen_addrs()[0]));
        dialled.write_all(HANDSHAKE).await.unwrap();
        dialled.flush().await.unwrap();
        let mut got = [0; 20];
        accepted.io.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, HANDSHAKE);
    }
}

#[tokio::test]
async fn a_dial_that_reaches_nobody_names_both_ways() {
    let (near, _) = start(at("127.0.0.3", EncryptionPolicy::Preferred, UtpPolicy::AfterTcp)).await;
    let nobody = UdpSocket::bind("127.0.0.9:0").unwrap().local_addr().unwrap();
    let reason = dial(&near, nobody).await.err().unwrap();
    assert!(reason.contains("over TCP: ") && reason.contains("over uTP: no answer within"), "{reason}");
}
