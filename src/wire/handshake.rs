//! The first 68 bytes of a stream.

use super::{Handshake, WireError};
use crate::types::{SwarmId, WirePeerId};

/// Bytes of a [`Handshake`] on the wire.
pub const HANDSHAKE_LEN: usize = 68;

const PROTOCOL: &[u8; 20] = b"\x13BitTorrent protocol";

/// Capabilities in the reserved bytes: (byte, bit).
const EXTENSIONS: (usize, u8) = (5, 0x10);
const DHT: (usize, u8) = (7, 0x01);
const FAST: (usize, u8) = (7, 0x04);
const HASHES: (usize, u8) = (7, 0x10);

impl Handshake {
    /// The handshake that this node sends: fast extension, extension protocol and hash messages, no mainline DHT.
    pub fn new(swarm: SwarmId, peer_id: WirePeerId) -> Self {
        let mut reserved = [0; 8];
        for (byte, bit) in [EXTENSIONS, FAST, HASHES] {
            reserved[byte] |= bit;
        }
        Self { reserved, swarm, peer_id }
    }

    /// The same without hash messages: for swarms of v1 torrents. There the bit offers to change to v2 (BEP 52), and who
    /// accepts answers with another infohash.
    pub fn without_hashes(mut self) -> Self {
        let (byte, bit) = HASHES;
        self.reserved[byte] &= !bit;
        self
    }

    /// Whether the sender speaks the fast extension (BEP 6).
    pub fn supports_fast(&self) -> bool {
        self.has(FAST)
    }

    /// Whether the sender speaks the extension protocol (BEP 10).
    pub fn supports_extensions(&self) -> bool {
        self.has(EXTENSIONS)
    }

    /// Whether the sender speaks hash requests (the upgrade bit of BEP 52).
    pub fn supports_hashes(&self) -> bool {
        self.has(HASHES)
    }

    /// Whether the sender runs a mainline DHT node (BEP 5).
    pub fn supports_dht(&self) -> bool {
        self.has(DHT)
    }

    /// The 68 bytes.
    pub fn encode(&self) -> [u8; HANDSHAKE_LEN] {
        let mut bytes = [0; HANDSHAKE_LEN];
        bytes[..20].copy_from_slice(PROTOCOL);
        bytes[20..28].copy_from_slice(&self.reserved);
        bytes[28..48].copy_from_slice(&self.swarm.0);
        bytes[48..].copy_from_slice(&self.peer_id.0);
        bytes
    }

    /// The handshake at the start of `bytes`; `None` while it is incomplete.
    ///
    /// # Errors
    /// As soon as a byte rules out that this is a BitTorrent handshake.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        let given = bytes.len().min(PROTOCOL.len());
        if bytes[..given] != PROTOCOL[..given] {
            return Err(WireError::NoHandshake);
        }
        let Some(bytes) = bytes.first_chunk::<HANDSHAKE_LEN>() else { return Ok(None) };
        let (mut reserved, mut swarm, mut peer_id) = ([0; 8], [0; 20], [0; 20]);
        reserved.copy_from_slice(&bytes[20..28]);
        swarm.copy_from_slice(&bytes[28..48]);
        peer_id.copy_from_slice(&bytes[48..]);
        Ok(Some(Self { reserved, swarm: SwarmId(swarm), peer_id: WirePeerId(peer_id) }))
    }

    fn has(&self, (byte, bit): (usize, u8)) -> bool {
        self.reserved[byte] & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_layout() {
        let ours = Handshake::new(SwarmId([7; 20]), WirePeerId([9; 20]));
        let bytes = ours.encode();
        assert_eq!(&bytes[..20], b"\x13BitTorrent protocol");
        assert_eq!(bytes[20..28], [0, 0, 0, 0, 0, 0x10, 0, 0x14]);
        assert_eq!(bytes[28..48], [7; 20]);
        assert_eq!(bytes[48..], [9; 20]);
        assert_eq!(Handshake::decode(&bytes), Ok(Some(ours)));
        assert!(ours.supports_fast() && ours.supports_extensions() && ours.supports_hashes() && !ours.supports_dht());
        assert_eq!(ours.without_hashes().reserved, [0, 0, 0, 0, 0, 0x10, 0, 0x04]);
    }

    #[test]
    fn incomplete_ones_wait_and_wrong_ones_fail_at_once() {
        let bytes = Handshake::new(SwarmId([7; 20]), WirePeerId([9; 20])).encode();
        for cut in 0..HANDSHAKE_LEN {
            assert_eq!(Handshake::decode(&bytes[..cut]), Ok(None));
        }
        for at in 0..20 {
            let mut wrong = bytes;
            wrong[at] ^= 0x20;
            assert_eq!(Handshake::decode(&wrong[..at + 1]), Err(WireError::NoHandshake));
        }
    }
}
