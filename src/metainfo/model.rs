//! The metainfo as a value.

use bytes::Bytes;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::entry::{check_symlinks, rename_conflicts};
use super::tree::{Node, TreeKind, file_root};
use super::{Entry, EntryKind, Layout, MetainfoError, SecretKey, TreePath, decode, encode, keys};
use crate::types::{
    Digest, FileIndex, FileRoot, HashAlgorithm, InfoHash, InfoId, InfoSig, PeerAddr, PieceIndex, PublicKey, SwarmId,
};

/// Bytes of the largest metainfo.
pub const MAX_METAINFO_LEN: usize = 8 << 20;
/// Entries that a torrent may have; also directories.
pub const MAX_FILES: usize = 1_000_000;
/// Pieces that a torrent may have.
pub const MAX_PIECES: usize = 2_000_000;
/// Bytes of the smallest piece length.
pub const MIN_PIECE_LENGTH: u32 = 16 << 10;
/// Bytes of the largest piece length.
pub const MAX_PIECE_LENGTH: u32 = 64 << 20;

/// A native metainfo, verified: its InfoHash is that of its `info`, its signature is the key's, its paths stay inside
/// the torrent, and the roots of its files follow from its piece hashes.
#[derive(Clone)]
pub struct Metainfo {
    bytes: Bytes,
    info: Bytes,
    info_hash: InfoHash,
    signature: Option<(InfoSig, PublicKey)>,
    created_at: Option<i64>,
    peers: Vec<PeerAddr>,
    name: String,
    algorithm: HashAlgorithm,
    layout: Layout,
    /// Digests end to end.
    pieces: Vec<u8>,
    entries: Vec<Entry>,
    /// The non-empty files that have roots, by root.
    by_root: Vec<(FileRoot, FileIndex)>,
}

