//! The node: everything that runs. It owns the clock, the sockets, the store and the threads, and drives the
//! engine, which owns none of them.
//!
//! [`Node::start`] opens the store, brings the transports up and starts the driver's task; [`NodeHandle`] is what
//! the filesystem, the control socket and the commands use.

pub mod api;
mod config;
mod content;
mod dataset;
mod dials;
mod driver;
mod get;
mod handle;
mod identity;
mod jobs;
mod lazy;
pub mod lifecycle;
pub mod mount;
mod mounts;
mod names;
mod network;
mod peer;
mod proofs;
mod reading;
mod registry;
mod search;
mod seeding;
mod slot;
mod snapshot;
mod status;
mod storage;
pub mod swarm;
mod tally;
pub mod tree;
mod warnings;
mod webseed;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::debug;

use self::api::ApiError;
use self::dataset::Datasets;
use self::driver::{Driver, Event, Parts};
use self::handle::{Shared, blocking, failure};
use self::mount::Mounter;
use self::mounts::Mounts;
use self::network::Network;
use self::registry::{Registry, Swarms};
use self::slot::Meeting;
use self::storage::{Store, StoreEvent};
use self::warnings::Warnings;
use self::webseed::WebSeeds;
use crate::engine::{Config, TorrentManager};
use crate::transports::PeerStream;
use crate::types::WirePeerId;

pub use self::config::{Limits, NodeConfig};
pub use self::get::read;
pub use self::handle::{NodeHandle, ProgressSink, Torrent};
pub use self::names::download;
pub use self::reading::{Pieces, TorrentFile, TorrentProgress};

/// The source that the engine is itself: what peers tell of each other.
const PEX: &str = "pex";
/// Incoming handshakes at once; more are refused.
const WELCOMES_AT_ONCE: usize = 64;
/// What peers say of datasets that may wait to be heard; more is dropped.
const MEETING_NEWS_QUEUE: usize = 1024;
/// How long the parts of the node may take to end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the network may take to end: it tells trackers, then closes connections.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(8);

/// A running node.
pub struct Node {
    handle: NodeHandle,
    network: Network,
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
        let swarms = Arc::new(Swarms::default());
        let peer_id = new_peer_id()?;
        let mut network = Network::start(&config, key, peer_id, &swarms).await?;
        let mut engine = TorrentManager::new(engine_config(&config, peer_id, network.sockets.port()), seed()?);
        engine.set_window_budget(driver::window_budget(store.cap_bytes()));
        let (meeting_news, news) = mpsc::channel(MEETING_NEWS_QUEUE);
        let web_seeds = Arc::new(WebSeeds::new(network.local, warnings.clone()));
        let parts = Parts {
            engine,
            transports: network.transports(),
            web_seeds: web_seeds.clone(),
            meeting: Meeting { sources: network.sources.clone(), swarms: swarms.clone(), port: network.sockets.port() },
            peer_id,
            own_name: network.swarm.peer_id().0.clone(),
            own_addrs: network.sockets.listen_addrs().to_vec(),
            warnings: warnings.clone(),
            events: events.clone(),
            meeting_news,
        };
        let mounts = Arc::new(Mounts::default());
        let mut tasks = vec![tokio::spawn(mounts::watch(Arc::downgrade(&mounts)))];
        for incoming in network.take_incoming() {
            tasks.push(tokio::spawn(accept(incoming, swarms.clone(), peer_id, events.clone())));
        }
        for found in network.take_found() {
            tasks.push(tokio::spawn(report_found(found, events.clone())));
        }
        let shared = Shared {
            commands,
            store,
            registry: Registry::default(),
            datasets: Datasets::default(),
            networks: network.record_networks(),
            mounts,
            mounter,
            sources: network.sources.clone(),
            warnings,
            peer_id: network.swarm.peer_id().0.clone(),
            addrs: network.addrs(),
            local: network.local,
            pex: config.uses(PEX),
            web_seeds: config.uses(webseed::NAME).then_some(web_seeds),
            started: Instant::now(),
        };
        let driver = tokio::spawn(Driver::new(parts).run(event_queue, command_queue));
        let shared = Arc::new(shared);
        tasks.push(tokio::spawn(dataset::attend(Arc::downgrade(&shared), news)));
        tasks.push(tokio::spawn(dataset::receive(Arc::downgrade(&shared), network.take_records())));
        Ok(Self { handle: NodeHandle(shared), network, tasks, driver })
    }

    /// What the rest of knot uses the node by.
    pub fn handle(&self) -> NodeHandle {
        self.handle.clone()
    }

    /// Unmounts everything, makes what was verified durable and ends. Takes a bounded time.
    pub async fn shutdown(self) {
        let Self { handle, network, tasks, driver } = self;
        let mounts = handle.0.mounts.clone();
        let _ = timeout(SHUTDOWN_TIMEOUT, blocking(move || mounts.unmount_all())).await;
        tasks.iter().for_each(JoinHandle::abort);
        driver.abort();
        let _ = timeout(LEAVE_TIMEOUT, network.shutdown()).await;
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
            let addr = stream.addr.clone();
            match peer::welcome(stream, |theirs| swarms.welcome(&addr, theirs, peer_id)).await {
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

/// What the engine is to know of the node.
fn engine_config(config: &NodeConfig, peer_id: WirePeerId, listen_port: Option<u16>) -> Config {
    let (limits, defaults) = (&config.limits, Config::default());
    Config {
        peer_id,
        listen_port,
        pex: config.uses(PEX),
        max_peers: limits.max_peers.unwrap_or(defaults.max_peers),
        upload_limit: limits.upload,
        download_limit: limits.download,
        no_upload: limits.no_upload,
        ..defaults
    }
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
