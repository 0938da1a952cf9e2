//! Reading the bencoded native form, strictly: sorted keys, canonical integers, nothing behind the end.

use bendy::decoding::{Decoder, DictDecoder, Object};

use super::encode::{Pairs, put_bytes};
use super::path::{TreePath, shorten};
use super::{DatasetVersion, Entry, EntryKind, MAX_FILES, MAX_METAINFO_LEN, MAX_PIECES, MetainfoError};
use crate::types::{FileRoot, HashAlgorithm, InfoSig};

/// Levels of lists and dictionaries that are followed.
const MAX_DEPTH: usize = 100;
/// Peers that an envelope may suggest; the rest is not read.
pub(super) const MAX_PEERS: usize = 1000;
/// Bytes of the longest peer address that is read.
const MAX_PEER_LEN: usize = 512;
/// Seconds since 1970, up to the year 9999.
pub(super) const DATES: std::ops::RangeInclusive<i64> = 0..=253_402_300_799;

/// What is in an envelope, unverified.
pub(super) struct Envelope<'a> {
    /// The bencoded `info`, as it came.
    pub(super) info: &'a [u8],
    pub(super) info_hash: &'a [u8],
    pub(super) info_sig: Option<&'a [u8]>,
    pub(super) info_sig_algo: Option<&'a [u8]>,
    pub(super) pub_key: Option<&'a [u8]>,
    pub(super) created_at: Option<i64>,
    pub(super) peers: Vec<String>,
}

/// What is in a native `info`, unverified but for the paths.
pub(super) struct Info<'a> {
    pub(super) name: &'a str,
    pub(super) algorithm: HashAlgorithm,
    /// Digits of an integer that may be of any size.
    pub(super) piece_length: &'a str,
    pub(super) pieces: Vec<&'a [u8]>,
    /// Roots are as they came.
    pub(super) entries: Vec<Entry>,
    pub(super) version: Option<DatasetVersion>,
}

/// Reads an envelope; `info` in it is only skipped.
pub(super) fn envelope(bytes: &[u8]) -> Result<Envelope<'_>, MetainfoError> {
    if bytes.len() > MAX_METAINFO_LEN {
        return Err(MetainfoError::TooLarge { got: bytes.len() });
    }
    let (mut info, mut info_hash) = (None, None);
    let (mut info_sig, mut info_sig_algo, mut pub_key) = (None, None, None);
    let (mut created_at, mut peers) = (None, Vec::new());
    dictionary(bytes, |key, value| {
        match key {
            b"info" => info = Some(raw_dictionary(value)?),
            b"infohash" => info_hash = Some(byte_string("infohash", value)?),
            b"infosig" => info_sig = Some(byte_string("infosig", value)?),
            b"infosig algo" => info_sig_algo = Some(byte_string("infosig algo", value)?),
            b"pub key" => pub_key = Some(byte_string("pub key", value)?),
            b"creation date" => created_at = Some(date(value)?),
            b"peers" => peers = peer_list(value)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(Envelope {
        info: info.ok_or(MetainfoError::Missing("info"))?,
        info_hash: info_hash.ok_or(MetainfoError::Missing("infohash"))?,
        info_sig,
        info_sig_algo,
        pub_key,
        created_at,
        peers,
    })
}

/// The pairs of an envelope that has been read before, to be written again with another signature.
pub(super) fn pairs(bytes: &[u8]) -> Result<Pairs, MetainfoError> {
    let mut pairs = Pairs::new();
    dictionary(bytes, |key, value| {
        let mut raw = Vec::new();
        match value {
            Object::Bytes(bytes) => put_bytes(&mut raw, bytes),
            Object::Integer(digits) => raw = format!("i{digits}e").into_bytes(),
            Object::List(list) => raw = list.into_raw().map_err(bencode)?.to_vec(),
            Object::Dict(dict) => raw = dict.into_raw().map_err(bencode)?.to_vec(),
        }
        pairs.insert(key.to_vec(), raw);
        Ok(())
    })?;
    Ok(pairs)
}

/// Reads the native `info`.
pub(super) fn info(bytes: &[u8]) -> Result<Info<'_>, MetainfoError> {
    let (mut name, mut algorithm, mut piece_length) = (None, None, None);
    let (mut pieces, mut entries) = (None, None);
    let (mut origin, mut seq) = (None, None);
    dictionary(bytes, |key, value| {
        match key {
            b"name" => name = Some(text("name", value)?),
            b"piece hash algo" => algorithm = Some(text("piece hash algo", value)?.parse()?),
            b"piece length" => piece_length = Some(digits("piece length", value)?),
            b"pieces" => pieces = Some(piece_list(value)?),
            b"files" => entries = Some(file_list(value)?),
            b"origin" => origin = Some(self::origin(value)?),
            b"seq" => seq = Some(self::seq(value)?),
            _ => {}
        }
        Ok(())
    })?;
    let version = match (origin, seq) {
        (None, None) => None,
        (Some(origin), Some(seq)) => Some(DatasetVersion { origin, seq }),
        (None, Some(_)) => return Err(MetainfoError::Missing("origin")),
        (Some(_), None) => return Err(MetainfoError::Missing("seq")),
    };
    Ok(Info {
        name: name.ok_or(MetainfoError::Missing("name"))?,
        algorithm: algorithm.ok_or(MetainfoError::Missing("piece hash algo"))?,
        piece_length: piece_length.ok_or(MetainfoError::Missing("piece length"))?,
        pieces: pieces.ok_or(MetainfoError::Missing("pieces"))?,
        entries: entries.ok_or(MetainfoError::Missing("files"))?,
        version,
    })
}

/// Calls `pair` with each key and value of the one dictionary that `bytes` are.
fn dictionary<'a>(
    bytes: &'a [u8],
    mut pair: impl for<'o> FnMut(&'a [u8], Object<'o, 'a>) -> Result<(), MetainfoError>,
) -> Result<(), MetainfoError> {
    let mut decoder = Decoder::new(bytes).with_max_depth(MAX_DEPTH);
    let consumed = match decoder.next_object().map_err(bencode)? {
        Some(Object::Dict(mut dict)) => {
            each_pair(&mut dict, &mut pair)?;
            dict.into_raw().map_err(bencode)?.len()
        }
        Some(other) => return Err(MetainfoError::Bencode(format!("expected a dictionary, got {}", kind(&other)))),
        None => return Err(MetainfoError::Bencode("no bytes at all".into())),
    };
    match bytes.len() {
        got if got == consumed => Ok(()),
        got => Err(MetainfoError::TrailingBytes { expected: consumed, got }),
    }
}

