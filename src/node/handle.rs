//! What the rest of knot may ask of the node.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::timeout;

use super::api::{
    AddRequest, ApiError, ErrorKind, GetRequest, MountEvent, MountRequest, NodeStatus, Progress, SeedRequest,
    TorrentInfo, TorrentName,
};
use super::content::{OpenTorrent, TorrentContent};
use super::dataset::{Dataset, Datasets, Membership};
use super::driver::Command;
use super::mount::{MountOptions, Mounter};
use super::mounts::Mounts;
use super::names::Lead;
use super::network::Addrs;
use super::registry::{Entry, Registry};
use super::search::metainfo_missing;
use super::seeding::Prepared;
use super::storage::{Source, Store};
use super::warnings::Warnings;
use super::webseed::{self, WebSeeds};
use super::{dataset, get, seeding, status};
use crate::discovery::RecordNetwork;
use crate::discovery::http::LocalAddrs;
use crate::engine::Prefetch;
use crate::metainfo::Metainfo;
use crate::types::{InfoId, TorrentKey};
use crate::vfs::Content;

/// Where the progress of a long request goes; what does not fit is dropped.
pub type ProgressSink = mpsc::Sender<Progress>;

/// How long the driver may take to answer a question about its own state.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A running node, from inside the process.
#[derive(Clone)]
pub struct NodeHandle(pub(super) Arc<Shared>);

/// What every handle shares.
pub(super) struct Shared {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) store: Arc<Store>,
    pub(super) registry: Registry,
    pub(super) datasets: Datasets,
    /// Networks that tell of versions of datasets.
    pub(super) networks: Vec<Arc<dyn RecordNetwork>>,
    pub(super) mounts: Arc<Mounts>,
    pub(super) mounter: Arc<dyn Mounter>,
    pub(super) sources: Vec<Arc<dyn crate::discovery::Source>>,
    pub(super) warnings: Arc<Warnings>,
    pub(super) peer_id: String,
    pub(super) addrs: Addrs,
    /// Where requests to servers come from.
    pub(super) local: LocalAddrs,
    /// Whether peers tell of each other.
    pub(super) pex: bool,
    /// Servers that have files, if they may be asked.
    pub(super) web_seeds: Option<Arc<WebSeeds>>,
    pub(super) started: Instant,
}

/// A torrent in use. It is served, and its content can be read, until the last clone is dropped.
#[derive(Clone)]
pub struct Torrent {
    /// Its names and size.
    pub info: TorrentInfo,
    /// Its verified metainfo.
    pub metainfo: Arc<Metainfo>,
    /// Its bytes.
    pub content: Arc<dyn Content>,
    pub(super) source: Arc<TorrentContent>,
    pub(super) key: TorrentKey,
    /// The version that it was opened as.
    pub(super) membership: Option<Membership>,
}

impl NodeHandle {
    /// Adds a torrent, or joins those who use it already, and waits for its metainfo.
    ///
    /// # Errors
    /// `NotFound` when no peer delivers the metainfo in time, `Verification` when a given metainfo does not match
    /// its own hash or signature, `Usage` for names and addresses that make no sense.
    pub async fn open(&self, request: AddRequest, progress: ProgressSink) -> Result<Torrent, ApiError> {
        let lead = Lead::new(&request.torrent, &request.peers, self.0.local).await?;
        self.open_any(&lead, &request, false, &progress).await
    }

    pub(super) async fn open_lead(
        &self,
        lead: &Lead,
        request: &AddRequest,
        progress: &ProgressSink,
    ) -> Result<Torrent, ApiError> {
        let entry = self.0.registry.entry(lead.id);
        // Somebody else may be waiting for the metainfo, whom this helps.
        self.send(lead.hints(entry.key, None)).await?;
        let is_ours = AtomicBool::new(false);
        let open = entry.torrent.get_or_try_init(|| {
            is_ours.store(true, Ordering::Relaxed);
            self.prepare(&entry, lead, request, None, progress)
        });
        let mut open = std::pin::pin!(open);
        let torrent = match timeout(request.metainfo_timeout, &mut open).await {
            Ok(opened) => opened?.clone(),
            // Another may wait for the metainfo for longer than this one wants to.
            Err(_) if !is_ours.load(Ordering::Relaxed) && self.lacks_metainfo(entry.key).await => {
                return Err(metainfo_missing(&self.wait(entry.key, request).await, lead, request));
            }
            Err(_) => open.await?.clone(),
        };
        self.use_torrent(entry.clone(), torrent, request, lead).await
    }

