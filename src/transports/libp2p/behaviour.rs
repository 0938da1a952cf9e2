//! The swarm's side: which connection a stream is opened on, and dials where there is none.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionEstablished, FromSwarm};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionId, DialError, DialFailure, NetworkBehaviour, NotifyHandler,
    PeerAddresses, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::mpsc;

use super::handler::{Handler, OpenError, OpenStream, Reply};
use super::{DialRequest, is_tcp};
use crate::transports::PeerStream;
use crate::types::PeerAddr;

/// How long a connection that has just been made may take to open a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an older connection may take, before a new one is tried: it may be dead.
const REUSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Dials under way at once.
const MAX_DIALS: usize = 256;
/// Peers whose addresses are remembered.
const KNOWN_PEERS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Opens and accepts `/knot/wire/1` streams on the connections of a swarm.
pub struct Behaviour {
    local: PeerId,
    requests: mpsc::Receiver<DialRequest>,
    accept: mpsc::Sender<PeerStream>,
    connections: HashMap<PeerId, Vec<Connection>>,
    dials: HashMap<ConnectionId, Dial>,
    /// Addresses that discovery and identification reported.
    known: PeerAddresses,
    actions: VecDeque<ToSwarm<Infallible, OpenStream>>,
}

#[derive(Clone, Copy)]
struct Connection {
    id: ConnectionId,
    is_tcp: bool,
}

/// A dial under way.
struct Dial {
    peer: Option<PeerId>,
    addr: Option<Multiaddr>,
    /// Addresses to try when the dialled ones fail.
    fallback: Vec<Multiaddr>,
    /// Who waits. Empty once another connection to the same peer has served them.
    waiting: Vec<Reply>,
}

impl Behaviour {
    pub(super) fn new(local: PeerId, requests: mpsc::Receiver<DialRequest>, accept: mpsc::Sender<PeerStream>) -> Self {
        Self {
            local,
            requests,
            accept,
            connections: HashMap::new(),
            dials: HashMap::new(),
            known: PeerAddresses::new(KNOWN_PEERS),
            actions: VecDeque::new(),
        }
    }

    fn handle_request(&mut self, request: DialRequest) {
        let DialRequest { addr, peer, fresh, reply } = request;
        if peer == Some(self.local) {
            return refuse(reply, "that is this node itself".to_owned());
        }
        if let Some((peer, connection)) = peer.and_then(|peer| Some((peer, self.best_connection(&peer)?)))
            && !fresh
        {
            return self.open_on(peer, connection, REUSE_TIMEOUT, reply);
        }
        let same = |dial: &&mut Dial| dial.peer == peer && dial.addr == addr && !dial.waiting.is_empty();
        if let Some(dial) = self.dials.values_mut().find(same) {
            return dial.waiting.push(reply);
        }
        if self.dials.len() >= MAX_DIALS {
            return refuse(reply, format!("{MAX_DIALS} dials are under way already"));
        }
        let (first, fallback) = self.addresses(addr.as_ref(), peer);
        if first.is_empty() {
            return refuse(reply, "no address of this peer is known".to_owned());
        }
        self.dial(first, Dial { peer, addr, fallback, waiting: vec![reply] });
    }

    /// What to dial first, and then. The address that was asked for comes with the others that are known of the peer,
    /// TCP before QUIC: where both work, the first to answer would often be QUIC, which is slower for bulk data.
    fn addresses(&mut self, asked: Option<&Multiaddr>, peer: Option<PeerId>) -> (Vec<Multiaddr>, Vec<Multiaddr>) {
        let mut known: Vec<Multiaddr> = peer.map(|peer| self.known.get(&peer).collect()).unwrap_or_default();
        known.retain(|addr| asked.is_none_or(|asked| super::without_peer(addr) != *asked));
        let asked_tcp = asked.is_none_or(is_tcp);
        let (mut first, mut fallback): (Vec<_>, Vec<_>) = known.into_iter().partition(|addr| asked_tcp && is_tcp(addr));
        first.extend(asked.cloned());
        if first.is_empty() {
            std::mem::swap(&mut first, &mut fallback);
        }
        (first, fallback)
    }

