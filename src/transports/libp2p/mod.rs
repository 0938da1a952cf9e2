//! Peers over libp2p: one `/knot/wire/1` stream a torrent, several on a connection.
//!
//! [`behaviour`] makes three ends: a [`Behaviour`] to put into the node's `Swarm`, a [`Libp2pTransport`] to dial
//! with, and the streams that peers open. The behaviour never blocks the swarm: dials wait as entries of a table,
//! and an accepted stream that finds its queue full is reset.

mod address;
mod behaviour;
mod handler;
mod io;
mod muxer;

use std::time::Duration;

use futures::future::BoxFuture;
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{DialError, PeerStream, Transport};
use crate::types::{NodeName, PeerAddr, PeerIdentity, SwarmId};

pub use address::{is_link_local, is_loopback, is_tcp, parse_listen, peer_of, resolve, tcp_socket, without_peer};
pub use behaviour::Behaviour;
use handler::{OpenError, Reply};
pub use muxer::Multiplexing;

/// The protocol of the streams.
pub const WIRE_PROTOCOL: StreamProtocol = StreamProtocol::new("/knot/wire/1");

/// How long a dial may take, from the address to a negotiated stream.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Dials that may wait to be taken up by the swarm.
const DIAL_QUEUE: usize = 64;
/// Accepted streams that may wait for the node.
const ACCEPT_QUEUE: usize = 64;

/// Makes the behaviour for the swarm of `local`, what dials through it, and the streams that peers open.
pub fn behaviour(local: PeerId) -> (Behaviour, Libp2pTransport, mpsc::Receiver<PeerStream>) {
    let (dials, requests) = mpsc::channel(DIAL_QUEUE);
    let (accept, incoming) = mpsc::channel(ACCEPT_QUEUE);
    (Behaviour::new(local, requests, accept), Libp2pTransport { dials }, incoming)
}

/// A wish for a stream.
#[derive(Debug)]
struct DialRequest {
    /// Where, without the peer id; nothing where only the peer is known.
    addr: Option<Multiaddr>,
    /// Who must answer.
    peer: Option<PeerId>,
    /// Whether to make a new connection: an existing one has just proved dead.
    fresh: bool,
    reply: Reply,
}

/// Dials through the node's swarm.
#[derive(Clone, Debug)]
pub struct Libp2pTransport {
    dials: mpsc::Sender<DialRequest>,
}

impl Libp2pTransport {
    async fn open(self, text: &str) -> Result<PeerStream, String> {
        let addr: Multiaddr = text.parse().map_err(|error| format!("expected a multiaddr: {error}"))?;
        let peer = peer_of(&addr);
        let addr = resolve(without_peer(&addr)).await?;
        let addr = (!addr.is_empty()).then_some(addr);
        if addr.is_none() && peer.is_none() {
            return Err("expected an address or a peer id, got neither".to_owned());
        }
        let mut opened = self.attempt(addr.clone(), peer, false).await;
        if matches!(opened, Err(OpenError::Lost)) {
            opened = self.attempt(addr, peer, true).await;
        }
        let (stream, peer) = opened.map_err(|error| match error {
            OpenError::Lost => "the connection was lost before a stream was open".to_owned(),
            OpenError::Failed(reason) => reason,
        })?;
        Ok(PeerStream {
            io: Box::new(io::Libp2pStream::new(stream, None)),
            addr: PeerAddr::Libp2p(text.to_owned()),
            identity: PeerIdentity::Node(NodeName(peer.to_string())),
        })
    }

    async fn attempt(
        &self,
        addr: Option<Multiaddr>,
        peer: Option<PeerId>,
        fresh: bool,
    ) -> Result<(libp2p::Stream, PeerId), OpenError> {
        let (reply, outcome) = oneshot::channel();
        let request = DialRequest { addr, peer, fresh, reply };
        self.dials.send(request).await.map_err(|_| OpenError::Failed("this node is shutting down".to_owned()))?;
        outcome.await.unwrap_or(Err(OpenError::Lost))
    }
}

impl Transport for Libp2pTransport {
    fn can_dial(&self, addr: &PeerAddr) -> bool {
        matches!(addr, PeerAddr::Libp2p(_))
    }

    fn dial(&self, addr: PeerAddr, _swarm: SwarmId) -> BoxFuture<'static, Result<PeerStream, DialError>> {
        let transport = self.clone();
        Box::pin(async move {
            let result = match &addr {
                PeerAddr::Libp2p(text) => timeout(DIAL_TIMEOUT, transport.open(text))
                    .await
                    .unwrap_or_else(|_| Err(format!("no answer within {DIAL_TIMEOUT:?}"))),
                _ => Err("expected a multiaddr".to_owned()),
            };
            result.map_err(|reason| DialError { addr, reason })
        })
    }
}

#[cfg(test)]
mod tests;
