//! Two swarms with nothing but this behaviour, on loopback.

use futures::StreamExt;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;
use libp2p::{Swarm, SwarmBuilder, noise, ping, tcp, yamux};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;

const SWARM: SwarmId = SwarmId([5; 20]);

struct Host {
    peer: PeerId,
    addr: Multiaddr,
    transport: Libp2pTransport,
    incoming: mpsc::Receiver<PeerStream>,
    task: JoinHandle<()>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Ends = (Libp2pTransport, mpsc::Receiver<PeerStream>);

fn behave(key: &Keypair, ends: &mut Option<Ends>) -> Behaviour {
    let (behaviour, transport, incoming) = behaviour(key.public().to_peer_id());
    *ends = Some((transport, incoming));
    behaviour
}

impl Host {
    /// A host that runs until it is dropped.
    async fn start() -> Self {
        let (builder, mut ends) = (SwarmBuilder::with_new_identity().with_tokio(), None);
        let builder = builder.with_tcp(tcp::Config::default(), noise::Config::new, Multiplexing::default).unwrap();
        let swarm = builder.with_behaviour(|key| behave(key, &mut ends)).unwrap().build();
        Self::run(swarm, ends.unwrap()).await
    }

    /// One that multiplexes with libp2p's own adapter.
    async fn start_plain() -> Self {
        let (builder, mut ends) = (SwarmBuilder::with_new_identity().with_tokio(), None);
        let builder = builder.with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default).unwrap();
        let swarm = builder.with_behaviour(|key| behave(key, &mut ends)).unwrap().build();
        Self::run(swarm, ends.unwrap()).await
    }

    async fn run(mut swarm: Swarm<Behaviour>, (transport, incoming): Ends) -> Self {
        let peer = *swarm.local_peer_id();
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        let addr = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        let task = tokio::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        Self { peer, addr, transport, incoming, task }
    }

    fn at(&self) -> PeerAddr {
        PeerAddr::Libp2p(self.addr.clone().with(Protocol::P2p(self.peer)).to_string())
    }

    fn identity(&self) -> PeerIdentity {
        PeerIdentity::Node(NodeName(self.peer.to_string()))
    }

    async fn dial(&self, addr: PeerAddr) -> Result<PeerStream, String> {
        self.transport.dial(addr, SWARM).await.map_err(|error| error.reason)
    }
}

#[tokio::test]
async fn streams_carry_bytes_both_ways_and_name_both_ends() {
    let (alice, mut bob) = (Host::start().await, Host::start().await);
    for round in 0..3u8 {
        let mut near = alice.dial(bob.at()).await.unwrap();
        let mut far = bob.incoming.recv().await.unwrap();
        assert_eq!((&near.identity, &far.identity), (&bob.identity(), &alice.identity()));
        assert_eq!(near.addr, bob.at());
        near.io.write_all(&[round; 10]).await.unwrap();
        far.io.write_all(&[round + 100; 10]).await.unwrap();
        let mut got = [0; 10];
        far.io.read_exact(&mut got).await.unwrap();
        assert_eq!(got, [round; 10]);
        near.io.read_exact(&mut got).await.unwrap();
        assert_eq!(got, [round + 100; 10]);
    }
}

/// More than any window holds, both ways at once.
#[tokio::test]
async fn long_streams_are_the_same_at_both_ends_whoever_multiplexes_how() {
    const LEN: usize = 3 << 20;
    let (alice, mut bob, mut plain) = (Host::start().await, Host::start().await, Host::start_plain().await);
    for host in [&mut bob, &mut plain] {
        let near = alice.dial(host.at()).await.unwrap();
        let far = host.incoming.recv().await.unwrap();
        let ends = [(near, 1), (far, 2)].map(|(stream, seed)| async move {
            let (own, others) = [seed, 3 - seed].map(|seed| crate::metainfo::testing::content(seed, LEN)).into();
            let (mut read_half, mut write_half) = tokio::io::split(stream.io);
            let mut got = vec![0; LEN];
            let send = async { write_half.write_all(&own).await.and(write_half.flush().await) };
            let (sent, received) = tokio::join!(send, read_half.read_exact(&mut got));
            sent.and(received.map(drop)).unwrap();
            got == others
        });
        assert_eq!(futures::future::join_all(ends).await, [true, true]);
    }
}

