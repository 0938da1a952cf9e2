//! Local peers on the loopback interface, each at an address of its own.

use super::*;

/// A port that this test has for itself, so that clients on this host and other tests are not heard.
fn free_port() -> u16 {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn on(interface: [u8; 4], port: u16) -> (Lsd, mpsc::Receiver<Found>) {
    let (found, finds) = mpsc::channel(16);
    let config = LsdConfig { v4: vec![interface.into()], v6: Vec::new(), port };
    (Lsd::new(&config, found), finds)
}

fn reachable_at(port: u16) -> JoinOptions {
    JoinOptions { port: Some(port), ..JoinOptions::default() }
}

async fn next(finds: &mut mpsc::Receiver<Found>) -> Found {
    tokio::time::timeout(Duration::from_secs(20), finds.recv()).await.unwrap().unwrap()
}

fn found(swarm: SwarmId, addr: &str) -> Found {
    Found { swarm, addr: addr.parse().unwrap(), source: "lsd" }
}

#[tokio::test]
async fn peers_on_the_local_network_find_each_other() {
    let (swarm, other, secret) = (SwarmId([1; 20]), SwarmId([2; 20]), SwarmId([3; 20]));
    let group = free_port();
    let (seed, mut seed_finds) = on([127, 0, 0, 2], group);
    let (reader, mut reader_finds) = on([127, 0, 0, 3], group);
    let private = JoinOptions { private: true, ..reachable_at(7000) };
    // What the seed says first, nobody wants to know, and of private swarms it says nothing.
    seed.join(secret, &private);
    seed.join(swarm, &reachable_at(7000));
    reader.join(secret, &private);
    reader.join(swarm, &reachable_at(7001));
    reader.join(other, &reachable_at(7001));
    // Whoever speaks last is heard by the other at least.
    let (at_seed, at_reader) = (found(swarm, "127.0.0.3:7001"), found(swarm, "127.0.0.2:7000"));
    tokio::select! {
        find = next(&mut seed_finds) => assert_eq!(find, at_seed),
        find = next(&mut reader_finds) => assert_eq!(find, at_reader),
    }
    assert!(seed.state().contains("1 swarms announced"), "{}", seed.state());

    // One who only looks is not announced, and hears a peer that speaks later.
    let (looker, mut looker_finds) = on([127, 0, 0, 4], group);
    looker.join(other, &JoinOptions::default());
    let (late, mut late_finds) = on([127, 0, 0, 5], group);
    late.join(other, &reachable_at(7002));
    assert_eq!(next(&mut looker_finds).await, found(other, "127.0.0.5:7002"));
    assert!(late_finds.try_recv().is_err(), "nobody hears oneself");
    seed.shutdown().await;
    reader.shutdown().await;
}

#[tokio::test]
async fn an_interface_without_multicast_is_told_and_no_more() {
    // No interface of this host has this address.
    let (lsd, _finds) = on([192, 0, 2, 1], free_port());
    assert!(lsd.state().starts_with("off; no multicast on V4(192.0.2.1)"), "{}", lsd.state());
    lsd.join(SwarmId([1; 20]), &reachable_at(1));
}

fn worker() -> (Worker, mpsc::Receiver<Found>) {
    let (found, finds) = mpsc::channel(16);
    let worker = Worker {
        wanted: Arc::default(),
        found,
        groups: Vec::new(),
        errors: Vec::new(),
        cookie: "own".to_owned(),
        due: BTreeMap::new(),
        last: LruCache::new(MAX_REMEMBERED),
        heard: LruCache::new(MAX_REMEMBERED),
    };
    (worker, finds)
}

#[tokio::test]
async fn a_swarm_is_announced_at_most_once_a_minute() {
    let (mut worker, mut finds) = worker();
    let (swarm, start) = (SwarmId([1; 20]), Instant::now());
    let wanted = worker.wanted.clone();
    wanted.join(swarm, &reachable_at(1));
    worker.follow(start);
    assert_eq!(worker.due[&swarm], start);
    worker.announce(start).await;
    assert!(worker.due[&swarm] >= start + ANNOUNCE_EVERY);

    // Left and joined again.
    wanted.leave(swarm);
    worker.follow(start);
    wanted.join(swarm, &reachable_at(1));
    worker.follow(start);
    assert_eq!(worker.due[&swarm], start + ANNOUNCE_AT_MOST_EVERY);

    // Heard of another peer, soon after and later.
    let search = Search { port: 9, swarms: vec![SwarmId([9; 20]), swarm], cookie: None };
    let from = "127.0.0.9:6771".parse().unwrap();
    worker.announce(start + ANNOUNCE_AT_MOST_EVERY).await;
    worker.heard(from, search.clone(), start + ANNOUNCE_AT_MOST_EVERY);
    assert_eq!(worker.due[&swarm], start + 2 * ANNOUNCE_AT_MOST_EVERY);
    worker.heard(from, search, start + 2 * ANNOUNCE_AT_MOST_EVERY);
    assert_eq!(worker.due[&swarm], start + 2 * ANNOUNCE_AT_MOST_EVERY);
    assert_eq!(finds.try_recv().unwrap(), found(swarm, "127.0.0.9:9"));
}
