//! The peer wire protocol: bytes to values and back, over any byte stream.
//!
//! A stream begins with a [`Handshake`] each way, then carries frames: a length, an id, a payload. [`Decoder`] takes
//! bytes as they arrive, split anywhere, and yields [`Frame`]s without copying payloads; [`encode`] and
//! [`encode_piece_header`] make bytes. Nothing here knows a torrent: whether an index exists or an answer was asked
//! for is for the engine to judge. What is refused here is what no torrent could make right: frames beyond the
//! limits, and payloads of the wrong shape.

mod codec;
mod extension;
mod handshake;
mod message;
mod pex;
mod update;

pub use codec::{Decoder, Frame, MAX_PAYLOAD, PIECE_HEADER_LEN, WireError, encode, encode_piece_header};
pub use extension::{
    EXTENSION_HANDSHAKE_ID, ExtensionHandshake, KNOT_METAINFO, KNOT_METAINFO_ID, METADATA_PIECE_LEN, MetadataMessage,
    UT_METADATA, UT_METADATA_ID, UT_PEX, UT_PEX_ID,
};
pub use handshake::HANDSHAKE_LEN;
pub use message::{Handshake, HashRequest, Message};
pub use pex::{MAX_PEX_PEERS, PexMessage, PexPeer};
pub use update::{KNOT_UPDATE, KNOT_UPDATE_ID, UpdateMessage};
