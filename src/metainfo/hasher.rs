//! Hashing the bytes of a piece as they come.

use blake3::hazmat::HasherExt as _;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::tree::{Node, PieceTree, TreeKind};
use super::{Layout, Metainfo};
use crate::types::{BLOCK_LEN, Digest, HashAlgorithm, PieceIndex};

/// Hashes one piece whose bytes come in parts of any size.
pub struct PieceHasher {
    state: State,
    len: u64,
}

enum State {
    Sha1(Sha1),
    Sha256(Sha256),
    Tree(TreeState),
}

struct TreeState {
    tree: PieceTree,
    leaves: Vec<Node>,
    /// The block that came in part, and its bytes so far.
    partial: Option<(BlockHasher, u32)>,
}

enum BlockHasher {
    Sha256(Sha256),
    Blake3(Box<blake3::Hasher>),
}

impl PieceHasher {
    /// A hasher for `piece`; `None` if there is no such piece.
    pub(super) fn new(algorithm: HashAlgorithm, layout: &Layout, piece: PieceIndex) -> Option<Self> {
        let state = match algorithm {
            _ if piece.0 >= layout.piece_count() => return None,
            HashAlgorithm::Sha1 => State::Sha1(Sha1::new()),
            HashAlgorithm::Sha256 => State::Sha256(Sha256::new()),
            HashAlgorithm::Sha256Merkle | HashAlgorithm::Blake3 => {
                let tree = PieceTree::new(algorithm, layout, piece)?;
                State::Tree(TreeState { tree, leaves: Vec::with_capacity(tree.blocks as usize), partial: None })
            }
        };
        Some(Self { state, len: 0 })
    }

    /// Takes the next bytes of the piece.
    pub fn update(&mut self, data: &[u8]) {
        self.len += data.len() as u64;
        match &mut self.state {
            State::Sha1(hasher) => hasher.update(data),
            State::Sha256(hasher) => hasher.update(data),
            State::Tree(state) => state.update(data),
        }
    }

    /// Bytes taken so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no byte was taken yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The piece hash of what was taken.
    pub fn finish(self) -> Digest {
        match self.state {
            State::Sha1(hasher) => Digest::from(<[u8; 20]>::from(hasher.finalize())),
            State::Sha256(hasher) => Digest::from(<[u8; 32]>::from(hasher.finalize())),
            State::Tree(mut state) => {
                state.end_block();
                state.tree.reduce(&mut state.leaves).into()
            }
        }
    }

    /// The leaf of each block of what was taken; empty where the algorithm has no leaves.
    pub fn finish_leaves(self) -> Vec<[u8; 32]> {
        match self.state {
            State::Sha1(_) | State::Sha256(_) => Vec::new(),
            State::Tree(mut state) => {
                state.end_block();
                state.leaves
            }
        }
    }
}

impl TreeState {
    fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let filled = self.partial.as_ref().map_or(0, |(_, filled)| *filled);
            let (now, rest) = data.split_at(data.len().min((BLOCK_LEN - filled) as usize));
            data = rest;
            if now.len() == BLOCK_LEN as usize {
                let leaf = self.tree.leaf(self.leaves.len() as u32, now);
                self.leaves.push(leaf);
                continue;
            }
            let (hasher, filled) = self.partial.get_or_insert_with(|| (start_block(&self.tree, self.leaves.len()), 0));
            match hasher {
                BlockHasher::Sha256(hasher) => hasher.update(now),
                BlockHasher::Blake3(hasher) => {
                    hasher.update(now);
                }
            }
            *filled += now.len() as u32;
            if *filled == BLOCK_LEN {
                self.end_block();
            }
        }
    }

    fn end_block(&mut self) {
        let Some((hasher, _)) = self.partial.take() else { return };
        let tree = &self.tree;
        let leaf = match hasher {
            BlockHasher::Sha256(hasher) => hasher.finalize().into(),
            BlockHasher::Blake3(hasher) if tree.is_root && tree.blocks == 1 => hasher.finalize().into(),
            BlockHasher::Blake3(hasher) => hasher.finalize_non_root(),
        };
        let leaf = match tree.blocks {
            1 => tree.kind.reduce(&mut [leaf], 0, tree.layer, tree.is_root),
            _ => leaf,
        };
        self.leaves.push(leaf);
    }
}

fn start_block(tree: &PieceTree, block: usize) -> BlockHasher {
    match tree.kind {
        TreeKind::Merkle => BlockHasher::Sha256(Sha256::new()),
        TreeKind::Blake3 => {
            let mut hasher = Box::new(blake3::Hasher::new());
            hasher.set_input_offset(tree.offset + block as u64 * u64::from(BLOCK_LEN));
            BlockHasher::Blake3(hasher)
        }
    }
}

impl Metainfo {
    /// A hasher for the bytes of `piece`; `None` if there is no such piece.
    pub fn piece_hasher(&self, piece: PieceIndex) -> Option<PieceHasher> {
        PieceHasher::new(self.algorithm(), self.layout(), piece)
    }

    /// Whether `chunks`, end to end, are the bytes of `piece`.
    pub fn check_piece(&self, piece: PieceIndex, chunks: impl IntoIterator<Item = impl AsRef<[u8]>>) -> bool {
        let Some(mut hasher) = self.piece_hasher(piece) else { return false };
        chunks.into_iter().for_each(|chunk| hasher.update(chunk.as_ref()));
        hasher.len() == u64::from(self.layout().piece_len(piece)) && Some(hasher.finish()) == self.piece_hash(piece)
    }
}
