//! Hybrid torrents: v1 and v2 at once, both verified (BEP 52).

use super::torrent::{parse, v1_info};
use crate::metainfo::testing::{Value, content, contradictory, hybrid_torrent};
use crate::metainfo::{Form, Metainfo, MetainfoError, Part, PieceCheck};
use crate::types::{BLOCK_LEN, BlockIndex, BlockSpan, FileIndex, PieceIndex};

const PIECE: usize = 64 << 10;

fn files() -> Vec<Vec<u8>> {
    let lens = [5, 0, 2 * PIECE + 20_000, PIECE, 1, BLOCK_LEN as usize, PIECE + 1, 40_000];
    lens.iter().zip(1..).map(|(len, seed)| content(seed, *len)).collect()
}

fn pieces(metainfo: &Metainfo) -> impl Iterator<Item = PieceIndex> + use<> {
    (0..metainfo.piece_count()).map(PieceIndex)
}

/// What a piece is, padding included.
fn bytes_of(metainfo: &Metainfo, files: &[Vec<u8>], piece: PieceIndex) -> Vec<u8> {
    let whole = BlockSpan { piece, begin: 0, len: metainfo.layout().piece_len(piece) };
    let bytes = |part| match part {
        Part::File(slice) => files[slice.file.0 as usize][slice.offset as usize..][..slice.len as usize].to_vec(),
        Part::Padding(len) => vec![0; len as usize],
    };
    metainfo.layout().parts(whole).flat_map(bytes).collect()
}

fn judge(metainfo: &Metainfo, piece: PieceIndex, bytes: &[u8]) -> PieceCheck {
    let mut hasher = metainfo.piece_hasher(piece).unwrap();
    bytes.chunks(30_000).for_each(|bytes| hasher.update(bytes));
    metainfo.judge(piece, hasher)
}

#[test]
fn blocks_are_verified_by_the_trees_of_v2_in_the_pieces_of_v1() {
    let files = files();
    let (hybrid, _) = hybrid_torrent(PIECE as u32, &files);
    assert!(hybrid.verifies_blocks() && hybrid.hashes_twice() && !hybrid.lacks_layers());
    assert!(hybrid.layout().has_padding() && hybrid.layout().has_file_pieces());
    let mut roots = 0;
    for piece in pieces(&hybrid) {
        let bytes = bytes_of(&hybrid, &files, piece);
        let PieceCheck::Right(leaves) = judge(&hybrid, piece, &bytes) else { panic!("{piece:?}") };
        assert_eq!(leaves, hybrid.piece_leaves(piece, &bytes));
        assert_eq!(leaves.len() as u32, hybrid.leaf_count(piece));
        assert!(hybrid.leaves_match(piece, &leaves) && hybrid.check_piece(piece, [&bytes]));
        for block in 0..hybrid.layout().blocks_in(piece) {
            let span = hybrid.layout().block_span(piece, BlockIndex(block));
            let mut data = bytes[span.begin as usize..][..span.len as usize].to_vec();
            let leaf = leaves.get(block as usize).copied();
            assert_eq!(leaf.is_none(), hybrid.layout().is_padding(span));
            assert_eq!(hybrid.leaf_hash(span, &data), leaf);
            // Padding behind the file is not looked at.
            let real: usize = hybrid.layout().slices(span).map(|slice| slice.len as usize).sum();
            data[real..].fill(7);
            assert_eq!(hybrid.leaf_hash(span, &data), leaf);
            if let Some(first) = data.first_mut().filter(|_| real > 0) {
                *first ^= 1;
                assert_ne!(hybrid.leaf_hash(span, &data), leaf);
            }
        }
        assert_eq!(hybrid.leaf_requests(piece).is_empty(), leaves.len() == 1);
        for request in hybrid.leaf_requests(piece) {
            roots += 1;
            assert!(hybrid.pieces_of_leaf_request(&request).contains(&piece));
            let answer = hybrid.answer_leaf_request(piece, &request, &leaves).unwrap();
            assert_eq!(hybrid.verify_leaves(piece, &request, &answer).unwrap(), leaves);
        }
        let mut wrong = bytes;
        wrong[0] ^= 1;
        assert_eq!(judge(&hybrid, piece, &wrong), PieceCheck::Wrong);
        assert_eq!(judge(&hybrid, piece, &wrong[1..]), PieceCheck::Wrong);
    }
    assert!(roots > 5);
    // Content must not be shared by roots that v1 does not prove.
    assert!((0..files.len() as u32).all(|file| hybrid.file_root(FileIndex(file)).is_none()));
}

