//! The datagrams of UDP trackers (BEP 15, BEP 41).

use bytes::{BufMut, BytesMut};

use crate::discovery::http::Family;
use crate::discovery::trackers::announce::{Announce, Answer, Event, SwarmSize, compact_v4, compact_v6, text};
use crate::types::SwarmId;

/// Swarms that one scrape can ask for: more do not fit a datagram.
pub(super) const MAX_SCRAPE: usize = 74;
/// What a connect request says to be told from other traffic.
const PROTOCOL: u64 = 0x0417_2710_1980;
/// The most that one option of BEP 41 can hold, and all of them in a datagram that networks carry whole.
const MAX_OPTION: usize = 255;
const MAX_URL_DATA: usize = 1020;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Connect = 0,
    Announce = 1,
    Scrape = 2,
}

/// The number of the action with which trackers refuse.
const ERROR: u32 = 3;

/// What a datagram is for someone who waits for an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply<'a> {
    /// The answer, without its header.
    Answer(&'a [u8]),
    /// The tracker refuses, in its own words.
    Refused(String),
    /// Not the answer: of another transaction or kind, late perhaps, or forged. To be passed over.
    Other,
}

pub(super) fn connect_request(transaction: u32) -> BytesMut {
    header(PROTOCOL, Action::Connect, transaction)
}

pub(super) fn announce_request(connection: u64, transaction: u32, announce: &Announce, url_data: &str) -> BytesMut {
    let mut packet = header(connection, Action::Announce, transaction);
    packet.put_slice(&announce.swarm.0);
    packet.put_slice(&announce.peer_id.0);
    packet.put_u64(announce.downloaded);
    packet.put_u64(announce.left);
    packet.put_u64(announce.uploaded);
    packet.put_u32(match announce.event {
        Event::Regular => 0,
        Event::Completed => 1,
        Event::Started => 2,
        Event::Stopped => 3,
    });
    // The address: the one that the datagram comes from.
    packet.put_u32(0);
    packet.put_u32(announce.key);
    packet.put_u32(announce.want);
    packet.put_u16(announce.port);
    put_url_data(&mut packet, url_data);
    packet
}

/// The path and query of the tracker's URL, which many trackers on one port need (BEP 41). What does not fit is
/// left out as a whole, since half of it would name another tracker.
fn put_url_data(packet: &mut BytesMut, url_data: &str) {
    const URL_DATA: u8 = 2;
    if url_data.len() > MAX_URL_DATA {
        return;
    }
    for chunk in url_data.as_bytes().chunks(MAX_OPTION) {
        packet.put_u8(URL_DATA);
        // A chunk is at most 255 bytes.
        packet.put_u8(u8::try_from(chunk.len()).unwrap_or(u8::MAX));
        packet.put_slice(chunk);
    }
}

pub(super) fn scrape_request(connection: u64, transaction: u32, swarms: &[SwarmId]) -> BytesMut {
    let mut packet = header(connection, Action::Scrape, transaction);
    swarms.iter().take(MAX_SCRAPE).for_each(|swarm| packet.put_slice(&swarm.0));
    packet
}

fn header(connection: u64, action: Action, transaction: u32) -> BytesMut {
    let mut packet = BytesMut::with_capacity(128);
    packet.put_u64(connection);
    packet.put_u32(action as u32);
    packet.put_u32(transaction);
    packet
}

/// Finds out what `datagram` is for one who waits for the answer to `action`.
pub(super) fn read(datagram: &[u8], action: Action, transaction: u32) -> Reply<'_> {
    let Some((header, payload)) = datagram.split_first_chunk::<8>() else { return Reply::Other };
    let [a, b, c, d, id @ ..] = *header;
    if u32::from_be_bytes(id) != transaction {
        return Reply::Other;
    }
    match u32::from_be_bytes([a, b, c, d]) {
        answered if answered == action as u32 => Reply::Answer(payload),
        ERROR => Reply::Refused(text(payload)),
        _ => Reply::Other,
    }
}

/// The connection id in the answer to a connect request.
pub(super) fn read_connection(payload: &[u8]) -> Option<u64> {
    payload.first_chunk().map(|id| u64::from_be_bytes(*id))
}

/// The answer to an announce over `family`; `None` if it is too short.
pub(super) fn read_answer(payload: &[u8], family: Family) -> Option<Answer> {
    let (numbers, peers) = payload.split_first_chunk::<12>()?;
    let [interval, leechers, seeders] = words(numbers);
    let peers = match family {
        Family::V4 => compact_v4(&peers[..peers.len() / 6 * 6]),
        Family::V6 => compact_v6(&peers[..peers.len() / 18 * 18]),
    };
    Some(Answer {
        interval: Some(std::time::Duration::from_secs(u64::from(interval))),
        seeders: Some(seeders),
        leechers: Some(leechers),
        peers: peers?,
        ..Answer::default()
    })
}