    async fn use_torrent(
        &self,
        entry: Arc<Entry>,
        torrent: Arc<OpenTorrent>,
        request: &AddRequest,
        lead: &Lead,
    ) -> Result<Torrent, ApiError> {
        let key = torrent.key;
        let is_chosen = |names: &Vec<String>| names.iter().any(|name| name == webseed::NAME);
        let asks_servers = self.0.web_seeds.is_some() && request.discovery.as_ref().is_none_or(is_chosen);
        self.send(lead.hints(key, asks_servers.then_some(&*torrent.metainfo))).await?;
        if request.prefetch_all {
            self.send(Command::Prefetch { torrent: key, prefetch: Prefetch::All }).await?;
        }
        let metainfo = torrent.metainfo.clone();
        let source = Arc::new(TorrentContent { torrent, _entry: entry, read_timeout: request.read_timeout });
        Ok(Torrent {
            info: info(&metainfo),
            metainfo,
            content: source.clone(),
            source,
            key,
            membership: lead.membership.clone(),
        })
    }

    /// Unmounts what this node has mounted at `mountpoint`; files that are still open do not delay it.
    ///
    /// # Errors
    /// `Usage` when nothing of this node is mounted there.
    pub async fn unmount(&self, mountpoint: PathBuf) -> Result<(), ApiError> {
        let mounts = self.0.mounts.clone();
        blocking(move || mounts.unmount(&mountpoint)).await?
    }

    /// Holds a mount on the version that it shows, or lets it follow its dataset again.
    ///
    /// # Errors
    /// `Usage` when nothing that follows a dataset is mounted there.
    pub async fn freeze(&self, mountpoint: PathBuf, frozen: bool) -> Result<(), ApiError> {
        let mounts = self.0.mounts.clone();
        blocking(move || mounts.freeze(&mountpoint, frozen)).await?
    }

    /// What happens to mounts from now on; who listens too slowly misses the oldest.
    pub fn events(&self) -> broadcast::Receiver<MountEvent> {
        self.0.mounts.events()
    }

    /// Serves a file or directory in place while the returned torrent is kept.
    ///
    /// # Errors
    /// When the path cannot be read, or does not match the metainfo.
    pub async fn seed(&self, request: SeedRequest, progress: ProgressSink) -> Result<Torrent, ApiError> {
        let SeedRequest { path, torrent, discovery, peers } = request;
        let request = AddRequest {
            torrent: torrent.clone().unwrap_or_else(|| TorrentName::Metainfo(String::new())),
            peers,
            discovery,
            metainfo_timeout: super::api::default_metainfo_timeout(),
            read_timeout: super::api::default_read_timeout(),
            prefetch_all: false,
            at: None,
        };
        let (entry, lead, torrent) = match torrent {
            Some(name) => {
                let lead = Lead::new(&name, &request.peers, self.0.local).await?;
                let entry = self.0.registry.entry(lead.id);
                let prepare = || self.prepare(&entry, &lead, &request, Some(path), &progress);
                let torrent = entry.torrent.get_or_try_init(prepare).await?.clone();
                (entry, lead, torrent)
            }
            None => {
                let Prepared { metainfo, storage } = seeding::prepare(&self.0.store, path, None, progress).await?;
                let entry = self.0.registry.entry(metainfo.info_id());
                let lead = Lead::of(metainfo.clone()).with_peers(&request.peers).await?;
                let open = || self.open_with(&entry, metainfo, storage, request.discovery.clone(), None);
                let torrent = entry.torrent.get_or_try_init(open).await?.clone();
                (entry, lead, torrent)
            }
        };
        if !torrent.storage.is_in_place() {
            return Err(failure(format!(
                "expected to serve {} in place, but this node has it open from the cache: unmount it first, or seed \
                 with another --store",
                info(&torrent.metainfo).info_id
            )));
        }
        self.use_torrent(entry, torrent, &request, &lead).await
    }

