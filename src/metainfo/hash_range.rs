//! Any hashes of a file's tree (BEP 52): what ordinary clients ask for, and what a torrent lacks of which only `info`
//! is known. The trees are those of `sha256-merkle` and of BitTorrent v2, which are the same.
//!
//! The tree of a file of several pieces stands on full pieces, whose hashes are its *piece layer*; below that layer a
//! request has to stay inside of one piece, since leaves are known by piece.

use std::collections::BTreeSet;
use std::ops::Range;

use super::Metainfo;
use super::tree::{Node, TreeKind, layers_above};
use crate::types::{BLOCK_LEN, FileIndex, HashAlgorithm, PieceIndex};

/// Hashes that one request of ours names at most (BEP 52).
const MAX_LENGTH: u32 = 512;
const KIND: TreeKind = TreeKind::Merkle;

/// A range of hashes in one layer of a file's tree, with proof: a BEP 52 hash request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HashRange {
    /// The root of the file.
    pub root: [u8; 32],
    /// The layer, counted from the leaves.
    pub base_layer: u32,
    /// First hash, counted in that layer; a multiple of `length`.
    pub index: u32,
    /// Hashes: a power of two. Beyond the end of the file they stand for nothing but zeros.
    pub length: u32,
    /// Layers of proof; the first `log2(length) - 1` of them take no hashes (BEP 52).
    pub proof_layers: u32,
}

impl HashRange {
    /// Layers that the hashes themselves span.
    fn span(&self) -> u32 {
        layers_above(self.length)
    }

    /// Hashes behind those of the range.
    fn uncles(&self) -> u32 {
        (self.proof_layers + 1).saturating_sub(self.span())
    }
}

/// The tree of one file.
#[derive(Clone, Copy, Debug)]
struct FileTree {
    first_piece: u32,
    pieces: u32,
    /// Layer of the piece hashes; of a file of one piece that of its root.
    piece_layer: u32,
    /// Layer of the root.
    height: u32,
}

impl FileTree {
    /// Whether the range lies in the tree, and its proof does not lead above it.
    fn contains(&self, range: &HashRange) -> bool {
        let Some(above) = self.height.checked_sub(range.base_layer).filter(|above| (1..32).contains(above)) else {
            return false;
        };
        range.length.is_power_of_two()
            && range.index.is_multiple_of(range.length)
            && u64::from(range.index) + u64::from(range.length) <= 1 << above
            && range.proof_layers < above
    }
}

impl Metainfo {
    /// What to ask peers for to get the piece hashes that are not here: every one with proof up to the root of its
    /// file. Empty where all are here.
    pub fn layer_requests(&self) -> Vec<HashRange> {
        if !self.lacks_layers() {
            return Vec::new();
        }
        let files = (0..self.entries().len() as u32).map(FileIndex);
        let trees: BTreeSet<_> = files
            .filter_map(|file| {
                let tree = self.file_tree(file).filter(|tree| tree.pieces > 1)?;
                Some((self.tree_root(file)?.0, tree.pieces, tree.piece_layer, tree.height))
            })
            .collect();
        let of_tree = |(root, pieces, base_layer, height): (Node, u32, u32, u32)| {
            let length = pieces.next_power_of_two().min(MAX_LENGTH);
            let whole = layers_above(length) == height - base_layer;
            let proof_layers = if whole { 0 } else { height - base_layer - 1 };
            let at = (0..pieces).step_by(length as usize);
            at.map(move |index| HashRange { root, base_layer, index, length, proof_layers })
        };
        trees.into_iter().flat_map(of_tree).collect()
    }

