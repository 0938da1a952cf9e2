//! The node's libp2p swarm: connections, discovery behaviours, and the task that runs them.
//!
//! One task owns the `Swarm`. Payload does not pass through it: each connection has a task of its own, and streams
//! go straight to who asked for them.

mod build;
mod run;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libp2p::identity::Keypair;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::discovery::{CheckedRecord, Found, PushedRecord, RecordCheck, RecordNetwork, Source};
use crate::transports::libp2p::Libp2pTransport;
use crate::transports::{PeerStream, Transport};
use crate::types::{NodeName, RecordParts};
use crate::updates::UpdateRecord;

use run::Runner;

/// Peers found that may wait for the node.
const FOUND_QUEUE: usize = 1024;
/// Update records pushed that may wait for the node.
const RECORD_QUEUE: usize = 256;
/// How long connections may take to close when the node leaves.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a swarm is made with.
pub struct SwarmConfig {
    /// The node's identity.
    pub key: Keypair,
    /// Addresses to listen on: multiaddrs or `IP:PORT`. None means every interface, TCP and QUIC, at ports that the
    /// system chooses; of these defaults only one needs to work.
    pub listen: Vec<String>,
    /// Whether to take part in the private Kademlia network.
    pub kad: bool,
    /// Whether to find nodes on the local network.
    pub mdns: bool,
    /// Whether to pass update records on, and to hear of them.
    pub gossip: bool,
    /// Multiaddrs of nodes to enter the Kademlia network through.
    pub bootstrap: Vec<String>,
}

/// Why a swarm did not start.
#[derive(Debug, thiserror::Error)]
pub enum SwarmError {
    /// An address is none.
    #[error("{0}")]
    Address(String),
    /// An address cannot be listened on.
    #[error("cannot listen on {addr}: {reason}")]
    Listen {
        /// Which.
        addr: String,
        /// Why not.
        reason: String,
    },
    /// The encryption or the transports could not be set up.
    #[error("cannot set up the network: {0}")]
    Setup(String),
}

/// A running swarm. Dropping it closes every connection; [`NodeSwarm::shutdown`] also waits for that.
pub struct NodeSwarm {
    name: NodeName,
    transport: Libp2pTransport,
    incoming: Option<mpsc::Receiver<PeerStream>>,
    found: Option<mpsc::Receiver<Found>>,
    sources: Vec<Arc<dyn Source>>,
    records: Option<mpsc::Receiver<PushedRecord>>,
    record_networks: Vec<Arc<dyn RecordNetwork>>,
    listening: Listening,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// The addresses that the node listens on now, shared with the task.
pub(super) type Listening = Arc<Mutex<Vec<String>>>;

impl NodeSwarm {
    /// Starts a swarm, and returns when every listener is up.
    ///
    /// # Errors
    /// When an address makes no sense or cannot be listened on.
    pub async fn start(config: SwarmConfig) -> Result<Self, SwarmError> {
        let (found_by, found) = mpsc::channel(FOUND_QUEUE);
        let name = NodeName(config.key.public().to_peer_id().to_string());
        let listening = Listening::default();
        let (pushed_by, records) = mpsc::channel(RECORD_QUEUE);
        let built = build::build(&config, found_by, pushed_by)?;
        let mut runner = Runner::new(built.swarm, built.drivers, listening.clone());
        runner.bootstrap(&config.bootstrap)?;
        runner.listen(&config.listen).await?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(runner.run(stopped));
        Ok(Self {
            name,
            transport: built.transport,
            incoming: Some(built.incoming),
            found: Some(found),
            sources: built.sources,
            records: Some(records),
            record_networks: built.records,
            listening,
            stop,
            task,
        })
    }

    /// This node's libp2p peer id.
    pub fn peer_id(&self) -> &NodeName {
        &self.name
    }

    /// What dials libp2p peers.
    pub fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(self.transport.clone())
    }

    /// The streams that peers open; to be taken once. Streams that nobody takes are reset when the queue is full.
    pub fn take_incoming(&mut self) -> Option<mpsc::Receiver<PeerStream>> {
        self.incoming.take()
    }

    /// What the sources find; to be taken once.
    pub fn take_found(&mut self) -> Option<mpsc::Receiver<Found>> {
        self.found.take()
    }

    /// The sources that are on.
    pub fn sources(&self) -> Vec<Arc<dyn Source>> {
        self.sources.clone()
    }

    /// The networks that carry update records and are on.
    pub fn record_networks(&self) -> Vec<Arc<dyn RecordNetwork>> {
        self.record_networks.clone()
    }

    /// The records that these networks push; to be taken once.
    pub fn take_records(&mut self) -> Option<mpsc::Receiver<PushedRecord>> {
        self.records.take()
    }

    /// The addresses that the node listens on now, each with its peer id.
    pub fn listen_addrs(&self) -> Vec<String> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same, as it changes.
    pub(super) fn listening(&self) -> Listening {
        self.listening.clone()
    }

    /// Closes every connection and waits until they are closed, for a bounded time.
    pub async fn shutdown(self) {
        drop(self.stop);
        if tokio::time::timeout(CLOSE_TIMEOUT + Duration::from_secs(1), self.task).await.is_err() {
            tracing::warn!("the network did not close in time");
        }
    }
}

/// What tells a network whether bytes are an update record.
pub(super) fn record_check() -> RecordCheck {
    Arc::new(|bytes| {
        let record = UpdateRecord::verify_own(&RecordParts::from_bytes(bytes)?).ok()?;
        Some(CheckedRecord { dataset: *record.original(), seq: record.seq() })
    })
}

#[cfg(test)]
mod record_tests;
#[cfg(test)]
mod tests;
