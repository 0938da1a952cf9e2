//! What the rest of knot may ask of the node.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::api::{
    AddRequest, ApiError, ErrorKind, GetRequest, MountRequest, NodeStatus, Progress, SeedRequest, TorrentInfo,
    TorrentName,
};
use super::content::{OpenTorrent, TorrentContent};
use super::driver::Command;
use super::mount::{MountOptions, MountView, Mounter};
use super::mounts::Mounts;
use super::registry::{Entry, Registry};
use super::storage::{Source, Store};
use super::swarm::Listening;
use super::warnings::Warnings;
use super::{get, seeding, status};
use crate::engine::Prefetch;
use crate::metainfo::Metainfo;
use crate::types::{InfoId, PeerAddr, TorrentKey};
use crate::vfs::Content;

/// Where the progress of a long request goes; what does not fit is dropped.
pub type ProgressSink = mpsc::Sender<Progress>;

/// How often the wait for a metainfo is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
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
    pub(super) mounts: Arc<Mounts>,
    pub(super) mounter: Arc<dyn Mounter>,
    pub(super) sources: Vec<Arc<dyn crate::discovery::Source>>,
    pub(super) warnings: Arc<Warnings>,
    pub(super) peer_id: String,
    pub(super) listen: Listening,
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
    pub(super) key: TorrentKey,
}

/// What a [`TorrentName`] turned out to be.
enum Named {
    Id(InfoId),
    Metainfo(Arc<Metainfo>),
}

impl NodeHandle {
    /// Adds a torrent, or joins those who use it already, and waits for its metainfo.
    ///
    /// # Errors
    /// `NotFound` when no peer delivers the metainfo in time, `Verification` when a given metainfo does not match
    /// its own hash or signature, `Usage` for names and addresses that make no sense.
    pub async fn open(&self, request: AddRequest, progress: ProgressSink) -> Result<Torrent, ApiError> {
        let peers = parse_peers(&request.peers)?;
        let (id, known) = match name(&request.torrent)? {
            Named::Metainfo(metainfo) => (metainfo.info_id(), Some(metainfo)),
            Named::Id(id) => (id, self.remembered(id).await?),
        };
        let entry = self.0.registry.entry(id);
        let torrent = entry
            .torrent
            .get_or_try_init(|| self.prepare(&entry, id, known, &request, &peers, &progress))
            .await?
            .clone();
        self.use_torrent(entry.clone(), torrent, &request, peers).await
    }

    async fn use_torrent(
        &self,
        entry: Arc<Entry>,
        torrent: Arc<OpenTorrent>,
        request: &AddRequest,
        peers: Vec<PeerAddr>,
    ) -> Result<Torrent, ApiError> {
        let key = torrent.key;
        self.send(Command::Peers { torrent: key, addrs: peers }).await?;
        if request.prefetch_all {
            self.send(Command::Prefetch { torrent: key, prefetch: Prefetch::All }).await?;
        }
        let metainfo = torrent.metainfo.clone();
        let content = Arc::new(TorrentContent { torrent, _entry: entry, read_timeout: request.read_timeout });
        Ok(Torrent { info: info(&metainfo), metainfo, content, key })
    }

    /// Mounts a torrent.
    ///
    /// # Errors
    /// As [`NodeHandle::open`], and those of the mount point.
    pub async fn mount(&self, request: MountRequest, progress: ProgressSink) -> Result<TorrentInfo, ApiError> {
        let torrent = self.open(request.add, progress).await?;
        let view = MountView { metainfo: torrent.metainfo.clone(), content: torrent.content.clone() };
        let options = MountOptions {
            allow_other: request.allow_other,
            uid: request.uid,
            gid: request.gid,
            fs_name: format!("knot:{}", torrent.info.info_id),
        };
        let (mounter, mountpoint) = (self.0.mounter.clone(), request.mountpoint);
        let at = mountpoint.clone();
        let session = blocking(move || mounter.mount(view, &at, &options)).await??;
        let info = torrent.info.clone();
        self.0.mounts.insert(mountpoint, session, torrent);
        Ok(info)
    }

