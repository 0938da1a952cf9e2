//! A peer that claims to have everything and sends noise.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use libp2p::identity::Keypair;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use crate::node::swarm::{NodeSwarm, SwarmConfig};
use crate::transports::PeerStream;
use crate::types::{SwarmId, WirePeerId};
use crate::wire::{self, Decoder, Frame, Handshake, Message};

pub(super) struct Liar {
    pub(super) addr: String,
    pub(super) name: String,
    requests: watch::Receiver<u32>,
    _swarm: NodeSwarm,
}

impl Liar {
    pub(super) async fn start(swarms: Vec<SwarmId>) -> Self {
        let config = SwarmConfig {
            key: Keypair::generate_ed25519(),
            listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
            kad: false,
            mdns: false,
            gossip: false,
            bootstrap: Vec::new(),
        };
        let mut swarm = NodeSwarm::start(config).await.unwrap();
        let mut incoming = swarm.take_incoming().unwrap();
        let (tell, requests) = watch::channel(0);
        tokio::spawn(async move {
            while let Some(peer) = incoming.recv().await {
                tokio::spawn(lie(peer, swarms.clone(), tell.clone()));
            }
        });
        let name = swarm.peer_id().0.clone();
        Self { addr: swarm.listen_addrs()[0].clone(), name, requests, _swarm: swarm }
    }

    /// Waits until a victim has asked for all blocks of a piece of 256 KiB.
    pub(super) async fn asked(&self) {
        let mut requests = self.requests.clone();
        tokio::time::timeout(Duration::from_secs(20), requests.wait_for(|count| *count >= 16)).await.unwrap().unwrap();
    }
}

async fn lie(mut peer: PeerStream, swarms: Vec<SwarmId>, requests: watch::Sender<u32>) -> std::io::Result<()> {
    let mut decoder = Decoder::new();
    let handshake = loop {
        if let Some(handshake) = decoder.next_handshake().unwrap() {
            break handshake;
        }
        peer.io.read_buf(decoder.buffer()).await?;
    };
    assert!(swarms.contains(&handshake.swarm));
    let mut out = BytesMut::new();
    out.extend_from_slice(&Handshake::new(handshake.swarm, WirePeerId(*b"-LIAR00-000000000000")).encode());
    wire::encode(&Message::HaveAll, &mut out);
    wire::encode(&Message::Unchoke, &mut out);
    loop {
        peer.io.write_all_buf(&mut out).await?;
        peer.io.flush().await?;
        if peer.io.read_buf(decoder.buffer()).await? == 0 {
            return Ok(());
        }
        while let Some(frame) = decoder.next_frame().unwrap() {
            match frame {
                Frame::Message(Message::Request(span)) => {
                    requests.send_modify(|count| *count += 1);
                    out.extend_from_slice(&wire::encode_piece_header(span));
                    out.extend_from_slice(&Bytes::from(vec![0xee; span.len as usize]));
                }
                Frame::Message(Message::HashRequest(request)) => wire::encode(&Message::HashReject(request), &mut out),
                _ => {}
            }
        }
    }
}
