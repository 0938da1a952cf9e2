//! Peers that peers name each other (BEP 11).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};

use super::WireError;
use crate::types::bencode::{Value, put_bytes};

/// Peers of one kind (added or dropped; IPv4 or IPv6) that are read from one message. Senders are to keep to 50 of
/// both families together, except in the first message.
pub const MAX_PEX_PEERS: usize = 100;

const SEED: u8 = 0x02;
const REACHABLE: u8 = 0x10;

/// A peer that is named to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PexPeer {
    /// Where it takes connections.
    pub addr: SocketAddr,
    /// Whether it takes nothing: it has everything, or wants no more.
    pub is_seed: bool,
    /// Whether the sender has dialled it with success.
    pub is_reachable: bool,
}

/// A message of [`super::UT_PEX`]: what changed since the sender's last one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PexMessage {
    /// Peers that the sender is connected to.
    pub added: Vec<PexPeer>,
    /// Those that it no longer is.
    pub dropped: Vec<SocketAddr>,
}

impl PexMessage {
    /// The payload of the extension's message.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::from(&b"d"[..]);
        for (key, flags_key, v4) in [("added", "added.f", true), ("added6", "added6.f", false)] {
            let family = || self.added.iter().filter(|peer| peer.addr.is_ipv4() == v4);
            put_bytes(&mut out, key.as_bytes());
            put_bytes(&mut out, &family().flat_map(|peer| compact(peer.addr)).collect::<Vec<_>>());
            let flag = |set: bool, flag: u8| if set { flag } else { 0 };
            let flags = family().map(|peer| flag(peer.is_seed, SEED) | flag(peer.is_reachable, REACHABLE));
            put_bytes(&mut out, flags_key.as_bytes());
            put_bytes(&mut out, &flags.collect::<Vec<_>>());
        }
        for (key, v4) in [("dropped", true), ("dropped6", false)] {
            let family = self.dropped.iter().filter(|addr| addr.is_ipv4() == v4);
            put_bytes(&mut out, key.as_bytes());
            put_bytes(&mut out, &family.flat_map(|addr| compact(*addr)).collect::<Vec<_>>());
        }
        out.put_u8(b'e');
        out.freeze()
    }

    /// Reads the payload of the extension's message. Fields of the wrong type count as absent, what is beyond
    /// [`MAX_PEX_PEERS`] or has no port is left out.
    ///
    /// # Errors
    /// When the payload does not start with a dictionary.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let Some((dict @ Value::Dict(_), _)) = Value::read(payload) else {
            return Err(WireError::Extension("a bencoded dictionary as peer exchange"));
        };
        let bytes = |key| dict.get(key).and_then(Value::bytes).unwrap_or_default();
        let mut message = Self::default();
        for (key, flags_key, v4) in [("added", "added.f", true), ("added6", "added6.f", false)] {
            let flags = bytes(flags_key);
            let peers = addresses(bytes(key), v4).map(|(at, addr)| {
                let flags = flags.get(at).copied().unwrap_or_default();
                PexPeer { addr, is_seed: flags & SEED != 0, is_reachable: flags & REACHABLE != 0 }
            });
            message.added.extend(peers);
        }
        for (key, v4) in [("dropped", true), ("dropped6", false)] {
            message.dropped.extend(addresses(bytes(key), v4).map(|(_, addr)| addr));
        }
        Ok(message)
    }
}

/// An address as 6 or 18 bytes (BEP 23, BEP 7).
fn compact(addr: SocketAddr) -> Vec<u8> {
    let mut out = match addr.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    out.extend(addr.port().to_be_bytes());
    out
}

/// Compact addresses, with their places in the list.
fn addresses(bytes: &[u8], v4: bool) -> impl Iterator<Item = (usize, SocketAddr)> + '_ {
    let all = bytes.chunks_exact(if v4 { 6 } else { 18 }).take(MAX_PEX_PEERS);
    let read = |bytes: &[u8]| {
        let (ip, port) = bytes.split_last_chunk::<2>()?;
        let ip = match <[u8; 4]>::try_from(ip) {
            Ok(v4) => Ipv4Addr::from(v4).into(),
            Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?).to_canonical(),
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes(*port)))
    };
    all.enumerate().filter_map(move |(at, bytes)| Some((at, read(bytes)?))).filter(|(_, addr)| addr.port() != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_addr() -> impl Strategy<Value = SocketAddr> {
        let ip = prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(|ip| IpAddr::from(ip).to_canonical()),
        ];
        (ip, 1u16..).prop_map(|(ip, port)| SocketAddr::new(ip, port))
    }

    proptest! {
        #[test]
        fn messages_round_trip(
            peers in prop::collection::vec((any_addr(), any::<bool>(), any::<bool>()), 0..100),
            mut dropped in prop::collection::vec(any_addr(), 0..100),
        ) {
            let peer = |(addr, is_seed, is_reachable)| PexPeer { addr, is_seed, is_reachable };
            let mut added: Vec<_> = peers.into_iter().map(peer).collect();
            added.sort_by_key(|peer| peer.addr.is_ipv6());
            dropped.sort_by_key(SocketAddr::is_ipv6);
            let message = PexMessage { added, dropped };
            let bytes = message.encode();
            prop_assert_eq!(PexMessage::decode(&bytes), Ok(message));
            for cut in 0..bytes.len() {
                prop_assert!(PexMessage::decode(&bytes[..cut]).is_err());
            }
        }
    }

    #[test]
    fn a_message_as_clients_send_it() {
        let bytes = b"d5:added12:\x01\x02\x03\x04\x1a\xe1\x05\x06\x07\x08\x00\x007:added.f2:\x12\x007:dropped7:\x09\x09\x09\x09\x00\x50\x01e";
        let message = PexMessage::decode(bytes).unwrap();
        let peer = PexPeer { addr: ([1, 2, 3, 4], 6881).into(), is_seed: true, is_reachable: true };
        assert_eq!(message, PexMessage { added: vec![peer], dropped: vec![([9, 9, 9, 9], 80).into()] });
        assert_eq!(PexMessage::decode(b"d5:addedi1e7:added.flee"), Ok(PexMessage::default()));
        assert!(PexMessage::decode(b"le").is_err());
    }

    #[test]
    fn floods_are_cut() {
        let mut bytes = b"d5:added60000:".to_vec();
        bytes.extend([7; 60_000]);
        bytes.push(b'e');
        assert_eq!(PexMessage::decode(&bytes).unwrap().added.len(), MAX_PEX_PEERS);
    }
}
