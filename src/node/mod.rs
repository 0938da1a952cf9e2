//! The node: everything that runs. It owns the clock, the sockets, the store and the threads, and drives the
//! engine, which owns none of them.
//!
//! [`Node::start`] opens the store, brings the transports up and starts the driver's task; [`NodeHandle`] is what
//! the filesystem, the control socket and the commands use.

pub mod api;
mod content;
mod driver;
mod get;
mod handle;
mod identity;
mod jobs;
pub mod lifecycle;
pub mod mount;
mod mounts;
mod peer;
mod proofs;
mod registry;
mod seeding;
mod status;
mod storage;
pub mod swarm;
pub mod tree;
mod warnings;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::debug;

use self::api::ApiError;
use self::driver::{Driver, Event, Parts};
use self::handle::{Shared, blocking, failure};
use self::mount::Mounter;
use self::mounts::Mounts;
use self::registry::{Registry, Swarms};
use self::storage::{Store, StoreEvent};
use self::swarm::{NodeSwarm, SwarmConfig};
use self::warnings::Warnings;
use crate::engine::{Config, TorrentManager};
use crate::transports::PeerStream;
use crate::types::WirePeerId;

pub use self::get::read;
pub use self::handle::{NodeHandle, ProgressSink, Torrent};

/// Incoming handshakes at once; more are refused.
const WELCOMES_AT_ONCE: usize = 64;
/// How long the parts of the node may take to end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// What a node needs to know to start.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The store: cache, index, identity.
    pub store: PathBuf,
    /// Cap of the cache in bytes.
    pub cache_bytes: u64,
    /// Multiaddrs to listen on.
    pub listen: Vec<String>,
    /// Names of the sources of peers that may be used.
    pub discovery: Vec<String>,
    /// Nodes of the private Kademlia network to begin with.
    pub bootstrap: Vec<String>,
}

/// A running node.
pub struct Node {
    handle: NodeHandle,
    swarm: NodeSwarm,
    tasks: Vec<JoinHandle<()>>,
    driver: JoinHandle<()>,
}

impl Node {
    /// Starts a node on a store. The caller holds the store's lock.
    ///
    /// # Errors
    /// When the store cannot be opened or no address can be listened on.
    pub async fn start(config: NodeConfig, mounter: Arc<dyn Mounter>) -> Result<Self, ApiError> {
        let warnings = Arc::new(Warnings::default());
        let (events, event_queue) = mpsc::channel(driver::EVENT_QUEUE);
        let (commands, command_queue) = mpsc::channel(driver::COMMAND_QUEUE);
        let store = open_store(&config, events.clone(), warnings.clone()).await?;
        let key =
            identity::load_or_create(&config.store.join("identity.key")).map_err(|error| failure(error.to_string()))?;
        let uses = |source: &str| config.discovery.iter().any(|name| name == source);
        let swarm_config = SwarmConfig {
            key,
            kad: uses("kad"),
            mdns: uses("mdns"),
            listen: config.listen,
            bootstrap: config.bootstrap,
        };
        let mut swarm = NodeSwarm::start(swarm_config).await.map_err(|error| failure(error.to_string()))?;

        let swarms = Arc::new(Swarms::default());
        let peer_id = new_peer_id()?;
        let parts = Parts {
            engine: TorrentManager::new(engine_config(peer_id, store.cap_bytes()), seed()?),
            transports: vec![swarm.transport()],
            sources: swarm.sources(),
            swarms: swarms.clone(),
            peer_id,
            own_name: swarm.peer_id().0.clone(),
            warnings: warnings.clone(),
            events: events.clone(),
        };
        let mounts = Arc::new(Mounts::default());
        let mut tasks = vec![tokio::spawn(mounts::watch(Arc::downgrade(&mounts)))];
        if let Some(incoming) = swarm.take_incoming() {
            tasks.push(tokio::spawn(accept(incoming, swarms, peer_id, events.clone())));
        }
        if let Some(found) = swarm.take_found() {
            tasks.push(tokio::spawn(report_found(found, events)));
        }
        let shared = Shared {
            commands,
            store,
            registry: Registry::default(),
            mounts,
            mounter,
            sources: swarm.sources(),
            warnings,
            peer_id: swarm.peer_id().0.clone(),
            listen: swarm.listening(),
            started: Instant::now(),
        };
        let driver = tokio::spawn(Driver::new(parts).run(event_queue, command_queue));
        Ok(Self { handle: NodeHandle(Arc::new(shared)), swarm, tasks, driver })
    }