    /// Downloads a whole torrent into a directory.
    ///
    /// # Errors
    /// As [`NodeHandle::open`], and those of writing the files.
    pub async fn get(&self, request: GetRequest, progress: ProgressSink) -> Result<(TorrentInfo, PathBuf), ApiError> {
        let lead = Lead::new(&request.add.torrent, &request.add.peers, self.0.local).await?;
        let selects = !lead.select_only.is_empty() || !request.select.is_empty();
        let add = AddRequest { prefetch_all: request.add.prefetch_all && !selects, ..request.add };
        let torrent = self.open_any(&lead, &add, false, &progress).await?;
        let mut selected = selects.then(|| torrent.metainfo.selected(&lead.select_only));
        if let Some(selected) = &mut selected {
            selected.extend(get::entries_at(&torrent.metainfo, &request.select)?);
        }
        // Fetching out of order pays only where nothing is evicted before it has been written.
        let fits = !selects && torrent.info.total_length <= self.0.store.cap_bytes();
        if fits {
            self.send(Command::Prefetch { torrent: torrent.key, prefetch: Prefetch::All }).await?;
        }
        let selected = selected.as_deref();
        let path =
            get::Order { node: self, torrent: &torrent, selected, fits }.write_out(&request.dest, &progress).await?;
        Ok((torrent.info, path))
    }

    /// Changes the cap of the cache.
    pub fn set_cache_size(&self, bytes: u64) {
        self.0.store.set_cap(bytes);
        // Without a driver nobody fetches anything.
        let _ = self.0.commands.try_send(Command::CacheSize(self.0.store.cap_bytes()));
    }

    /// What `knot status` shows.
    pub async fn status(&self) -> NodeStatus {
        status::collect(self).await
    }

    /// Whether the node has nothing to do: no torrent is in use.
    pub fn is_idle(&self) -> bool {
        self.0.mounts.is_empty() && self.0.registry.list().is_empty()
    }

    /// Addresses at which peers reach the node: multiaddrs with its peer id, then `IP:PORT` for BitTorrent clients.
    pub fn listen_addrs(&self) -> Vec<String> {
        self.0.addrs.dialable()
    }

