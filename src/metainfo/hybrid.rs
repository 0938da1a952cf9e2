//! The v2 form of a hybrid torrent (BEP 52): the same files as its v1 form, with hash trees.
//!
//! A hybrid torrent is laid out, fetched and stored as v1, padding included. Where padding puts every file at the start
//! of a piece, v1 pieces and v2 pieces are the same bytes but for the padding, and the trees of v2 verify single blocks
//! of them. Both forms stand in the one `info` that either infohash is the hash of: whoever trusts one infohash has the
//! roots from the same hand as the SHA-1 hashes. Yet only a piece that has both its hashes is whole: a client that
//! knows one form alone must not be served what contradicts the other.

use bytes::Bytes;

use super::bencode::Value;
use super::foreign::Foreign;
use super::hasher::PieceHasher;
use super::{Entry, Form, Layout, MAX_PIECE_LENGTH, MIN_PIECE_LENGTH, Metainfo, piece_layers};
use crate::types::{Digest, FileIndex, FileRoot, HashAlgorithm, PieceIndex, SwarmId};

/// The v2 form of a hybrid torrent whose two forms are of the same files in the same pieces.
#[derive(Clone)]
pub(super) struct V2Form {
    /// The v2 hashes of the pieces, end to end; empty while they are not here.
    pub(super) layers: Bytes,
}

/// What the bytes of a piece are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PieceCheck {
    /// What the torrent says, with the leaf of each block, if there are leaves.
    Right(Vec<[u8; 32]>),
    /// Something else.
    Wrong,
    /// What one form of a hybrid torrent says, and not what the other does: its publisher's fault.
    Inconsistent,
}

/// The non-empty files of a hybrid torrent with their roots, in order, if its two forms are of the same files, in the
/// same pieces.
pub(super) fn files(layout: &Layout, foreign: &Foreign) -> Option<Vec<(FileRoot, FileIndex)>> {
    let piece_length = layout.piece_length();
    let fits = piece_length.is_power_of_two() && (MIN_PIECE_LENGTH..=MAX_PIECE_LENGTH).contains(&piece_length);
    if !fits || foreign.roots.len() != foreign.entries.len() || !layout.has_file_pieces() {
        return None;
    }
    let files = (0..).zip(&foreign.entries).zip(&foreign.roots).filter(|((_, entry), _)| entry.length() > 0);
    files.map(|((at, _), root)| Some(((*root)?, FileIndex(at)))).collect()
}

impl V2Form {
    /// The form of which the envelope `root` may have the piece hashes. Wrong ones count as none: they are no part of
    /// what the publisher hashed, and v1 does without.
    pub(super) fn read(root: &Value<'_>, layout: &Layout, entries: &[Entry], files: &[(FileRoot, FileIndex)]) -> Self {
        let layers = piece_layers::read(root, layout, entries, files).ok().flatten();
        Self { layers: layers.unwrap_or_default().into() }
    }
}

impl Metainfo {
    /// Whether single blocks can be verified, with hashes that peers tell.
    pub fn verifies_blocks(&self) -> bool {
        match &self.parts.v2_form {
            Some(_) => !self.lacks_layers(),
            None => self.algorithm().verifies_blocks(),
        }
    }

    /// Whether a piece has two hashes, which both have to match: that of v1, and the root of its leaves.
    pub fn hashes_twice(&self) -> bool {
        self.parts.v2_form.is_some() && !self.lacks_layers()
    }

    /// Whether a connection in `swarm` is one on which hashes may be asked for, where `offered` is the peer's bit for
    /// that. `is_client`: the peer may be an ordinary client. In the swarm of a v2 infohash all have hash trees, and
    /// libtorrent says nothing of it where there is no v1. In the v1 swarm of a hybrid torrent the bit says no more than
    /// that the peer would have changed to v2; clients close a stream of v1 on which hashes are asked for.
    pub fn speaks_hashes(&self, swarm: SwarmId, offered: bool, is_client: bool) -> bool {
        match self.form() {
            Form::Native => offered,
            Form::V1 => false,
            Form::V2 => true,
            Form::Hybrid if Some(swarm) == self.v2_swarm() => true,
            Form::Hybrid => offered && !(is_client && swarm == self.info_hash().swarm_id()),
        }
    }

    /// The swarm of the v2 infohash.
    pub fn v2_swarm(&self) -> Option<SwarmId> {
        self.v2_info_hash().map(|hash| hash.swarm_id())
    }

    /// The algorithm of the hash trees, if there are any; the piece hashes in them may be missing.
    pub(super) fn tree_algorithm(&self) -> Option<HashAlgorithm> {
        match &self.parts.v2_form {
            Some(_) => Some(HashAlgorithm::Sha256Merkle),
            None => Some(self.algorithm()).filter(|algorithm| algorithm.verifies_blocks()),
        }
    }

    /// The piece hashes in the hash trees, end to end.
    pub(super) fn tree_hashes(&self) -> &Bytes {
        self.parts.v2_form.as_ref().map_or(&self.parts.pieces, |v2_form| &v2_form.layers)
    }

    /// The hash of `piece` in the tree of its file.
    pub(super) fn tree_hash(&self, piece: PieceIndex) -> Option<Digest> {
        let start = 32 * piece.0 as usize;
        self.tree_algorithm()?;
        Digest::from_slice(self.tree_hashes().get(start..start + 32)?)
    }

    /// The root of the hash tree of `file`.
    pub(super) fn tree_root(&self, file: FileIndex) -> Option<FileRoot> {
        match &self.parts.v2_form {
            Some(_) => self.claimed_root(file),
            None => self.file_root(file),
        }
    }

    /// A hasher for the bytes of `piece`, padding included; `None` if there is no such piece.
    pub fn piece_hasher(&self, piece: PieceIndex) -> Option<PieceHasher> {
        let hasher = PieceHasher::new(self.algorithm(), self.layout(), piece)?;
        Some(match self.piece_tree(piece).filter(|_| self.hashes_twice()) {
            Some(tree) => hasher.with_tree(tree),
            None => hasher,
        })
    }

    /// Whether what `hasher`, which is [`Metainfo::piece_hasher`] of `piece`, took are the bytes of the piece.
    pub fn judge(&self, piece: PieceIndex, hasher: PieceHasher) -> PieceCheck {
        if hasher.len() != u64::from(self.layout().piece_len(piece)) {
            return PieceCheck::Wrong;
        }
        let (digest, leaves) = hasher.finish_all();
        let is_whole = digest.map(|digest| Some(digest) == self.piece_hash(piece));
        let has_leaves = self.verifies_blocks().then(|| self.leaves_match(piece, &leaves));
        match (is_whole, has_leaves) {
            (Some(false), Some(false) | None) | (None, Some(false) | None) => PieceCheck::Wrong,
            (Some(true), Some(true) | None) | (None, Some(true)) => PieceCheck::Right(leaves),
            (Some(_), Some(_)) => PieceCheck::Inconsistent,
        }
    }

    /// Whether `chunks`, end to end, are the bytes of `piece`.
    pub fn check_piece(&self, piece: PieceIndex, chunks: impl IntoIterator<Item = impl AsRef<[u8]>>) -> bool {
        let Some(mut hasher) = self.piece_hasher(piece) else { return false };
        chunks.into_iter().for_each(|chunk| hasher.update(chunk.as_ref()));
        matches!(self.judge(piece, hasher), PieceCheck::Right(_))
    }
}
