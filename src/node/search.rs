//! The metainfo of a torrent, from wherever it is: given, in the store, or from peers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::api::{AddRequest, ApiError, ErrorKind, MetainfoWait, Progress};
use super::driver::Command;
use super::handle::{NodeHandle, ProgressSink, blocking, failure};
use super::names::Lead;
use crate::metainfo::Metainfo;
use crate::types::{InfoId, TorrentKey};

/// How often the wait for a metainfo is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

impl NodeHandle {
    /// Whether the metainfo of a torrent is being searched.
    pub(super) async fn lacks_metainfo(&self, torrent: TorrentKey) -> bool {
        self.stats(torrent).await.is_some_and(|stats| !stats.has_metainfo)
    }

    /// Whether nobody has to be asked for the metainfo.
    pub(super) async fn knows(&self, lead: &Lead, sources: &Option<Vec<String>>) -> Result<bool, ApiError> {
        if let InfoId::Sig(origin) = lead.id
            && self.knows_version(origin, lead, sources).await?
        {
            return Ok(true);
        }
        let is_open = || self.0.registry.entry(lead.id).torrent.get().is_some();
        Ok(lead.metainfo.is_some() || is_open() || self.remembered(lead).await?.is_some())
    }

    /// The metainfo that the name is of, from the store.
    async fn remembered(&self, lead: &Lead) -> Result<Option<Arc<Metainfo>>, ApiError> {
        let (store, ids) = (self.0.store.clone(), lead.ids.clone());
        let find = move || ids.iter().find_map(|id| store.metainfo(id).transpose()).transpose();
        blocking(find).await?.map_err(|error| failure(error.to_string()))
    }

    /// The metainfo that the name is of, from wherever it is.
    pub(super) async fn metainfo(
        &self,
        key: TorrentKey,
        lead: &Lead,
        request: &AddRequest,
        progress: &ProgressSink,
    ) -> Result<Arc<Metainfo>, ApiError> {
        let known = match &lead.metainfo {
            Some(metainfo) => Some(metainfo.clone()),
            None => self.remembered(lead).await?,
        };
        // The piece hashes of a v2 torrent may not be in its file: peers have them.
        let known = known.filter(|metainfo| metainfo.has_layers());
        let mut metainfo = match known {
            Some(metainfo) => metainfo,
            None => lead.complement(self.fetch_metainfo(key, lead, request, progress).await?),
        };
        if let Some(membership) = &lead.membership {
            membership.check(&metainfo)?;
            metainfo = membership.sign(metainfo);
        }
        metainfo.check_mountable().map_err(|error| failure(error.to_string()))?;
        Ok(metainfo)
    }

    async fn fetch_metainfo(
        &self,
        key: TorrentKey,
        lead: &Lead,
        request: &AddRequest,
        progress: &ProgressSink,
    ) -> Result<Arc<Metainfo>, ApiError> {
        let (fetched, mut waiting) = oneshot::channel();
        let (swarms, sources) = (lead.swarms.clone(), request.discovery.clone());
        self.send(Command::AddById { torrent: key, id: lead.id, swarms, fetched, sources }).await?;
        self.send(lead.hints(key, None)).await?;
        let deadline = Instant::now() + request.metainfo_timeout;
        loop {
            match timeout(PROGRESS_INTERVAL, &mut waiting).await {
                Ok(Ok(metainfo)) => return metainfo.map_err(failure),
                Ok(Err(_)) => return Err(failure("the node is shutting down".to_owned())),
                Err(_) => {}
            }
            let wait = self.wait(key, request).await;
            if Instant::now() >= deadline {
                return Err(metainfo_missing(&wait, lead, request));
            }
            let _ = progress.try_send(Progress::Metainfo(wait));
        }
    }

    /// What the wait for a metainfo has come to.
    pub(super) async fn wait(&self, key: TorrentKey, request: &AddRequest) -> MetainfoWait {
        let stats = self.stats(key).await.unwrap_or_default();
        let names = self.0.sources.iter().map(|source| source.name());
        let is_asked =
            |name: &&str| request.discovery.as_ref().is_none_or(|names| names.iter().any(|wanted| wanted == name));
        MetainfoWait {
            peers: stats.peers.len(),
            found: stats.known_addresses,
            sources: names.filter(is_asked).map(str::to_owned).collect(),
            pieces: stats.metainfo_pieces,
        }
    }
}

pub(super) fn metainfo_missing(wait: &MetainfoWait, lead: &Lead, request: &AddRequest) -> ApiError {
    let asked = if wait.sources.is_empty() { "none".to_owned() } else { wait.sources.join(", ") };
    let hint = lead.hint.map_or_else(String::new, |hint| format!("; {hint}"));
    ApiError {
        kind: ErrorKind::NotFound,
        message: format!(
            "expected the metainfo of {id} from a peer within {timeout}, got none: {connected} connected peers, {found} \
             found, {given} given with --peer, sources asked: {asked}; check that it is being seeded, or give --peer \
             ADDR{hint}",
            id = lead.id,
            timeout = humantime::format_duration(request.metainfo_timeout),
            connected = wait.peers,
            found = wait.found,
            given = request.peers.len(),
        ),
    }
}
