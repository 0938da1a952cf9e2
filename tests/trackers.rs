//! Trackers as people run them: `opentracker` from Debian, and a network of its own with addresses of the internet.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use knot::discovery::http::{HttpClient, HttpError, HttpLimits, LocalAddrs, Reach};
use knot::discovery::trackers::{Announce, Event, SwarmSize, TrackerClient, TrackerLimits, Trackers};
use knot::discovery::{Found, JoinOptions, Progress, ProgressFn, Source};
use knot::types::{SwarmId, WirePeerId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use url::Url;

const LISTED: SwarmId = SwarmId([1; 20]);
const UNLISTED: SwarmId = SwarmId([2; 20]);

/// An `opentracker` that ends with the test.
struct OpenTracker {
    process: Child,
    addr: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Drop for OpenTracker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl OpenTracker {
    /// Debian's build serves only the swarms of a list.
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("list"), format!("{LISTED}\n")).unwrap();
        readable_by_all(dir.path());
        // A port that is free for both protocols a moment before.
        let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let port = addr.port().to_string();
        let process = Command::new("opentracker")
            .args(["-i", "127.0.0.1", "-p", &port, "-P", &port, "-w", "list", "-d"])
            .arg(dir.path())
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("opentracker must be installed: apt-get install opentracker");
        let tracker = Self { process, addr, _dir: dir };
        within(async {
            while tokio::net::TcpStream::connect(addr).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        tracker
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}/announce", self.addr)
    }
}

/// opentracker gives up root's rights before it reads.
fn readable_by_all(dir: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), what).await.unwrap()
}

/// A peer at the address 127.0.0.`host` that lacks so many bytes.
fn peer(host: u8, left: &Arc<AtomicU64>) -> (Trackers, mpsc::Receiver<Found>) {
    let left = left.clone();
    let progress: ProgressFn = Arc::new(move |_| {
        let left = left.load(Ordering::SeqCst);
        Progress { left: Some(left), wants_peers: left > 0, ..Progress::default() }
    });
    let (found, finds) = mpsc::channel(16);
    let local = LocalAddrs { v4: [127, 0, 0, host].into(), ..LocalAddrs::default() };
    let peer_id = WirePeerId(std::array::from_fn(|_| host));
    (Trackers::new(peer_id, local, TrackerLimits::default(), progress, found), finds)
}

fn join(source: &Trackers, swarm: SwarmId, tracker: &str) {
    let options = JoinOptions { trackers: vec![vec![tracker.to_owned()]], private: false, port: Some(7000) };
    source.join(swarm, &options);
}

