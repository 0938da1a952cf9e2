//! Answers to requests for the hashes that prove single blocks (BEP 52).

use super::storage::TorrentStorage;
use crate::metainfo::{HashRange, LeafRequest};
use crate::wire::HashRequest;

/// The hashes that answer `request`, from verified content; `None` if this node cannot tell.
pub(super) fn answer(storage: &TorrentStorage, request: &HashRequest) -> Option<bytes::Bytes> {
    let HashRequest { root, base_layer, index, length, proof_layers } = *request;
    let request = LeafRequest { root, index, length, proof_layers };
    let metainfo = storage.metainfo();
    let pieces = if base_layer == 0 { metainfo.pieces_of_leaf_request(&request) } else { Vec::new() };
    let of_piece = pieces.into_iter().find_map(|piece| {
        let leaves = storage.leaves(piece).ok().flatten()?;
        metainfo.answer_leaf_request(piece, &request, &leaves)
    });
    // Ordinary clients ask for piece hashes, and for leaves with proof beyond the piece.
    let range = HashRange { root, base_layer, index, length, proof_layers };
    let leaves = |piece| Some(storage.leaves(piece).ok().flatten()?.to_vec());
    of_piece.or_else(|| metainfo.answer_range(&range, leaves)).map(Into::into)
}
