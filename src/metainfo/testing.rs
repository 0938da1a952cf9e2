//! Content in memory and metainfo of any shape, for tests.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;

use sha1::{Digest as _, Sha1};

use super::{
    CreateOptions, Entry, EntryKind, Form, Hints, Metainfo, Source, TorrentOptions, TreePath, create, create_torrent,
    encode, native,
};
use crate::types::{FileIndex, HashAlgorithm, PieceIndex};

/// The bytes of every entry, by index.
pub(crate) struct MemSource(pub(crate) Vec<Vec<u8>>);

impl Source for MemSource {
    fn read_at(&self, file: FileIndex, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        let from = self.0[file.0 as usize].get(start..start + buf.len());
        buf.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn check_unchanged(&self, _: FileIndex) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes that differ between seeds and do not repeat at block borders.
pub(crate) fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Options that make a torrent named `t`.
pub(crate) fn options(algorithm: HashAlgorithm, piece_length: u32) -> CreateOptions {
    let piece_length = Some(piece_length);
    CreateOptions { name: "t".into(), algorithm, piece_length, created_at: None, peers: Vec::new(), version: None }
}

/// A file without a root.
pub(crate) fn file(path: &str, length: u64) -> Entry {
    let kind = EntryKind::File { length, root: None, executable: false };
    Entry { path: TreePath::new(path).unwrap(), kind }
}

/// The metainfo of files named `0000`, `0001`, … with this content, and the content as a source.
pub(crate) fn torrent(algorithm: HashAlgorithm, piece_length: u32, files: &[Vec<u8>]) -> (Metainfo, MemSource) {
    let entries = files.iter().enumerate().map(|(at, data)| file(&format!("{at:04}"), data.len() as u64)).collect();
    let source = MemSource(files.to_vec());
    let made = create(&options(algorithm, piece_length), entries, &source, &|_| ControlFlow::Continue(()));
    (made.unwrap(), source)
}

/// The v1 torrent of files named `0000`, `0001`, …, and the content as a source. Between the files is padding up to
/// the next piece if there is to be (BEP 47).
pub(crate) fn v1_torrent(piece_length: usize, padded: bool, files: &[Vec<u8>]) -> (Metainfo, MemSource) {
    let (mut line, mut list) = (Vec::new(), Vec::<Value>::new());
    for (at, data) in files.iter().enumerate() {
        let gap = line.len().next_multiple_of(piece_length) - line.len();
        if padded && gap > 0 {
            line.resize(line.len() + gap, 0);
            let path = vec![".pad".into(), gap.to_string().as_str().into()];
            list.push(Value::dict([("attr", "p".into()), ("length", (gap as i64).into()), ("path", path.into())]));
        }
        line.extend_from_slice(data);
        let path = vec![format!("{at:04}").as_str().into()];
        list.push(Value::dict([("length", (data.len() as i64).into()), ("path", path.into())]));
    }
    let hashes = line.chunks(piece_length).flat_map(|piece| <[u8; 20]>::from(Sha1::digest(piece))).collect();
    let info = Value::dict([
        ("files", list.into()),
        ("name", "t".into()),
        ("piece length", (piece_length as i64).into()),
        ("pieces", Value::Bytes(hashes)),
    ]);
    (Metainfo::parse(&Value::dict([("info", info)]).encode()).unwrap(), MemSource(files.to_vec()))
}

/// The hybrid torrent of files named `0000`, `0001`, …, with its piece layers, and the content as a source.
pub(crate) fn hybrid_torrent(piece_length: u32, files: &[Vec<u8>]) -> (Metainfo, MemSource) {
    let entries: Vec<_> =
        files.iter().enumerate().map(|(at, data)| file(&format!("{at:04}"), data.len() as u64)).collect();
    let options = TorrentOptions {
        name: "t".into(),
        form: Form::Hybrid,
        piece_length: Some(piece_length),
        created_at: None,
        is_private: false,
        hints: Hints::default(),
    };
    let source = MemSource(files.to_vec());
    let made = create_torrent(&options, &entries, &source, &|_| ControlFlow::Continue(()));
    (made.unwrap(), source)
}

/// A hybrid torrent whose v1 hash of `piece` is of something else.
pub(crate) fn contradictory(metainfo: &Metainfo, piece: PieceIndex) -> Metainfo {
    let mut info = metainfo.info_bytes().to_vec();
    let hash = metainfo.piece_hash(piece).unwrap();
    let at = info.windows(20).position(|bytes| bytes == hash.as_bytes()).unwrap();
    info[at] ^= 1;
    Metainfo::from_info_bytes(&info).unwrap().with_layers_of(metainfo).unwrap()
}

/// Any bencoded value.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Digits(String),
    Bytes(Vec<u8>),
    List(Vec<Value>),
    Dict(BTreeMap<Vec<u8>, Value>),
}

impl Value {
    pub(crate) fn dict<const N: usize>(pairs: [(&str, Value); N]) -> Self {
        Self::Dict(pairs.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }

    pub(crate) fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        if let Self::Dict(pairs) = &mut self {
            pairs.insert(key.into(), value.into());
        }
        self
    }

    pub(crate) fn without(mut self, key: &str) -> Self {
        if let Self::Dict(pairs) = &mut self {
            pairs.remove(key.as_bytes());
        }
        self
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Digits(digits) => format!("i{digits}e").into_bytes(),
            Self::Bytes(bytes) => {
                let mut out = Vec::new();
                encode::put_bytes(&mut out, bytes);
                out
            }
            Self::List(items) => {
                [b"l".to_vec(), items.iter().flat_map(Value::encode).collect(), b"e".to_vec()].concat()
            }
            Self::Dict(pairs) => {
                encode::dictionary(&pairs.iter().map(|(key, value)| (key.clone(), value.encode())).collect())
            }
        }
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Digits(value.to_string())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Bytes(text.into())
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Self {
        Self::List(items)
    }
}

/// An `info` of `algorithm` with one file of 3 bytes, `abc`, at `path`.
pub(crate) fn info_of(algorithm: HashAlgorithm, path: &str) -> Value {
    let file = Value::dict([("length", 3.into()), ("path", path.into())]);
    let abc = match algorithm {
        HashAlgorithm::Sha1 => "a9993e364706816aba3e25717850c26c9cd0d89d",
        HashAlgorithm::Sha256 | HashAlgorithm::Sha256Merkle => {
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        }
        HashAlgorithm::Blake3 => "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85",
    };
    Value::dict([
        ("files", vec![file].into()),
        ("name", "t".into()),
        ("piece hash algo", algorithm.name().into()),
        ("piece length", 16384.into()),
        ("pieces", vec![Value::Bytes(hex::decode(abc).unwrap())].into()),
    ])
}

/// The envelope around `info`, with the InfoHash that `algorithm` gives it.
pub(crate) fn envelope_of(algorithm: HashAlgorithm, info: &Value) -> Value {
    let hash = native::hash_info(algorithm, &info.encode());
    Value::dict([("info", info.clone()), ("infohash", hash.as_bytes().into())])
}