async fn until(source: &Trackers, clause: &str) {
    within(async {
        while !source.state().contains(clause) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

async fn a_swarm_meets_over(scheme: &str) {
    let tracker = OpenTracker::start().await;
    let url = tracker.url(scheme);
    let client = TrackerClient::new(&TrackerLimits::default(), LocalAddrs::default());
    let parsed = Url::parse(&url).unwrap();
    let size = async || within(client.scrape(&parsed, &[LISTED])).await.unwrap()[0].unwrap_or_default();

    let (seed, _seed_finds) = peer(2, &Arc::default());
    join(&seed, LISTED, &url);
    until(&seed, "working, 1 seeders, 0 leechers").await;
    let left = Arc::new(AtomicU64::new(100));
    let (reader, mut finds) = peer(3, &left);
    join(&reader, LISTED, &url);
    // The tracker names the asker too.
    let seed_addr = "127.0.0.2:7000".parse().unwrap();
    let found = within(async {
        loop {
            let found = finds.recv().await.unwrap();
            if found.addr == seed_addr {
                return found;
            }
        }
    })
    .await;
    assert_eq!(found, Found { swarm: LISTED, addr: seed_addr, source: "trackers" });
    until(&reader, "working, 1 seeders, 1 leechers, ").await;
    assert_eq!(size().await, SwarmSize { seeders: 1, completed: 0, leechers: 1 });

    left.store(0, Ordering::SeqCst);
    reader.completed(LISTED);
    within(async {
        while size().await.completed == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    seed.leave(LISTED);
    within(seed.shutdown()).await;
    within(reader.shutdown()).await;
    let left = size().await;
    assert_eq!((left.seeders, left.leechers), (0, 0), "both have said goodbye");
}

#[tokio::test]
async fn a_swarm_meets_over_http() {
    a_swarm_meets_over("http").await;
}

#[tokio::test]
async fn a_swarm_meets_over_udp() {
    a_swarm_meets_over("udp").await;
}

#[tokio::test]
async fn a_swarm_that_is_not_served_is_refused_in_the_trackers_words() {
    let tracker = OpenTracker::start().await;
    let (source, _finds) = peer(2, &Arc::new(AtomicU64::new(100)));
    join(&source, UNLISTED, &tracker.url("http"));
    until(&source, "refused: Requested download is not authorized").await;
}

/// Loopback is all that tests may use, but what matters here is the way from the internet to loopback. So this runs
/// in a network namespace of its own, whose only interface has an address that looks like one of the internet.
#[test]
fn nothing_leads_from_the_internet_to_this_host() {
    let setup =
        "ip link set lo up && ip addr add 203.0.113.1/32 dev lo && exec \"$0\" --exact --ignored inside_the_namespace";
    let output = Command::new("unshare")
        .args(["--map-root-user", "--net", "sh", "-c", setup])
        .arg(std::env::current_exe().unwrap())
        .output()
        .expect("unshare (util-linux) and ip (iproute2) must be installed");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}\n{stderr}");
}

/// A server that answers every request like this.
async fn server(ip: &str, answer: String) -> SocketAddr {
    let listener = TcpListener::bind((ip.parse::<IpAddr>().unwrap(), 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    addr
}

fn redirect(to: SocketAddr) -> String {
    format!("HTTP/1.1 301 Moved\r\nLocation: http://{to}/announce\r\nContent-Length: 0\r\n\r\n")
}

#[tokio::test]
#[ignore = "runs in a network namespace that another test makes"]
async fn inside_the_namespace() {
    let body = "d8:intervali60e5:peers18:\x7f\0\0\x01\0\x50\0\0\0\0\0\x50\x01\x02\x03\x04\0\x50e";
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let here = server("127.0.0.1", answer.clone()).await;
    let far = server("203.0.113.1", answer).await;
    let far_to_here = server("203.0.113.1", redirect(here)).await;
    let far_to_far = server("203.0.113.1", redirect(far)).await;
    let far_to_far_to_here = server("203.0.113.1", redirect(far_to_here)).await;
    let here_to_far = server("127.0.0.1", redirect(far)).await;

    let client = HttpClient::new(HttpLimits::default(), LocalAddrs::default());
    let get = async |addr: SocketAddr| {
        let url = Url::parse(&format!("http://{addr}/announce")).unwrap();
        within(client.get(&url, Reach::Anywhere, None)).await
    };
    for leads_here in [far_to_here, far_to_far_to_here] {
        let error = get(leads_here).await.unwrap_err();
        assert!(matches!(error, HttpError::TooNear(_)), "{error}");
    }
    for allowed in [here, far, far_to_far, here_to_far] {
        get(allowed).await.unwrap();
    }

    // A tracker on the internet names peers on this host to nobody.
    let trackers = TrackerClient::new(&TrackerLimits::default(), LocalAddrs::default());
    let announce = Announce {
        swarm: LISTED,
        peer_id: WirePeerId([0; 20]),
        key: 0,
        port: 1,
        uploaded: 0,
        downloaded: 0,
        left: 0,
        event: Event::Started,
        want: 0,
        tracker_id: None,
    };
    for (tracker, expected) in [(far, 1), (here, 2)] {
        let url = Url::parse(&format!("http://{tracker}/announce")).unwrap();
        let mut answers = Box::pin(trackers.announce(&url, &announce));
        let answer = within(futures::StreamExt::next(&mut answers)).await.unwrap().unwrap();
        assert_eq!(answer.peers.len(), expected, "{:?}", answer.peers);
    }
}