fn each_pair<'a>(
    dict: &mut DictDecoder<'_, 'a>,
    pair: &mut impl for<'o> FnMut(&'a [u8], Object<'o, 'a>) -> Result<(), MetainfoError>,
) -> Result<(), MetainfoError> {
    while let Some((key, value)) = dict.next_pair().map_err(bencode)? {
        pair(key, value)?;
    }
    Ok(())
}

fn file_list(list: Object<'_, '_>) -> Result<Vec<Entry>, MetainfoError> {
    let mut entries = Vec::new();
    let Object::List(mut list) = list else { return Err(field("files", "a list", &list)) };
    while let Some(item) = list.next_object().map_err(bencode)? {
        if entries.len() >= MAX_FILES {
            return Err(MetainfoError::TooManyFiles);
        }
        entries.push(file(item)?);
    }
    Ok(entries)
}

fn file(file: Object<'_, '_>) -> Result<Entry, MetainfoError> {
    let Object::Dict(mut dict) = file else { return Err(field("files", "a list of dictionaries", &file)) };
    let (mut attr, mut length, mut path) = (&b""[..], None, None);
    let (mut root, mut target) = (None, None);
    each_pair(&mut dict, &mut |key, value| {
        match key {
            b"attr" => attr = byte_string("attr", value)?,
            b"length" => length = Some(self::length(value)?),
            b"path" => path = Some(TreePath::new(text("path", value)?)?),
            b"root" => root = Some(self::root(value)?),
            b"symlink path" => target = Some(text("symlink path", value)?.to_owned()),
            _ => {}
        }
        Ok(())
    })?;
    let length = length.ok_or(MetainfoError::Missing("length"))?;
    let path = path.ok_or(MetainfoError::Missing("path"))?;
    let kind = if attr.contains(&b'l') {
        EntryKind::Symlink { target: target.ok_or(MetainfoError::Missing("symlink path"))? }
    } else if attr.contains(&b'd') {
        EntryKind::Directory
    } else {
        EntryKind::File { length, root, executable: attr.contains(&b'x') }
    };
    if length > 0 && !matches!(kind, EntryKind::File { .. }) {
        let (expected, got) = ("0 for a directory or a symlink", length.to_string());
        return Err(MetainfoError::Field { key: "length", expected, got });
    }
    Ok(Entry { path, kind })
}

fn piece_list<'a>(list: Object<'_, 'a>) -> Result<Vec<&'a [u8]>, MetainfoError> {
    let mut pieces = Vec::new();
    let Object::List(mut list) = list else { return Err(field("pieces", "a list of hashes", &list)) };
    while let Some(item) = list.next_object().map_err(bencode)? {
        if pieces.len() >= MAX_PIECES {
            return Err(MetainfoError::TooManyPieces);
        }
        pieces.push(byte_string("pieces", item)?);
    }
    Ok(pieces)
}