    /// Unmounts what this node has mounted at `mountpoint`; files that are still open do not delay it.
    ///
    /// # Errors
    /// `Usage` when nothing of this node is mounted there.
    pub async fn unmount(&self, mountpoint: PathBuf) -> Result<(), ApiError> {
        let mounts = self.0.mounts.clone();
        blocking(move || mounts.unmount(&mountpoint)).await?
    }

    /// Serves a file or directory in place while the returned torrent is kept.
    ///
    /// # Errors
    /// When the path cannot be read, or does not match the metainfo.
    pub async fn seed(&self, request: SeedRequest, progress: ProgressSink) -> Result<Torrent, ApiError> {
        let peers = parse_peers(&request.peers)?;
        let given = request.metainfo.as_deref().map(parse_metainfo).transpose()?;
        let prepared = seeding::prepare(&self.0.store, request.path, given, progress).await?;
        let entry = self.0.registry.entry(prepared.metainfo.info_id());
        let metainfo = prepared.metainfo.clone();
        let torrent = entry
            .torrent
            .get_or_try_init(|| self.open_with(&entry, metainfo, prepared.storage, true, request.discovery.clone()))
            .await?
            .clone();
        if !torrent.in_place {
            return Err(failure(format!(
                "expected to serve {} in place, but this node has it open from the cache: unmount it first, or seed \
                 with another --store",
                info(&torrent.metainfo).info_id
            )));
        }
        let request = AddRequest {
            torrent: TorrentName::InfoId(String::new()),
            peers: Vec::new(),
            discovery: request.discovery,
            metainfo_timeout: super::api::default_metainfo_timeout(),
            read_timeout: super::api::default_read_timeout(),
            prefetch_all: false,
        };
        self.use_torrent(entry.clone(), torrent, &request, peers).await
    }

    /// Downloads a whole torrent into a directory.
    ///
    /// # Errors
    /// As [`NodeHandle::open`], and those of writing the files.
    pub async fn get(&self, request: GetRequest, progress: ProgressSink) -> Result<(TorrentInfo, PathBuf), ApiError> {
        let torrent = self.open(request.add, progress.clone()).await?;
        // Fetching out of order pays only where nothing is evicted before it has been written.
        if torrent.info.total_length <= self.0.store.cap_bytes() {
            self.send(Command::Prefetch { torrent: torrent.key, prefetch: Prefetch::All }).await?;
        }
        let path = get::write_out(self, &torrent, &request.dest, &progress).await?;
        Ok((torrent.info, path))
    }

    /// Changes the cap of the cache.
    pub fn set_cache_size(&self, bytes: u64) {
        self.0.store.set_cap(bytes);
    }

    /// What `knot status` shows.
    pub async fn status(&self) -> NodeStatus {
        status::collect(self).await
    }

    /// Whether the node has nothing to do: no torrent is in use.
    pub fn is_idle(&self) -> bool {
        self.0.mounts.is_empty() && self.0.registry.list().is_empty()
    }