    /// What the rest of knot uses the node by.
    pub fn handle(&self) -> NodeHandle {
        self.handle.clone()
    }

    /// Unmounts everything, makes what was verified durable and ends. Takes a bounded time.
    pub async fn shutdown(self) {
        let Self { handle, swarm, tasks, driver } = self;
        let mounts = handle.0.mounts.clone();
        let _ = timeout(SHUTDOWN_TIMEOUT, blocking(move || mounts.unmount_all())).await;
        tasks.iter().for_each(JoinHandle::abort);
        driver.abort();
        let _ = timeout(SHUTDOWN_TIMEOUT, swarm.shutdown()).await;
        let store = handle.0.store.clone();
        if let Ok(Ok(Err(error))) = timeout(SHUTDOWN_TIMEOUT, blocking(move || store.sync())).await {
            tracing::warn!(%error, "the last verified blocks could not be made durable");
        }
    }
}

/// Opens the store. Storage reports lost pieces from wherever it notices, so they may not wait for the driver; there
/// are never more of them than pieces that were verified.
async fn open_store(
    config: &NodeConfig,
    events: mpsc::Sender<Event>,
    warnings: Arc<Warnings>,
) -> Result<Arc<Store>, ApiError> {
    let (lost, mut lost_queue) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(event) = lost_queue.recv().await {
            if events.send(event).await.is_err() {
                return;
            }
        }
    });
    let on_event = move |event| match event {
        StoreEvent::Lost { torrent, piece } => {
            // Without a driver nobody needs to know.
            let _ = lost.send(Event::Lost { torrent, piece });
        }
        StoreEvent::Warning(warning) => warnings.add(warning),
    };
    let (dir, cap) = (config.store.clone(), config.cache_bytes);
    let store = blocking(move || Store::open(&dir, cap, Box::new(on_event))).await?;
    store.map(Arc::new).map_err(|error| failure(error.to_string()))
}

/// Shakes hands with peers that come in.
async fn accept(
    mut incoming: mpsc::Receiver<PeerStream>,
    swarms: Arc<Swarms>,
    peer_id: WirePeerId,
    events: mpsc::Sender<Event>,
) {
    let turns = Arc::new(Semaphore::new(WELCOMES_AT_ONCE));
    while let Some(stream) = incoming.recv().await {
        let Ok(turn) = turns.clone().try_acquire_owned() else {
            debug!(addr = %stream.addr, "refused: too many handshakes at once");
            continue;
        };
        let (swarms, events) = (swarms.clone(), events.clone());
        tokio::spawn(async move {
            match peer::welcome(stream, peer_id, |swarm| swarms.find(swarm)).await {
                Ok(established) => {
                    let _ = events.send(Event::Established(established)).await;
                }
                Err(error) => debug!(%error, "incoming handshake failed"),
            }
            drop(turn);
        });
    }
}

async fn report_found(mut found: mpsc::Receiver<crate::discovery::Found>, events: mpsc::Sender<Event>) {
    while let Some(found) = found.recv().await {
        if events.send(Event::Found(found)).await.is_err() {
            return;
        }
    }
}

/// What is fetched ahead of a reader must not push out what it is about to read.
fn engine_config(peer_id: WirePeerId, cache_bytes: u64) -> Config {
    let defaults = Config::default();
    Config { peer_id, max_window: defaults.max_window.min(cache_bytes / 4), ..defaults }
}

/// A peer id in the usual style (BEP 20): client and version, then random bytes.
fn new_peer_id() -> Result<WirePeerId, ApiError> {
    let mut id = *b"-KN0100-............";
    getrandom::fill(&mut id[8..]).map_err(|error| failure(error.to_string()))?;
    Ok(WirePeerId(id))
}

fn seed() -> Result<u64, ApiError> {
    getrandom::u64().map_err(|error| failure(error.to_string()))
}

#[cfg(test)]
mod tests;