/// The answer to a scrape of `count` swarms; those that the tracker left out are missing.
pub(super) fn read_scrape(payload: &[u8], count: usize) -> Vec<Option<SwarmSize>> {
    let sizes = payload.as_chunks::<12>().0.iter().map(|numbers| {
        let [seeders, completed, leechers] = words(numbers);
        Some(SwarmSize { seeders, completed, leechers })
    });
    sizes.chain(std::iter::repeat(None)).take(count).collect()
}

fn words(bytes: &[u8; 12]) -> [u32; 3] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::WirePeerId;
    use proptest::prelude::*;

    fn announce() -> Announce {
        Announce {
            swarm: SwarmId([0xaa; 20]),
            peer_id: WirePeerId([0xbb; 20]),
            key: 0x0102_0304,
            port: 6881,
            uploaded: 3,
            downloaded: 1,
            left: 2,
            event: Event::Completed,
            want: 50,
            tracker_id: None,
        }
    }

    #[test]
    fn requests_byte_for_byte() {
        assert_eq!(hex::encode(connect_request(7)), "00000417271019800000000000000007");
        let expected = format!(
            "0000000000000009{}{}{}{}{}",
            "0000000100000007",
            "aa".repeat(20) + &"bb".repeat(20),
            "000000000000000100000000000000020000000000000003",
            "000000010000000001020304000000321ae1",
            "02022f78"
        );
        assert_eq!(hex::encode(announce_request(9, 7, &announce(), "/x")), expected);
        let scrape = scrape_request(9, 7, &[SwarmId([0xaa; 20]); 100]);
        assert_eq!(scrape.len(), 16 + 20 * MAX_SCRAPE);
    }

    #[test]
    fn long_url_data_is_split_and_too_long_is_left_out() {
        let plain = announce_request(9, 7, &announce(), "").len();
        assert_eq!(plain, 98);
        let split = announce_request(9, 7, &announce(), &"x".repeat(300));
        assert_eq!((split[98], split[99], split.len()), (2, 255, 98 + 300 + 4));
        assert_eq!((split[98 + 257], split[98 + 258]), (2, 45));
        assert_eq!(announce_request(9, 7, &announce(), &"x".repeat(2000)).len(), 98);
    }

    #[test]
    fn only_the_answer_of_the_transaction_counts() {
        let datagram = |action: u32, transaction: u32| {
            let mut datagram = action.to_be_bytes().to_vec();
            datagram.extend(transaction.to_be_bytes());
            datagram.extend(b"text");
            datagram
        };
        assert_eq!(read(&datagram(1, 7), Action::Announce, 7), Reply::Answer(b"text"));
        assert_eq!(read(&datagram(3, 7), Action::Announce, 7), Reply::Refused("text".to_owned()));
        assert_eq!(read(&datagram(1, 8), Action::Announce, 7), Reply::Other);
        assert_eq!(read(&datagram(3, 8), Action::Announce, 7), Reply::Other);
        assert_eq!(read(&datagram(0, 7), Action::Announce, 7), Reply::Other);
        assert_eq!(read(b"short", Action::Announce, 7), Reply::Other);
    }

    #[test]
    fn answers_by_family() {
        let mut payload = Vec::new();
        [1800u32, 4, 3].iter().for_each(|number| payload.extend(number.to_be_bytes()));
        payload.extend([127, 0, 0, 1, 0x1a, 0xe1, 0xff]);
        let answer = read_answer(&payload, Family::V4).unwrap();
        assert_eq!((answer.leechers, answer.seeders), (Some(4), Some(3)));
        assert_eq!(answer.peers, ["127.0.0.1:6881".parse().unwrap()]);
        assert_eq!(read_answer(&payload, Family::V6).unwrap().peers, []);
        assert_eq!(read_answer(&payload[..11], Family::V4), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(datagram in prop::collection::vec(any::<u8>(), 0..200), count in 0usize..80) {
            for action in [Action::Connect, Action::Announce, Action::Scrape] {
                let _ = read(&datagram, action, 1);
            }
            let _ = read_connection(&datagram);
            let _ = read_answer(&datagram, Family::V4);
            let _ = read_answer(&datagram, Family::V6);
            prop_assert_eq!(read_scrape(&datagram, count).len(), count);
        }
    }
}