    /// Addresses that the node listens on, each with its peer id.
    pub fn listen_addrs(&self) -> Vec<String> {
        self.0.listen.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

    async fn remembered(&self, id: InfoId) -> Result<Option<Arc<Metainfo>>, ApiError> {
        let store = self.0.store.clone();
        blocking(move || store.metainfo(&id)).await?.map_err(|error| failure(error.to_string()))
    }

    /// Finds the metainfo if need be, opens storage and hands both to the engine.
    async fn prepare(
        &self,
        entry: &Arc<Entry>,
        id: InfoId,
        known: Option<Arc<Metainfo>>,
        request: &AddRequest,
        peers: &[PeerAddr],
        progress: &ProgressSink,
    ) -> Result<Arc<OpenTorrent>, ApiError> {
        let cleanup = RemoveUnlessOpened { commands: &self.0.commands, torrent: Some(entry.key) };
        let metainfo = match known {
            Some(metainfo) => metainfo,
            None => self.fetch_metainfo(entry.key, id, request, peers, progress).await?,
        };
        let (store, for_storage) = (self.0.store.clone(), metainfo.clone());
        let storage = blocking(move || store.torrent(for_storage, Source::Cache))
            .await?
            .map_err(|error| failure(error.to_string()))?;
        let torrent = self.open_with(entry, metainfo, storage, false, request.discovery.clone()).await?;
        cleanup.opened();
        Ok(torrent)
    }

    async fn open_with(
        &self,
        entry: &Arc<Entry>,
        metainfo: Arc<Metainfo>,
        storage: Arc<super::storage::TorrentStorage>,
        in_place: bool,
        sources: Option<Vec<String>>,
    ) -> Result<Arc<OpenTorrent>, ApiError> {
        for alias in [Some(InfoId::Hash(metainfo.info_hash())), metainfo.info_sig().map(InfoId::Sig)] {
            let other = alias.and_then(|id| self.0.registry.alias(id, entry));
            if let Some(open) = other.and_then(|other| other.torrent.get().cloned()) {
                return Ok(open);
            }
        }
        let torrent = Arc::new(OpenTorrent {
            key: entry.key,
            metainfo: metainfo.clone(),
            storage: storage.clone(),
            in_place,
            commands: self.0.commands.clone(),
        });
        storage.bind(entry.key);
        self.send(Command::Open { torrent: entry.key, metainfo, storage, sources }).await?;
        Ok(torrent)
    }

    async fn fetch_metainfo(
        &self,
        key: TorrentKey,
        id: InfoId,
        request: &AddRequest,
        peers: &[PeerAddr],
        progress: &ProgressSink,
    ) -> Result<Arc<Metainfo>, ApiError> {
        let (fetched, mut waiting) = oneshot::channel();
        let sources = request.discovery.clone();
        self.send(Command::AddById { torrent: key, id, fetched, sources }).await?;
        self.send(Command::Peers { torrent: key, addrs: peers.to_vec() }).await?;
        let deadline = Instant::now() + request.metainfo_timeout;
        loop {
            match timeout(PROGRESS_INTERVAL, &mut waiting).await {
                Ok(Ok(metainfo)) => return Ok(metainfo),
                Ok(Err(_)) => return Err(failure("the node is shutting down".to_owned())),
                Err(_) => {}
            }
            let connected = self.stats(key).await.map_or(0, |stats| stats.peers.len());
            let _ = progress.try_send(Progress::Metainfo { peers: connected });
            if Instant::now() >= deadline {
                return Err(self.metainfo_missing(id, connected, request));
            }
        }
    }

    fn metainfo_missing(&self, id: InfoId, connected: usize, request: &AddRequest) -> ApiError {
        let asked: Vec<_> = self
            .0
            .sources
            .iter()
            .map(|source| source.name())
            .filter(|name| request.discovery.as_ref().is_none_or(|names| names.iter().any(|wanted| wanted == name)))
            .collect();
        let asked = if asked.is_empty() { "none".to_owned() } else { asked.join(", ") };
        ApiError {
            kind: ErrorKind::NotFound,
            message: format!(
                "expected the metainfo of {id} from a peer within {timeout}, got none: {connected} connected peers, {given} \
                 given with --peer, sources asked: {asked}; check that it is being seeded, or give --peer ADDR",
                timeout = humantime::format_duration(request.metainfo_timeout),
                given = request.peers.len(),
            ),
        }
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

pub(super) fn info(metainfo: &Metainfo) -> TorrentInfo {
    TorrentInfo {
        info_id: metainfo.info_id().to_string(),
        name: metainfo.name().to_owned(),
        total_length: metainfo.total_length(),
    }
}

fn name(name: &TorrentName) -> Result<Named, ApiError> {
    match name {
        TorrentName::InfoId(text) => text.parse().map(Named::Id).map_err(usage),
        TorrentName::Metainfo(hex) => parse_metainfo(hex).map(Named::Metainfo),
    }
}

fn parse_metainfo(digits: &str) -> Result<Arc<Metainfo>, ApiError> {
    let bytes = hex::decode(digits).map_err(usage)?;
    Metainfo::parse(&bytes)
        .map(Arc::new)
        .map_err(|error| ApiError { kind: ErrorKind::Verification, message: error.to_string() })
}

fn parse_peers(texts: &[String]) -> Result<Vec<PeerAddr>, ApiError> {
    texts.iter().map(|text| text.parse().map_err(usage)).collect()
}

fn usage(error: impl std::error::Error) -> ApiError {
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