    /// The piece hashes in `hashes`, a peer's answer to one of [`Metainfo::layer_requests`]; `None` if they do not
    /// lead to the root.
    pub fn verify_layer<'h>(&self, range: &HashRange, hashes: &'h [u8]) -> Option<&'h [u8]> {
        let files = self.files_with_root(&range.root).filter_map(|file| self.file_tree(file));
        let tree = files.into_iter().find(|tree| {
            tree.pieces > range.index
                && range.base_layer == tree.piece_layer
                && tree.contains(range)
                && range.base_layer + range.span() + range.uncles() == tree.height
        })?;
        let (nodes, rest) = hashes.as_chunks::<32>();
        if nodes.len() != (range.length + range.uncles()) as usize || !rest.is_empty() {
            return None;
        }
        let (layer, uncles) = nodes.split_at(range.length as usize);
        let (known, padding) = layer.split_at(range.length.min(tree.pieces - range.index) as usize);
        let mut top = KIND.reduce(&mut known.to_vec(), range.base_layer, range.base_layer + range.span(), false);
        for (uncle, above) in uncles.iter().zip(range.span()..) {
            let is_left = (range.index >> above).is_multiple_of(2);
            top = if is_left { KIND.join(&top, uncle, false) } else { KIND.join(uncle, &top, false) };
        }
        let proven = top == range.root && padding.iter().all(|pad| *pad == KIND.nothing(range.base_layer));
        proven.then_some(known.as_flattened())
    }

    /// The hashes that answer `range`, where `leaves` tells those of all blocks of a piece, if they are known. `None`
    /// if the torrent has no such hashes, or they are not known.
    pub fn answer_range(
        &self,
        range: &HashRange,
        mut leaves: impl FnMut(PieceIndex) -> Option<Vec<[u8; 32]>>,
    ) -> Option<Vec<u8>> {
        if self.lacks_layers() {
            return None;
        }
        let fits = |tree: &FileTree| tree.contains(range);
        let trees: Vec<_> =
            self.files_with_root(&range.root).filter_map(|file| self.file_tree(file)).filter(fits).collect();
        trees.into_iter().find_map(|tree| self.answer_from(&tree, range, &mut leaves))
    }

    fn answer_from(
        &self,
        tree: &FileTree,
        range: &HashRange,
        leaves: &mut impl FnMut(PieceIndex) -> Option<Vec<[u8; 32]>>,
    ) -> Option<Vec<u8>> {
        let below = match tree.piece_layer.checked_sub(range.base_layer) {
            None | Some(0) if tree.pieces > 1 => None,
            None => return None,
            Some(layers) if range.span() > layers => return None,
            Some(layers) => {
                let piece = range.index >> layers;
                if piece < tree.pieces { Some((piece, self.leaves_of(tree, piece, leaves)?)) } else { None }
            }
        };
        let node = |layer: u32, at: u32| match &below {
            Some((piece, leaves)) if layer < tree.piece_layer => {
                let first = piece << (tree.piece_layer - layer);
                subtree(leaves, 0, layer, at.checked_sub(first)?)
            }
            // Nothing of the file is below.
            None if layer < tree.piece_layer => Some(KIND.nothing(layer)),
            _ => subtree(self.piece_nodes(tree), tree.piece_layer, layer, at),
        };
        let mut answer = Vec::with_capacity(32 * (range.length + range.uncles()) as usize);
        for at in range.index..range.index + range.length {
            answer.extend_from_slice(&node(range.base_layer, at)?);
        }
        for layer in range.span()..range.span() + range.uncles() {
            answer.extend_from_slice(&node(range.base_layer + layer, (range.index >> layer) ^ 1)?);
        }
        Some(answer)
    }

    /// The leaves of the `nth` piece of a file. Of a piece of one block in a longer file only the piece hash is known.
    fn leaves_of(
        &self,
        tree: &FileTree,
        nth: u32,
        leaves: &mut impl FnMut(PieceIndex) -> Option<Vec<[u8; 32]>>,
    ) -> Option<Vec<Node>> {
        let piece = PieceIndex(tree.first_piece + nth);
        let blocks = self.leaf_count(piece);
        leaves(piece).filter(|leaves| leaves.len() == blocks as usize && (blocks > 1 || tree.pieces == 1))
    }

    fn file_tree(&self, file: FileIndex) -> Option<FileTree> {
        let has_tree = self.tree_algorithm() == Some(HashAlgorithm::Sha256Merkle);
        let Range { start, end } = self.layout().pieces_of(file);
        let pieces = (end - start).checked_sub(1).filter(|_| has_tree)? + 1;
        let piece_layer = match pieces {
            1 => layers_above(self.layout().file_length(file).div_ceil(u64::from(BLOCK_LEN)) as u32),
            _ => layers_above(self.layout().blocks_per_piece()),
        };
        Some(FileTree { first_piece: start, pieces, piece_layer, height: piece_layer + layers_above(pieces) })
    }

    fn piece_nodes(&self, tree: &FileTree) -> &[Node] {
        let (nodes, _) = self.tree_hashes().as_chunks::<32>();
        nodes.get(tree.first_piece as usize..(tree.first_piece + tree.pieces) as usize).unwrap_or_default()
    }
}

/// Node `at` of `layer`, above `nodes` of layer `from`, which are the first of theirs.
fn subtree(nodes: &[Node], from: u32, layer: u32, at: u32) -> Option<Node> {
    let width = layer.checked_sub(from)?;
    let start = (u64::from(at) << width).min(nodes.len() as u64) as usize;
    let end = ((u64::from(at) + 1) << width).min(nodes.len() as u64) as usize;
    Some(match &nodes[start..end] {
        [] => KIND.nothing(layer),
        below => KIND.reduce(&mut below.to_vec(), from, layer, false),
    })
}
