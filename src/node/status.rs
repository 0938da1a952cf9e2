//! Gathering what `knot status` shows.

use super::api::{CacheStatus, NodeStatus, PeerStatus, SourceStatus, TorrentStatus};
use super::content::OpenTorrent;
use super::handle::NodeHandle;
use super::webseed::{self, WebSeeds};
use crate::engine::TorrentStats;
use crate::types::InfoId;

pub(super) async fn collect(node: &NodeHandle) -> NodeStatus {
    let shared = &node.0;
    let mut torrents = Vec::new();
    for (id, entry) in shared.registry.list() {
        let stats = node.stats(entry.key).await.unwrap_or_default();
        torrents.push(torrent_status(&id, entry.torrent.get().map(AsRef::as_ref), stats));
    }
    NodeStatus {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        peer_id: shared.peer_id.clone(),
        listen: node.listen_addrs(),
        uptime_s: shared.started.elapsed().as_secs(),
        cache: CacheStatus { used_bytes: shared.store.used_bytes(), cap_bytes: shared.store.cap_bytes() },
        sources: shared
            .sources
            .iter()
            .map(|source| SourceStatus { name: source.name().to_owned(), state: source.state() })
            .chain(shared.pex.then(pex))
            .chain(shared.web_seeds.iter().map(|web_seeds| web_seed(web_seeds)))
            .collect(),
        torrents,
        datasets: shared.datasets.list().iter().map(|dataset| dataset.status()).collect(),
        mounts: shared.mounts.list(),
        warnings: shared.warnings.list(),
    }
}

fn torrent_status(id: &InfoId, open: Option<&OpenTorrent>, stats: TorrentStats) -> TorrentStatus {
    let verified_bytes = open.map_or(0, |torrent| torrent.storage.verified_bytes());
    let total_bytes = open.map_or(0, |torrent| torrent.metainfo.total_length());
    let state = match open {
        None => "metainfo",
        Some(torrent) if torrent.storage.is_in_place() => "seed",
        Some(_) if verified_bytes == total_bytes => "complete",
        Some(_) => "leech",
    };
    TorrentStatus {
        info_id: id.to_string(),
        name: open.map_or_else(String::new, |torrent| torrent.metainfo.name().to_owned()),
        state: state.to_owned(),
        total_bytes,
        verified_bytes,
        downloaded_bytes: stats.downloaded_bytes,
        wasted_bytes: stats.wasted.total(),
        uploaded_bytes: stats.uploaded_bytes,
        download_rate: stats.download_rate,
        upload_rate: stats.upload_rate,
        ratio: ratio(stats.uploaded_bytes, stats.downloaded_bytes, total_bytes),
        peers: stats
            .peers
            .into_iter()
            .map(|peer| PeerStatus {
                addr: peer.addr.to_string(),
                client: peer.client,
                download_rate: peer.download_rate,
                upload_rate: peer.upload_rate,
                progress: peer.progress,
                unchokes_us: peer.unchokes_us,
                unchoked: peer.unchoked,
            })
            .collect(),
    }
}

/// Whoever seeds his own files has taken nothing: what he has given is then measured by the content.
fn ratio(uploaded: u64, downloaded: u64, total: u64) -> Option<f64> {
    let taken = if downloaded > 0 { downloaded } else { total };
    (taken > 0).then(|| uploaded as f64 / taken as f64)
}

/// What there is to say of peer exchange, which goes along with connections.
fn pex() -> SourceStatus {
    SourceStatus { name: super::PEX.to_owned(), state: "connected peers tell of others".to_owned() }
}

fn web_seed(web_seeds: &WebSeeds) -> SourceStatus {
    SourceStatus { name: webseed::NAME.to_owned(), state: web_seeds.state() }
}
