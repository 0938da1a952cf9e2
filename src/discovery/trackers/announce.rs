//! What trackers are told and what they answer, whatever the protocol.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::http::HttpTrackerError;
use super::udp::UdpError;
use crate::discovery::http::HttpError;
use crate::types::{SwarmId, WirePeerId};

/// Peers that are taken from one answer.
pub(super) const MAX_PEERS: usize = 1000;
/// Bytes of a tracker's own words that are kept.
const MAX_TEXT: usize = 200;

/// Why an announce is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Because it is time.
    Regular,
    /// The first one.
    Started,
    /// The download has become complete.
    Completed,
    /// The last one.
    Stopped,
}

/// An announce (BEP 3, BEP 15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce {
    /// Of which swarm.
    pub swarm: SwarmId,
    /// As whom.
    pub peer_id: WirePeerId,
    /// The same in every announce, so that trackers know a peer again whose address has changed.
    pub key: u32,
    /// The TCP port at which this peer can be reached.
    pub port: u16,
    /// Bytes sent so far.
    pub uploaded: u64,
    /// Bytes had so far.
    pub downloaded: u64,
    /// Bytes missing.
    pub left: u64,
    /// Why.
    pub event: Event,
    /// How many peers are wanted.
    pub want: u32,
    /// What the tracker called this peer in its last answer.
    pub tracker_id: Option<Vec<u8>>,
}

/// The answer to an announce.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// How long to wait before the next regular announce.
    pub interval: Option<Duration>,
    /// How long to wait at the least.
    pub min_interval: Option<Duration>,
    /// Peers that have everything.
    pub seeders: Option<u32>,
    /// Peers that do not.
    pub leechers: Option<u32>,
    /// Some of them; at most a thousand.
    pub peers: Vec<SocketAddr>,
    /// What to send in later announces.
    pub tracker_id: Option<Vec<u8>>,
    /// What the tracker wants people to know.
    pub warning: Option<String>,
    /// The address that the tracker sees this node at (BEP 24).
    pub external_ip: Option<IpAddr>,
}

/// The size of a swarm, by scrape (BEP 48, BEP 15).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwarmSize {
    /// Peers that have everything.
    pub seeders: u32,
    /// Downloads that were completed, ever.
    pub completed: u32,
    /// Peers that do not have everything.
    pub leechers: u32,
}

/// When a tracker that refused wants to be asked again (BEP 31).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Not before this much time.
    After(Duration),
    /// Not again.
    Never,
}

/// Why a tracker gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum TrackerError {
    /// The URL is none, or of another kind.
    #[error("expected a tracker's URL with http, https or udp, got {0}")]
    Url(String),
    /// It answered, with a refusal.
    #[error("refused: {reason}")]
    Refused {
        /// In its own words.
        reason: String,
        /// When it wants to be asked again, if it said so.
        retry: Option<Retry>,
    },
    /// The exchange over HTTP failed.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The answer over HTTP makes no sense.
    #[error(transparent)]
    Answer(#[from] HttpTrackerError),
    /// The exchange over UDP failed.
    #[error(transparent)]
    Udp(#[from] UdpError),
}

/// A tracker's own words, fit to be shown: short, on one line, without control characters.
pub(super) fn text(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(MAX_TEXT)];
    String::from_utf8_lossy(bytes).chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

/// Peers as six bytes each (BEP 23); `None` if the length fits no list of them.
pub(super) fn compact_v4(bytes: &[u8]) -> Option<Vec<SocketAddr>> {
    let (peers, rest) = bytes.as_chunks::<6>();
    let addr = |[a, b, c, d, high, low]: &[u8; 6]| {
        SocketAddr::new(IpAddr::from([*a, *b, *c, *d]), u16::from_be_bytes([*high, *low]))
    };
    rest.is_empty().then(|| peers.iter().take(MAX_PEERS).map(addr).collect())
}

/// Peers as eighteen bytes each (BEP 7); `None` if the length fits no list of them.
pub(super) fn compact_v6(bytes: &[u8]) -> Option<Vec<SocketAddr>> {
    let (peers, rest) = bytes.as_chunks::<18>();
    let addr = |peer: &[u8; 18]| {
        let (ip, port) = peer.split_first_chunk::<16>()?;
        let port = port.first_chunk::<2>()?;
        Some(SocketAddr::new(IpAddr::from(*ip), u16::from_be_bytes(*port)))
    };
    rest.is_empty().then(|| peers.iter().take(MAX_PEERS).filter_map(addr).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compact_peers() {
        let v4 = compact_v4(&[127, 0, 0, 1, 0x1a, 0xe1, 1, 2, 3, 4, 0, 1]).unwrap();
        assert_eq!(v4, ["127.0.0.1:6881".parse().unwrap(), "1.2.3.4:1".parse().unwrap()]);
        let mut one = vec![0; 15];
        one.extend([1, 0x1a, 0xe1]);
        assert_eq!(compact_v6(&one).unwrap(), ["[::1]:6881".parse().unwrap()]);
        assert_eq!(compact_v4(&[1; 7]), None);
        assert_eq!(compact_v6(&[1; 17]), None);
        assert_eq!(compact_v4(&[1; 6 * 5000]).unwrap().len(), MAX_PEERS);
    }

    #[test]
    fn strangers_words_are_fit_to_be_shown() {
        assert_eq!(text(b"go\x1b[31m\naway"), "go [31m away");
        assert!(text(&[b'x'; 10_000]).len() <= MAX_TEXT);
    }
}
