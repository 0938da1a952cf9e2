//! The source with trackers on loopback that log what they hear.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

use super::*;
use crate::discovery::Progress;

const SWARM: SwarmId = SwarmId([1; 20]);

/// Seconds where users have minutes.
fn limits() -> TrackerLimits {
    let pace = Pace {
        shortest: Duration::from_millis(20),
        eager: Duration::from_millis(20),
        first_retry: Duration::from_millis(50),
        ..Pace::default()
    };
    let udp = UdpPatience { first_wait: Duration::from_millis(100), tries: 3, total: Duration::from_secs(10) };
    TrackerLimits { pace, udp, farewell: Duration::from_secs(5), ..TrackerLimits::default() }
}

struct Fixture {
    source: Trackers,
    finds: mpsc::Receiver<Found>,
    wants_peers: Arc<AtomicBool>,
}

fn fixture(limits: TrackerLimits) -> Fixture {
    let wants_peers = Arc::new(AtomicBool::new(false));
    let wants = wants_peers.clone();
    let progress: ProgressFn = Arc::new(move |_| {
        let wants_peers = wants.load(Ordering::SeqCst);
        Progress { uploaded: 11, downloaded: 22, left: Some(33), wants_peers }
    });
    let (found, finds) = mpsc::channel(16);
    let peer_id = WirePeerId(*b"-KN0001-abcdefghijkl");
    let source = Trackers::new(peer_id, LocalAddrs::default(), limits, progress, found);
    Fixture { source, finds, wants_peers }
}

fn options(tiers: &[&[&str]]) -> JoinOptions {
    let trackers = tiers.iter().map(|tier| tier.iter().map(|url| (*url).to_owned()).collect()).collect();
    JoinOptions { trackers, private: false, port: Some(6881) }
}

/// A tracker that answers each request with `body`, and the log of what it was asked.
async fn tracker(body: &'static [u8]) -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/announce", listener.local_addr().unwrap());
    let (log, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                head.push(byte);
            }
            let head = String::from_utf8(head).unwrap();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(&[answer.as_bytes(), body].concat()).await;
            if log.send(head.lines().next().unwrap_or_default().to_owned()).is_err() {
                return;
            }
        }
    });
    (url, requests)
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30), what).await.unwrap()
}

/// The event of the next request that the tracker hears.
async fn event(requests: &mut mpsc::UnboundedReceiver<String>) -> String {
    let request = within(requests.recv()).await.unwrap();
    request.split_once("&event=").map_or("", |(_, tail)| tail.split([' ', '&']).next().unwrap()).to_owned()
}

