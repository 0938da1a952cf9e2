//! A peer that tells a node of versions whatever the test makes it tell.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::BytesMut;
use knot::types::{InfoId, InfoSig, RecordParts, WirePeerId};
use knot::wire::{
    Decoder, ExtensionHandshake, Frame, Handshake, KNOT_UPDATE, KNOT_UPDATE_ID, Message, UpdateMessage, encode,
};

use crate::support::process::Mount;

/// A connection in the swarm where the followers of a dataset meet.
pub(crate) struct Teller {
    stream: TcpStream,
    update_id: u8,
}

impl Teller {
    /// Connects to the node behind a mount.
    pub(crate) fn meet(mount: &Mount, origin: &str) -> Self {
        let status = mount.status();
        let addrs = status["listen"].as_array().unwrap();
        let addr = addrs.iter().find_map(|addr| addr.as_str()?.parse().ok()).unwrap();
        Self::dial(addr, origin).expect("the node takes a peer")
    }

    /// Connects to a follower; `None` if it leaves.
    pub(crate) fn dial(addr: SocketAddr, origin: &str) -> Option<Self> {
        let InfoId::Sig(origin) = origin.parse().unwrap() else { panic!("{origin}") };
        let mut stream = TcpStream::connect(addr).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let swarm = InfoId::Sig(InfoSig(origin.0)).swarm_id();
        let mut id = *b"-XX0000-teller------";
        id[14..].copy_from_slice(&stream.local_addr().unwrap().port().to_string().into_bytes().repeat(2)[..6]);
        stream.write_all(&Handshake::new(swarm, WirePeerId(id)).without_hashes().encode()).ok()?;
        let mut decoder = Decoder::new();
        while decoder.next_handshake().ok()?.is_none() {
            read(&mut stream, &mut decoder)?;
        }
        let extensions = [(KNOT_UPDATE.to_owned(), KNOT_UPDATE_ID)].into();
        let handshake = ExtensionHandshake { extensions, ..ExtensionHandshake::default() };
        let mut teller = Self { stream, update_id: 0 };
        teller.say(&Message::Extended { id: 0, payload: handshake.encode() })?;
        while teller.update_id == 0 {
            match decoder.next_frame().ok()? {
                Some(Frame::Message(Message::Extended { id: 0, payload })) => {
                    let handshake = ExtensionHandshake::decode(&payload).ok()?;
                    teller.update_id = *handshake.extensions.get(KNOT_UPDATE)?;
                }
                Some(_) => {}
                None => read(&mut teller.stream, &mut decoder)?,
            }
        }
        // What else it says is of no interest, but is to be taken off its hands.
        let mut rest = teller.stream.try_clone().unwrap();
        rest.set_read_timeout(None).unwrap();
        std::thread::spawn(move || std::io::copy(&mut rest, &mut std::io::sink()));
        Some(teller)
    }

    fn say(&mut self, message: &Message) -> Option<()> {
        let mut bytes = BytesMut::new();
        encode(message, &mut bytes);
        self.stream.write_all(&bytes).ok()
    }

    /// Tells of a record; `None` if the node has left.
    pub(crate) fn tell(&mut self, parts: &RecordParts) -> Option<()> {
        let payload = UpdateMessage::Record(Some(parts.to_bytes().into())).encode();
        self.say(&Message::Extended { id: self.update_id, payload })
    }
}

fn read(stream: &mut TcpStream, decoder: &mut Decoder) -> Option<()> {
    let mut buffer = [0; 16 * 1024];
    let len = stream.read(&mut buffer).ok().filter(|len| *len > 0)?;
    decoder.feed(&buffer[..len]);
    Some(())
}
