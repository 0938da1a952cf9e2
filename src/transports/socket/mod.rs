//! Ordinary BitTorrent clients: TCP and uTP at one port, encrypted as the policy says.
//!
//! [`SocketNetwork::start`] binds the ports and gives two ends: a [`SocketTransport`] to dial with, and the streams
//! that peers open. A connection is handed on when it is known to begin with a BitTorrent handshake, plain or
//! encrypted; until then it is bounded in time and number, and so are all connections from one address.

mod bind;
mod dial;
mod gate;
mod link;
mod slots;
mod utp;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::mse::{Encryption, ServedSwarms};
use super::{PeerStream, Transport};
use bind::Bound;
pub use dial::SocketTransport;
use gate::Gate;
use slots::Slots;
use utp::Endpoint;

/// The port that is tried first when none is asked for.
pub const DEFAULT_PORT: u16 = 6881;
/// How many ports after [`DEFAULT_PORT`] are tried.
const DEFAULT_TRIES: u16 = 100;
/// Accepted streams that may wait for the node.
const ACCEPT_QUEUE: usize = 64;
/// How long the listeners may take to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What to do when a port is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortInUse {
    /// Give up.
    Fail,
    /// Try the next port, at most so many times.
    TryNext(u16),
}

/// When to use uTP (BEP 29), which shares the TCP port's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UtpPolicy {
    /// Never: no UDP socket is opened.
    Off,
    /// Accept it, and dial it when TCP does not get through.
    #[default]
    AfterTcp,
    /// Accept it, and dial it beside TCP when TCP needs long; who connects first is used.
    Race,
}

/// How to reach and be reached by BitTorrent clients.
#[derive(Clone, Debug)]
pub struct SocketConfig {
    /// Where to listen; port 0 lets the system choose, one port for all addresses that say 0. None means nowhere,
    /// and no uTP.
    pub listen: Vec<SocketAddr>,
    /// Whether each address must work; otherwise one is enough (a host may have no IPv6).
    pub need_all: bool,
    /// What to do when a port is taken, by TCP or UDP, at one of the addresses.
    pub port_in_use: PortInUse,
    /// Addresses to dial from, at most one of each family is used; without one the system chooses. Peers on one host
    /// need different ones, since clients keep one connection for an address.
    pub dial_from: Vec<IpAddr>,
    /// Encryption, of both dialled and accepted streams.
    pub encryption: Encryption,
    /// When to use uTP.
    pub utp: UtpPolicy,
    /// Accepted connections that one IPv4 address, or one IPv6 network of 64 bits, may hold.
    pub max_per_address: usize,
    /// Accepted connections that all together may hold.
    pub max_accepted: usize,
}

impl Default for SocketConfig {
    /// Every interface, at [`DEFAULT_PORT`] or the next free one.
    fn default() -> Self {
        Self {
            listen: vec![
                SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), DEFAULT_PORT),
                SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), DEFAULT_PORT),
            ],
            need_all: false,
            port_in_use: PortInUse::TryNext(DEFAULT_TRIES),
            dial_from: Vec::new(),
            encryption: Encryption::default(),
            utp: UtpPolicy::default(),
            max_per_address: 16,
            max_accepted: 500,
        }
    }
}

/// Why listening failed.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another program has the port.
    #[error("cannot listen on {addr} ({protocol}): the port is in use; choose another, or port 0 for any free one")]
    InUse {
        /// Where.
        addr: SocketAddr,
        /// `TCP` or `UDP`.
        protocol: &'static str,
    },
    /// Anything else.
    #[error("cannot listen on {addr} ({protocol}): {source}")]
    Failed {
        /// Where.
        addr: SocketAddr,
        /// `TCP` or `UDP`.
        protocol: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// The listeners and what they share with the dialler. Dropping it stops listening; streams stay open, except those
/// over uTP, which end with its socket.
pub struct SocketNetwork {
    transport: SocketTransport,
    incoming: Option<mpsc::Receiver<PeerStream>>,
    listening: Vec<SocketAddr>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl SocketNetwork {
    /// Binds every address and starts to accept. Encrypted connections are let in for `swarms` only.
    ///
    /// # Errors
    /// When an address that is needed cannot be listened on.
    pub async fn start(config: SocketConfig, swarms: ServedSwarms) -> Result<Self, ListenError> {
        let stop = CancellationToken::new();
        let bound = bind::bind(&config)?;
        let (accept, incoming) = mpsc::channel(ACCEPT_QUEUE);
        let slots = Slots::new(config.max_accepted, config.max_per_address);
        let gate = Arc::new(Gate::new(config.encryption, swarms, slots, accept, stop.clone()));
        let mut tasks = JoinSet::new();
        let mut listening = Vec::new();
        let mut endpoints = Vec::new();
        for Bound { addr, tcp, udp } in bound {
            listening.push(addr);
            tasks.spawn(gate.clone().accept_tcp(tcp));
            if let Some(udp) = udp {
                let endpoint = Endpoint::start(udp, config.max_accepted, stop.clone())
                    .map_err(|source| bind::failed(addr, "UDP", source))?;
                tasks.spawn(gate.clone().accept_utp(endpoint.clone()));
                endpoints.push(endpoint);
            }
        }
        let transport = SocketTransport::new(&config, endpoints);
        Ok(Self { transport, incoming: Some(incoming), listening, stop, tasks })
    }

    /// What dials BitTorrent peers.
    pub fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(self.transport.clone())
    }

    /// The streams that peers open; to be taken once. Streams that nobody takes in time are closed.
    pub fn take_incoming(&mut self) -> Option<mpsc::Receiver<PeerStream>> {
        self.incoming.take()
    }

    /// Where it listens, with the ports that were chosen.
    pub fn listen_addrs(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// The port to announce: that of the first address.
    pub fn port(&self) -> Option<u16> {
        self.listening.first().map(SocketAddr::port)
    }

    /// Stops listening and waits until that is done, for a bounded time. The UDP sockets close with the last clone of
    /// the transport.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(CLOSE_TIMEOUT, ended).await.is_err() {
            tracing::warn!("the BitTorrent listeners did not end in time");
        }
    }
}

impl Drop for SocketNetwork {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests;