async fn until(source: &Trackers, clause: &str) {
    within(async {
        while !source.state().contains(clause) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

const ONE_PEER: &[u8] = b"d8:completei1e10:incompletei2e8:intervali3600e5:peers6:\x7f\0\0\x02\0\x50\
    11:external ip4:\x01\x02\x03\x04e";

#[tokio::test]
async fn a_swarm_from_join_to_leave() {
    let mut test = fixture(limits());
    let (url, mut requests) = tracker(ONE_PEER).await;
    test.source.join(SWARM, &options(&[&[&url]]));
    let request = within(requests.recv()).await.unwrap();
    let hash = "%01".repeat(20);
    for part in [&format!("info_hash={hash}&")[..], "port=6881&uploaded=11&downloaded=22&left=33&", "event=started"] {
        assert!(request.contains(part), "{request}");
    }
    let found = within(test.finds.recv()).await.unwrap();
    assert_eq!(found, Found { swarm: SWARM, addr: "127.0.0.2:80".parse().unwrap(), source: "trackers" });
    until(&test.source, "working, 1 seeders, 2 leechers, 1 addresses").await;
    assert_eq!(test.source.external_ip(), Some(IpAddr::from([1, 2, 3, 4])));

    // Nothing changes, so nothing is said; the same again is nothing new.
    test.source.join(SWARM, &options(&[&[&url]]));
    test.source.completed(SWARM);
    test.source.completed(SWARM);
    assert_eq!(event(&mut requests).await, "completed");
    test.source.leave(SWARM);
    assert_eq!(event(&mut requests).await, "stopped");
    until(&test.source, "no trackers asked").await;
    within(test.source.shutdown()).await;
    assert!(requests.try_recv().is_err());
}

#[tokio::test]
async fn while_peers_are_wanted_trackers_are_asked_sooner() {
    let test = fixture(limits());
    test.wants_peers.store(true, Ordering::SeqCst);
    let (url, mut requests) = tracker(b"d8:intervali3600e5:peers0:e").await;
    test.source.join(SWARM, &options(&[&[&url]]));
    for expected in ["started", "", ""] {
        assert_eq!(event(&mut requests).await, expected);
    }
}

#[tokio::test]
async fn the_next_start_never_overtakes_the_farewell() {
    let test = fixture(limits());
    let (url, mut requests) = tracker(ONE_PEER).await;
    let options = options(&[&[&url]]);
    test.source.join(SWARM, &options);
    assert_eq!(event(&mut requests).await, "started");
    until(&test.source, "working").await;
    test.source.leave(SWARM);
    test.source.join(SWARM, &options);
    assert_eq!(event(&mut requests).await, "stopped");
    assert_eq!(event(&mut requests).await, "started");
}

#[tokio::test]
async fn the_dead_do_not_hold_up_the_living() {
    let mut test = fixture(limits());
    let (url, mut requests) = tracker(ONE_PEER).await;
    let (garbage, _log) = tracker(b"<html>no</html>").await;
    let (refusing, _log) = tracker(b"d14:failure reason7:go away8:retry in5:nevere").await;
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("udp://{}", silent.local_addr().unwrap());
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let closed = format!("http://{closed}/announce");
    let tiers: [&[&str]; 7] =
        [&[&silent], &[&closed], &[&garbage], &[&refusing], &["wss://t.example/announce"], &["?"], &[&url]];
    test.source.join(SWARM, &options(&tiers));
    assert_eq!(event(&mut requests).await, "started");
    assert!(within(test.finds.recv()).await.is_some());
    for clause in [
        "bencoded dictionary in the answer, got \"<html>no</html>\"",
        "refused: go away",
        "could not connect to 127.0.0.1",
        "wss://t.example: failed (1 in a row): expected a tracker's URL with http, https or udp, got \"wss\"",
        "unreadable URL: failed",
    ] {
        until(&test.source, clause).await;
    }
}

#[tokio::test]
async fn in_a_tier_the_next_is_tried_and_a_private_swarm_has_one_at_a_time() {
    let test = fixture(limits());
    let (garbage, mut bad) = tracker(b"no").await;
    let (second, mut second_log) = tracker(ONE_PEER).await;
    let (third, mut third_log) = tracker(ONE_PEER).await;
    let private = JoinOptions { private: true, ..options(&[&[&garbage], &[&second], &[&third]]) };
    test.source.join(SWARM, &private);
    assert_eq!(event(&mut bad).await, "started");
    assert_eq!(event(&mut second_log).await, "started");
    until(&test.source, "working").await;
    within(test.source.shutdown()).await;
    assert_eq!(event(&mut second_log).await, "stopped");
    assert!(third_log.try_recv().is_err(), "the third was not needed");
    assert!(bad.try_recv().is_err(), "one that refused the start needs no farewell");
}

#[tokio::test]
async fn trackers_come_and_go_with_the_options() {
    let test = fixture(limits());
    let (old, mut old_log) = tracker(ONE_PEER).await;
    let (kept, mut kept_log) = tracker(ONE_PEER).await;
    let (new, mut new_log) = tracker(ONE_PEER).await;
    test.source.join(SWARM, &options(&[&[&old], &[&kept]]));
    assert_eq!(event(&mut old_log).await, "started");
    assert_eq!(event(&mut kept_log).await, "started");
    within(async {
        while test.source.state().matches("working").count() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    test.source.join(SWARM, &options(&[&[&kept], &[&new]]));
    assert_eq!(event(&mut old_log).await, "stopped");
    assert_eq!(event(&mut new_log).await, "started");
    test.source.leave(SWARM);
    assert_eq!(event(&mut kept_log).await, "stopped", "it was not told again that this peer started");
}

#[tokio::test]
async fn a_farewell_is_not_waited_for_for_ever() {
    let test = fixture(TrackerLimits { farewell: Duration::from_millis(100), ..limits() });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/announce", listener.local_addr().unwrap());
    test.source.join(SWARM, &options(&[&[&url]]));
    // It takes the connection and says nothing.
    let _stream = within(listener.accept()).await.unwrap();
    within(test.source.shutdown()).await;
    assert_eq!(test.source.state(), "no trackers asked");
}