#[test]
fn what_only_one_form_says_is_the_publishers_fault() {
    let files = files();
    let (right, _) = hybrid_torrent(PIECE as u32, &files);
    let wrong = contradictory(&right, PieceIndex(1));
    assert_ne!(wrong.info_hash(), right.info_hash());
    for piece in pieces(&wrong) {
        let bytes = bytes_of(&wrong, &files, piece);
        assert_eq!(judge(&wrong, piece, &bytes) == PieceCheck::Inconsistent, piece == PieceIndex(1));
        assert_eq!(wrong.check_piece(piece, [&bytes]), piece != PieceIndex(1));
    }
}

#[test]
fn without_layers_it_is_read_as_v1() {
    let files = files();
    let (whole, _) = hybrid_torrent(PIECE as u32, &files);
    let bare = Metainfo::from_info_bytes(whole.info_bytes()).unwrap();
    assert!(bare.lacks_layers() && bare.has_layers() && !bare.verifies_blocks() && !bare.hashes_twice());
    assert_eq!(bare.check_mountable(), Ok(()));
    assert_eq!(bare.layer_requests().len(), 2, "the other files have one piece, whose hash is in info");
    for piece in pieces(&bare) {
        assert_eq!(judge(&bare, piece, &bytes_of(&bare, &files, piece)), PieceCheck::Right(Vec::new()));
        assert!(bare.single_leaf(piece).is_none());
    }
    for request in bare.layer_requests() {
        assert!(bare.answer_range(&request, |_| None).is_none());
        let answer = whole.answer_range(&request, |_| None).unwrap();
        assert!(bare.verify_layer(&request, &answer).is_some());
    }
    assert!(whole.layer_requests().is_empty());
    let again = bare.with_layers_of(&whole).unwrap();
    assert!(again.verifies_blocks() && again.public_bytes() == whole.public_bytes());
    assert!(Metainfo::parse(&whole.public_bytes()).unwrap().verifies_blocks());
    // Layers of other roots are none.
    let (other, _) = hybrid_torrent(PIECE as u32, &[content(99, 3 * PIECE)]);
    assert!(bare.with_layers_of(&other).unwrap().lacks_layers());
}

/// Two forms that are not of the same pieces, or lack roots: v1 alone counts, and nobody asks for hashes.
#[test]
fn forms_that_do_not_fit_are_read_as_v1() {
    let leaf = |length: i64| Value::dict([("length", length.into()), ("pieces root", (&[7u8; 32][..]).into())]);
    let file = |length: i64, name: &str| Value::dict([("length", length.into()), ("path", vec![name.into()].into())]);
    let tree = |a: Value, b: Value| Value::dict([("a", Value::dict([("", a)])), ("b", Value::dict([("", b)]))]);
    let data = content(1, 40_000);
    let info = v1_info(16384, &data, vec![file(20_000, "a"), file(20_000, "b")]).set("meta version", 2);
    let unpadded = info.clone().set("file tree", tree(leaf(20_000), leaf(20_000)));
    let aligned = v1_info(16384, &data[..36_384], vec![file(16_384, "a"), file(20_000, "b")]).set("meta version", 2);
    let rootless = aligned.clone().set("file tree", tree(leaf(16_384).without("pieces root"), leaf(20_000)));
    for info in [unpadded, rootless] {
        let metainfo = parse(&info).unwrap();
        assert_eq!(
            (metainfo.form(), metainfo.lacks_layers(), metainfo.verifies_blocks()),
            (Form::Hybrid, false, false)
        );
        assert!(metainfo.layer_requests().is_empty() && metainfo.leaf_requests(PieceIndex(0)).is_empty());
        assert_eq!(metainfo.check_mountable(), Ok::<(), MetainfoError>(()));
    }
    let fitting = parse(&aligned.set("file tree", tree(leaf(16_384), leaf(20_000)))).unwrap();
    assert!(fitting.lacks_layers());
}

#[test]
fn hashes_are_asked_for_where_v2_is_spoken() {
    let (hybrid, _) = hybrid_torrent(PIECE as u32, &files());
    let (v1, v2) = (hybrid.info_hash().swarm_id(), hybrid.v2_swarm().unwrap());
    for offered in [false, true] {
        assert!(hybrid.speaks_hashes(v2, offered, true) && hybrid.speaks_hashes(v2, offered, false));
        assert!(!hybrid.speaks_hashes(v1, offered, true), "it would have changed to v2");
        assert_eq!(hybrid.speaks_hashes(v1, offered, false), offered, "another knot");
    }
}
