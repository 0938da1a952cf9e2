//! Peers that do as they like: real connections, and what is said over them up to the test.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bytes::{Bytes, BytesMut};
use knot::types::{BlockSpan, SwarmId, WirePeerId};
use knot::wire::{
    Decoder, ExtensionHandshake, Frame, Handshake, Message, MetadataMessage, UT_METADATA, UT_PEX, encode,
    encode_piece_header,
};

/// Under what number these peers take extension messages.
pub(crate) const THEIR_METADATA: u8 = 3;
const THEIR_PEX: u8 = 5;

/// A listening peer, and how often it has done what makes it a bad one.
pub(crate) struct Peer {
    pub(crate) addr: SocketAddr,
    deeds: Arc<AtomicUsize>,
}

impl Peer {
    /// A peer at `ip` that does this to everyone who connects.
    pub(crate) fn start(ip: &str, swarm: SwarmId, behave: impl Fn(Conn) + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let (addr, deeds) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let counted = deeds.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (behave, deeds) = (behave.clone(), counted.clone());
                thread::spawn(move || Conn::shake_hands(stream, swarm, deeds).map(behave));
            }
        });
        Self { addr, deeds }
    }

    pub(crate) fn deeds(&self) -> usize {
        self.deeds.load(Ordering::SeqCst)
    }
}

/// A connection whose handshakes are done.
pub(crate) struct Conn {
    stream: TcpStream,
    decoder: Decoder,
    deeds: Arc<AtomicUsize>,
    /// The numbers under which the other side takes messages.
    pub(crate) metadata_id: u8,
    pub(crate) pex_id: u8,
}

impl Conn {
    fn shake_hands(mut stream: TcpStream, swarm: SwarmId, deeds: Arc<AtomicUsize>) -> Option<Self> {
        let ours = Handshake::new(swarm, WirePeerId(*b"-XX0000-hostile-peer")).without_hashes();
        stream.write_all(&ours.encode()).ok()?;
        let mut decoder = Decoder::new();
        while decoder.next_handshake().ok()?.is_none() {
            read(&mut stream, &mut decoder)?;
        }
        Some(Self { stream, decoder, deeds, metadata_id: 0, pex_id: 0 })
    }

    pub(crate) fn deed(&self) {
        self.deeds.fetch_add(1, Ordering::SeqCst);
    }

    /// The next message; `None` when the other side has left.
    pub(crate) fn hear(&mut self) -> Option<Message> {
        loop {
            match self.decoder.next_frame().ok()? {
                Some(Frame::Message(Message::Extended { id: 0, payload })) => {
                    let handshake = ExtensionHandshake::decode(&payload).ok()?;
                    let id = |name| handshake.extensions.get(name).copied().unwrap_or_default();
                    (self.metadata_id, self.pex_id) = (id(UT_METADATA), id(UT_PEX));
                    return Some(Message::Extended { id: 0, payload });
                }
                Some(Frame::Message(message)) => return Some(message),
                Some(Frame::Piece { .. }) => {}
                None => read(&mut self.stream, &mut self.decoder)?,
            }
        }
    }

    /// Listens until the other side has left.
    pub(crate) fn hear_out(&mut self) {
        while self.hear().is_some() {}
    }

    /// `None` when the other side has left.
    pub(crate) fn say(&mut self, message: &Message) -> Option<()> {
        let mut bytes = BytesMut::new();
        encode(message, &mut bytes);
        self.stream.write_all(&bytes).ok()
    }

    pub(crate) fn give(&mut self, span: BlockSpan, data: &[u8]) -> Option<()> {
        self.stream.write_all(&encode_piece_header(span)).ok()?;
        self.stream.write_all(data).ok()
    }

    /// Offers extensions, and metadata of so many bytes.
    pub(crate) fn introduce(&mut self, metadata_size: Option<u64>) -> Option<()> {
        let extensions = [(UT_METADATA.to_owned(), THEIR_METADATA), (UT_PEX.to_owned(), THEIR_PEX)].into();
        let handshake = ExtensionHandshake { extensions, metadata_size, ..ExtensionHandshake::default() };
        self.say(&Message::Extended { id: 0, payload: handshake.encode() })
    }

    /// The next piece of metadata that the other side asks for.
    pub(crate) fn asked_for_metadata(&mut self) -> Option<u32> {
        loop {
            if let Message::Extended { id: THEIR_METADATA, payload } = self.hear()?
                && let Ok(Some(MetadataMessage::Request { piece })) = MetadataMessage::decode(&payload)
            {
                return Some(piece);
            }
        }
    }

    pub(crate) fn answer_metadata(&mut self, message: &MetadataMessage) -> Option<()> {
        self.say(&Message::Extended { id: self.metadata_id, payload: message.encode() })
    }

    pub(crate) fn say_pex(&mut self, payload: Bytes) -> Option<()> {
        self.say(&Message::Extended { id: self.pex_id, payload })
    }
}

fn read(stream: &mut TcpStream, decoder: &mut Decoder) -> Option<()> {
    let mut buffer = [0; 16 * 1024];
    let len = stream.read(&mut buffer).ok().filter(|len| *len > 0)?;
    decoder.feed(&buffer[..len]);
    Some(())
}
