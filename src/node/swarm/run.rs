//! The task that owns the swarm.

use std::collections::{HashMap, HashSet};
use std::future::pending;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identify, ping};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep_until, timeout};

use super::build::{Behaviour, BehaviourEvent, Drivers};
use super::{CLOSE_TIMEOUT, Listening, SwarmError};
use crate::discovery::kad::{KAD_PROTOCOL, KadDriver};
use crate::transports::libp2p::{
    is_link_local, is_loopback, is_tcp, parse_listen, peer_of, resolve, tcp_socket, without_peer,
};

/// Where a node listens that was told nothing.
const DEFAULT_LISTEN: [&str; 4] =
    ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1", "/ip6/::/tcp/0", "/ip6/::/udp/0/quic-v1"];
/// How long listeners may take to come up.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to go on collecting the interfaces of a listener once it has named one.
const INTERFACES_TIMEOUT: Duration = Duration::from_millis(50);
/// Probes in a row that may fail before a connection counts as dead.
const MAX_PING_FAILURES: u32 = 2;
/// Addresses of a peer that are told to Kademlia.
const MAX_ADDRESSES: usize = 16;
/// Waits between attempts to reach the bootstrap nodes while no peer is connected.
const SHORTEST_BOOTSTRAP_WAIT: Duration = Duration::from_secs(5);
const LONGEST_BOOTSTRAP_WAIT: Duration = Duration::from_secs(5 * 60);

pub(super) struct Runner {
    swarm: Swarm<Behaviour>,
    drivers: Drivers,
    listening: Listening,
    /// Listeners that have named no address yet, and the one that failed last.
    starting: HashMap<ListenerId, String>,
    failed: Option<SwarmError>,
    /// Whether a loopback address was asked for, so that others may be told of it.
    loopback: bool,
    connections: HashMap<ConnectionId, Connection>,
    bootstrap: Bootstrap,
}

struct Connection {
    /// Whether the peer is on this machine: only then are its loopback addresses of use.
    local: bool,
    ping_failures: u32,
}

/// The nodes to enter the Kademlia network through.
struct Bootstrap {
    addrs: Vec<Multiaddr>,
    next: Instant,
    wait: Duration,
    /// Names are resolved by tasks of their own, which bring addresses here.
    resolver: mpsc::Sender<Multiaddr>,
    resolved: mpsc::Receiver<Multiaddr>,
}

impl Runner {
    pub(super) fn new(swarm: Swarm<Behaviour>, drivers: Drivers, listening: Listening) -> Self {
        let (resolver, resolved) = mpsc::channel(16);
        let bootstrap =
            Bootstrap { addrs: Vec::new(), next: Instant::now(), wait: SHORTEST_BOOTSTRAP_WAIT, resolver, resolved };
        Self {
            swarm,
            drivers,
            listening,
            starting: HashMap::new(),
            failed: None,
            loopback: false,
            connections: HashMap::new(),
            bootstrap,
        }
    }

    /// Sets the bootstrap nodes.
    pub(super) fn bootstrap(&mut self, addrs: &[String]) -> Result<(), SwarmError> {
        for text in addrs {
            let addr = text.parse().map_err(|error| {
                SwarmError::Address(format!("expected a bootstrap node as a multiaddr, got {text:?}: {error}"))
            })?;
            self.bootstrap.addrs.push(addr);
        }
        Ok(())
    }

    /// Listens, and returns when every listener has named an address.
    pub(super) async fn listen(&mut self, addrs: &[String]) -> Result<(), SwarmError> {
        let defaults = addrs.is_empty();
        let addrs = if defaults { DEFAULT_LISTEN.map(str::to_owned).to_vec() } else { addrs.to_vec() };
        for text in &addrs {
            let addr = parse_listen(text).map_err(SwarmError::Address)?;
            self.loopback |= is_loopback(&addr);
            match is_free(&addr).await {
                Ok(()) => match self.swarm.listen_on(addr) {
                    Ok(id) => drop(self.starting.insert(id, text.clone())),
                    Err(error) => self.listen_failed(text.clone(), &error),
                },
                Err(error) => self.listen_failed(text.clone(), &error),
            }
            if !defaults && let Some(error) = self.failed.take() {
                return Err(error);
            }
        }
        let all_up = async {
            while !self.starting.is_empty() && (defaults || self.failed.is_none()) {
                self.step().await;
            }
        };
        let late = timeout(LISTEN_TIMEOUT, all_up).await.is_err();
        let up = !self.addrs().is_empty();
        if (!defaults || !up)
            && let Some(error) = self.failed.take()
        {
            return Err(error);
        }
        if late && (!defaults || !up) {
            let addr = self.starting.values().next().cloned().unwrap_or_default();
            let reason = format!("no interface came up within {LISTEN_TIMEOUT:?}");
            return Err(SwarmError::Listen { addr, reason });
        }
        // A listener on every interface names them one by one.
        while timeout(INTERFACES_TIMEOUT, self.step()).await.is_ok() {}
        Ok(())
    }