#[tokio::test]
async fn an_address_without_a_peer_id_is_dialled_and_a_bare_peer_id_uses_the_connection() {
    let (alice, mut bob) = (Host::start().await, Host::start().await);
    let by_addr = alice.dial(PeerAddr::Libp2p(bob.addr.to_string())).await.unwrap();
    assert_eq!(by_addr.identity, bob.identity());
    let _far = bob.incoming.recv().await.unwrap();
    let by_peer = alice.dial(PeerAddr::Libp2p(format!("/p2p/{}", bob.peer))).await.unwrap();
    assert_eq!(by_peer.identity, bob.identity());
}

#[tokio::test]
async fn many_streams_at_once_share_one_dial() {
    let (alice, mut bob) = (Host::start().await, Host::start().await);
    let dials = (0..20).map(|_| alice.dial(bob.at()));
    let near: Vec<_> = futures::future::join_all(dials).await.into_iter().map(Result::unwrap).collect();
    let mut addresses = std::collections::BTreeSet::new();
    for _ in 0..near.len() {
        addresses.insert(bob.incoming.recv().await.unwrap().addr);
    }
    assert_eq!(addresses.len(), 1, "all came over the same connection");
}

#[tokio::test]
async fn wrong_peers_and_dead_addresses_are_refused_with_the_reason() {
    let (alice, bob) = (Host::start().await, Host::start().await);
    let stranger = PeerId::random();
    let wrong = PeerAddr::Libp2p(format!("{}/p2p/{stranger}", bob.addr));
    let reason = alice.dial(wrong).await.err().unwrap();
    assert_eq!(reason, format!("expected peer {stranger}, got {}", bob.peer));

    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let reason = alice.dial(PeerAddr::Libp2p(format!("/ip4/127.0.0.1/tcp/{closed}"))).await.err().unwrap();
    assert!(reason.contains("refused"), "{reason}");

    for (addr, expected) in [
        (alice.at(), "this node itself"),
        (PeerAddr::Libp2p(format!("/p2p/{stranger}")), "no address of this peer is known"),
        (PeerAddr::Libp2p("/nonsense".into()), "expected a multiaddr"),
        (PeerAddr::Memory(1), "expected a multiaddr"),
    ] {
        let reason = alice.dial(addr).await.err().unwrap();
        assert!(reason.contains(expected), "{reason}");
    }
}

#[tokio::test]
async fn a_libp2p_node_that_is_no_knot_node_is_named_as_such() {
    let builder = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap();
    let mut other = builder.with_behaviour(|_| ping::Behaviour::default()).unwrap().build();
    other.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let alice = Host::start().await;
    let mut dial = None;
    let reason = loop {
        let answer = async {
            match &mut dial {
                Some(dial) => dial.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = other.select_next_some() => if let SwarmEvent::NewListenAddr { address, .. } = event {
                dial = Some(alice.transport.dial(PeerAddr::Libp2p(address.to_string()), SWARM));
            },
            answer = answer => break answer.err().unwrap().reason,
        }
    };
    assert!(reason.contains("does not speak /knot/wire/1"), "{reason}");
}

#[tokio::test]
async fn a_peer_that_goes_away_ends_its_streams_and_can_be_dialled_again_elsewhere() {
    let (alice, mut bob) = (Host::start().await, Host::start().await);
    let mut near = alice.dial(bob.at()).await.unwrap();
    let far = bob.incoming.recv().await.unwrap();
    drop(bob);
    drop(far);
    let mut byte = [0];
    assert!(!matches!(near.io.read(&mut byte).await, Ok(1..)), "no byte comes from a dead peer");
    let mut carol = Host::start().await;
    assert!(alice.dial(carol.at()).await.is_ok());
    assert!(carol.incoming.recv().await.is_some());
}

#[tokio::test]
async fn more_streams_than_the_queue_holds_are_reset() {
    let (alice, mut bob) = (Host::start().await, Host::start().await);
    let mut near = Vec::new();
    for _ in 0..ACCEPT_QUEUE + 5 {
        near.push(alice.dial(bob.at()).await.unwrap());
    }
    let mut byte = [0];
    for refused in &mut near[ACCEPT_QUEUE..] {
        assert!(!matches!(refused.io.read(&mut byte).await, Ok(1..)));
    }
    for _ in 0..ACCEPT_QUEUE {
        let mut far = bob.incoming.recv().await.unwrap();
        far.io.write_all(b"x").await.unwrap();
    }
    assert_eq!(near[0].io.read(&mut byte).await.unwrap(), 1, "those in the queue are fine");
}
