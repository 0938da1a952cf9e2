//! The vocabulary: newtypes for ids, indices and lengths. Knows no other module of knot.

pub mod bencode;
mod bitfield;
mod hash;
mod id;
mod magnet;
mod peer;
mod record;
mod span;
mod stamp;
mod verdict;

pub use bitfield::{Bitfield, BitfieldError};
pub use hash::{Digest, FileRoot, HashAlgorithm, InfoHash, UnknownHashAlgorithm};
pub use id::{IdError, InfoId, InfoSig, PublicKey, SwarmId};
pub use magnet::{Magnet, MagnetError};
pub use peer::{ConnId, NodeName, PeerAddr, PeerAddrError, PeerIdentity, WirePeerId};
pub use record::{MAX_RECORD_LEN, MAX_RECORD_VALUE_LEN, RecordParts};
pub use span::{BLOCK_LEN, BlockIndex, BlockSpan, FileIndex, FileSlice, PieceIndex, ReadId, ReaderId, TorrentKey};
pub use stamp::FileStamp;
pub use verdict::{BlockDigest, PieceOutcome, Verdict};
