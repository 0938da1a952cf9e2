//! The peer messages, as values.

use bytes::Bytes;

use crate::types::{BlockSpan, PieceIndex, SwarmId, WirePeerId};

/// The first 68 bytes each way (BEP 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// Capability bits.
    pub reserved: [u8; 8],
    /// The swarm that the stream is for.
    pub swarm: SwarmId,
    /// The sender's id in this swarm.
    pub peer_id: WirePeerId,
}

/// A peer message other than `piece`, whose payload goes another way ([`super::Frame`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Nothing, every two minutes (BEP 3).
    KeepAlive,
    /// Requests will not be answered (BEP 3).
    Choke,
    /// Requests will be answered (BEP 3).
    Unchoke,
    /// The sender wants a piece that the receiver has (BEP 3).
    Interested,
    /// It does not (BEP 3).
    NotInterested,
    /// The sender has verified a piece (BEP 3).
    Have(PieceIndex),
    /// What the sender has; its length can be checked only against a metainfo (BEP 3).
    Bitfield(Bytes),
    /// Please send a block (BEP 3).
    Request(BlockSpan),
    /// Please do not (BEP 3).
    Cancel(BlockSpan),
    /// The sender's mainline DHT port (BEP 5).
    Port(u16),
    /// A piece that would be cheap to send (BEP 6).
    Suggest(PieceIndex),
    /// The sender has every piece (BEP 6).
    HaveAll,
    /// The sender has no piece (BEP 6).
    HaveNone,
    /// A request will not be answered (BEP 6).
    Reject(BlockSpan),
    /// A piece that may be requested while choked (BEP 6).
    AllowedFast(PieceIndex),
    /// An extension's message; id 0 is the extension handshake (BEP 10).
    Extended {
        /// The receiver's number for the extension.
        id: u8,
        /// The extension's own format.
        payload: Bytes,
    },
    /// Please send hashes of a file's tree (BEP 52).
    HashRequest(HashRequest),
    /// Hashes of a file's tree (BEP 52).
    Hashes {
        /// What was asked for.
        request: HashRequest,
        /// `request.length` hashes of 32 bytes, then the uncle hashes that prove them.
        hashes: Bytes,
    },
    /// A hash request will not be answered (BEP 52).
    HashReject(HashRequest),
}

/// A range of hashes in one layer of a file's tree (BEP 52).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HashRequest {
    /// The file's root.
    pub root: [u8; 32],
    /// The layer, counted from the leaves.
    pub base_layer: u32,
    /// First hash, counted in that layer; a multiple of `length`.
    pub index: u32,
    /// Hashes: a power of two, at least 2.
    pub length: u32,
    /// Uncle layers that prove them.
    pub proof_layers: u32,
}