    fn dial(&mut self, addresses: Vec<Multiaddr>, dial: Dial) {
        let opts = match (dial.peer, addresses.first()) {
            (Some(peer), _) => DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(addresses).build(),
            (None, Some(addr)) => DialOpts::unknown_peer_id().address(addr.clone()).build(),
            (None, None) => return,
        };
        self.dials.insert(opts.connection_id(), dial);
        self.actions.push_back(ToSwarm::Dial { opts });
    }

    /// TCP before others, then the oldest.
    fn best_connection(&self, peer: &PeerId) -> Option<ConnectionId> {
        let connections = self.connections.get(peer)?;
        connections.iter().find(|connection| connection.is_tcp).or(connections.first()).map(|best| best.id)
    }

    fn open_on(&mut self, peer_id: PeerId, connection: ConnectionId, timeout: Duration, reply: Reply) {
        let event = OpenStream { timeout, reply };
        self.actions.push_back(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(connection), event });
    }

    fn on_established(&mut self, event: ConnectionEstablished<'_>) {
        let is_tcp = is_tcp(event.endpoint.get_remote_address());
        let connection = Connection { id: event.connection_id, is_tcp };
        self.connections.entry(event.peer_id).or_default().push(connection);
        let mut waiting = self.dials.remove(&event.connection_id).map(|dial| dial.waiting).unwrap_or_default();
        for dial in self.dials.values_mut().filter(|dial| dial.peer == Some(event.peer_id)) {
            waiting.append(&mut dial.waiting);
            dial.fallback.clear();
        }
        for reply in waiting {
            self.open_on(event.peer_id, event.connection_id, OPEN_TIMEOUT, reply);
        }
    }

    fn on_closed(&mut self, event: ConnectionClosed<'_>) {
        if let Some(connections) = self.connections.get_mut(&event.peer_id) {
            connections.retain(|connection| connection.id != event.connection_id);
            if connections.is_empty() {
                self.connections.remove(&event.peer_id);
            }
        }
    }

    fn on_dial_failure(&mut self, failure: DialFailure<'_>) {
        let Some(mut dial) = self.dials.remove(&failure.connection_id) else { return };
        dial.waiting.retain(|reply| !reply.is_closed());
        if dial.waiting.is_empty() {
            return;
        }
        if !dial.fallback.is_empty() {
            let addresses = std::mem::take(&mut dial.fallback);
            return self.dial(addresses, dial);
        }
        let reason = describe(failure.error, dial.peer);
        for reply in dial.waiting {
            refuse(reply, reason.clone());
        }
    }

    fn handler(&self, peer: PeerId, remote: &Multiaddr) -> Handler {
        let addr = remote.clone().with_p2p(peer).unwrap_or_else(|addr| addr);
        Handler::new(peer, PeerAddr::Libp2p(addr.to_string()), self.accept.clone())
    }
}

fn refuse(reply: Reply, reason: String) {
    // Who asked may have given up.
    let _ = reply.send(Err(OpenError::Failed(reason)));
}

/// The failure in one line: what was expected and what was got.
fn describe(error: &DialError, expected: Option<PeerId>) -> String {
    match error {
        DialError::WrongPeerId { obtained, .. } => match expected {
            Some(expected) => format!("expected peer {expected}, got {obtained}"),
            None => format!("unexpected peer {obtained}"),
        },
        DialError::LocalPeerId { .. } => "that is this node itself".to_owned(),
        DialError::NoAddresses => "no address of this peer is known".to_owned(),
        DialError::Denied { cause } => format!("refused by this node: {}", root(cause)),
        DialError::Transport(errors) => {
            let mut reasons: Vec<String> =
                errors.iter().map(|(addr, error)| format!("{addr}: {}", root(error))).collect();
            reasons.dedup();
            reasons.join("; ")
        }
        other => other.to_string(),
    }
}

/// The innermost cause, which says what happened; the outer ones repeat it.
fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, remote))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, remote))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.known.on_swarm_event(&event);
        match event {
            FromSwarm::ConnectionEstablished(event) => self.on_established(event),
            FromSwarm::ConnectionClosed(event) => self.on_closed(event),
            FromSwarm::DialFailure(failure) => self.on_dial_failure(failure),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Poll::Ready(action);
            }
            match self.requests.poll_recv(cx) {
                Poll::Ready(Some(request)) => self.handle_request(request),
                // Nobody can dial any more; streams go on.
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}
