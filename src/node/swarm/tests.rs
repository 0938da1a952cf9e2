//! Swarms that talk on loopback.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::discovery::JoinOptions;
use crate::types::{PeerAddr, PeerIdentity, SwarmId};

const SWARM: SwarmId = SwarmId([5; 20]);
const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

async fn start(listen: &[&str], kad: bool, bootstrap: Vec<String>) -> Result<NodeSwarm, SwarmError> {
    NodeSwarm::start(SwarmConfig {
        key: Keypair::generate_ed25519(),
        listen: listen.iter().map(|addr| (*addr).to_owned()).collect(),
        kad,
        mdns: false,
        gossip: kad,
        bootstrap,
    })
    .await
}

fn addr(swarm: &NodeSwarm) -> PeerAddr {
    PeerAddr::Libp2p(swarm.listen_addrs()[0].clone())
}

/// A stream from the first to the second, by the address that the second listens on.
async fn connect(near: &NodeSwarm, far: &mut NodeSwarm) -> (PeerStream, PeerStream) {
    let dialled = near.transport().dial(addr(far), SWARM).await.unwrap();
    let mut incoming = far.take_incoming().unwrap();
    (dialled, incoming.recv().await.unwrap())
}

/// Sends `chunks` numbered chunks and takes as many, in two tasks, and checks every byte.
async fn exchange(stream: PeerStream, chunks: u64, sent_tag: u8, expected_tag: u8) {
    const CHUNK: usize = 64 * 1024;
    let chunk = |number: u64, tag: u8| {
        let mut bytes = vec![tag; CHUNK];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        bytes
    };
    let (mut read, mut write) = tokio::io::split(stream.io);
    let writer = tokio::spawn(async move {
        for number in 0..chunks {
            write.write_all(&chunk(number, sent_tag)).await.unwrap();
        }
        write.flush().await.unwrap();
        write
    });
    let mut got = vec![0; CHUNK];
    for number in 0..chunks {
        read.read_exact(&mut got).await.unwrap();
        assert!(got == chunk(number, expected_tag), "chunk {number} differs");
    }
    writer.await.unwrap().shutdown().await.unwrap();
    assert_eq!(read.read(&mut got).await.unwrap(), 0, "the other end has closed after its last byte");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_exchange_64_mib_both_ways_at_once() {
    for listen in [TCP, QUIC] {
        let (alice, mut bob) =
            (start(&[TCP], false, vec![]).await.unwrap(), start(&[listen], false, vec![]).await.unwrap());
        let (near, far) = connect(&alice, &mut bob).await;
        assert_eq!(near.identity, PeerIdentity::Node(bob.peer_id().clone()));
        assert_eq!(far.identity, PeerIdentity::Node(alice.peer_id().clone()));
        let chunks = if listen == TCP { 1024 } else { 64 };
        let far = tokio::spawn(exchange(far, chunks, 1, 2));
        exchange(near, chunks, 2, 1).await;
        far.await.unwrap();
    }
}

#[tokio::test]
async fn a_node_that_leaves_ends_its_streams() {
    for shut_down in [true, false] {
        let (alice, mut bob) =
            (start(&[TCP], false, vec![]).await.unwrap(), start(&[TCP], false, vec![]).await.unwrap());
        let (mut near, _far) = connect(&alice, &mut bob).await;
        if shut_down {
            bob.shutdown().await;
        } else {
            drop(bob);
        }
        let mut byte = [0];
        assert!(!matches!(near.io.read(&mut byte).await, Ok(1..)), "no byte comes from a node that left");
    }
}

#[tokio::test]
async fn a_stranger_at_the_address_is_refused() {
    let (alice, bob) = (start(&[TCP], false, vec![]).await.unwrap(), start(&[TCP], false, vec![]).await.unwrap());
    let PeerAddr::Libp2p(text) = addr(&bob) else { panic!("a libp2p address") };
    let wrong = text.replace(&bob.peer_id().0, &alice.peer_id().0);
    let stranger = Keypair::generate_ed25519().public().to_peer_id().to_string();
    let wrong_peer = text.replace(&bob.peer_id().0, &stranger);
    for (addr, expected) in [(wrong, "this node itself"), (wrong_peer, "expected peer")] {
        let reason = alice.transport().dial(PeerAddr::Libp2p(addr), SWARM).await.err().unwrap().reason;
        assert!(reason.contains(expected), "{reason}");
    }
}

#[tokio::test]
async fn addresses_are_known_on_return_and_bad_ones_are_errors() {
    let node = start(&[QUIC, "127.0.0.1:0"], false, vec![]).await.unwrap();
    let addrs = node.listen_addrs();
    assert_eq!(addrs.len(), 2, "{addrs:?}");
    assert!(addrs[0].contains("/tcp/"), "{addrs:?}");
    assert!(addrs.iter().all(|addr| addr.ends_with(&format!("/p2p/{}", node.peer_id().0)) && !addr.contains("/0/")));

    let taken = addrs[0].split("/p2p/").next().unwrap().to_owned();
    let error = start(&[TCP, &taken], false, vec![]).await.err().unwrap().to_string();
    assert!(error.starts_with(&format!("cannot listen on {taken}: ")) && error.contains("in use"), "{error}");

    let error = start(&["nonsense"], false, vec![]).await.err().unwrap().to_string();
    assert!(error.contains("expected an address to listen on"), "{error}");
    let error = start(&[TCP], true, vec!["nonsense".into()]).await.err().unwrap().to_string();
    assert!(error.contains("expected a bootstrap node"), "{error}");
}

#[tokio::test]
async fn a_node_that_was_told_no_address_listens_by_tcp_and_quic() {
    let node = start(&[], false, vec![]).await.unwrap();
    let addrs = node.listen_addrs();
    for part in ["/ip4/127.0.0.1/tcp/", "/ip4/127.0.0.1/udp/"] {
        assert!(addrs.iter().any(|addr| addr.starts_with(part)), "{addrs:?}");
    }
}

/// Dials what a node finds until the stream leads to `wanted`.
async fn reach(node: &mut NodeSwarm, swarm: SwarmId, wanted: &NodeName) {
    let mut found = node.take_found().unwrap();
    loop {
        let find = found.recv().await.unwrap();
        assert_eq!((find.swarm, find.source), (swarm, "kad"));
        let stream = node.transport().dial(find.addr, SWARM).await.unwrap();
        if stream.identity == PeerIdentity::Node(wanted.clone()) {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_is_found_through_a_bootstrap_node_whoever_comes_first() {
    let swarm = SwarmId([7; 20]);
    for seeder_first in [true, false] {
        let hub = start(&[TCP], true, vec![]).await.unwrap();
        let seeder = start(&[TCP], true, hub.listen_addrs()).await.unwrap();
        let mut reader = start(&[TCP], true, hub.listen_addrs()).await.unwrap();
        let order = if seeder_first { [&seeder, &reader] } else { [&reader, &seeder] };
        for node in order {
            assert_eq!(node.sources()[0].name(), "kad");
            node.sources()[0].join(swarm, &JoinOptions::default());
        }
        let wanted = seeder.peer_id().clone();
        reach(&mut reader, swarm, &wanted).await;
        assert!(reader.sources()[0].state().contains("1 peers found"), "{}", reader.sources()[0].state());
    }
}