impl Metainfo {
    /// Reads and verifies a `.knot` envelope, as `schema/metainfo.md` describes it.
    ///
    /// # Errors
    /// When it is not one, breaks a limit, or anything in it does not verify.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetainfoError> {
        if bytes.len() > MAX_METAINFO_LEN {
            return Err(MetainfoError::TooLarge { got: bytes.len() });
        }
        Self::from_bytes(Bytes::copy_from_slice(bytes))
    }

    /// [`Metainfo::parse`] of bytes that are kept as they are.
    ///
    /// # Errors
    /// As [`Metainfo::parse`].
    pub fn from_bytes(bytes: Bytes) -> Result<Self, MetainfoError> {
        let envelope = decode::envelope(&bytes)?;
        let info = decode::info(envelope.info)?;
        let info_hash = check_info_hash(info.algorithm, &envelope)?;
        let signature = check_signature(&envelope, &info_hash)?;
        let name = TreePath::new(info.name)?;
        if name.parent().is_some() {
            return Err(MetainfoError::Field { key: "name", expected: "one name", got: format!("{name:?}") });
        }
        let mut entries = info.entries;
        let piece_length = check_piece_length(info.algorithm, info.piece_length)?;
        let lengths: Vec<u64> = entries.iter().map(Entry::length).collect();
        let layout = Layout::new(piece_length, info.algorithm.verifies_blocks(), &lengths)?;
        check_pieces(info.algorithm, &layout, &info.pieces)?;
        let pieces = info.pieces.concat();
        let by_root = check_roots(info.algorithm, &layout, &pieces, &mut entries)?;
        rename_conflicts(&mut entries)?;
        check_symlinks(&entries)?;
        let peers = envelope.peers.iter().filter_map(|peer| peer.parse().ok()).collect();
        let (info_bytes, name) = (bytes.slice_ref(envelope.info), name.to_string());
        let (algorithm, created_at) = (info.algorithm, envelope.created_at);
        Ok(Self {
            info: info_bytes,
            info_hash,
            signature,
            created_at,
            peers,
            name,
            algorithm,
            layout,
            pieces,
            entries,
            by_root,
            bytes,
        })
    }

    /// The same metainfo, signed by `key`; a signature that it has is replaced.
    ///
    /// # Errors
    /// When it would become larger than a metainfo may be.
    pub fn sign(&self, key: &SecretKey) -> Result<Self, MetainfoError> {
        let mut pairs = decode::pairs(&self.bytes)?;
        encode::put_signature(&mut pairs, &key.public(), &key.sign(&self.info_hash));
        Self::from_bytes(encode::dictionary(&pairs).into())
    }

    /// The whole envelope, as it came.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The bencoded `info`, as it came: what the InfoHash is the hash of.
    pub fn info_bytes(&self) -> &Bytes {
        &self.info
    }

    /// The hash of `info`.
    pub fn info_hash(&self) -> InfoHash {
        self.info_hash
    }

    /// The publisher's signature of the InfoHash, if it is signed.
    pub fn info_sig(&self) -> Option<InfoSig> {
        self.signature.map(|(sig, _)| sig)
    }

    /// The publisher's key, if it is signed.
    pub fn public_key(&self) -> Option<PublicKey> {
        self.signature.map(|(_, key)| key)
    }

    /// The InfoSig if it is signed, else the InfoHash.
    pub fn info_id(&self) -> InfoId {
        self.info_sig().map_or(InfoId::Hash(self.info_hash), InfoId::Sig)
    }

    /// The swarms that it is served in, the InfoID's first.
    pub fn swarm_ids(&self) -> Vec<SwarmId> {
        let sig = self.info_sig().map(InfoId::Sig);
        sig.into_iter().chain([InfoId::Hash(self.info_hash)]).map(|id| id.swarm_id()).collect()
    }

    /// Whether `id` names it: its InfoHash, or its InfoSig.
    pub fn matches(&self, id: &InfoId) -> bool {
        match id {
            InfoId::Hash(hash) => *hash == self.info_hash,
            InfoId::Sig(sig) => self.info_sig().as_ref() == Some(sig),
        }
    }

    /// The name of the torrent: one name, fit for a file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is a single file with the torrent's own name, not a directory.
    pub fn is_single_file(&self) -> bool {
        matches!(&self.entries[..], [only] if only.is_file() && only.path.as_str() == self.name)
    }

    /// How pieces, and `info`, are hashed.
    pub fn algorithm(&self) -> HashAlgorithm {
        self.algorithm
    }

    /// Bytes of every piece but short ones.
    pub fn piece_length(&self) -> u32 {
        self.layout.piece_length()
    }

    /// How many pieces there are.
    pub fn piece_count(&self) -> u32 {
        self.layout.piece_count()
    }

    /// The hash of `piece`; `None` if there is no such piece.
    pub fn piece_hash(&self, piece: PieceIndex) -> Option<Digest> {
        let len = self.algorithm.digest_len();
        let start = (piece.0 as usize).checked_mul(len)?;
        Digest::from_slice(self.pieces.get(start..start.checked_add(len)?)?)
    }

    /// Files, empty directories and symlinks; a [`FileIndex`] counts them.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry with index `file`.
    pub fn entry(&self, file: FileIndex) -> Option<&Entry> {
        self.entries.get(file.0 as usize)
    }

    /// Where the files lie on the pieces; entries other than files have no bytes.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Bytes of all files.
    pub fn total_length(&self) -> u64 {
        self.layout.total_length()
    }

    /// When it was made, in seconds since 1970. Neither hashed nor signed.
    pub fn created_at(&self) -> Option<i64> {
        self.created_at
    }

    /// Peers that the envelope suggests. Neither hashed nor signed: anyone may have put them there.
    pub fn peers(&self) -> &[PeerAddr] {
        &self.peers
    }

    /// The root of `file`, in a torrent with hash trees; `None` of empty files and what is no file.
    pub fn file_root(&self, file: FileIndex) -> Option<FileRoot> {
        match self.entry(file)?.kind {
            EntryKind::File { root, .. } => root,
            EntryKind::Directory | EntryKind::Symlink { .. } => None,
        }
    }

    /// The root of the file that `piece` belongs to, in a torrent with hash trees.
    pub(super) fn root_of_piece(&self, piece: PieceIndex) -> Option<Node> {
        let (file, _) = self.layout.file_of_piece(piece)?;
        self.file_root(file).map(|root| root.0)
    }

    /// The files with `root`, in order.
    pub(super) fn files_with_root(&self, root: &Node) -> impl Iterator<Item = FileIndex> + '_ {
        let root = FileRoot(*root);
        let first = self.by_root.partition_point(|(other, _)| *other < root);
        self.by_root[first..].iter().take_while(move |(other, _)| *other == root).map(|(_, file)| *file)
    }
}

impl std::fmt::Debug for Metainfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (id, name, files) = (self.info_id(), &self.name, self.entries.len());
        write!(f, "Metainfo({id} {name:?}, {files} entries, {} pieces)", self.piece_count())
    }
}

/// The hash of a bencoded `info` in a torrent of `algorithm`.
pub(super) fn hash_info(algorithm: HashAlgorithm, info: &[u8]) -> InfoHash {
    InfoHash(match algorithm {
        HashAlgorithm::Sha1 => Digest::from(<[u8; 20]>::from(Sha1::digest(info))),
        HashAlgorithm::Sha256 | HashAlgorithm::Sha256Merkle => Digest::from(<[u8; 32]>::from(Sha256::digest(info))),
        HashAlgorithm::Blake3 => Digest::from(*blake3::hash(info).as_bytes()),
    })
}

