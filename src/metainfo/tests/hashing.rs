//! Trees and leaves against the definitions: BEP 52 written out naively, and BLAKE3 of the whole file.

use proptest::prelude::*;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::metainfo::testing::{content, torrent};
use crate::metainfo::{LeafError, LeafRequest, Metainfo};
use crate::types::{BLOCK_LEN, BlockIndex, FileIndex, HashAlgorithm, PieceIndex};

const BLOCK: usize = BLOCK_LEN as usize;

/// BEP 52: leaves are hashes of blocks, the lowest layer is filled up to `width` with zeros, and each layer above
/// hashes pairs of the one below.
fn bep52(data: &[u8], width: usize) -> [u8; 32] {
    let mut layer: Vec<[u8; 32]> = data.chunks(BLOCK).map(|block| Sha256::digest(block).into()).collect();
    layer.resize(width, [0; 32]);
    while layer.len() > 1 {
        layer = layer.chunks(2).map(|pair| Sha256::digest(pair.concat()).into()).collect();
    }
    layer[0]
}

fn bep52_file(data: &[u8]) -> [u8; 32] {
    bep52(data, data.len().div_ceil(BLOCK).next_power_of_two())
}

fn root_of(metainfo: &Metainfo, file: u32) -> Option<[u8; 32]> {
    metainfo.file_root(FileIndex(file)).map(|root| root.0)
}

fn piece_data<'a>(metainfo: &Metainfo, files: &'a [Vec<u8>], piece: u32) -> &'a [u8] {
    let (file, offset) = metainfo.layout().file_of_piece(PieceIndex(piece)).unwrap();
    let len = metainfo.layout().piece_len(PieceIndex(piece)) as usize;
    &files[file.0 as usize][offset as usize..offset as usize + len]
}

