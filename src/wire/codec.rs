//! Frames: bytes to messages and back.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::handshake::HANDSHAKE_LEN;
use super::{Handshake, HashRequest, Message};
use crate::types::{Bitfield, BlockSpan, PieceIndex};

/// Bytes of content, hashes or extension payload that one frame may carry.
pub const MAX_PAYLOAD: usize = 128 * 1024;

/// Bytes of a `piece` message before its data: length, id, piece, begin.
pub const PIECE_HEADER_LEN: usize = 13;

/// The longest fixed part, that of a hash message.
const MAX_FRAME: usize = MAX_PAYLOAD + 1 + HASH_REQUEST_LEN;
const HASH_REQUEST_LEN: usize = 48;

/// Pieces of a torrent that this node would load: what a bitfield may cover before its torrent is known.
const MAX_PIECES: u32 = 2 << 20;

/// Free room that [`Decoder::buffer`] offers at least and at most.
const MIN_READ: usize = 4 * 1024;
const MAX_READ: usize = 128 * 1024;

const CHOKE: u8 = 0;
const UNCHOKE: u8 = 1;
const INTERESTED: u8 = 2;
const NOT_INTERESTED: u8 = 3;
const HAVE: u8 = 4;
const BITFIELD: u8 = 5;
const REQUEST: u8 = 6;
const PIECE: u8 = 7;
const CANCEL: u8 = 8;
const PORT: u8 = 9;
const SUGGEST: u8 = 13;
const HAVE_ALL: u8 = 14;
const HAVE_NONE: u8 = 15;
const REJECT: u8 = 16;
const ALLOWED_FAST: u8 = 17;
const EXTENDED: u8 = 20;
const HASH_REQUEST: u8 = 21;
const HASHES: u8 = 22;
const HASH_REJECT: u8 = 23;

/// One frame of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message for the engine.
    Message(Message),
    /// A block, whose payload goes to storage.
    Piece {
        /// What the payload claims to be; `len` is the payload's length.
        span: BlockSpan,
        /// The payload.
        data: Bytes,
    },
}

/// Bytes that break the protocol. The stream cannot be read any further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The stream does not start as a BitTorrent handshake.
    #[error("expected a BitTorrent handshake, got other bytes")]
    NoHandshake,
    /// A frame beyond the limit of its kind.
    #[error("expected a frame of at most {max} bytes, got one of {got}")]
    FrameTooLong {
        /// The limit.
        max: usize,
        /// Bytes that the frame claims.
        got: usize,
    },
    /// A message whose payload cannot have this length.
    #[error("expected {expected} bytes of payload in message {id}, got {got}")]
    PayloadLength {
        /// The message's id.
        id: u8,
        /// What it should have.
        expected: &'static str,
        /// What it has.
        got: usize,
    },
    /// An extension message of the wrong form.
    #[error("expected {0}")]
    Extension(&'static str),
}

