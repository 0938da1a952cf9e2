//! Round trips split anywhere, limits, and garbage.

use proptest::prelude::*;

use super::*;
use crate::types::{SwarmId, WirePeerId};

fn any_span() -> impl Strategy<Value = BlockSpan> {
    any::<(u32, u32, u32)>().prop_map(|(piece, begin, len)| BlockSpan { piece: PieceIndex(piece), begin, len })
}

fn any_hash_request() -> impl Strategy<Value = HashRequest> {
    any::<([u8; 32], u32, u32, u32, u32)>().prop_map(|(root, base_layer, index, length, proof_layers)| HashRequest {
        root,
        base_layer,
        index,
        length,
        proof_layers,
    })
}

fn any_bytes(max: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn any_message() -> impl Strategy<Value = Message> {
    let index = || any::<u32>().prop_map(PieceIndex);
    prop_oneof![
        Just(Message::KeepAlive),
        Just(Message::Choke),
        Just(Message::Unchoke),
        Just(Message::Interested),
        Just(Message::NotInterested),
        index().prop_map(Message::Have),
        any_bytes(300).prop_map(Message::Bitfield),
        any_span().prop_map(Message::Request),
        any_span().prop_map(Message::Cancel),
        any::<u16>().prop_map(Message::Port),
        index().prop_map(Message::Suggest),
        Just(Message::HaveAll),
        Just(Message::HaveNone),
        any_span().prop_map(Message::Reject),
        index().prop_map(Message::AllowedFast),
        (any::<u8>(), any_bytes(300)).prop_map(|(id, payload)| Message::Extended { id, payload }),
        any_hash_request().prop_map(Message::HashRequest),
        (any_hash_request(), 0usize..5)
            .prop_map(|(request, hashes)| Message::Hashes { request, hashes: Bytes::from(vec![0xa5; 32 * hashes]) }),
        any_hash_request().prop_map(Message::HashReject),
    ]
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let piece = (any::<(u32, u32)>(), any_bytes(300)).prop_map(|((piece, begin), data)| Frame::Piece {
        span: BlockSpan { piece: PieceIndex(piece), begin, len: data.len() as u32 },
        data,
    });
    prop_oneof![3 => any_message().prop_map(Frame::Message), 1 => piece]
}

fn encode_all(frames: &[Frame]) -> BytesMut {
    let mut out = BytesMut::new();
    for frame in frames {
        match frame {
            Frame::Message(message) => encode(message, &mut out),
            Frame::Piece { span, data } => {
                out.put_slice(&encode_piece_header(*span));
                out.put_slice(data);
            }
        }
    }
    out
}

/// Feeds `bytes` in chunks of the given lengths, in turn, and drains after each.
fn decode_split(bytes: &[u8], chunks: &[usize]) -> Result<Vec<Frame>, WireError> {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    let mut rest = bytes;
    for chunk in chunks.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at((*chunk).min(rest.len()));
        rest = later;
        decoder.buffer().extend_from_slice(now);
        while let Some(frame) = decoder.next_frame()? {
            frames.push(frame);
        }
    }
    assert_eq!(decoder.buffered(), 0);
    Ok(frames)
}

proptest! {
    #[test]
    fn frames_round_trip_however_they_are_split(
        frames in prop::collection::vec(any_frame(), 0..12),
        chunks in prop::collection::vec(1usize..200, 1..10),
    ) {
        let bytes = encode_all(&frames);
        prop_assert_eq!(&decode_split(&bytes, &chunks), &Ok(frames.clone()));
        prop_assert_eq!(&decode_split(&bytes, &[1]), &Ok(frames));
    }

    #[test]
    fn every_single_cut_gives_the_same_frames(frames in prop::collection::vec(any_frame(), 1..4)) {
        let bytes = encode_all(&frames);
        for cut in 1..bytes.len() {
            prop_assert_eq!(&decode_split(&bytes, &[cut, bytes.len()]), &Ok(frames.clone()));
        }
    }

    #[test]
    fn garbage_never_panics_nor_hoards(bytes in prop::collection::vec(any::<u8>(), 0..600), small: bool, id in 0u8..30) {
        let mut decoder = Decoder::new();
        if small {
            // A plausible length and id in front, so that payload decoding is reached.
            decoder.feed(&(bytes.len() as u32 + 1).to_be_bytes());
            decoder.feed(&[id]);
        }
        for byte in bytes {
            decoder.feed(&[byte]);
            while let Ok(Some(_)) = decoder.next_frame() {}
        }
        prop_assert!(decoder.buffered() <= MAX_FRAME);
    }
}

#[test]
fn known_bytes() {
    let span = BlockSpan { piece: PieceIndex(1), begin: 0x4000, len: 0x4000 };
    let mut out = BytesMut::new();
    encode(&Message::Request(span), &mut out);
    assert_eq!(out[..], [0, 0, 0, 13, 6, 0, 0, 0, 1, 0, 0, 0x40, 0, 0, 0, 0x40, 0]);
    assert_eq!(encode_piece_header(span), [0, 0, 0x40, 9, 7, 0, 0, 0, 1, 0, 0, 0x40, 0]);
}

