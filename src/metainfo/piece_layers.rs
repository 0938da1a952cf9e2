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

/// The piece hashes of `files`, which are in the order of their pieces, end to end: of files of one piece their roots, of
/// others what the envelope `root` says, verified. `None` if it does not have all of them.
///
/// # Errors
/// When a layer is there and is not that of its root.
pub(super) fn read(
    root: &Value<'_>,
    layout: &Layout,
    entries: &[Entry],
    files: &[(FileRoot, FileIndex)],
) -> Result<Option<Vec<u8>>, MetainfoError> {
    let layers = root.get(KEY).into_iter().flat_map(|layers| layers.pairs());
    let layers: HashMap<&[u8], &[u8]> = layers.filter_map(|(root, layer)| Some((root, layer.as_bytes()?))).collect();
    let mut pieces = Vec::with_capacity(32 * layout.piece_count() as usize);
    let mut is_complete = true;
    for (root, file) in files {
        let range = layout.pieces_of(*file);
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

/// The non-empty files and their roots, in the order of the files.
pub(super) fn files(entries: &[Entry]) -> Vec<(FileRoot, FileIndex)> {
    let root = |(at, entry): (u32, &Entry)| match &entry.kind {
        EntryKind::File { length: 1.., root: Some(root), .. } => Some((*root, FileIndex(at))),
        _ => None,
    };
    (0..).zip(entries).filter_map(root).collect()
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
    /// Whether there is a hash for each piece. Of a v2 torrent there may be none: `info` has only the roots of the files.
    pub fn has_layers(&self) -> bool {
        self.form() != Form::V2 || self.parts.pieces.len() == 32 * self.piece_count() as usize
    }

    /// Whether there are hash trees of which the piece hashes are not here: a v2 torrent cannot be read then, a hybrid
    /// one only piece by piece.
    pub fn lacks_layers(&self) -> bool {
        match &self.parts.v2_form {
            Some(v2_form) => v2_form.layers.len() != 32 * self.piece_count() as usize,
            None => !self.has_layers(),
        }
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

    /// The bencoded `piece layers` of a v2 or hybrid torrent that has them, and nothing but what is verified.
    pub(super) fn layers_value(&self) -> Option<Vec<u8>> {
        let has_any = self.form() == Form::V2 || self.parts.v2_form.is_some();
        if !has_any || self.lacks_layers() {
            return None;
        }
        let layers = self.parts.by_root.iter().filter_map(|(FileRoot(root), file)| {
            let range = self.layout().pieces_of(*file);
            (range.end - range.start > 1).then(|| (root, self.layer_bytes(range)))
        });
        Some(value(layers))
    }

    fn layer_bytes(&self, pieces: std::ops::Range<u32>) -> &[u8] {
        self.tree_hashes().get(32 * pieces.start as usize..32 * pieces.end as usize).unwrap_or_default()
    }
}
