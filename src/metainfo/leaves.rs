//! Leaf hashes: what a single block is verified with.
//!
//! The leaf of a block is its hash in the tree of its file. Leaves are not in the metainfo, only piece hashes are; a
//! peer sends them on request, with the hashes that prove them (BEP 52). The one block of a piece of one block is
//! verified with the piece hash itself, and so that is what here counts as its leaf.

use super::Metainfo;
use super::tree::{Node, PieceTree, layers_above};
use crate::types::{BLOCK_LEN, BlockSpan, PieceIndex};

/// Leaves that one request names at most (BEP 52).
const MAX_REQUEST_LEAVES: u32 = 512;

/// A range of leaves of one piece, with proof up to the piece hash: a BEP 52 hash request of base layer 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeafRequest {
    /// The root of the file that the piece belongs to.
    pub root: [u8; 32],
    /// First leaf, counted from the start of the file; a multiple of `length`.
    pub index: u32,
    /// Leaves: a power of two from 2 to 512. Beyond the end of the file they are zeros.
    pub length: u32,
    /// Layers of proof; the first `log2(length) - 1` of them take no hashes (BEP 52).
    pub proof_layers: u32,
}

impl LeafRequest {
    /// Proof hashes behind the leaves of an answer.
    fn uncles(&self) -> u32 {
        (self.proof_layers + 1).saturating_sub(layers_above(self.length))
    }

    /// Bytes of the hashes of an answer.
    fn answer_len(&self) -> usize {
        32 * (self.length + self.uncles()) as usize
    }
}

/// Why hashes from a peer are not the leaves that were asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// Nobody would ask this about the piece.
    #[error("expected an answer to a leaf request of piece {piece}, got one to something else")]
    Unasked {
        /// The piece.
        piece: u32,
    },
    /// Too few or too many hashes.
    #[error("expected {expected} bytes of hashes, got {got}")]
    Length {
        /// Bytes of an answer.
        expected: usize,
        /// Bytes that came.
        got: usize,
    },
    /// The hashes do not lead to the piece hash.
    #[error("expected hashes that prove the leaves of piece {piece}, got others: the peer lies")]
    Proof {
        /// The piece.
        piece: u32,
    },
}

impl Metainfo {
    /// What to ask a peer for to get every leaf of `piece`, in order. Empty for pieces of one block, whose leaf is
    /// known ([`Metainfo::single_leaf`]), and where the algorithm has no leaves.
    pub fn leaf_requests(&self, piece: PieceIndex) -> Vec<LeafRequest> {
        let (Some(tree), Some(root)) = (self.piece_tree(piece), self.root_of_piece(piece)) else { return Vec::new() };
        if tree.blocks < 2 {
            return Vec::new();
        }
        let span = layers_above(tree.blocks);
        let length = (1 << span).min(MAX_REQUEST_LEAVES);
        let uncles = span - layers_above(length);
        let proof_layers = if uncles == 0 { 0 } else { layers_above(length) - 1 + uncles };
        let first = (tree.offset / u64::from(BLOCK_LEN)) as u32;
        let at = (0..tree.blocks).step_by(length as usize);
        at.map(|at| LeafRequest { root, index: first + at, length, proof_layers }).collect()
    }

    /// The leaves in `hashes`, a peer's answer to `request`: those of the blocks that exist, proven against the hash
    /// of `piece`.
    ///
    /// # Errors
    /// When the request is none of [`Metainfo::leaf_requests`], or the answer proves nothing.
    pub fn verify_leaves(
        &self,
        piece: PieceIndex,
        request: &LeafRequest,
        hashes: &[u8],
    ) -> Result<Vec<[u8; 32]>, LeafError> {
        let (tree, at) = self.locate(piece, request).ok_or(LeafError::Unasked { piece: piece.0 })?;
        let (nodes, rest) = hashes.as_chunks::<32>();
        if hashes.len() != request.answer_len() || !rest.is_empty() {
            return Err(LeafError::Length { expected: request.answer_len(), got: hashes.len() });
        }
        let (all, uncles) = nodes.split_at(request.length as usize);
        let (leaves, padding) = all.split_at(request.length.min(tree.blocks - at) as usize);
        let proven = padding.iter().all(|pad| *pad == [0; 32])
            && climb(&tree, at, request.length, leaves, uncles).map(Into::into) == self.tree_hash(piece);
        if proven { Ok(leaves.to_vec()) } else { Err(LeafError::Proof { piece: piece.0 }) }
    }

    /// The leaf of a piece of one block: the piece hash. `None` for other pieces, and where the algorithm has no
    /// leaves.
    pub fn single_leaf(&self, piece: PieceIndex) -> Option<[u8; 32]> {
        self.piece_tree(piece).filter(|tree| tree.blocks == 1)?;
        self.tree_hash(piece)?.as_array32().copied()
    }

    /// How many leaves `piece` has: one for each block that is not padding. 0 where the algorithm has no leaves.
    pub fn leaf_count(&self, piece: PieceIndex) -> u32 {
        self.piece_tree(piece).map_or(0, |tree| tree.blocks)
    }