#[test]
fn a_handshake_then_frames_in_one_buffer() {
    let handshake = Handshake::new(SwarmId([1; 20]), WirePeerId([2; 20]));
    let mut bytes = handshake.encode().to_vec();
    bytes.extend([0, 0, 0, 1, UNCHOKE]);
    let mut decoder = Decoder::new();
    for byte in &bytes[..HANDSHAKE_LEN - 1] {
        decoder.feed(&[*byte]);
        assert_eq!(decoder.next_handshake(), Ok(None));
    }
    decoder.feed(&bytes[HANDSHAKE_LEN - 1..]);
    assert_eq!(decoder.next_handshake(), Ok(Some(handshake)));
    assert_eq!(decoder.next_frame(), Ok(Some(Frame::Message(Message::Unchoke))));
}

#[test]
fn frames_beyond_the_limit_fail_before_their_payload_comes() {
    let mut decoder = Decoder::new();
    decoder.feed(&u32::MAX.to_be_bytes());
    assert!(matches!(decoder.next_frame(), Err(WireError::FrameTooLong { .. })));

    let mut decoder = Decoder::new();
    decoder.feed(&(MAX_FRAME as u32 + 1).to_be_bytes());
    assert_eq!(decoder.next_frame(), Ok(None), "it may be a bitfield");
    decoder.feed(&[PIECE]);
    assert_eq!(decoder.next_frame(), Err(WireError::FrameTooLong { max: MAX_FRAME, got: MAX_FRAME + 1 }));
}

#[test]
fn the_largest_piece_is_taken_and_a_larger_one_is_not() {
    for (extra, taken) in [(0, true), (1, false)] {
        let data = vec![0; MAX_PAYLOAD + extra];
        let mut decoder = Decoder::new();
        decoder.feed(&encode_piece_header(BlockSpan { piece: PieceIndex(0), begin: 0, len: data.len() as u32 }));
        decoder.feed(&data);
        assert_eq!(matches!(decoder.next_frame(), Ok(Some(Frame::Piece { .. }))), taken);
    }
}

#[test]
fn bitfields_are_bounded_by_the_torrent() {
    let mut decoder = Decoder::new();
    decoder.set_max_bitfield(9);
    decoder.feed(&[0, 0, 0, 3, BITFIELD, 0xff, 0x80]);
    assert_eq!(decoder.next_frame(), Ok(Some(Frame::Message(Message::Bitfield(Bytes::from_static(&[0xff, 0x80]))))));
    decoder.feed(&[0, 0, 0, 4, BITFIELD]);
    assert_eq!(decoder.next_frame(), Err(WireError::FrameTooLong { max: 3, got: 4 }));

    let mut decoder = Decoder::new();
    let len = Bitfield::byte_len(MAX_PIECES);
    decoder.feed(&(len as u32 + 1).to_be_bytes());
    decoder.feed(&[BITFIELD]);
    decoder.feed(&vec![0xff; len]);
    assert!(matches!(decoder.next_frame(), Ok(Some(Frame::Message(Message::Bitfield(bits)))) if bits.len() == len));
}

#[test]
fn wrong_payload_lengths_are_refused_and_unknown_ids_skipped() {
    for (id, len) in [
        (CHOKE, 1),
        (HAVE, 3),
        (HAVE, 5),
        (REQUEST, 11),
        (PIECE, 7),
        (CANCEL, 13),
        (PORT, 1),
        (EXTENDED, 0),
        (HASH_REQUEST, 47),
        (HASHES, 47),
        (HASHES, 49),
        (HASH_REJECT, 80),
    ] {
        let mut decoder = Decoder::new();
        decoder.feed(&(len as u32 + 1).to_be_bytes());
        decoder.feed(&[id]);
        decoder.feed(&vec![0; len]);
        let result = decoder.next_frame();
        assert!(
            matches!(result, Err(WireError::PayloadLength { id: of, got, .. }) if of == id && got == len),
            "{id} {len}: {result:?}"
        );
    }
    let mut decoder = Decoder::new();
    decoder.feed(&[0, 0, 0, 3, 99, 1, 2, 0, 0, 0, 1, CHOKE]);
    assert_eq!(decoder.next_frame(), Ok(Some(Frame::Message(Message::Choke))));
}

#[test]
fn a_block_is_not_copied_and_the_room_follows_the_reads() {
    let mut decoder = Decoder::new();
    assert!(decoder.buffer().capacity() < 16 * 1024, "an idle peer costs little");
    for _ in 0..8 {
        let buf = decoder.buffer();
        let room = buf.capacity() - buf.len();
        buf.put_bytes(0, room);
        while let Ok(Some(_)) = decoder.next_frame() {}
    }
    let buf = decoder.buffer();
    assert!(buf.capacity() - buf.len() >= 32 * 1024, "a fast peer gets large reads");

    let mut decoder = Decoder::new();
    decoder.feed(&encode_piece_header(BlockSpan { piece: PieceIndex(0), begin: 0, len: 16384 }));
    decoder.feed(&[7; 16384]);
    let lies_at = decoder.buf[PIECE_HEADER_LEN..].as_ptr();
    let Ok(Some(Frame::Piece { data, .. })) = decoder.next_frame() else { panic!("expected a piece") };
    assert_eq!(data.as_ptr(), lies_at);
}