/// Sizes around every border of blocks and pieces.
fn sizes(piece: usize) -> Vec<usize> {
    let borders = [0, 1024, BLOCK, 2 * BLOCK, 3 * BLOCK, 5 * BLOCK, piece, 2 * piece, 3 * piece, 5 * piece];
    let mut sizes: Vec<_> = borders.iter().flat_map(|at| [at.saturating_sub(1), *at, at + 1]).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

fn files(piece: usize) -> Vec<Vec<u8>> {
    sizes(piece).into_iter().enumerate().map(|(seed, len)| content(seed as u64, len)).collect()
}

#[test]
fn merkle_is_bep_52() {
    for blocks in [1, 2, 8] {
        let piece = blocks * BLOCK;
        let files = files(piece);
        let (metainfo, _) = torrent(HashAlgorithm::Sha256Merkle, piece as u32, &files);
        let mut hashes = 0..metainfo.piece_count();
        for (file, data) in files.iter().enumerate() {
            let root = (!data.is_empty()).then(|| bep52_file(data));
            assert_eq!(root_of(&metainfo, file as u32), root, "{} bytes", data.len());
            // BEP 52: a piece layer exists only above one piece; a single piece is the whole tree.
            for part in data.chunks(piece) {
                let expected = if data.len() <= piece { bep52_file(data) } else { bep52(part, blocks) };
                let hash = metainfo.piece_hash(PieceIndex(hashes.next().unwrap()));
                assert_eq!(hash, Some(expected.into()), "{} bytes", data.len());
            }
        }
        assert_eq!(hashes.next(), None);
    }
}

#[test]
fn blake3_roots_are_plain_blake3() {
    for blocks in [1, 2, 8] {
        let files = files(blocks * BLOCK);
        let (metainfo, _) = torrent(HashAlgorithm::Blake3, (blocks * BLOCK) as u32, &files);
        for (file, data) in files.iter().enumerate() {
            let root = (!data.is_empty()).then(|| *blake3::hash(data).as_bytes());
            assert_eq!(root_of(&metainfo, file as u32), root, "{} bytes", data.len());
        }
    }
}

#[test]
fn plain_hashes_are_over_the_files_end_to_end() {
    let piece = 3 * BLOCK;
    let files = files(piece);
    let line = files.concat();
    for algorithm in [HashAlgorithm::Sha1, HashAlgorithm::Sha256] {
        let (metainfo, _) = torrent(algorithm, piece as u32, &files);
        let expected = line.chunks(piece).map(|part| match algorithm {
            HashAlgorithm::Sha1 => Sha1::digest(part).to_vec(),
            _ => Sha256::digest(part).to_vec(),
        });
        let got =
            (0..metainfo.piece_count()).map(|at| metainfo.piece_hash(PieceIndex(at)).unwrap().as_bytes().to_vec());
        assert!(expected.eq(got));
        assert!((0..files.len()).all(|file| root_of(&metainfo, file as u32).is_none()));
        assert!(metainfo.leaf_requests(PieceIndex(0)).is_empty());
        assert_eq!(metainfo.single_leaf(PieceIndex(0)), None);
    }
}

#[test]
fn leaves_of_small_pieces() {
    for algorithm in [HashAlgorithm::Sha256Merkle, HashAlgorithm::Blake3] {
        for blocks in [1, 2, 8] {
            let files = files(blocks * BLOCK);
            let (metainfo, _) = torrent(algorithm, (blocks * BLOCK) as u32, &files);
            for piece in 0..metainfo.piece_count() {
                check_leaves(&metainfo, &files, piece);
            }
        }
    }
}

/// Pieces of more leaves than one request names: 512 and more, up to full ones and with ragged ends.
#[test]
fn leaves_of_large_pieces() {
    let piece = 2048 * BLOCK;
    let files: Vec<_> = [600 * BLOCK + 5, 1024 * BLOCK, piece + 513 * BLOCK, piece + 1, 1537 * BLOCK]
        .into_iter()
        .enumerate()
        .map(|(seed, len)| content(seed as u64, len))
        .collect();
    for algorithm in [HashAlgorithm::Sha256Merkle, HashAlgorithm::Blake3] {
        let (metainfo, _) = torrent(algorithm, piece as u32, &files);
        for piece in 0..metainfo.piece_count() {
            check_leaves(&metainfo, &files, piece);
        }
    }
}

/// Everything that is said about the leaves of one piece, by one who has it to one who has not.
fn check_leaves(metainfo: &Metainfo, files: &[Vec<u8>], piece: u32) {
    let piece = PieceIndex(piece);
    let data = piece_data(metainfo, files, piece.0);
    let leaves = metainfo.piece_leaves(piece, data);
    assert_eq!(leaves.len(), data.len().div_ceil(BLOCK));
    assert!(metainfo.leaves_match(piece, &leaves));
    for (block, leaf) in leaves.iter().enumerate() {
        let span = metainfo.layout().block_span(piece, BlockIndex(block as u32));
        let bytes = &data[span.begin as usize..span.end() as usize];
        assert_eq!(metainfo.leaf_hash(span, bytes), Some(*leaf));
        assert_ne!(metainfo.leaf_hash(span, &content(99, bytes.len())), Some(*leaf));
        assert_eq!(metainfo.leaf_hash(span, &bytes[1..]), None);
    }
    let requests = metainfo.leaf_requests(piece);
    match metainfo.single_leaf(piece) {
        Some(leaf) => assert_eq!((leaves, requests.len()), (vec![leaf], 0)),
        None => check_exchange(metainfo, piece, &leaves, &requests),
    }
}

fn check_exchange(metainfo: &Metainfo, piece: PieceIndex, leaves: &[[u8; 32]], requests: &[LeafRequest]) {
    let mut received = Vec::new();
    for request in requests {
        assert!(request.length.is_power_of_two() && (2..=512).contains(&request.length));
        assert!(request.index.is_multiple_of(request.length));
        assert!(metainfo.pieces_of_leaf_request(request).contains(&piece));
        let answer = metainfo.answer_leaf_request(piece, request, leaves).unwrap();
        received.extend(metainfo.verify_leaves(piece, request, &answer).unwrap());

        let lie = Err(LeafError::Proof { piece: piece.0 });
        for at in [0, 32, answer.len() / 2, answer.len() - 1] {
            let mut wrong = answer.clone();
            wrong[at] ^= 1;
            assert_eq!(metainfo.verify_leaves(piece, request, &wrong), lie, "byte {at} of {request:?}");
        }
        let short = metainfo.verify_leaves(piece, request, &answer[..answer.len() - 1]);
        assert!(matches!(short, Err(LeafError::Length { .. })));
    }
    assert_eq!(received, leaves);
    let mut wrong = leaves.to_vec();
    wrong.swap(0, 1);
    assert!(!metainfo.leaves_match(piece, &wrong));
    assert!(!metainfo.leaves_match(piece, &leaves[1..]));
}

/// The hashes of an answer are those that BEP 52 describes: leaves, then the uncles from the bottom to the top.
#[test]
fn answers_are_bep_52_messages() {
    let data = content(1, 2048 * BLOCK);
    let (metainfo, _) = torrent(HashAlgorithm::Sha256Merkle, data.len() as u32, std::slice::from_ref(&data));
    let requests = metainfo.leaf_requests(PieceIndex(0));
    let root = bep52_file(&data);
    // log2(512) - 1 layers that take no hashes, then two uncles.
    let third = LeafRequest { root, index: 1024, length: 512, proof_layers: 8 + 2 };
    assert_eq!((requests.len(), requests[2]), (4, third));
    let leaves = metainfo.piece_leaves(PieceIndex(0), &data);
    let answer = metainfo.answer_leaf_request(PieceIndex(0), &third, &leaves).unwrap();
    let mut expected = leaves[1024..1536].concat();
    expected.extend(bep52(&data[1536 * BLOCK..], 512));
    expected.extend(bep52(&data[..1024 * BLOCK], 1024));
    assert_eq!(answer, expected);
}

#[test]
fn requests_that_nobody_sends_are_not_answered() {
    let files = vec![content(1, 40 * BLOCK), content(2, 3 * BLOCK), content(2, 3 * BLOCK)];
    let (metainfo, _) = torrent(HashAlgorithm::Sha256Merkle, 8 * BLOCK_LEN, &files);
    let good = metainfo.leaf_requests(PieceIndex(1))[0];
    assert_eq!(good, LeafRequest { root: bep52_file(&files[0]), index: 8, length: 8, proof_layers: 0 });
    assert_eq!(metainfo.pieces_of_leaf_request(&good), [PieceIndex(1)]);
    for odd in [
        LeafRequest { root: [7; 32], ..good },
        LeafRequest { index: 4, ..good },
        LeafRequest { index: 40, ..good },
        LeafRequest { index: u32::MAX, ..good },
        LeafRequest { length: 4, ..good },
        LeafRequest { length: 0, ..good },
        LeafRequest { length: u32::MAX, ..good },
        LeafRequest { proof_layers: 1, ..good },
        LeafRequest { proof_layers: u32::MAX, ..good },
    ] {
        assert_eq!(metainfo.pieces_of_leaf_request(&odd), [], "{odd:?}");
        let unasked = Err(LeafError::Unasked { piece: 1 });
        assert_eq!(metainfo.verify_leaves(PieceIndex(1), &odd, &[0; 256]), unasked, "{odd:?}");
    }
    // Files of the same content: either can answer.
    let twin = metainfo.leaf_requests(PieceIndex(5))[0];
    assert_eq!(metainfo.pieces_of_leaf_request(&twin), [PieceIndex(5), PieceIndex(6)]);
}

#[test]
fn pieces_out_of_range_are_nothing() {
    let data = content(1, 3 * BLOCK);
    for algorithm in HashAlgorithm::ALL {
        let (metainfo, _) = torrent(algorithm, 2 * BLOCK_LEN, std::slice::from_ref(&data));
        for piece in [2, u32::MAX].map(PieceIndex) {
            assert!(metainfo.piece_hash(piece).is_none() && metainfo.piece_hasher(piece).is_none());
            assert!(!metainfo.check_piece(piece, [&data]) && metainfo.leaf_requests(piece).is_empty());
            assert!(metainfo.piece_leaves(piece, &[]).is_empty() && !metainfo.leaves_match(piece, &[]));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However the bytes of a piece are cut up, the same hash and leaves come out; and one changed bit is noticed.
    #[test]
    fn pieces_are_checked_however_they_come(
        algorithm in prop::sample::select(HashAlgorithm::ALL.to_vec()),
        len in 1usize..200_000,
        cuts in prop::collection::vec(0usize..200_000, 0..12),
        flip in 0usize..200_000,
    ) {
        let data = content(len as u64, len);
        let (metainfo, _) = torrent(algorithm, 4 * BLOCK_LEN, std::slice::from_ref(&data));
        for (index, piece) in data.chunks(4 * BLOCK).enumerate() {
            let index = PieceIndex(index as u32);
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (piece.len() + 1)).chain([0, piece.len()]).collect();
            cuts.sort_unstable();
            let chunks = || cuts.windows(2).map(|cut| &piece[cut[0]..cut[1]]);
            prop_assert!(metainfo.check_piece(index, chunks()));
            let mut hasher = metainfo.piece_hasher(index).unwrap();
            chunks().for_each(|chunk| hasher.update(chunk));
            prop_assert_eq!(hasher.finish_leaves(), metainfo.piece_leaves(index, piece));

            let mut wrong = piece.to_vec();
            wrong[flip % piece.len()] ^= 1;
            prop_assert!(!metainfo.check_piece(index, [&wrong]));
            prop_assert!(!metainfo.check_piece(index, [&piece[..piece.len() - 1]]));
            prop_assert!(!metainfo.check_piece(index, [piece, b"x"]));
        }
    }

    #[test]
    fn roots_of_any_length(blocks_per_piece in 0u32..4, len in 1usize..400_000) {
        let data = content(len as u64, len);
        let piece = BLOCK_LEN << blocks_per_piece;
        let (merkle, _) = torrent(HashAlgorithm::Sha256Merkle, piece, std::slice::from_ref(&data));
        prop_assert_eq!(root_of(&merkle, 0), Some(bep52_file(&data)));
        let (blake3, _) = torrent(HashAlgorithm::Blake3, piece, std::slice::from_ref(&data));
        prop_assert_eq!(root_of(&blake3, 0), Some(*blake3::hash(&data).as_bytes()));
    }
}