    /// Connected peers of a torrent, 0 if it is not known.
    pub(super) async fn stats(&self, torrent: TorrentKey) -> Option<crate::engine::TorrentStats> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Stats { torrent, reply }).await.ok()?;
        timeout(ANSWER_TIMEOUT, answer).await.ok()?.ok()?
    }

    pub(super) async fn send(&self, command: Command) -> Result<(), ApiError> {
        self.0.commands.send(command).await.map_err(|_| failure("the node is shutting down".to_owned()))
    }

    /// Finds the metainfo if need be, opens storage and hands both to the engine.
    async fn prepare(
        &self,
        entry: &Arc<Entry>,
        lead: &Lead,
        request: &AddRequest,
        in_place: Option<PathBuf>,
        progress: &ProgressSink,
    ) -> Result<Arc<OpenTorrent>, ApiError> {
        let cleanup = RemoveUnlessOpened { commands: &self.0.commands, torrent: Some(entry.key) };
        let metainfo = self.metainfo(entry.key, lead, request, progress).await?;
        let store = self.0.store.clone();
        let storage = match in_place {
            Some(path) => seeding::prepare(&store, path, Some(metainfo.clone()), progress.clone()).await?.storage,
            None => {
                let metainfo = metainfo.clone();
                let storage = blocking(move || store.torrent(metainfo, Source::Cache)).await?;
                storage.map_err(|error| failure(error.to_string()))?
            }
        };
        let sources = request.discovery.clone();
        let torrent = self.open_with(entry, metainfo, storage, sources, lead.membership.as_ref()).await?;
        cleanup.opened();
        Ok(torrent)
    }

    async fn open_with(
        &self,
        entry: &Arc<Entry>,
        metainfo: Arc<Metainfo>,
        storage: Arc<super::storage::TorrentStorage>,
        sources: Option<Vec<String>>,
        membership: Option<&Membership>,
    ) -> Result<Arc<OpenTorrent>, ApiError> {
        let hashes = [Some(metainfo.info_hash()), metainfo.v2_info_hash()].into_iter().flatten().map(InfoId::Hash);
        for alias in hashes.chain(metainfo.info_sig().map(InfoId::Sig)) {
            let other = self.0.registry.alias(alias, entry);
            if let Some(open) = other.and_then(|other| other.torrent.get().cloned()) {
                return Ok(open);
            }
        }
        let dataset = self.dataset_of(&metainfo, sources.clone(), membership).await?;
        let torrent = Arc::new(OpenTorrent {
            key: entry.key,
            metainfo: metainfo.clone(),
            storage: storage.clone(),
            commands: self.0.commands.clone(),
            dataset: dataset.clone(),
        });
        storage.bind(entry.key);
        self.send(Command::Open { torrent: entry.key, metainfo, storage, sources }).await?;
        if let Some(dataset) = dataset {
            dataset.opened(entry.key);
            self.send(dataset.trackers(&torrent.metainfo)).await?;
            for hint in dataset::peers_at(&dataset, entry.key) {
                self.send(hint).await?;
            }
        }
        Ok(torrent)
    }

    /// The dataset that a torrent is a version of: whoever serves it meets the others. A private one is known to its
    /// trackers alone.
    async fn dataset_of(
        &self,
        metainfo: &Arc<Metainfo>,
        sources: Option<Vec<String>>,
        membership: Option<&Membership>,
    ) -> Result<Option<Arc<Dataset>>, ApiError> {
        let named = membership.map(|membership| membership.dataset.clone());
        let dataset = match (named, metainfo.origin()) {
            (Some(dataset), _) => dataset,
            (None, Some(origin)) if !metainfo.is_private() => self.join(origin, sources).await?,
            _ => return Ok(None),
        };
        if metainfo.info_sig() == Some(dataset.origin) {
            dataset.set_first(metainfo.clone()).await?;
        }
        Ok(Some(dataset))
    }

    /// The networks that may be asked for versions of a dataset.
    pub(super) fn networks_of(&self, dataset: &Dataset) -> Vec<Arc<dyn RecordNetwork>> {
        self.0.networks.iter().filter(|network| dataset.may_ask(network.name())).cloned().collect()
    }
}

/// Tells the driver to forget a torrent whose opening failed or was given up.
struct RemoveUnlessOpened<'a> {
    commands: &'a mpsc::Sender<Command>,
    torrent: Option<TorrentKey>,
}

impl RemoveUnlessOpened<'_> {
    fn opened(mut self) {
        self.torrent = None;
    }
}

impl Drop for RemoveUnlessOpened<'_> {
    fn drop(&mut self) {
        if let Some(torrent) = self.torrent {
            let _ = self.commands.try_send(Command::Remove { torrent });
        }
    }
}

/// How a torrent is mounted.
pub(super) fn mount_options(request: &MountRequest, info_id: &str) -> MountOptions {
    MountOptions {
        allow_other: request.allow_other,
        uid: request.uid,
        gid: request.gid,
        fs_name: format!("knot:{info_id}"),
    }
}

pub(super) fn info(metainfo: &Metainfo) -> TorrentInfo {
    TorrentInfo {
        info_id: metainfo.info_id().to_string(),
        name: metainfo.name().to_owned(),
        total_length: metainfo.total_length(),
    }
}

pub(super) fn usage(error: impl std::fmt::Display) -> ApiError {
    ApiError { kind: ErrorKind::Usage, message: error.to_string() }
}

pub(super) fn failure(message: String) -> ApiError {
    ApiError { kind: ErrorKind::Failure, message }
}

/// Runs `work` on a blocking thread.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| failure(format!("a storage thread stopped: {error}")))
}

/// The torrent's place below `dest`.
pub(super) fn destination(dest: &Path, metainfo: &Metainfo) -> PathBuf {
    dest.join(metainfo.name())
}