/// Reads frames from bytes as they arrive.
///
/// Fill it with [`Decoder::buffer`] (no copy) or [`Decoder::feed`]; then take the handshake once with
/// [`Decoder::next_handshake`], and call [`Decoder::next_frame`] until it returns `None`. After an error the stream is
/// out of step: close it.
///
/// Memory is taken as bytes arrive, never by the length that a frame claims.
#[derive(Debug)]
pub struct Decoder {
    buf: BytesMut,
    /// Length of `buf` and free room in it when [`Decoder::buffer`] last returned, and bytes taken since: tells how
    /// much of the room the read that followed has filled.
    seen: usize,
    offered: usize,
    taken: usize,
    /// Room to offer in a new allocation.
    room: usize,
    max_bitfield: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self {
            buf: BytesMut::new(),
            seen: 0,
            offered: 0,
            taken: 0,
            room: MIN_READ,
            max_bitfield: Bitfield::byte_len(MAX_PIECES),
        }
    }

    /// Bounds bitfields by the torrent's pieces, once those are known.
    pub fn set_max_bitfield(&mut self, pieces: u32) {
        self.max_bitfield = Bitfield::byte_len(pieces.min(MAX_PIECES));
    }

    /// The buffer to append received bytes to, with free room in it. The room grows while reads fill it and shrinks
    /// while they do not, so that a fast peer gets few large reads and an idle one costs little memory.
    pub fn buffer(&mut self) -> &mut BytesMut {
        let brought = (self.buf.len() + self.taken).saturating_sub(self.seen);
        if brought > 0 && brought >= self.offered {
            self.room = (self.room * 2).min(MAX_READ);
        } else if brought > 0 && brought < self.room / 16 {
            self.room = (self.room / 2).max(MIN_READ);
        }
        // What is left of the previous allocation is used up first: reserving the full room each time would move the
        // unfinished frame to a new allocation each time.
        if self.buf.capacity() - self.buf.len() < MIN_READ {
            self.buf.reserve(self.room);
        }
        self.seen = self.buf.len();
        self.offered = self.buf.capacity() - self.buf.len();
        self.taken = 0;
        &mut self.buf
    }

    /// Appends received bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// Bytes that are held and not yet decoded.
    pub fn buffered(&self) -> usize {
        self.buf.len()
    }

    /// Takes the handshake off the start of the stream; `None` while it is incomplete.
    ///
    /// # Errors
    /// As soon as a byte rules out that this is a BitTorrent handshake.
    pub fn next_handshake(&mut self) -> Result<Option<Handshake>, WireError> {
        let handshake = Handshake::decode(&self.buf)?;
        if handshake.is_some() {
            self.take(HANDSHAKE_LEN);
        }
        Ok(handshake)
    }

    /// Takes the next frame; `None` while it is incomplete. Frames with ids that nobody has defined are skipped.
    ///
    /// # Errors
    /// When a frame is too long, as soon as its length says so, or its payload has the wrong length.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        while let Some(len) = self.complete_frame()? {
            self.take(4);
            if len == 0 {
                return Ok(Some(Frame::Message(Message::KeepAlive)));
            }
            let mut body = self.take(len);
            let id = body.get_u8();
            if let Some(frame) = decode(id, body)? {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// The length of the next frame if all of it is here.
    fn complete_frame(&self) -> Result<Option<usize>, WireError> {
        let Some((len, body)) = self.buf.split_first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_be_bytes(*len) as usize;
        let max = match body.first() {
            Some(&BITFIELD) => 1 + self.max_bitfield,
            Some(_) => MAX_FRAME,
            None => MAX_FRAME.max(1 + self.max_bitfield),
        };
        if len > max {
            return Err(WireError::FrameTooLong { max, got: len });
        }
        Ok((body.len() >= len).then_some(len))
    }

    fn take(&mut self, len: usize) -> Bytes {
        self.taken += len;
        self.buf.split_to(len).freeze()
    }
}

/// The frame of message `id`; `None` if nobody has defined that id.
fn decode(id: u8, mut body: Bytes) -> Result<Option<Frame>, WireError> {
    let message = match id {
        CHOKE => exactly(id, &body, 0, "0").map(|()| Message::Choke)?,
        UNCHOKE => exactly(id, &body, 0, "0").map(|()| Message::Unchoke)?,
        INTERESTED => exactly(id, &body, 0, "0").map(|()| Message::Interested)?,
        NOT_INTERESTED => exactly(id, &body, 0, "0").map(|()| Message::NotInterested)?,
        HAVE => Message::Have(piece_index(id, body)?),
        BITFIELD => Message::Bitfield(body),
        REQUEST => Message::Request(span(id, body)?),
        PIECE => {
            at_least(id, &body, PIECE_HEADER_LEN - 5, "8 or more")?;
            at_most(id, &body, PIECE_HEADER_LEN - 5 + MAX_PAYLOAD)?;
            let (piece, begin) = (PieceIndex(body.get_u32()), body.get_u32());
            return Ok(Some(Frame::Piece { span: BlockSpan { piece, begin, len: body.len() as u32 }, data: body }));
        }
        CANCEL => Message::Cancel(span(id, body)?),
        PORT => exactly(id, &body, 2, "2").map(|()| Message::Port(body.get_u16()))?,
        SUGGEST => Message::Suggest(piece_index(id, body)?),
        HAVE_ALL => exactly(id, &body, 0, "0").map(|()| Message::HaveAll)?,
        HAVE_NONE => exactly(id, &body, 0, "0").map(|()| Message::HaveNone)?,
        REJECT => Message::Reject(span(id, body)?),
        ALLOWED_FAST => Message::AllowedFast(piece_index(id, body)?),
        EXTENDED => {
            at_least(id, &body, 1, "1 or more")?;
            at_most(id, &body, 1 + MAX_PAYLOAD)?;
            Message::Extended { id: body.get_u8(), payload: body }
        }
        HASH_REQUEST => {
            exactly(id, &body, HASH_REQUEST_LEN, "48").map(|()| Message::HashRequest(hash_request(&mut body)))?
        }
        HASHES => {
            at_least(id, &body, HASH_REQUEST_LEN, "48 and 32 for each hash")?;
            let request = hash_request(&mut body);
            if !body.len().is_multiple_of(32) {
                let got = HASH_REQUEST_LEN + body.len();
                return Err(WireError::PayloadLength { id, expected: "48 and 32 for each hash", got });
            }
            Message::Hashes { request, hashes: body }
        }
        HASH_REJECT => {
            exactly(id, &body, HASH_REQUEST_LEN, "48").map(|()| Message::HashReject(hash_request(&mut body)))?
        }
        _ => return Ok(None),
    };
    Ok(Some(Frame::Message(message)))
}

