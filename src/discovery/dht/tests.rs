//! A DHT of its own on loopback.

use mainline::Testnet;

use super::*;
use crate::discovery::Progress;

const SWARM: SwarmId = SwarmId([7; 20]);

struct Node {
    source: Dht,
    finds: mpsc::Receiver<Found>,
}

fn config(bootstrap: &[String]) -> DhtConfig {
    DhtConfig {
        bind: Ipv4Addr::LOCALHOST,
        port: Some(0),
        bootstrap: bootstrap.to_vec(),
        request_timeout: Duration::from_millis(300),
        ..DhtConfig::default()
    }
}

fn node(config: DhtConfig) -> Node {
    let (found, finds) = mpsc::channel(16);
    let progress: ProgressFn = Arc::new(|_| Progress { wants_peers: true, ..Progress::default() });
    Node { source: Dht::new(config, progress, found), finds }
}

fn reachable_at(port: u16) -> JoinOptions {
    JoinOptions { port: Some(port), ..JoinOptions::default() }
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), what).await.unwrap()
}

async fn until(node: &Node, clause: &str) {
    within(async {
        while !node.source.state().contains(clause) {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_reader_finds_a_seed_also_after_a_restart_without_bootstrap() {
    let testnet = Testnet::builder(5).build().unwrap();
    let seed = node(config(&testnet.bootstrap));
    assert_eq!(seed.source.state(), "waits for a public swarm");
    let private = JoinOptions { private: true, ..reachable_at(7000) };
    seed.source.join(SwarmId([8; 20]), &private);
    seed.source.join(SWARM, &reachable_at(7000));
    until(&seed, "1 of 1 swarms announced").await;

    let dir = tempfile::tempdir().unwrap();
    let nodes_file = Some(dir.path().join("nodes"));
    let expected = Found { swarm: SWARM, addr: "127.0.0.1:7000".parse().unwrap(), source: "dht" };
    let mut reader = node(DhtConfig { nodes_file: nodes_file.clone(), ..config(&testnet.bootstrap) });
    reader.source.join(SWARM, &JoinOptions::default());
    assert_eq!(within(reader.finds.recv()).await.unwrap(), expected);
    until(&reader, "0 of 1 swarms announced, 0 being looked up, 1 peers found").await;
    within(reader.source.shutdown()).await;

    let mut again = node(DhtConfig { nodes_file, ..config(&[]) });
    again.source.join(SWARM, &JoinOptions::default());
    assert_eq!(within(again.finds.recv()).await.unwrap(), expected);
    drop(testnet);
}

#[tokio::test]
async fn a_dht_that_never_answers_is_told_and_ends_when_asked() {
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let bootstrap = [silent.local_addr().unwrap().to_string()];
    let node = node(config(&bootstrap));
    node.source.join(SWARM, &reachable_at(7000));
    until(&node, "0 nodes known, 0 of 1 swarms announced, 0 being looked up").await;
    assert!(node.source.state().contains("not announced"), "{}", node.source.state());
    node.source.leave(SWARM);
    until(&node, "0 of 0 swarms").await;
    within(node.source.shutdown()).await;
}

#[tokio::test]
async fn names_that_do_not_resolve_are_told() {
    let node = node(config(&["no-port".to_owned(), "127.0.0.1:notaport".to_owned()]));
    node.source.join(SWARM, &reachable_at(7000));
    until(&node, "off: found the address of no bootstrap node").await;
    within(node.source.shutdown()).await;
}

#[tokio::test]
async fn a_port_in_use_is_no_obstacle() {
    let testnet = Testnet::builder(3).build().unwrap();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = Some(taken.local_addr().unwrap().port());
    let node = node(DhtConfig { port, ..config(&testnet.bootstrap) });
    node.source.join(SWARM, &reachable_at(7000));
    until(&node, "1 of 1 swarms announced").await;
}

#[test]
fn look_ups_grow_rarer() {
    let now = Instant::now();
    let mut schedule = Schedule::default();
    assert_eq!(schedule.due(now, false), Some(now));
    schedule.ended = Some(now);
    for (count, wait) in [(1, 10), (2, 20), (6, 300), (u32::MAX, 300)] {
        schedule.count = count;
        assert_eq!(schedule.due(now, true), Some(now + Duration::from_secs(wait)));
        assert_eq!(schedule.due(now, false), Some(now + RENEW_EVERY));
    }
}