    /// The leaf that `data` has as the block `span`. `None` where the algorithm has no leaves, or if `span` is not
    /// exactly a block with bytes of a file, or `data` not as long. Padding behind the file is not looked at.
    pub fn leaf_hash(&self, span: BlockSpan, data: &[u8]) -> Option<[u8; 32]> {
        if !self.layout().is_block(span) || data.len() != span.len as usize {
            return None;
        }
        let tree = self.piece_tree(span.piece)?;
        let bytes = tree.bytes.checked_sub(span.begin).filter(|bytes| *bytes > 0)?;
        Some(tree.leaf(span.block().0, data.get(..bytes as usize).unwrap_or(data)))
    }

    /// The leaves that `data` has as the whole of `piece`. Empty where the algorithm has no leaves, or if `data` is
    /// not as long.
    pub fn piece_leaves(&self, piece: PieceIndex, data: &[u8]) -> Vec<[u8; 32]> {
        let Some(tree) = self.piece_tree(piece) else { return Vec::new() };
        if data.len() != self.layout().piece_len(piece) as usize {
            return Vec::new();
        }
        let data = data.get(..tree.bytes as usize).unwrap_or_default();
        data.chunks(BLOCK_LEN as usize).zip(0..).map(|(data, block)| tree.leaf(block, data)).collect()
    }

    /// Whether `leaves` are the leaves of all blocks of `piece`.
    pub fn leaves_match(&self, piece: PieceIndex, leaves: &[[u8; 32]]) -> bool {
        let Some(tree) = self.piece_tree(piece).filter(|tree| tree.blocks as usize == leaves.len()) else {
            return false;
        };
        Some(tree.reduce(&mut leaves.to_vec()).into()) == self.tree_hash(piece)
    }

    /// The pieces whose leaves a peer asks for with `request`: more than one where files have the same content, none
    /// if it is not a request that knot would send.
    pub fn pieces_of_leaf_request(&self, request: &LeafRequest) -> Vec<PieceIndex> {
        let first_block = u64::from(request.index) * u64::from(BLOCK_LEN);
        let nth = (first_block / u64::from(self.piece_length())) as u32;
        let files = self.files_with_root(&request.root);
        let pieces = files.map(|file| self.layout().pieces_of(file)).filter(|pieces| nth < pieces.end - pieces.start);
        let pieces = pieces.map(|pieces| PieceIndex(pieces.start + nth));
        pieces.filter(|piece| self.locate(*piece, request).is_some()).collect()
    }

    /// The hashes that answer `request`, from all the leaves of `piece`. `None` unless the piece is one of
    /// [`Metainfo::pieces_of_leaf_request`] and there is a leaf for each block.
    pub fn answer_leaf_request(
        &self,
        piece: PieceIndex,
        request: &LeafRequest,
        leaves: &[[u8; 32]],
    ) -> Option<Vec<u8>> {
        let (tree, at) = self.locate(piece, request)?;
        if leaves.len() != tree.blocks as usize {
            return None;
        }
        let mut answer = Vec::with_capacity(request.answer_len());
        let end = (at + request.length).min(tree.blocks);
        answer.extend_from_slice(leaves[at as usize..end as usize].as_flattened());
        answer.resize(32 * request.length as usize, 0);
        let first_layer = layers_above(request.length);
        for layer in first_layer..first_layer + request.uncles() {
            let sibling = ((at >> layer) ^ 1) << layer;
            let end = (sibling + (1 << layer)).min(tree.blocks);
            let uncle = match leaves.get(sibling as usize..end as usize) {
                Some(below @ [_, ..]) => tree.kind.reduce(&mut below.to_vec(), 0, layer, false),
                _ => tree.kind.nothing(layer),
            };
            answer.extend_from_slice(&uncle);
        }
        Some(answer)
    }

    pub(super) fn piece_tree(&self, piece: PieceIndex) -> Option<PieceTree> {
        PieceTree::new(self.tree_algorithm()?, self.layout(), piece)
    }

    /// The tree of `piece` and the block of it that `request` starts at, if it is one of its leaf requests.
    fn locate(&self, piece: PieceIndex, request: &LeafRequest) -> Option<(PieceTree, u32)> {
        let tree = self.piece_tree(piece)?;
        let first = (tree.offset / u64::from(BLOCK_LEN)) as u32;
        let at = request.index.checked_sub(first)?;
        let asked = self.leaf_requests(piece);
        (at < tree.blocks && asked.contains(request)).then_some((tree, at))
    }
}

/// The piece hash above `leaves`, which start at block `at`, and their uncles up to the width of the piece.
fn climb(tree: &PieceTree, at: u32, length: u32, leaves: &[Node], uncles: &[Node]) -> Option<Node> {
    let mut layer = layers_above(length);
    let mut node = tree.kind.reduce(&mut leaves.to_vec(), 0, layer, tree.is_root && uncles.is_empty());
    for (nth, uncle) in uncles.iter().enumerate() {
        let is_root = tree.is_root && nth + 1 == uncles.len();
        let this = at >> layer;
        let is_left = this.is_multiple_of(2);
        node = if is_left && ((this + 1) << layer) >= tree.blocks {
            if *uncle != tree.kind.nothing(layer) {
                return None;
            }
            tree.kind.join_nothing(&node, layer)
        } else if is_left {
            tree.kind.join(&node, uncle, is_root)
        } else {
            tree.kind.join(uncle, &node, is_root)
        };
        layer += 1;
    }
    Some(tree.kind.reduce(&mut [node], layer, tree.layer, false))
}
