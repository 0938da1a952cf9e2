//! Writing bencode (BEP 3). Keys are written in the order of their bytes by whoever calls; tests read everything
//! back with a strict decoder.

use std::collections::BTreeMap;

use super::create::CreateOptions;
use super::{Entry, EntryKind};
use crate::types::{Digest, FileRoot, InfoHash, InfoSig, PublicKey};

/// Appends a byte string.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes.len().to_string().as_bytes());
    out.push(b':');
    out.extend_from_slice(bytes);
}

/// Appends an integer.
pub(super) fn put_int(out: &mut Vec<u8>, value: i128) {
    out.push(b'i');
    out.extend_from_slice(value.to_string().as_bytes());
    out.push(b'e');
}

/// The native `info` dictionary.
pub(super) fn info(options: &CreateOptions, piece_length: u32, entries: &[Entry], pieces: &[Digest]) -> Vec<u8> {
    let mut out = vec![b'd'];
    put_bytes(&mut out, b"files");
    out.push(b'l');
    entries.iter().for_each(|entry| put_entry(&mut out, entry));
    out.push(b'e');
    put_bytes(&mut out, b"name");
    put_bytes(&mut out, options.name.as_bytes());
    if let Some(version) = &options.version {
        put_bytes(&mut out, b"origin");
        put_bytes(&mut out, &version.origin.0);
    }
    put_bytes(&mut out, b"piece hash algo");
    put_bytes(&mut out, options.algorithm.name().as_bytes());
    put_bytes(&mut out, b"piece length");
    put_int(&mut out, piece_length.into());
    put_bytes(&mut out, b"pieces");
    out.push(b'l');
    pieces.iter().for_each(|piece| put_bytes(&mut out, piece.as_bytes()));
    out.push(b'e');
    if let Some(version) = &options.version {
        put_bytes(&mut out, b"seq");
        put_int(&mut out, version.seq.into());
    }
    out.push(b'e');
    out
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    let attr: &[u8] = match entry.kind {
        EntryKind::File { executable: false, .. } => b"",
        EntryKind::File { executable: true, .. } => b"x",
        EntryKind::Directory => b"d",
        EntryKind::Symlink { .. } => b"l",
    };
    out.push(b'd');
    if !attr.is_empty() {
        put_bytes(out, b"attr");
        put_bytes(out, attr);
    }
    put_bytes(out, b"length");
    put_int(out, entry.length().into());
    put_bytes(out, b"path");
    put_bytes(out, entry.path.as_str().as_bytes());
    if let EntryKind::File { root: Some(FileRoot(root)), .. } = &entry.kind {
        put_bytes(out, b"root");
        put_bytes(out, root);
    }
    if let EntryKind::Symlink { target } = &entry.kind {
        put_bytes(out, b"symlink path");
        put_bytes(out, target.as_bytes());
    }
    out.push(b'e');
}

/// The pairs of an envelope, each value as its bencoded bytes.
pub(super) type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// The pairs of an envelope around `info` alone; its hash is named in a `.knot`.
pub(super) fn bare(info: Vec<u8>, info_hash: Option<&InfoHash>) -> Pairs {
    let mut pairs = Pairs::new();
    pairs.insert(b"info".to_vec(), info);
    if let Some(info_hash) = info_hash {
        put_info_hash(&mut pairs, info_hash);
    }
    pairs
}

/// Puts the InfoHash into an envelope.
pub(super) fn put_info_hash(pairs: &mut Pairs, info_hash: &InfoHash) {
    let mut value = Vec::new();
    put_bytes(&mut value, info_hash.as_bytes());
    pairs.insert(b"infohash".to_vec(), value);
}

/// Puts the date into an envelope.
pub(super) fn put_date(pairs: &mut Pairs, created_at: i64) {
    let mut value = Vec::new();
    put_int(&mut value, created_at.into());
    pairs.insert(b"creation date".to_vec(), value);
}

/// The pairs of an unsigned envelope around `info`.
pub(super) fn envelope(options: &CreateOptions, info: Vec<u8>, info_hash: &InfoHash) -> Pairs {
    let mut pairs = bare(info, Some(info_hash));
    if let Some(created_at) = options.created_at {
        put_date(&mut pairs, created_at);
    }
    if !options.peers.is_empty() {
        let mut value = vec![b'l'];
        options.peers.iter().for_each(|peer| put_bytes(&mut value, peer.to_string().as_bytes()));
        value.push(b'e');
        pairs.insert(b"peers".to_vec(), value);
    }
    pairs
}

/// Puts a signature into an envelope, in place of one that is there.
pub(super) fn put_signature(pairs: &mut Pairs, key: &PublicKey, sig: &InfoSig) {
    for (name, bytes) in [("infosig", &sig.0[..]), ("infosig algo", b"ed25519"), ("pub key", &key.0)] {
        let mut value = Vec::new();
        put_bytes(&mut value, bytes);
        pairs.insert(name.into(), value);
    }
}

/// The bytes of an envelope.
pub(super) fn dictionary(pairs: &Pairs) -> Vec<u8> {
    let mut out = vec![b'd'];
    for (key, value) in pairs {
        put_bytes(&mut out, key);
        out.extend_from_slice(value);
    }
    out.push(b'e');
    out
}

/// Appends `bytes` as they are spelt in the path of a URL.
pub(super) fn put_percent(url: &mut String, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => url.push((*byte).into()),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
}