    /// Runs until `stop` is dropped, then closes all connections.
    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        loop {
            tokio::select! {
                _ = &mut stop => break,
                () = self.step() => {}
            }
        }
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // Fails if the peer has gone meanwhile.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        if timeout(CLOSE_TIMEOUT, closed).await.is_err() {
            tracing::debug!("some connections did not close in time");
        }
    }

    /// Waits for one thing to happen and deals with it. Safe to cancel.
    async fn step(&mut self) {
        let wakeup = self.next_wakeup();
        let drivers = &self.drivers;
        let timer = async {
            match wakeup {
                Some(at) => sleep_until(at.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            event = self.swarm.select_next_some() => self.handle(event),
            Some(addr) = self.bootstrap.resolved.recv() => self.enter(addr),
            () = drivers.changed() => {}
            () = timer => {}
        }
        self.drive();
    }

    fn next_wakeup(&self) -> Option<Instant> {
        let bootstrap = (!self.bootstrap.addrs.is_empty()).then_some(self.bootstrap.next);
        let kad = self.drivers.kad.as_ref().and_then(KadDriver::next_wakeup);
        bootstrap.into_iter().chain(kad).min()
    }

    fn drive(&mut self) {
        let now = Instant::now();
        if let (Some(driver), Some(kad)) = (&mut self.drivers.kad, self.swarm.behaviour_mut().kad.as_mut()) {
            driver.drive(kad, now);
        }
        if let Some(mdns) = &mut self.drivers.mdns {
            mdns.drive();
        }
        if let (Some(driver), Some(gossip)) = (&mut self.drivers.gossip, self.swarm.behaviour_mut().gossip.as_mut()) {
            driver.drive(gossip);
        }
        if !self.bootstrap.addrs.is_empty() && self.bootstrap.next <= now {
            let alone = self.swarm.connected_peers().next().is_none();
            self.bootstrap.attempt(now, alone);
        }
    }

    /// Dials a bootstrap node whose name has been resolved.
    fn enter(&mut self, addr: Multiaddr) {
        let peer = peer_of(&addr);
        if let (Some(peer), Some(kad)) = (peer, self.swarm.behaviour_mut().kad.as_mut()) {
            kad.add_address(&peer, without_peer(&addr));
        }
        let opts = match peer {
            Some(peer) => DialOpts::peer_id(peer).addresses(vec![addr.clone()]).build(),
            None => addr.clone().into(),
        };
        if let Err(error) = self.swarm.dial(opts) {
            tracing::debug!(%addr, %error, "bootstrap node not dialled");
        }
    }

    fn handle(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.handle_behaviour(event),
            SwarmEvent::NewListenAddr { listener_id, address } => {
                self.starting.remove(&listener_id);
                self.listens(address);
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.listens_no_more(&address),
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                addresses.iter().for_each(|address| self.listens_no_more(address));
                if let Some(addr) = self.starting.remove(&listener_id) {
                    let error = reason.err().unwrap_or_else(|| std::io::Error::other("the listener closed"));
                    self.listen_failed(addr, &error);
                }
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "listener"),
            SwarmEvent::ConnectionEstablished { connection_id, endpoint, .. } => {
                let local = is_loopback(endpoint.get_remote_address());
                self.connections.insert(connection_id, Connection { local, ping_failures: 0 });
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                self.connections.remove(&connection_id);
                tracing::debug!(%peer_id, cause = cause.map(|cause| cause.to_string()), "connection closed");
            }
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => {
                tracing::debug!(peer = peer_id.map(|peer| peer.to_string()), %error, "not connected");
            }
            _ => {}
        }
    }

    fn handle_behaviour(&mut self, event: BehaviourEvent) {
        let learned = match event {
            BehaviourEvent::Kad(event) => match (&mut self.drivers.kad, self.swarm.behaviour_mut().kad.as_mut()) {
                (Some(driver), Some(kad)) => driver.handle(kad, event, Instant::now()),
                _ => Vec::new(),
            },
            BehaviourEvent::Mdns(event) => {
                let learned = self.drivers.mdns.as_mut().map(|driver| driver.handle(event)).unwrap_or_default();
                if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
                    // Local nodes are the way into a network that nobody gave a bootstrap node for.
                    for (peer, addr) in &learned {
                        kad.add_address(peer, without_peer(addr));
                    }
                }
                learned
            }
            BehaviourEvent::Gossip(event) => {
                let gossip = self.swarm.behaviour_mut().gossip.as_mut();
                if let (Some(driver), Some(gossip)) = (&mut self.drivers.gossip, gossip) {
                    driver.handle(gossip, event);
                }
                Vec::new()
            }
            BehaviourEvent::Identify(identify::Event::Received { connection_id, peer_id, info }) => {
                self.identified(connection_id, peer_id, &info);
                Vec::new()
            }
            BehaviourEvent::Ping(event) => {
                self.pinged(&event);
                Vec::new()
            }
            _ => Vec::new(),
        };
        for (peer, addr) in learned {
            self.swarm.add_peer_address(peer, addr);
        }
    }

    /// Tells Kademlia where a node can be reached that speaks it.
    fn identified(&mut self, connection: ConnectionId, peer: PeerId, info: &identify::Info) {
        let local = self.connections.get(&connection).is_some_and(|connection| connection.local);
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else { return };
        if !info.protocols.contains(&KAD_PROTOCOL) {
            return;
        }
        let usable: HashSet<_> = info.listen_addrs.iter().filter(|addr| local || !is_loopback(addr)).collect();
        for addr in usable.into_iter().take(MAX_ADDRESSES) {
            kad.add_address(&peer, without_peer(addr));
        }
    }

    /// Closes a connection whose peer no longer answers: a dead peer is not noticed otherwise for many minutes.
    fn pinged(&mut self, event: &ping::Event) {
        let Some(connection) = self.connections.get_mut(&event.connection) else { return };
        match &event.result {
            Ok(_) | Err(ping::Failure::Unsupported) => connection.ping_failures = 0,
            Err(error) => {
                connection.ping_failures += 1;
                if connection.ping_failures >= MAX_PING_FAILURES {
                    tracing::debug!(peer = %event.peer, %error, "connection is dead");
                    self.swarm.close_connection(event.connection);
                }
            }
        }
    }

    fn listens(&mut self, addr: Multiaddr) {
        if is_link_local(&addr) {
            return;
        }
        let text = addr.clone().with_p2p(*self.swarm.local_peer_id()).unwrap_or_else(|addr| addr).to_string();
        let mut addrs = self.addrs();
        if !addrs.contains(&text) {
            // TCP first: whoever copies one address should get the fast one.
            let at = if is_tcp(&addr) {
                addrs.iter().take_while(|other| other.contains("/tcp/")).count()
            } else {
                addrs.len()
            };
            addrs.insert(at, text);
        }
        drop(addrs);
        if self.loopback || !is_loopback(&addr) {
            self.swarm.add_external_address(addr);
        }
    }

    fn listens_no_more(&mut self, addr: &Multiaddr) {
        let text = addr.clone().with_p2p(*self.swarm.local_peer_id()).unwrap_or_else(|addr| addr).to_string();
        self.addrs().retain(|other| *other != text);
        self.swarm.remove_external_address(addr);
    }

    fn listen_failed(&mut self, addr: String, error: &(dyn std::error::Error + 'static)) {
        let mut cause = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        tracing::debug!(%addr, error = %cause, "not listening");
        self.failed = Some(SwarmError::Listen { addr, reason: cause.to_string() });
    }

    fn addrs(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drivers {
    /// Waits until one of them has something to do that no time and no event tells. Safe to cancel.
    async fn changed(&self) {
        let kad = async {
            match &self.kad {
                Some(kad) => kad.changed().await,
                None => pending().await,
            }
        };
        let mdns = async {
            match &self.mdns {
                Some(mdns) => mdns.changed().await,
                None => pending().await,
            }
        };
        let gossip = async {
            match &self.gossip {
                Some(gossip) => gossip.changed().await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = kad => {}
            () = mdns => {}
            () = gossip => {}
        }
    }
}

/// Whether a TCP address can be listened on. The swarm's own listeners share their port with whoever else shares
/// it: a second node on the port would start, and take half of the first one's connections.
async fn is_free(addr: &Multiaddr) -> std::io::Result<()> {
    match tcp_socket(addr) {
        Some(socket) if socket.port() != 0 => TcpListener::bind(socket).await.map(drop),
        _ => Ok(()),
    }
}

impl Bootstrap {
    /// Looks the nodes up to be dialled if this node is alone. Waits longer each time, so that nodes that are gone
    /// are not pestered.
    fn attempt(&mut self, now: Instant, alone: bool) {
        if alone {
            for addr in self.addrs.clone() {
                let resolver = self.resolver.clone();
                tokio::spawn(async move {
                    match resolve(addr).await {
                        // Fails only when the swarm is gone.
                        Ok(addr) => drop(resolver.send(addr).await),
                        Err(error) => tracing::warn!(%error, "bootstrap node"),
                    }
                });
            }
        }
        self.next = now + self.wait;
        self.wait = (self.wait * 2).min(LONGEST_BOOTSTRAP_WAIT);
    }
}
