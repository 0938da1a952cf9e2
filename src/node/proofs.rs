//! Answers to requests for the hashes that prove single blocks (BEP 52).

use super::storage::TorrentStorage;
use crate::metainfo::LeafRequest;
use crate::wire::HashRequest;

/// The hashes that answer `request`, from verified content; `None` if this node cannot tell.
pub(super) fn answer(storage: &TorrentStorage, request: &HashRequest) -> Option<bytes::Bytes> {
    if request.base_layer != 0 {
        return None;
    }
    let HashRequest { root, index, length, proof_layers, .. } = *request;
    let request = LeafRequest { root, index, length, proof_layers };
    let metainfo = storage.metainfo();
    metainfo.pieces_of_leaf_request(&request).into_iter().find_map(|piece| {
        let leaves = storage.leaves(piece).ok().flatten()?;
        metainfo.answer_leaf_request(piece, &request, &leaves).map(Into::into)
    })
}
