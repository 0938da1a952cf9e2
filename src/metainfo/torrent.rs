//! Torrents of other forms: read into a metainfo, and made.

use std::sync::Arc;

use bytes::Bytes;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::bencode::Value;
use super::entry::{check_symlinks, rename_conflicts};
use super::hybrid::{self, V2Form};
use super::model::{Extra, Parts};
use super::{Entry, Form, Layout, MetainfoError, TreePath, decode, foreign, native, piece_layers};
use crate::types::{Digest, HashAlgorithm, InfoHash};

/// Reads and verifies the envelope `root` at the start of `bytes` around a foreign `info`.
pub(super) fn read(bytes: Bytes, root: &Value<'_>, form: Form, info: &Value<'_>) -> Result<Parts, MetainfoError> {
    let mut read = foreign::read(form, info)?;
    let v1_hash = || InfoHash(Digest::from(<[u8; 20]>::from(Sha1::digest(info.raw()))));
    let v2_hash = || InfoHash(Digest::from(<[u8; 32]>::from(Sha256::digest(info.raw()))));
    let info_hash = if form == Form::V2 { v2_hash() } else { v1_hash() };
    let envelope = envelope(root, info);
    // An `infohash` of another width is something else: other programs may use that key for what they like.
    if let Some(expected) = InfoHash::from_slice(envelope.info_hash).filter(|expected| *expected != info_hash) {
        return Err(MetainfoError::InfoHash { expected, got: info_hash });
    }
    let signature = native::check_signature(&envelope, &info_hash)?;
    if read.name.is_empty() {
        read.name = info_hash.to_string();
        read.raw_name = read.name.clone().into();
    }
    if read.is_single_file {
        read.entries[0].path = TreePath::new(&read.name)?;
    }
    let (algorithm, layout) = match form {
        Form::V2 => {
            let lengths: Vec<u64> = read.entries.iter().map(Entry::length).collect();
            (HashAlgorithm::Sha256Merkle, Layout::new(read.piece_length, true, &lengths)?)
        }
        _ => (HashAlgorithm::Sha1, Layout::with_padding(read.piece_length, &read.runs)?),
    };
    let count = native::check_piece_count(&layout)?;
    let info_bytes = bytes.slice_ref(info.raw());
    let mut files = match form {
        Form::V2 => piece_layers::files(&read.entries),
        _ => hybrid::files(&layout, &read).unwrap_or_default(),
    };
    let is_twofold = form == Form::Hybrid && !files.is_empty();
    let v2_form = is_twofold.then(|| V2Form::read(root, &layout, &read.entries, &files));
    let pieces: Bytes = match form {
        Form::V2 => piece_layers::read(root, &layout, &read.entries, &files)?.unwrap_or_default().into(),
        _ => info_bytes.slice(read.pieces),
    };
    if form != Form::V2 && pieces.len() != count as usize * algorithm.digest_len() {
        return Err(MetainfoError::PieceCount { expected: count, got: pieces.len() / algorithm.digest_len() });
    }
    files.sort_unstable();
    rename_conflicts(&mut read.entries)?;
    check_symlinks(&read.entries)?;
    let extra = Extra {
        raw_name: read.raw_name,
        v2_hash: (form == Form::Hybrid).then(v2_hash),
        is_private: read.is_private,
        is_single_file: read.is_single_file,
        origins: read.origins,
        roots: read.roots,
    };
    Ok(Parts {
        bytes: bytes.slice_ref(root.raw()),
        info: info_bytes,
        info_hash,
        signature,
        created_at: envelope.created_at,
        peers: envelope.peers.iter().filter_map(|peer| peer.parse().ok()).collect(),
        form,
        name: read.name,
        algorithm,
        layout,
        pieces,
        entries: read.entries,
        by_root: files,
        v2_form,
        foreign: Some(Arc::new(extra)),
        version: None,
    })
}

/// What stands around `info`; what is odd in it is not there, but for a signature, which must verify.
fn envelope<'d>(root: &Value<'d>, info: &Value<'d>) -> decode::Envelope<'d> {
    let bytes = |key: &str| root.get(key).and_then(|value| value.as_bytes());
    let date = root.get("creation date").and_then(|date| date.as_int());
    let peers = root.get("peers").into_iter().flat_map(|peers| peers.items());
    decode::Envelope {
        info: info.raw(),
        info_hash: bytes("infohash").unwrap_or_default(),
        info_sig: bytes("infosig"),
        info_sig_algo: bytes("infosig algo"),
        pub_key: bytes("pub key"),
        created_at: date.filter(|date| decode::DATES.contains(date)),
        peers: peers.filter_map(|peer| decode::peer(peer.as_bytes()?)).take(decode::MAX_PEERS).collect(),
    }
}
