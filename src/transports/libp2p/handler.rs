//! One connection's side: opens streams on request, accepts those of the peer.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol};
use libp2p::{PeerId, StreamProtocol};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::WIRE_PROTOCOL;
use super::io::Libp2pStream;
use crate::transports::PeerStream;
use crate::types::{NodeName, PeerAddr, PeerIdentity};

/// Streams of one peer that may be open at once on a connection: one for each torrent in common.
const MAX_ACCEPTED: usize = 128;

/// Where the outcome of a dial goes. Dropped when a connection ends under it.
pub(super) type Reply = oneshot::Sender<Result<(libp2p::Stream, PeerId), OpenError>>;

/// Why there is no stream.
#[derive(Debug)]
pub enum OpenError {
    /// The connection ended or did not answer. Another one may.
    Lost,
    /// The reason, for the user. Trying again would not help.
    Failed(String),
}

/// A wish for a stream on this connection.
#[derive(Debug)]
pub struct OpenStream {
    /// How long negotiation may take.
    pub(super) timeout: Duration,
    pub(super) reply: Reply,
}

/// Opens and accepts the streams of one connection.
pub struct Handler {
    peer: PeerId,
    /// Where the peer is, for streams that it opens.
    addr: PeerAddr,
    opening: VecDeque<OpenStream>,
    accept: mpsc::Sender<PeerStream>,
    places: Arc<Semaphore>,
}

impl Handler {
    pub(super) fn new(peer: PeerId, addr: PeerAddr, accept: mpsc::Sender<PeerStream>) -> Self {
        Self { peer, addr, opening: VecDeque::new(), accept, places: Arc::new(Semaphore::new(MAX_ACCEPTED)) }
    }

    /// Hands a stream of the peer to the node. Dropping it instead resets it, which the peer sees at once.
    fn accept(&self, stream: libp2p::Stream) {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            tracing::debug!(peer = %self.peer, "refused a stream: the peer has {MAX_ACCEPTED} open");
            return;
        };
        let stream = PeerStream {
            io: Box::new(Libp2pStream::new(stream, Some(place))),
            addr: self.addr.clone(),
            identity: PeerIdentity::Node(NodeName(self.peer.to_string())),
        };
        if self.accept.try_send(stream).is_err() {
            tracing::debug!(peer = %self.peer, "refused a stream: too many wait to be accepted");
        }
    }

    fn opened(&self, reply: Reply, result: Result<libp2p::Stream, OpenError>) {
        // Who asked may have given up; the stream is then reset.
        let _ = reply.send(result.map(|stream| (stream, self.peer)));
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = OpenStream;
    type ToBehaviour = Infallible;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Reply;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(WIRE_PROTOCOL), ())
    }

    fn on_behaviour_event(&mut self, request: OpenStream) {
        self.opening.push_back(request);
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Reply, Self::ToBehaviour>> {
        while let Some(request) = self.opening.pop_front() {
            if !request.reply.is_closed() {
                let upgrade = ReadyUpgrade::new(WIRE_PROTOCOL);
                let protocol = SubstreamProtocol::new(upgrade, request.reply).with_timeout(request.timeout);
                return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
            }
        }
        // Requests come through on_behaviour_event, after which the connection polls again: no waker is kept.
        Poll::Pending
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, (), Reply>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => self.accept(protocol),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                self.opened(info, Ok(protocol));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let error = match error {
                    StreamUpgradeError::NegotiationFailed => {
                        OpenError::Failed(format!("the peer does not speak {WIRE_PROTOCOL}: it is no knot node"))
                    }
                    StreamUpgradeError::Timeout | StreamUpgradeError::Io(_) => OpenError::Lost,
                };
                self.opened(info, Err(error));
            }
            _ => {}
        }
    }
}
