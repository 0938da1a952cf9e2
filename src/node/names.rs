//! What a user names, and what the name says about where to find it.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;
use url::Url;

use super::api::{ApiError, ErrorKind, TorrentName};
use super::dataset::Membership;
use super::driver::Command;
use super::handle::{failure, usage};
use crate::discovery::http::{HttpClient, HttpLimits, LocalAddrs, Reach};
use crate::metainfo::{Form, Hints, MAX_TORRENT_LEN, Metainfo, MetainfoError};
use crate::types::{InfoId, Magnet, PeerAddr, SwarmId, TorrentKey};

/// How long the name of a peer may take to look up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Servers of one torrent that are made use of.
const MAX_WEB_SEEDS: usize = 100;
/// What a torrent at a URL may take.
const DOWNLOAD: HttpLimits = HttpLimits {
    connect: Duration::from_secs(10),
    total: Duration::from_secs(60),
    body: MAX_TORRENT_LEN,
    redirects: 5,
};

/// A torrent, as far as its name goes.
#[derive(Clone)]
pub(super) struct Lead {
    /// The name to show.
    pub(super) id: InfoId,
    /// Every name that it has.
    pub(super) ids: Vec<InfoId>,
    /// The swarms that it may be found in.
    pub(super) swarms: Vec<SwarmId>,
    pub(super) metainfo: Option<Arc<Metainfo>>,
    pub(super) peers: Vec<PeerAddr>,
    pub(super) trackers: Vec<Vec<String>>,
    pub(super) web_seeds: Vec<String>,
    /// The files that are wanted, counted as the torrent lists them (BEP 53); all of them if empty.
    pub(super) select_only: Vec<RangeInclusive<u32>>,
    /// The version of a dataset that it is.
    pub(super) membership: Option<Membership>,
    /// What to tell the user if nothing is found.
    pub(super) hint: Option<&'static str>,
}

impl Lead {
    /// Finds out what `name` says, and the addresses of `peers`, which the user gave. A torrent at a URL is downloaded,
    /// from the addresses `local`.
    pub(super) async fn new(name: &TorrentName, peers: &[String], local: LocalAddrs) -> Result<Self, ApiError> {
        let lead = match name {
            TorrentName::InfoId(text) => Self::of_id(text.parse().map_err(usage)?),
            TorrentName::Metainfo(digits) => Self::of_bytes(&hex::decode(digits).map_err(usage)?)?,
            TorrentName::Magnet(link) => Self::of_magnet(&link.parse().map_err(usage)?).await,
            TorrentName::Url(url) => Self::of_bytes(&download(url, local).await?)?,
        };
        lead.with_peers(peers).await
    }

    /// With the addresses of `peers`, which the user gave.
    pub(super) async fn with_peers(mut self, peers: &[String]) -> Result<Self, ApiError> {
        for text in peers {
            self.peers.extend(addresses(text).await?);
        }
        Ok(self)
    }

    /// What the driver is to know of it beside its metainfo. The servers that have the files are among the peers, where
    /// they may be asked and the `metainfo` is known.
    pub(super) fn hints(&self, torrent: TorrentKey, metainfo: Option<&Metainfo>) -> Command {
        let mut peers = self.peers.clone();
        for url in metainfo.iter().flat_map(|metainfo| metainfo.hints().web_seeds.iter().chain(&self.web_seeds)) {
            let server = PeerAddr::Web(url.clone());
            if peers.len() < self.peers.len() + MAX_WEB_SEEDS && !peers.contains(&server) {
                peers.push(server);
            }
        }
        Command::Hints { torrent, peers, trackers: self.trackers.clone() }
    }

    pub(super) fn of_id(id: InfoId) -> Self {
        Self {
            id,
            ids: vec![id],
            swarms: id.swarm_candidates(),
            metainfo: None,
            peers: Vec::new(),
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            select_only: Vec::new(),
            membership: None,
            hint: None,
        }
    }