fn exactly(id: u8, body: &Bytes, len: usize, expected: &'static str) -> Result<(), WireError> {
    if body.len() == len { Ok(()) } else { Err(WireError::PayloadLength { id, expected, got: body.len() }) }
}

fn at_least(id: u8, body: &Bytes, len: usize, expected: &'static str) -> Result<(), WireError> {
    if body.len() >= len { Ok(()) } else { Err(WireError::PayloadLength { id, expected, got: body.len() }) }
}

fn at_most(id: u8, body: &Bytes, len: usize) -> Result<(), WireError> {
    if body.len() <= len {
        Ok(())
    } else {
        Err(WireError::PayloadLength { id, expected: "at most 128 KiB and a header", got: body.len() })
    }
}

fn piece_index(id: u8, mut body: Bytes) -> Result<PieceIndex, WireError> {
    exactly(id, &body, 4, "4").map(|()| PieceIndex(body.get_u32()))
}

fn span(id: u8, mut body: Bytes) -> Result<BlockSpan, WireError> {
    exactly(id, &body, 12, "12")?;
    Ok(BlockSpan { piece: PieceIndex(body.get_u32()), begin: body.get_u32(), len: body.get_u32() })
}

/// The caller has checked that the bytes are there.
fn hash_request(body: &mut Bytes) -> HashRequest {
    let mut root = [0; 32];
    body.copy_to_slice(&mut root);
    let (base_layer, index) = (body.get_u32(), body.get_u32());
    HashRequest { root, base_layer, index, length: body.get_u32(), proof_layers: body.get_u32() }
}

/// Appends `message` to `out`.
pub fn encode(message: &Message, out: &mut BytesMut) {
    match message {
        Message::KeepAlive => out.put_u32(0),
        Message::Choke => head(out, CHOKE, 0),
        Message::Unchoke => head(out, UNCHOKE, 0),
        Message::Interested => head(out, INTERESTED, 0),
        Message::NotInterested => head(out, NOT_INTERESTED, 0),
        Message::Have(piece) => put_index(out, HAVE, *piece),
        Message::Bitfield(bits) => {
            head(out, BITFIELD, bits.len());
            out.put_slice(bits);
        }
        Message::Request(span) => put_span(out, REQUEST, *span),
        Message::Cancel(span) => put_span(out, CANCEL, *span),
        Message::Port(port) => {
            head(out, PORT, 2);
            out.put_u16(*port);
        }
        Message::Suggest(piece) => put_index(out, SUGGEST, *piece),
        Message::HaveAll => head(out, HAVE_ALL, 0),
        Message::HaveNone => head(out, HAVE_NONE, 0),
        Message::Reject(span) => put_span(out, REJECT, *span),
        Message::AllowedFast(piece) => put_index(out, ALLOWED_FAST, *piece),
        Message::Extended { id, payload } => {
            head(out, EXTENDED, 1 + payload.len());
            out.put_u8(*id);
            out.put_slice(payload);
        }
        Message::HashRequest(request) => put_hash_request(out, HASH_REQUEST, request, &[]),
        Message::Hashes { request, hashes } => put_hash_request(out, HASHES, request, hashes),
        Message::HashReject(request) => put_hash_request(out, HASH_REJECT, request, &[]),
    }
}

/// What precedes the data of a `piece` message on the wire; the data itself can then be sent from where it lies.
pub fn encode_piece_header(span: BlockSpan) -> [u8; PIECE_HEADER_LEN] {
    let mut header = [0; PIECE_HEADER_LEN];
    let mut out = &mut header[..];
    out.put_u32(span.len.saturating_add(9));
    out.put_u8(PIECE);
    out.put_u32(span.piece.0);
    out.put_u32(span.begin);
    header
}

fn head(out: &mut BytesMut, id: u8, payload: usize) {
    out.put_u32(payload as u32 + 1);
    out.put_u8(id);
}

fn put_index(out: &mut BytesMut, id: u8, piece: PieceIndex) {
    head(out, id, 4);
    out.put_u32(piece.0);
}

fn put_span(out: &mut BytesMut, id: u8, span: BlockSpan) {
    head(out, id, 12);
    out.put_u32(span.piece.0);
    out.put_u32(span.begin);
    out.put_u32(span.len);
}

fn put_hash_request(out: &mut BytesMut, id: u8, request: &HashRequest, hashes: &[u8]) {
    head(out, id, HASH_REQUEST_LEN + hashes.len());
    out.put_slice(&request.root);
    for field in [request.base_layer, request.index, request.length, request.proof_layers] {
        out.put_u32(field);
    }
    out.put_slice(hashes);
}

#[cfg(test)]
mod tests;