/// Peers are hints that anyone may have put there: what is odd about them is skipped.
fn peer_list(list: Object<'_, '_>) -> Result<Vec<String>, MetainfoError> {
    let mut peers = Vec::new();
    let Object::List(mut list) = list else { return Err(field("peers", "a list", &list)) };
    while let Some(item) = list.next_object().map_err(bencode)? {
        if let Object::Bytes(bytes) = item
            && peers.len() < MAX_PEERS
        {
            peers.extend(peer(bytes));
        }
    }
    Ok(peers)
}

/// The address in `bytes`, if it may be one.
pub(super) fn peer(bytes: &[u8]) -> Option<String> {
    let peer = str::from_utf8(bytes).ok().filter(|peer| peer.len() <= MAX_PEER_LEN)?;
    Some(peer.to_owned())
}

fn raw_dictionary<'a>(object: Object<'_, 'a>) -> Result<&'a [u8], MetainfoError> {
    match object {
        Object::Dict(dict) => dict.into_raw().map_err(bencode),
        other => Err(field("info", "a dictionary", &other)),
    }
}

fn byte_string<'a>(key: &'static str, object: Object<'_, 'a>) -> Result<&'a [u8], MetainfoError> {
    match object {
        Object::Bytes(bytes) => Ok(bytes),
        other => Err(field(key, "a byte string", &other)),
    }
}

fn text<'a>(key: &'static str, object: Object<'_, 'a>) -> Result<&'a str, MetainfoError> {
    let bytes = byte_string(key, object)?;
    str::from_utf8(bytes).map_err(|_| {
        let got = shorten(&String::from_utf8_lossy(bytes));
        MetainfoError::Field { key, expected: "UTF-8 text", got: format!("{got:?}") }
    })
}

fn digits<'a>(key: &'static str, object: Object<'_, 'a>) -> Result<&'a str, MetainfoError> {
    match object {
        Object::Integer(digits) => Ok(digits),
        other => Err(field(key, "an integer", &other)),
    }
}

/// Bytes of a file: what fits into a file offset.
fn length(object: Object<'_, '_>) -> Result<u64, MetainfoError> {
    let digits = digits("length", object)?;
    digits.parse::<i64>().ok().and_then(|length| u64::try_from(length).ok()).ok_or_else(|| MetainfoError::Field {
        key: "length",
        expected: "a number of bytes from 0 to 2^63 - 1",
        got: shorten(digits),
    })
}

/// Seconds since 1970, up to the year 9999.
fn date(object: Object<'_, '_>) -> Result<i64, MetainfoError> {
    let key = "creation date";
    let digits = digits(key, object)?;
    digits.parse().ok().filter(|date| DATES.contains(date)).ok_or_else(|| MetainfoError::Field {
        key,
        expected: "seconds since 1970, up to the year 9999",
        got: shorten(digits),
    })
}

fn root(object: Object<'_, '_>) -> Result<FileRoot, MetainfoError> {
    let bytes = byte_string("root", object)?;
    let root = bytes.try_into().map_err(|_| MetainfoError::Field {
        key: "root",
        expected: "32 bytes",
        got: format!("{} bytes", bytes.len()),
    });
    root.map(FileRoot)
}

fn origin(object: Object<'_, '_>) -> Result<InfoSig, MetainfoError> {
    let bytes = byte_string("origin", object)?;
    let got = || format!("{} bytes", bytes.len());
    let sig = bytes.try_into().map_err(|_| MetainfoError::Field { key: "origin", expected: "64 bytes", got: got() });
    sig.map(InfoSig)
}

/// The number of a version.
fn seq(object: Object<'_, '_>) -> Result<u64, MetainfoError> {
    let digits = digits("seq", object)?;
    digits.parse::<i64>().ok().and_then(|seq| u64::try_from(seq).ok()).filter(|seq| *seq > 0).ok_or_else(|| {
        MetainfoError::Field { key: "seq", expected: "a number from 1 to 2^63 - 1", got: shorten(digits) }
    })
}

fn field(key: &'static str, expected: &'static str, got: &Object<'_, '_>) -> MetainfoError {
    MetainfoError::Field { key, expected, got: kind(got).to_owned() }
}

fn kind(object: &Object<'_, '_>) -> &'static str {
    match object {
        Object::List(_) => "a list",
        Object::Dict(_) => "a dictionary",
        Object::Integer(_) => "an integer",
        Object::Bytes(_) => "a byte string",
    }
}

fn bencode(error: bendy::decoding::Error) -> MetainfoError {
    MetainfoError::Bencode(shorten(&error.to_string()))
}
