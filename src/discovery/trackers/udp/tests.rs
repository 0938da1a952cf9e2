//! UDP trackers on loopback: correct ones, and others.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::*;
use crate::discovery::trackers::Event;
use crate::types::WirePeerId;

const QUICK: UdpPatience =
    UdpPatience { first_wait: Duration::from_millis(100), tries: 3, total: Duration::from_secs(20) };

fn announce() -> Announce {
    Announce {
        swarm: SwarmId([1; 20]),
        peer_id: WirePeerId([2; 20]),
        key: 3,
        port: 4,
        uploaded: 5,
        downloaded: 6,
        left: 7,
        event: Event::Started,
        want: 8,
        tracker_id: None,
    }
}

fn client(patience: UdpPatience) -> UdpClient {
    UdpClient::new(patience, LocalAddrs::default())
}

/// A server that maps each datagram to those that it answers with.
async fn server(host: &str, mut answers: impl FnMut(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> (Url, JoinHandle<()>) {
    let socket = UdpSocket::bind((host, 0)).await.unwrap();
    let addr = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let Ok((len, from)) = socket.recv_from(&mut buffer).await else { continue };
            for answer in answers(&buffer[..len]) {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    (Url::parse(&format!("udp://{addr}/announce?x=y")).unwrap(), task)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn reply(request: &[u8], action: u32, payload: &[u8]) -> Vec<u8> {
    let mut reply = action.to_be_bytes().to_vec();
    reply.extend_from_slice(&request[12..16]);
    reply.extend_from_slice(payload);
    reply
}

fn peers(request: &[u8], peers: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    [1800u32, 2, 1].iter().for_each(|number| payload.extend(number.to_be_bytes()));
    payload.extend_from_slice(peers);
    reply(request, 1, &payload)
}

const V4_PEERS: [u8; 12] = [127, 0, 0, 2, 0, 80, 1, 2, 3, 4, 0, 0];

#[tokio::test]
async fn an_id_serves_several_announces_and_a_stranger_to_the_tracker_is_renewed() {
    let mut connects = 0u64;
    let log = Arc::new(Mutex::new(Vec::new()));
    let seen = log.clone();
    let (url, _task) = server("127.0.0.1", move |request| {
        seen.lock().unwrap().push(word(request, 8));
        if word(request, 8) == 0 {
            assert_eq!(request.len(), 16);
            connects += 1;
            return vec![reply(request, 0, &connects.to_be_bytes())];
        }
        assert_eq!(&request[98..], b"\x02\x0d/announce?x=y");
        // The tracker forgets the first id after two announces.
        let forgotten = connects == 1 && seen.lock().unwrap().len() > 3;
        if forgotten {
            return vec![reply(request, 3, b"Connection ID missmatch.")];
        }
        vec![peers(request, &V4_PEERS)]
    })
    .await;
    let client = client(QUICK);
    for _ in 0..3 {
        let answer = client.announce(&url, Family::V4, &announce()).await.unwrap();
        assert_eq!(answer.peers, ["127.0.0.2:80".parse().unwrap()], "port 0 is no peer");
        assert_eq!((answer.seeders, answer.leechers), (Some(1), Some(2)));
    }
    assert_eq!(*log.lock().unwrap(), [0, 1, 1, 1, 0, 1]);
}

#[tokio::test]
async fn requests_are_repeated_and_noise_is_passed_over() {
    let mut requests = 0;
    let (url, _task) = server("127.0.0.1", move |request| {
        requests += 1;
        // Of each request the first copy is lost.
        if requests % 2 == 1 {
            return Vec::new();
        }
        let mut wrong = reply(request, word(request, 8), &[0; 20]);
        wrong[4] ^= 1;
        let noise = vec![b"x".to_vec(), wrong, reply(request, 9, b"")];
        let answer = if word(request, 8) == 0 { reply(request, 0, &[7; 8]) } else { peers(request, &V4_PEERS) };
        noise.into_iter().chain([answer]).collect()
    })
    .await;
    let answer = client(QUICK).announce(&url, Family::V4, &announce()).await.unwrap();
    assert_eq!(answer.peers.len(), 1);
}

#[tokio::test]
async fn over_ipv6_peers_are_longer() {
    let (url, _task) = server("::1", |request| {
        let mut peer = std::net::Ipv6Addr::LOCALHOST.octets().to_vec();
        peer.extend([0, 80]);
        vec![if word(request, 8) == 0 { reply(request, 0, &[7; 8]) } else { peers(request, &peer) }]
    })
    .await;
    let client = client(QUICK);
    let answer = client.announce(&url, Family::V6, &announce()).await.unwrap();
    assert_eq!(answer.peers, ["[::1]:80".parse().unwrap()]);
    let error = client.announce(&url, Family::V4, &announce()).await.unwrap_err();
    assert!(matches!(error, TrackerError::Udp(UdpError::NoAddress(_))), "{error}");
}

#[tokio::test]
async fn scrapes() {
    let (url, _task) = server("127.0.0.1", |request| {
        if word(request, 8) == 0 {
            return vec![reply(request, 0, &[7; 8])];
        }
        assert_eq!(request.len(), 16 + 40);
        let payload: Vec<u8> = [1u32, 2, 3].iter().flat_map(|number| number.to_be_bytes()).collect();
        vec![reply(request, 2, &payload)]
    })
    .await;
    let sizes = client(QUICK).scrape(&url, Family::V4, &[SwarmId([1; 20]), SwarmId([2; 20])]).await.unwrap();
    assert_eq!(sizes, [Some(SwarmSize { seeders: 1, completed: 2, leechers: 3 }), None]);
}

#[tokio::test]
async fn the_bad_ones_end_in_errors() {
    let client = client(QUICK);
    let ask = async |url: &Url| client.announce(url, Family::V4, &announce()).await.unwrap_err().to_string();

    let (silent, _task) = server("127.0.0.1", |_| Vec::new()).await;
    assert_eq!(ask(&silent).await, "got no answer within 0.7 s");

    let (refusing, _task) = server("127.0.0.1", |request| vec![reply(request, 3, b"go away")]).await;
    assert_eq!(ask(&refusing).await, "refused: go away");

    let (short, _task) = server("127.0.0.1", |request| vec![reply(request, word(request, 8), &[1; 9])]).await;
    assert_eq!(ask(&short).await, "expected an answer of 20 bytes or more, got fewer");

    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = ask(&Url::parse(&format!("udp://{closed}")).unwrap()).await;
    assert!(error.starts_with("could not reach 127.0.0.1"), "{error}");

    assert!(ask(&Url::parse("udp://127.0.0.1").unwrap()).await.contains("without a host or port"));
}

#[tokio::test]
async fn patience_ends_whatever_the_tracker_does() {
    // It floods with noise.
    let (url, _task) = server("127.0.0.1", |_| vec![b"noise".to_vec(); 50]).await;
    let patience = UdpPatience { total: Duration::from_millis(150), ..QUICK };
    let error = client(patience).announce(&url, Family::V4, &announce()).await.unwrap_err();
    assert!(matches!(error, TrackerError::Udp(UdpError::Timeout(_))), "{error}");
}
