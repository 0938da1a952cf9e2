//! Who is at the other end, and how to reach them.

use core::net::SocketAddr;
use std::fmt;
use std::str::FromStr;

/// The 20-byte peer id of a BitTorrent handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WirePeerId(pub [u8; 20]);

/// One connection of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// Where a peer can be dialled.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerAddr {
    /// A libp2p multiaddr as text, with the peer id in its last component where it is known.
    Libp2p(String),
    /// A BitTorrent peer.
    Socket(SocketAddr),
    /// A server that has the files under this URL (BEP 19).
    Web(String),
    /// A peer of the in-memory transport of tests.
    Memory(u64),
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Libp2p(multiaddr) => f.write_str(multiaddr),
            Self::Socket(addr) => addr.fmt(f),
            Self::Web(url) => f.write_str(url),
            Self::Memory(port) => write!(f, "memory:{port}"),
        }
    }
}

impl FromStr for PeerAddr {
    type Err = PeerAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with('/') {
            return Ok(Self::Libp2p(text.to_owned()));
        }
        text.parse().map(Self::Socket).map_err(|_| PeerAddrError(text.to_owned()))
    }
}

/// A text that names no peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a peer as a multiaddr (/ip4/192.0.2.1/tcp/4001/p2p/12D3Koo…) or host:port, got {0:?}")]
pub struct PeerAddrError(pub String);

/// Who a peer is, as far as the transport can tell: what a ban applies to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerIdentity {
    /// A libp2p peer id: proven by its key.
    Node(NodeName),
    /// An address: all that plain TCP proves.
    Ip(core::net::IpAddr),
    /// A web seed, by its URL: other URLs of the same server may be good.
    Web(String),
    /// A peer of the in-memory transport of tests.
    Memory(u64),
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => f.write_str(&name.0),
            Self::Ip(ip) => ip.fmt(f),
            Self::Web(url) => f.write_str(url),
            Self::Memory(port) => write!(f, "memory:{port}"),
        }
    }
}

/// A libp2p peer id in its usual text form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_addresses_round_trip() {
        for text in ["/ip4/127.0.0.1/tcp/4001", "127.0.0.2:6881", "[::1]:6881"] {
            assert_eq!(text.parse::<PeerAddr>().unwrap().to_string(), text);
        }
        assert!("localhost".parse::<PeerAddr>().is_err());
    }
}
