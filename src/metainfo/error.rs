//! Why bytes are no metainfo.

use super::{
    LayoutError, MAX_FILES, MAX_METAINFO_LEN, MAX_PIECE_LENGTH, MAX_PIECES, MAX_TORRENT_LEN, MIN_PIECE_LENGTH,
    PathError,
};
use crate::types::{InfoHash, UnknownHashAlgorithm};

/// Why bytes are no metainfo that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetainfoError {
    /// More bytes than a metainfo may have.
    #[error(
        "expected a .knot metainfo of at most {MAX_METAINFO_LEN} bytes or a torrent file of at most {MAX_TORRENT_LEN}, \
         got {got}"
    )]
    TooLarge {
        /// Bytes that came.
        got: usize,
    },
    /// Not bencoded, or cut off.
    #[error(
        "expected a bencoded .knot or .torrent file, got bytes that are not ({0}): check that the file is complete"
    )]
    Bencode(String),
    /// Bytes behind the metainfo.
    #[error("expected the metainfo to end after {expected} bytes, got {got}")]
    TrailingBytes {
        /// Bytes of the metainfo.
        expected: usize,
        /// Bytes that came.
        got: usize,
    },
    /// A key that has to be there is not.
    #[error("expected a .knot or .torrent file with the key {0:?}, got none")]
    Missing(&'static str),
    /// A key with a value of the wrong kind.
    #[error("expected {expected} in {key:?}, got {got}")]
    Field {
        /// The key.
        key: &'static str,
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        got: String,
    },
    /// The hash over `info` is not the one that the envelope names.
    #[error("expected infohash {expected}, got {got} from the info dictionary: the metainfo is damaged or forged")]
    InfoHash {
        /// What the envelope says.
        expected: InfoHash,
        /// What the bytes give.
        got: InfoHash,
    },
    /// The signature is not the key's over this InfoHash.
    #[error(
        "expected the signature of public key {public_key}, got one that does not verify: do not trust this metainfo"
    )]
    Signature {
        /// The key in the envelope, in hex.
        public_key: String,
    },
    /// A signature of another kind.
    #[error("expected \"ed25519\" in \"infosig algo\", got {0:?}")]
    SignatureAlgorithm(String),
    /// A hash algorithm that knot does not have.
    #[error(transparent)]
    HashAlgorithm(#[from] UnknownHashAlgorithm),
    /// A piece length out of bounds.
    #[error(
        "expected a piece length from {MIN_PIECE_LENGTH} to {MAX_PIECE_LENGTH} bytes\
         {}, got {got}", if *.power_of_two { ", a power of two" } else { "" }
    )]
    PieceLength {
        /// Whether the algorithm asks for a power of two.
        power_of_two: bool,
        /// What is there.
        got: String,
    },
    /// More entries than a torrent may have.
    #[error("expected at most {MAX_FILES} files, got more")]
    TooManyFiles,
    /// More pieces than a torrent may have.
    #[error("expected at most {MAX_PIECES} pieces, got more: choose a larger piece length")]
    TooManyPieces,
    /// Not one hash for each piece.
    #[error("expected {expected} piece hashes for the lengths of the files, got {got}")]
    PieceCount {
        /// Pieces that the files take.
        expected: u32,
        /// Hashes in `pieces`.
        got: usize,
    },
    /// Lengths that cannot be laid out.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A path out of the torrent.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The root of a file is not the root of its pieces.
    #[error("expected root {expected} of {path:?} from its piece hashes, got {got}")]
    Root {
        /// Which file.
        path: String,
        /// What the pieces give.
        expected: String,
        /// What the file's dictionary says.
        got: String,
    },
    /// A symlink that may leave the torrent.
    #[error("expected the symlink {path:?} to stay inside the torrent, got target {target:?}")]
    Symlink {
        /// Where the symlink lies.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// Not as many piece hashes of a file of a v2 torrent as it has pieces.
    #[error(
        "expected {expected} bytes of hashes of {path:?} in \"piece layers\", got {got}: the torrent file is damaged"
    )]
    PieceLayer {
        /// Which file.
        path: String,
        /// Bytes of the hashes of its pieces.
        expected: usize,
        /// Bytes that are there.
        got: usize,
    },
    /// A BitTorrent v2 torrent without the hashes of its pieces, where content is wanted.
    #[error("expected the hashes of the pieces in \"piece layers\", got none or not all: they have to come from peers")]
    NoLayers,
}
