//! Serving a dataset: the newest version and those before it, as far as they are here, and what comes later.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::{Dataset, Edition};
use crate::node::api::{AddRequest, ApiError, ErrorKind, SeedRequest, TorrentInfo, TorrentName};
use crate::node::handle::{NodeHandle, ProgressSink, Shared, Torrent, blocking, failure};
use crate::node::names::Lead;
use crate::types::{InfoId, InfoSig};

/// After a version could not be opened, until it is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Versions that are served at the same time.
const MAX_SERVED: usize = 64;

/// A dataset that is being served, until it is dropped.
struct Serving {
    /// The newest version when it began.
    newest: Torrent,
    _task: AbortOnDropHandle<()>,
}

type Served = Arc<Mutex<BTreeMap<u64, Torrent>>>;

impl NodeHandle {
    /// Serves what was published from this store under the name `origin`, where it lies, and what is published to it
    /// later.
    ///
    /// # Errors
    /// `Usage` when nothing was.
    async fn seed_dataset(
        &self,
        origin: InfoSig,
        request: &SeedRequest,
        progress: &ProgressSink,
    ) -> Result<Serving, ApiError> {
        let store = self.0.store.clone();
        let published = blocking(move || store.publication(&origin)).await?;
        if published.map_err(|error| failure(error.to_string()))?.is_none() {
            return Err(ApiError {
                kind: ErrorKind::Usage,
                message: format!(
                    "expected a dataset that was published from this store, got {origin}: `knot publish` publishes one, \
                     `knot mirror` serves those of others"
                ),
            });
        }
        let name = TorrentName::InfoId(origin.to_string());
        let add = AddRequest {
            torrent: name.clone(),
            peers: request.peers.clone(),
            discovery: request.discovery.clone(),
            metainfo_timeout: super::super::api::default_metainfo_timeout(),
            read_timeout: super::super::api::default_read_timeout(),
            prefetch_all: false,
            at: None,
        };
        let lead = Lead::new(&name, &request.peers, self.0.local).await?;
        let dataset = self.join(origin, request.discovery.clone()).await?;
        dataset.serve();
        self.send(lead.hints(dataset.key, None)).await?;
        let served = Served::default();
        let desk = Desk { node: Arc::downgrade(&self.0), dataset, lead, add, served };
        let newest = match desk.catch_up(self, progress).await {
            (Some(newest), _) => newest,
            (None, Some(error)) => return Err(error),
            (None, None) => return Err(failure(format!("expected a version of {origin} in this store, got none"))),
        };
        Ok(Serving { newest, _task: AbortOnDropHandle::new(tokio::spawn(desk.run())) })
    }
}

impl NodeHandle {
    /// Serves what `request` names, files or a dataset, while the kept value lives.
    ///
    /// # Errors
    /// As [`NodeHandle::seed`]; `Usage` where the dataset was not published from this store.
    pub async fn seed_named(
        &self,
        request: SeedRequest,
        progress: ProgressSink,
    ) -> Result<(TorrentInfo, Box<dyn Send + Sync>), ApiError> {
        let Some(origin) = named(&request) else {
            let torrent = self.seed(request, progress).await?;
            return Ok((torrent.info.clone(), Box::new(torrent)));
        };
        let serving = self.seed_dataset(origin, &request, &progress).await?;
        let info = TorrentInfo { info_id: origin.to_string(), ..serving.newest.info.clone() };
        Ok((info, Box::new(serving)))
    }
}

/// What serves one dataset.
struct Desk {
    node: Weak<Shared>,
    dataset: Arc<Dataset>,
    lead: Lead,
    add: AddRequest,
    served: Served,
}

impl Desk {
    async fn run(self) {
        let mut changes = self.dataset.changes();
        let (progress, _) = tokio::sync::mpsc::channel(1);
        loop {
            changes.mark_unchanged();
            let Some(node) = self.node.upgrade().map(NodeHandle) else { return };
            if let (_, Some(error)) = self.catch_up(&node, &progress).await {
                self.dataset.set_problem(Some(format!("a version of {} is not served: {error}", self.dataset.origin)));
                drop(node);
                sleep(RETRY).await;
                continue;
            }
            drop(node);
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Opens what has content here and is not open; gives the newest. Older versions stay as long as there is room. One
    /// that cannot be opened stops no other; of these, the newest one's error is told.
    async fn catch_up(&self, node: &NodeHandle, progress: &ProgressSink) -> (Option<Torrent>, Option<ApiError>) {
        let editions: Vec<_> = self.dataset.known().editions().rev().take(MAX_SERVED).collect();
        let newest = editions.first().map(Edition::seq);
        let mut failed = None;
        for edition in editions {
            let seq = edition.seq();
            if let Err(error) = self.catch_up_with(node, edition, Some(seq) == newest, progress).await {
                failed.get_or_insert(error);
            }
        }
        let mut served = self.served();
        while served.len() > MAX_SERVED {
            served.pop_first();
        }
        (served.last_key_value().map(|(_, torrent)| torrent.clone()), failed)
    }

    async fn catch_up_with(
        &self,
        node: &NodeHandle,
        edition: Edition,
        is_newest: bool,
        progress: &ProgressSink,
    ) -> Result<(), ApiError> {
        let seq = edition.seq();
        let is_open = self.served().contains_key(&seq);
        if is_open || !node.is_here(&edition).await? {
            return Ok(());
        }
        let torrent = self.open(node, edition, progress).await?;
        let has_content = torrent.source.torrent.storage.verified_bytes() > 0 || torrent.info.total_length == 0;
        // Of the newest version others want the metainfo, too.
        if has_content || is_newest {
            self.served().insert(seq, torrent);
        }
        Ok(())
    }

    async fn open(&self, node: &NodeHandle, edition: Edition, progress: &ProgressSink) -> Result<Torrent, ApiError> {
        node.open_edition(&self.dataset, edition, &self.lead, &self.add, progress).await
    }

    fn served(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Torrent>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The dataset that a seed request names, if it names one instead of a path.
fn named(request: &SeedRequest) -> Option<InfoSig> {
    if !request.path.as_os_str().is_empty() {
        return None;
    }
    match request.torrent.as_ref()? {
        TorrentName::InfoId(text) => match text.parse() {
            Ok(InfoId::Sig(origin)) => Some(origin),
            _ => None,
        },
        _ => None,
    }
}
