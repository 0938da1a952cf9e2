//! The native form: what a `.knot` envelope holds, verified.

use bytes::Bytes;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::entry::{check_symlinks, rename_conflicts};
use super::model::Parts;
use super::tree::{TreeKind, file_root};
use super::{Entry, EntryKind, Form, Layout, MAX_PIECE_LENGTH, MAX_PIECES, MIN_PIECE_LENGTH, MetainfoError, TreePath};
use super::{decode, keys};
use crate::types::{Digest, FileIndex, FileRoot, HashAlgorithm, InfoHash, InfoSig, PublicKey};

/// Reads and verifies a native envelope.
pub(super) fn read(bytes: Bytes) -> Result<Parts, MetainfoError> {
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
    Ok(Parts {
        info: bytes.slice_ref(envelope.info),
        info_hash,
        signature,
        created_at: envelope.created_at,
        peers: envelope.peers.iter().filter_map(|peer| peer.parse().ok()).collect(),
        form: Form::Native,
        name: name.to_string(),
        algorithm: info.algorithm,
        layout,
        pieces: pieces.into(),
        entries,
        by_root,
        v2_form: None,
        foreign: None,
        version: info.version,
        bytes,
    })
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

pub(super) fn check_signature(
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
    match keys::is_signature_of(&key, info_hash, &sig) {
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

/// How many pieces there are, if so many may be.
pub(super) fn check_piece_count(layout: &Layout) -> Result<u32, MetainfoError> {
    let count = layout.piece_count();
    if count as usize > MAX_PIECES || u64::from(count) * u64::from(layout.blocks_per_piece()) > u64::from(u32::MAX) {
        return Err(MetainfoError::TooManyPieces);
    }
    Ok(count)
}

fn check_pieces(algorithm: HashAlgorithm, layout: &Layout, pieces: &[&[u8]]) -> Result<(), MetainfoError> {
    let count = check_piece_count(layout)?;
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
