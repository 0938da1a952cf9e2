//! Hashing the bytes of a piece as they come.

use blake3::hazmat::HasherExt as _;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::Layout;
use super::tree::{Node, PieceTree, TreeKind};
use crate::types::{BLOCK_LEN, Digest, HashAlgorithm, PieceIndex};

/// Hashes one piece whose bytes come in parts of any size.
pub struct PieceHasher {
    state: State,
    len: u64,
}

enum State {
    Whole(Whole),
    Tree(TreeState),
    /// Of a hybrid torrent: v1 and v2.
    Both(Whole, TreeState),
}

/// All of a piece as one.
enum Whole {
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Whole {
    fn update(&mut self, data: &[u8]) {
        match self {
            Self::Sha1(hasher) => hasher.update(data),
            Self::Sha256(hasher) => hasher.update(data),
        }
    }

    fn finish(self) -> Digest {
        match self {
            Self::Sha1(hasher) => Digest::from(<[u8; 20]>::from(hasher.finalize())),
            Self::Sha256(hasher) => Digest::from(<[u8; 32]>::from(hasher.finalize())),
        }
    }
}

struct TreeState {
    tree: PieceTree,
    leaves: Vec<Node>,
    /// Bytes of the file that are to come; behind them is padding.
    left: u32,
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
            HashAlgorithm::Sha1 => State::Whole(Whole::Sha1(Sha1::new())),
            HashAlgorithm::Sha256 => State::Whole(Whole::Sha256(Sha256::new())),
            HashAlgorithm::Sha256Merkle | HashAlgorithm::Blake3 => {
                State::Tree(TreeState::new(PieceTree::new(algorithm, layout, piece)?))
            }
        };
        Some(Self { state, len: 0 })
    }

    /// The same, which hashes the leaves of `tree` as well.
    pub(super) fn with_tree(mut self, tree: PieceTree) -> Self {
        if let State::Whole(whole) = self.state {
            self.state = State::Both(whole, TreeState::new(tree));
        }
        self
    }

    /// Takes the next bytes of the piece.
    pub fn update(&mut self, data: &[u8]) {
        self.len += data.len() as u64;
        match &mut self.state {
            State::Whole(whole) => whole.update(data),
            State::Tree(state) => state.update(data),
            State::Both(whole, state) => {
                whole.update(data);
                state.update(data);
            }
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

    /// The piece hash of what was taken; of a hybrid torrent that of v1.
    pub fn finish(self) -> Digest {
        match self.state {
            State::Whole(whole) | State::Both(whole, _) => whole.finish(),
            State::Tree(state) => {
                let tree = state.tree;
                tree.reduce(&mut state.finish()).into()
            }
        }
    }

    /// The leaf of each block of what was taken; empty where there are no leaves.
    pub fn finish_leaves(self) -> Vec<[u8; 32]> {
        self.finish_all().1
    }

    /// The hash of all that was taken as one, where there is such a hash, and the leaf of each block, where there are
    /// leaves.
    pub(super) fn finish_all(self) -> (Option<Digest>, Vec<Node>) {
        match self.state {
            State::Whole(whole) => (Some(whole.finish()), Vec::new()),
            State::Tree(state) => (None, state.finish()),
            State::Both(whole, state) => (Some(whole.finish()), state.finish()),
        }
    }
}

impl TreeState {
    fn new(tree: PieceTree) -> Self {
        Self { tree, leaves: Vec::with_capacity(tree.blocks as usize), left: tree.bytes, partial: None }
    }

    fn finish(mut self) -> Vec<Node> {
        self.end_block();
        self.leaves
    }

    fn update(&mut self, data: &[u8]) {
        let mut data = &data[..data.len().min(self.left as usize)];
        self.left -= data.len() as u32;
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
