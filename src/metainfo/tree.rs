//! Hash trees over 16 KiB leaves: BEP 52's, padded with zero leaves, and BLAKE3's own, which needs no padding.
//!
//! A *layer* is counted from the leaves, which are layer 0. A node of layer `n` covers `2^n` leaves, or fewer at the
//! end of a BLAKE3 tree.

use std::sync::LazyLock;

use blake3::hazmat::{HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};
use sha2::{Digest as _, Sha256};

use super::Layout;
use crate::types::{BLOCK_LEN, HashAlgorithm, PieceIndex};

/// The value of a node.
pub(super) type Node = [u8; 32];

/// Which tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TreeKind {
    /// SHA-256; trees are padded to a power of two with leaves of zeros (BEP 52).
    Merkle,
    /// BLAKE3 over groups of 16 chunks; the left half of a tree is the largest power of two below its width.
    Blake3,
}

/// Values of subtrees that hold nothing but padding, by layer.
static PADS: LazyLock<[Node; 64]> = LazyLock::new(|| {
    let mut pads = [[0; 32]; 64];
    for layer in 1..pads.len() {
        pads[layer] = sha256_join(&pads[layer - 1], &pads[layer - 1]);
    }
    pads
});

fn sha256_join(left: &Node, right: &Node) -> Node {
    let mut both = [0; 64];
    both[..32].copy_from_slice(left);
    both[32..].copy_from_slice(right);
    Sha256::digest(both).into()
}

/// The number of layers above the leaves of a tree that `leaves` fit into.
pub(super) fn layers_above(leaves: u32) -> u32 {
    leaves.max(1).next_power_of_two().trailing_zeros()
}

impl TreeKind {
    /// The tree of `algorithm`, if it has one.
    pub(super) fn of(algorithm: HashAlgorithm) -> Option<Self> {
        match algorithm {
            HashAlgorithm::Sha1 | HashAlgorithm::Sha256 => None,
            HashAlgorithm::Sha256Merkle => Some(Self::Merkle),
            HashAlgorithm::Blake3 => Some(Self::Blake3),
        }
    }

    /// The value of a leaf at byte `offset` of its file. `is_root`: it is all that the file has.
    pub(super) fn leaf(self, offset: u64, is_root: bool, data: &[u8]) -> Node {
        match self {
            Self::Merkle => Sha256::digest(data).into(),
            Self::Blake3 if is_root => blake3::hash(data).into(),
            Self::Blake3 => blake3::Hasher::new().set_input_offset(offset).update(data).finalize_non_root(),
        }
    }

    /// The value of the node above two. `is_root`: nothing is above it.
    pub(super) fn join(self, left: &Node, right: &Node, is_root: bool) -> Node {
        match self {
            Self::Merkle => sha256_join(left, right),
            Self::Blake3 if is_root => merge_subtrees_root(left, right, Mode::Hash).into(),
            Self::Blake3 => merge_subtrees_non_root(left, right, Mode::Hash),
        }
    }

    /// What stands in a list of hashes for a node of `layer` that covers no leaf.
    pub(super) fn nothing(self, layer: u32) -> Node {
        match self {
            Self::Merkle => PADS[layer as usize],
            Self::Blake3 => [0; 32],
        }
    }

    /// The node above `node` of `layer`, which has nothing to its right.
    pub(super) fn join_nothing(self, node: &Node, layer: u32) -> Node {
        match self {
            Self::Merkle => sha256_join(node, &PADS[layer as usize]),
            Self::Blake3 => *node,
        }
    }

    /// The node of layer `to` above all of `nodes`, which are of layer `from` and start at its left end.
    /// `is_root`: nothing is above it. Works in place and leaves `nodes` in disorder.
    pub(super) fn reduce(self, nodes: &mut [Node], from: u32, to: u32, is_root: bool) -> Node {
        let mut count = nodes.len();
        let mut layer = from;
        while count > 1 {
            for at in 0..count / 2 {
                nodes[at] = self.join(&nodes[2 * at], &nodes[2 * at + 1], is_root && count == 2);
            }
            if !count.is_multiple_of(2) {
                nodes[count / 2] = self.join_nothing(&nodes[count - 1], layer);
            }
            count = count.div_ceil(2);
            layer += 1;
        }
        let top = nodes.first().copied().unwrap_or(PADS[from as usize]);
        (layer..to).fold(top, |node, layer| self.join_nothing(&node, layer))
    }
}

/// Where the tree of one piece lies in the tree of its file.
#[derive(Clone, Copy, Debug)]
pub(super) struct PieceTree {
    pub(super) kind: TreeKind,
    /// First byte of the piece in its file.
    pub(super) offset: u64,
    /// Bytes of the file in the piece: what is hashed. Padding behind the file, in a hybrid torrent, is not.
    pub(super) bytes: u32,
    /// Leaves: blocks of the piece.
    pub(super) blocks: u32,
    /// Whether the file has no other piece: then the piece hash is the file's root.
    pub(super) is_root: bool,
    /// Layer of the piece hash. A file of one piece is padded to its own power of two, not to the piece length.
    pub(super) layer: u32,
}

impl PieceTree {
    /// The tree of `piece`; `None` if the algorithm has none or there is no such piece.
    pub(super) fn new(algorithm: HashAlgorithm, layout: &Layout, piece: PieceIndex) -> Option<Self> {
        let kind = TreeKind::of(algorithm)?;
        let (file, offset) = layout.file_of_piece(piece)?;
        let length = layout.file_length(file);
        let is_root = length <= u64::from(layout.piece_length());
        let bytes = (length - offset).min(layout.piece_length().into()) as u32;
        let blocks = bytes.div_ceil(BLOCK_LEN);
        let layer = match kind {
            TreeKind::Merkle if !is_root => layers_above(layout.blocks_per_piece()),
            TreeKind::Merkle | TreeKind::Blake3 => layers_above(blocks),
        };
        Some(Self { kind, offset, bytes, blocks, is_root, layer })
    }

    /// The value of block `block` of the piece, or of the whole piece if it has one block only: what
    /// [`super::Metainfo::leaf_hash`] tells.
    pub(super) fn leaf(&self, block: u32, data: &[u8]) -> Node {
        let offset = self.offset + u64::from(block) * u64::from(BLOCK_LEN);
        let leaf = self.kind.leaf(offset, self.is_root && self.blocks == 1, data);
        match self.blocks {
            1 => self.kind.reduce(&mut [leaf], 0, self.layer, self.is_root),
            _ => leaf,
        }
    }

    /// The piece hash over [`PieceTree::leaf`] of every block. Works in place.
    pub(super) fn reduce(&self, leaves: &mut [Node]) -> Node {
        match leaves {
            [only] if self.blocks == 1 => *only,
            _ => self.kind.reduce(leaves, 0, self.layer, self.is_root),
        }
    }
}

/// The root of a file from its piece hashes. Works in place.
pub(super) fn file_root(kind: TreeKind, blocks_per_piece: u32, pieces: &mut [Node]) -> Node {
    let from = layers_above(blocks_per_piece);
    match pieces {
        [only] => *only,
        _ => kind.reduce(pieces, from, from + layers_above(pieces.len() as u32), true),
    }
}
