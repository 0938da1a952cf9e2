//! Everything by which the node meets peers: transports, listeners and sources.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::api::ApiError;
use super::config::{Listen, NodeConfig};
use super::handle::failure;
use super::registry::Swarms;
use super::swarm::{Listening, NodeSwarm, SwarmConfig, record_check};
use crate::discovery::dht::Dht;
use crate::discovery::http::LocalAddrs;
use crate::discovery::lsd::Lsd;
use crate::discovery::trackers::{TrackerLimits, Trackers};
use crate::discovery::{Found, ProgressFn, PushedRecord, RecordNetwork, Source};
use crate::transports::socket::SocketNetwork;
use crate::transports::{PeerStream, Transport};
use crate::types::WirePeerId;

/// Peers found that may wait for the node.
const FOUND_QUEUE: usize = 1024;
/// How long trackers may take to hear that the node leaves.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(3);

/// The node's network, running.
pub(super) struct Network {
    pub(super) swarm: NodeSwarm,
    pub(super) sockets: SocketNetwork,
    pub(super) sources: Vec<Arc<dyn Source>>,
    /// Where requests to servers come from.
    pub(super) local: LocalAddrs,
    found: Vec<mpsc::Receiver<Found>>,
    record_networks: Vec<Arc<dyn RecordNetwork>>,
}

impl Network {
    /// Brings everything up.
    pub(super) async fn start(
        config: &NodeConfig,
        key: libp2p::identity::Keypair,
        peer_id: WirePeerId,
        swarms: &Arc<Swarms>,
    ) -> Result<Self, ApiError> {
        let listen = config.listen()?;
        let local = listen.local();
        let (found_by, found) = mpsc::channel(FOUND_QUEUE);
        let lsd = config.uses("lsd").then(|| listen.lsd());
        let Listen { libp2p, sockets } = listen;
        let swarm_config = SwarmConfig {
            key,
            kad: config.uses("kad"),
            mdns: config.uses("mdns"),
            gossip: config.uses("gossip"),
            listen: libp2p,
            bootstrap: config.bootstrap.clone(),
        };
        let mut swarm = NodeSwarm::start(swarm_config).await.map_err(|error| failure(error.to_string()))?;
        let sockets =
            SocketNetwork::start(sockets, swarms.served().clone()).await.map_err(|error| failure(error.to_string()))?;
        let asked = swarms.clone();
        let progress: ProgressFn = Arc::new(move |swarm| asked.progress(swarm));
        let mut sources = swarm.sources();
        let mut record_networks = swarm.record_networks();
        if config.uses("dht") {
            let dht = Dht::new(config.dht(local), progress.clone(), found_by.clone());
            record_networks.push(dht.records(record_check()));
            sources.push(Arc::new(dht));
        }
        if config.uses("trackers") {
            let limits = TrackerLimits { farewell: FAREWELL_TIMEOUT, ..TrackerLimits::default() };
            sources.push(Arc::new(Trackers::new(peer_id, local, limits, progress, found_by.clone())));
        }
        if let Some(lsd) = lsd {
            sources.push(Arc::new(Lsd::new(&lsd, found_by)));
        }
        let found = [Some(found), swarm.take_found()].into_iter().flatten().collect();
        Ok(Self { swarm, sockets, sources, local, found, record_networks })
    }

    /// What dials peers of each kind.
    pub(super) fn transports(&self) -> Vec<Arc<dyn Transport>> {
        vec![self.swarm.transport(), self.sockets.transport()]
    }

    /// The streams that peers open; to be taken once.
    pub(super) fn take_incoming(&mut self) -> impl Iterator<Item = mpsc::Receiver<PeerStream>> + use<> {
        [self.swarm.take_incoming(), self.sockets.take_incoming()].into_iter().flatten()
    }

    /// What the sources find; to be taken once.
    pub(super) fn take_found(&mut self) -> Vec<mpsc::Receiver<Found>> {
        std::mem::take(&mut self.found)
    }

    /// The networks that carry update records and are on.
    pub(super) fn record_networks(&self) -> Vec<Arc<dyn RecordNetwork>> {
        self.record_networks.clone()
    }

    /// The records that these networks push; to be taken once, later there are none.
    pub(super) fn take_records(&mut self) -> mpsc::Receiver<PushedRecord> {
        self.swarm.take_records().unwrap_or_else(|| mpsc::channel(1).1)
    }

    /// Where the node listens, as it changes.
    pub(super) fn addrs(&self) -> Addrs {
        Addrs { libp2p: self.swarm.listening(), sockets: self.sockets.listen_addrs().to_vec() }
    }

    /// Takes leave of the swarms, then closes every connection. Takes a bounded time.
    pub(super) async fn shutdown(self) {
        if timeout(FAREWELL_TIMEOUT, join_all(self.sources.iter().map(|source| source.shutdown()))).await.is_err() {
            tracing::debug!("not everyone was told that the node leaves");
        }
        tokio::join!(self.swarm.shutdown(), self.sockets.shutdown());
    }
}

/// The addresses that the node listens at.
pub(super) struct Addrs {
    libp2p: Listening,
    sockets: Vec<SocketAddr>,
}

impl Addrs {
    /// What peers can dial: multiaddrs with the peer id, then `IP:PORT` for BitTorrent clients. A listener on every
    /// interface is told by the addresses of those that are known.
    pub(super) fn dialable(&self) -> Vec<String> {
        let mut addrs = self.libp2p.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let interfaces: Vec<IpAddr> = addrs.iter().filter_map(|addr| addr.split('/').nth(2)?.parse().ok()).collect();
        let mut add = |addr: SocketAddr| {
            let text = addr.to_string();
            if !addrs.contains(&text) {
                addrs.push(text);
            }
        };
        for socket in &self.sockets {
            if !socket.ip().is_unspecified() {
                add(*socket);
                continue;
            }
            let same_family = interfaces.iter().filter(|ip| ip.is_ipv4() == socket.is_ipv4());
            same_family.for_each(|ip| add(SocketAddr::new(*ip, socket.port())));
        }
        addrs
    }
}
