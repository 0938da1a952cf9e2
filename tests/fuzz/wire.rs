//! What peers send.

use std::mem::discriminant;
use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};
use knot::metainfo::{LeafRequest, Metainfo};
use knot::types::PieceIndex;
use knot::wire::{
    Decoder, ExtensionHandshake, Frame, Handshake, MAX_PAYLOAD, MAX_PEX_PEERS, METADATA_PIECE_LEN, MetadataMessage,
    PexMessage, WireError, encode, encode_piece_header,
};

/// The handshake is known as soon as it is there, and says what the bytes say.
pub(crate) fn handshake(input: &[u8]) {
    let whole = Handshake::decode(input);
    let mut decoder = Decoder::new();
    let mut piecemeal = decoder.next_handshake();
    for byte in input {
        if piecemeal != Ok(None) {
            break;
        }
        decoder.feed(&[*byte]);
        piecemeal = decoder.next_handshake();
    }
    assert_eq!(piecemeal, whole);
    if let Ok(Some(handshake)) = whole {
        assert_eq!(handshake.encode(), input[..68]);
    }
}

/// The first byte says how the rest is split; however it is, the same frames come out.
pub(crate) fn frames(input: &[u8]) {
    let Some((split, stream)) = input.split_first() else { return };
    let (frames, error) = decode([stream].into_iter());
    let mut parts = Vec::new();
    let (mut rest, mut size) = (stream, usize::from(*split));
    while !rest.is_empty() {
        let (part, behind) = rest.split_at(rest.len().min(1 + size % 41));
        parts.push(part);
        (rest, size) = (behind, (size * 7 + 3) % 1009);
    }
    let (split_frames, split_error) = decode(parts.into_iter());
    assert_eq!(frames, split_frames);
    assert_eq!(error.as_ref().map(discriminant), split_error.as_ref().map(discriminant));

    let mut encoded = BytesMut::new();
    for frame in &frames {
        match frame {
            Frame::Message(message) => encode(message, &mut encoded),
            Frame::Piece { span, data } => {
                assert!(data.len() <= MAX_PAYLOAD && data.len() == span.len as usize);
                encoded.extend_from_slice(&encode_piece_header(*span));
                encoded.extend_from_slice(data);
            }
        }
    }
    assert!(encoded.len() <= stream.len(), "nothing is made up");
    assert_eq!(decode([&encoded[..]].into_iter()), (frames, None));
}

fn decode<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<WireError>) {
    let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
    for part in parts {
        decoder.feed(part);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

/// What is read is bounded, and is read again from what it is written as.
pub(crate) fn extension_handshake(input: &[u8]) {
    let Ok(handshake) = ExtensionHandshake::decode(input) else { return };
    assert!(handshake.extensions.len() <= 64 && handshake.extensions.keys().all(|name| name.len() <= 64));
    assert!(handshake.client.as_ref().is_none_or(|client| client.chars().count() <= 64));
    assert_eq!(ExtensionHandshake::decode(&handshake.encode()), Ok(handshake));
}

pub(crate) fn metadata_exchange(input: &[u8]) {
    let Ok(Some(message)) = MetadataMessage::decode(&Bytes::copy_from_slice(input)) else { return };
    if let MetadataMessage::Data { data, .. } = &message {
        assert!((1..=METADATA_PIECE_LEN as usize).contains(&data.len()) && input.ends_with(data));
    }
    assert_eq!(MetadataMessage::decode(&message.encode()), Ok(Some(message)));
}

pub(crate) fn pex(input: &[u8]) {
    let Ok(mut message) = PexMessage::decode(input) else { return };
    assert!(message.added.len() <= 2 * MAX_PEX_PEERS && message.dropped.len() <= 2 * MAX_PEX_PEERS);
    assert!(message.added.iter().all(|peer| peer.addr.port() != 0));
    // IPv4 addresses in the form of IPv6 are written as what they are, behind which more may not fit.
    message.added.sort_by_key(|peer| peer.addr.is_ipv6());
    message.dropped.sort_by_key(|addr| addr.is_ipv6());
    let v4 = message.added.iter().filter(|peer| peer.addr.is_ipv4()).count();
    let v4_dropped = message.dropped.iter().filter(|addr| addr.is_ipv4()).count();
    if v4 <= MAX_PEX_PEERS && v4_dropped <= MAX_PEX_PEERS {
        assert_eq!(PexMessage::decode(&message.encode()), Ok(message));
    }
}

/// A torrent with leaves, and those of one of its pieces.
struct Leaves {
    metainfo: Metainfo,
    asked: Vec<(PieceIndex, LeafRequest, Vec<u8>)>,
}

fn leaves() -> &'static [Leaves] {
    static LEAVES: OnceLock<Vec<Leaves>> = OnceLock::new();
    const CORPUS: [&[u8]; 2] =
        [include_bytes!("../corpus/metainfo/knot-sha256-merkle"), include_bytes!("../corpus/metainfo/knot-blake3")];
    LEAVES.get_or_init(|| CORPUS.into_iter().map(answered).collect())
}

/// Every answer about a file of zeros, which is what the two torrents are of.
fn answered(metainfo: &[u8]) -> Leaves {
    let metainfo = Metainfo::parse(metainfo).expect("a valid torrent");
    let mut asked = Vec::new();
    for piece in (0..metainfo.piece_count()).map(PieceIndex) {
        let data = vec![0; metainfo.layout().piece_len(piece) as usize];
        let leaves = metainfo.piece_leaves(piece, &data);
        for request in metainfo.leaf_requests(piece) {
            let answer = metainfo.answer_leaf_request(piece, &request, &leaves).expect("an answer");
            asked.push((piece, request, answer));
        }
    }
    assert!(asked.len() > 1);
    Leaves { metainfo, asked }
}

/// The first byte chooses a question, the rest is laid over the right answer (exclusive or, or in its place): only what
/// is right is believed.
pub(crate) fn hashes(input: &[u8]) {
    let Some((choice, mask)) = input.split_first() else { return };
    for Leaves { metainfo, asked } in leaves() {
        let (piece, request, answer) = &asked[usize::from(*choice >> 1) % asked.len()];
        let given: Vec<u8> = match choice & 1 {
            0 => answer.iter().enumerate().map(|(at, byte)| byte ^ mask.get(at).copied().unwrap_or(0)).collect(),
            _ => mask.to_vec(),
        };
        assert_eq!(metainfo.verify_leaves(*piece, request, &given).is_ok(), given == *answer);
        let other = PieceIndex(piece.0 ^ 1);
        assert!(metainfo.verify_leaves(other, request, &given).is_err());
    }
}