fn check_info_hash(algorithm: HashAlgorithm, envelope: &decode::Envelope<'_>) -> Result<InfoHash, MetainfoError> {
    let expected = InfoHash::from_slice(envelope.info_hash).ok_or_else(|| MetainfoError::Field {
        key: "infohash",
        expected: "20 or 32 bytes",
        got: format!("{} bytes", envelope.info_hash.len()),
    })?;
    match hash_info(algorithm, envelope.info) {
        got if got == expected => Ok(got),
        got => Err(MetainfoError::InfoHash { expected, got }),
    }
}

fn check_signature(
    envelope: &decode::Envelope<'_>,
    info_hash: &InfoHash,
) -> Result<Option<(InfoSig, PublicKey)>, MetainfoError> {
    let wrong = |key, expected, got: &[u8]| MetainfoError::Field { key, expected, got: format!("{} bytes", got.len()) };
    let (sig, key) = match (envelope.info_sig, envelope.pub_key) {
        (None, None) => return Ok(None),
        (Some(_), None) => return Err(MetainfoError::Missing("pub key")),
        (None, Some(_)) => return Err(MetainfoError::Missing("infosig")),
        (Some(sig), Some(key)) => (sig, key),
    };
    if let Some(algo) = envelope.info_sig_algo.filter(|algo| *algo != b"ed25519") {
        let algo = super::path::shorten(&String::from_utf8_lossy(algo));
        return Err(MetainfoError::SignatureAlgorithm(algo));
    }
    let sig = InfoSig(sig.try_into().map_err(|_| wrong("infosig", "64 bytes", sig))?);
    let key = PublicKey(key.try_into().map_err(|_| wrong("pub key", "32 bytes", key))?);
    match keys::verify(&key, info_hash, &sig) {
        true => Ok(Some((sig, key))),
        false => Err(MetainfoError::Signature { public_key: key.to_string() }),
    }
}

fn check_piece_length(algorithm: HashAlgorithm, digits: &str) -> Result<u32, MetainfoError> {
    let power_of_two = algorithm.verifies_blocks();
    let fits = |length: &u32| {
        (MIN_PIECE_LENGTH..=MAX_PIECE_LENGTH).contains(length) && (!power_of_two || length.is_power_of_two())
    };
    let error = || MetainfoError::PieceLength { power_of_two, got: super::path::shorten(digits) };
    digits.parse().ok().filter(fits).ok_or_else(error)
}

fn check_pieces(algorithm: HashAlgorithm, layout: &Layout, pieces: &[&[u8]]) -> Result<(), MetainfoError> {
    let count = layout.piece_count();
    if count as usize > MAX_PIECES || u64::from(count) * u64::from(layout.blocks_per_piece()) > u64::from(u32::MAX) {
        return Err(MetainfoError::TooManyPieces);
    }
    if pieces.len() != count as usize {
        return Err(MetainfoError::PieceCount { expected: count, got: pieces.len() });
    }
    let expected = if algorithm.digest_len() == 20 { "hashes of 20 bytes" } else { "hashes of 32 bytes" };
    match pieces.iter().find(|piece| piece.len() != algorithm.digest_len()) {
        Some(odd) => Err(MetainfoError::Field { key: "pieces", expected, got: format!("{} bytes", odd.len()) }),
        None => Ok(()),
    }
}

/// Gives each file the root that its piece hashes have, and no other: whoever could choose a root could make one
/// file pass for another in a cache that is shared by root.
fn check_roots(
    algorithm: HashAlgorithm,
    layout: &Layout,
    pieces: &[u8],
    entries: &mut [Entry],
) -> Result<Vec<(FileRoot, FileIndex)>, MetainfoError> {
    let kind = TreeKind::of(algorithm);
    let (nodes, _) = pieces.as_chunks::<32>();
    let mut by_root = Vec::new();
    for (entry, index) in entries.iter_mut().zip(0..) {
        let EntryKind::File { root, length, .. } = &mut entry.kind else { continue };
        let (Some(kind), 1..) = (kind, *length) else {
            *root = None;
            continue;
        };
        let range = layout.pieces_of(FileIndex(index));
        let mut nodes = nodes[range.start as usize..range.end as usize].to_vec();
        let computed = FileRoot(file_root(kind, layout.blocks_per_piece(), &mut nodes));
        if let Some(got) = root.replace(computed).filter(|got| *got != computed) {
            let path = super::path::shorten(entry.path.as_str());
            return Err(MetainfoError::Root { path, expected: computed.to_string(), got: got.to_string() });
        }
        by_root.push((computed, FileIndex(index)));
    }
    by_root.sort_unstable();
    Ok(by_root)
}