    fn of_bytes(bytes: &[u8]) -> Result<Self, ApiError> {
        let metainfo = Metainfo::parse(bytes);
        let wrong = |error: MetainfoError| ApiError { kind: ErrorKind::Verification, message: error.to_string() };
        metainfo.map(|metainfo| Self::of(Arc::new(metainfo))).map_err(wrong)
    }

    /// What a metainfo says.
    pub(super) fn of(metainfo: Arc<Metainfo>) -> Self {
        let lead = Self::of_id(metainfo.info_id());
        let peers = if metainfo.is_private() { Vec::new() } else { metainfo.peers().to_vec() };
        Self { swarms: metainfo.swarm_ids(), peers, metainfo: Some(metainfo), ..lead }
    }

    async fn of_magnet(magnet: &Magnet) -> Self {
        let mut peers = Vec::new();
        for text in &magnet.peers {
            match addresses(text).await {
                Ok(addrs) => peers.extend(addrs),
                Err(error) => tracing::debug!(%error, "a peer of a magnet link is left out"),
            }
        }
        Self {
            ids: magnet.ids().collect(),
            swarms: magnet.swarm_ids(),
            peers,
            // Links know no tiers.
            trackers: magnet.trackers.iter().map(|url| vec![url.clone()]).collect(),
            web_seeds: magnet.web_seeds.clone(),
            select_only: magnet.select_only.clone(),
            hint: magnet.cut_hint(),
            ..Self::of_id(magnet.id)
        }
    }

    /// `metainfo`, which came from peers without hints, with those of the link: so that they are there next time.
    pub(super) fn complement(&self, metainfo: Arc<Metainfo>) -> Arc<Metainfo> {
        if let Some(own) = &self.metainfo {
            // Of a torrent file that lacks the piece hashes, all else stays as it is.
            return own.with_layers_of(&metainfo).map_or(metainfo, Arc::new);
        }
        if metainfo.form() == Form::Native || (self.trackers.is_empty() && self.web_seeds.is_empty()) {
            return metainfo;
        }
        let hints =
            Hints { trackers: self.trackers.clone(), web_seeds: self.web_seeds.clone(), ..metainfo.hints().clone() };
        metainfo.with_hints(&hints).map_or(metainfo, Arc::new)
    }
}

/// The addresses that a text names: a multiaddr, or `host:port` where the host may be a name.
async fn addresses(text: &str) -> Result<Vec<PeerAddr>, ApiError> {
    let refused = match text.parse() {
        Ok(addr) => return Ok(vec![addr]),
        Err(error) => usage(error),
    };
    let is_host_and_port =
        text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if !is_host_and_port {
        return Err(refused);
    }
    match timeout(LOOKUP_TIMEOUT, lookup_host(text)).await {
        Ok(Ok(addrs)) => Ok(addrs.map(PeerAddr::Socket).collect()),
        Ok(Err(error)) => Err(failure(format!("cannot find the address of the peer {text:?}: {error}"))),
        Err(_) => Err(failure(format!("found no address of the peer {text:?} within {LOOKUP_TIMEOUT:?}"))),
    }
}

/// Downloads a torrent's file, from the addresses `local`. The user named the server, so it may be near; it may lead no
/// nearer than it is itself.
///
/// # Errors
/// `NotFound` when there is none or not in time.
pub async fn download(url: &str, local: LocalAddrs) -> Result<Vec<u8>, ApiError> {
    let parsed = Url::parse(url).map_err(|error| usage(format!("expected a URL, got {url:?}: {error}")))?;
    let missing = |reason: String| ApiError {
        kind: ErrorKind::NotFound,
        message: format!("cannot download the torrent at {url}: {reason}"),
    };
    let answer = HttpClient::new(DOWNLOAD, local).get(&parsed, Reach::Anywhere, None).await;
    let answer = answer.map_err(|error| missing(error.to_string()))?;
    if !answer.status.is_success() {
        return Err(missing(format!("expected status 200, got {}", answer.status)));
    }
    Ok(answer.body.into())
}
