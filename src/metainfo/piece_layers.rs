//! The `piece layers` of BitTorrent v2 (BEP 52): the piece hashes of files of more than one piece, which stand beside
//! `info`, not in it. They are as good as their root says, so whoever has `info` can have them from anyone.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::bencode::Value;
use super::encode::{self, put_bytes};
use super::tree::{Node, TreeKind, file_root};
use super::{Entry, EntryKind, Form, Layout, Metainfo, MetainfoError};
use crate::types::{FileIndex, FileRoot};

/// The key in the envelope.
pub(super) const KEY: &str = "piece layers";

/// The piece hashes of a v2 torrent, end to end: of files of one piece their roots, of others what the envelope `root`
/// says, verified. `None` if it does not have all of them.
///
/// # Errors
/// When a layer is there and is not that of its root.
pub(super) fn read(root: &Value<'_>, layout: &Layout, entries: &[Entry]) -> Result<Option<Vec<u8>>, MetainfoError> {
    let layers = root.get(KEY).into_iter().flat_map(|layers| layers.pairs());
    let layers: HashMap<&[u8], &[u8]> = layers.filter_map(|(root, layer)| Some((root, layer.as_bytes()?))).collect();
    let mut pieces = Vec::with_capacity(32 * layout.piece_count() as usize);
    let mut is_complete = true;
    for (file, root) in files(entries) {
        let range = layout.pieces_of(file);
        let count = (range.end - range.start) as usize;
        if count == 1 {
            pieces.extend_from_slice(&root.0);
            continue;
        }
        let Some(layer) = layers.get(&root.0[..]) else {
            is_complete = false;
            continue;
        };
        let (nodes, rest) = layer.as_chunks::<32>();
        let path = || super::path::shorten(entries[file.0 as usize].path.as_str());
        if nodes.len() != count || !rest.is_empty() {
            return Err(MetainfoError::PieceLayer { path: path(), expected: 32 * count, got: layer.len() });
        }
        let computed = FileRoot(file_root(TreeKind::Merkle, layout.blocks_per_piece(), &mut nodes.to_vec()));
        if computed != *root {
            return Err(MetainfoError::Root { path: path(), expected: computed.to_string(), got: root.to_string() });
        }
        pieces.extend_from_slice(layer);
    }
    Ok(is_complete.then_some(pieces))
}

/// The non-empty files and their roots, by root.
pub(super) fn by_root(entries: &[Entry]) -> Vec<(FileRoot, FileIndex)> {
    let mut by_root: Vec<_> = files(entries).map(|(file, root)| (*root, file)).collect();
    by_root.sort_unstable();
    by_root
}

/// The non-empty files, in order, and their roots.
fn files(entries: &[Entry]) -> impl Iterator<Item = (FileIndex, &FileRoot)> {
    (0..).zip(entries).filter_map(|(at, entry)| match &entry.kind {
        EntryKind::File { length: 1.., root: Some(root), .. } => Some((FileIndex(at), root)),
        _ => None,
    })
}

/// The bencoded value of the key: layers by root.
pub(super) fn value<'l>(layers: impl IntoIterator<Item = (&'l Node, &'l [u8])>) -> Vec<u8> {
    let layers: BTreeMap<_, _> = layers.into_iter().collect();
    let mut out = vec![b'd'];
    for (root, layer) in layers {
        put_bytes(&mut out, root);
        put_bytes(&mut out, layer);
    }
    out.push(b'e');
    out
}

impl Metainfo {
    /// Whether the piece hashes are here. Those of a v2 torrent may not be: `info` has only the roots of the files.
    pub fn has_layers(&self) -> bool {
        self.form() != Form::V2 || self.parts.pieces.len() == 32 * self.piece_count() as usize
    }

    /// The same metainfo with the piece hashes of the files with these roots: what peers that have only `info` lack.
    ///
    /// # Errors
    /// When they are not those of their roots, or it would become larger than a metainfo may be.
    pub fn with_layers(&self, layers: &BTreeMap<[u8; 32], Bytes>) -> Result<Self, MetainfoError> {
        let mut pairs = self.pairs()?;
        pairs.insert(KEY.into(), value(layers.iter().map(|(root, layer)| (root, &layer[..]))));
        Self::from_bytes(encode::dictionary(&pairs).into())
    }

    /// The same metainfo with the piece hashes that `other`, of the same `info`, has.
    ///
    /// # Errors
    /// When it would become larger than a metainfo may be.
    pub fn with_layers_of(&self, other: &Self) -> Result<Self, MetainfoError> {
        let mut pairs = self.pairs()?;
        pairs.extend(other.layers_value().map(|layers| (KEY.into(), layers)));
        Self::from_bytes(encode::dictionary(&pairs).into())
    }

    /// The bencoded `piece layers` of a v2 torrent that has them, and nothing but what is verified.
    pub(super) fn layers_value(&self) -> Option<Vec<u8>> {
        if self.form() != Form::V2 || !self.has_layers() {
            return None;
        }
        let layers = files(self.entries()).filter_map(|(file, FileRoot(root))| {
            let range = self.layout().pieces_of(file);
            (range.end - range.start > 1).then(|| (root, self.pieces_bytes(range)))
        });
        Some(value(layers))
    }

    fn pieces_bytes(&self, pieces: std::ops::Range<u32>) -> &[u8] {
        self.parts.pieces.get(32 * pieces.start as usize..32 * pieces.end as usize).unwrap_or_default()
    }
}
