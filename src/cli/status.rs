//! `knot status`

use std::time::Duration;

use super::args::{Common, no_node};
use super::error::CliError;
use super::output::{self, size};
use crate::control::{Client, ControlError};
use crate::node::api::{NodeStatus, TorrentStatus};

/// Hex digits of an InfoID that people are shown: enough to tell torrents apart.
const SHORT_ID: usize = 16;

pub(super) async fn run(common: &Common) -> Result<(), CliError> {
    let store = common.running_store()?;
    let status = Client::new(store.socket()).status().await.map_err(|error| match error {
        ControlError::NoNode { .. } | ControlError::Leaving => no_node(store.path()),
        error => error.into(),
    })?;
    if common.json { output::json(&status) } else { output::bytes(for_people(&status).as_bytes()) }
}

fn for_people(status: &NodeStatus) -> String {
    let uptime = humantime::format_duration(Duration::from_secs(status.uptime_s));
    let mut lines = vec![format!("node      knot {} (process {}), up {uptime}", status.version, status.pid)];
    lines.push(format!("peer id   {}", status.peer_id));
    lines.extend(status.listen.iter().map(|addr| format!("listens   {addr}")));
    lines.push(format!("cache     {} of {}", size(status.cache.used_bytes), size(status.cache.cap_bytes)));
    lines.extend(status.sources.iter().map(|source| format!("source    {}: {}", source.name, source.state)));
    for mount in &status.mounts {
        lines.push(format!("mount     {:?}  {}", mount.mountpoint, short(&mount.info_id)));
        lines.extend(mount.waits_for.iter().map(|what| format!("          empty, {what}")));
    }
    status.torrents.iter().for_each(|torrent| add_torrent(&mut lines, torrent));
    lines.extend(status.warnings.iter().map(|warning| format!("warning   {warning}")));
    lines.join("\n") + "\n"
}

fn add_torrent(lines: &mut Vec<String>, torrent: &TorrentStatus) {
    let share = match torrent.total_bytes {
        0 => 100.0,
        total => torrent.verified_bytes as f64 * 100.0 / total as f64,
    };
    lines.push(format!("torrent   {:?}  {}  {}", torrent.name, short(&torrent.info_id), torrent.state));
    let (verified, total) = (size(torrent.verified_bytes), size(torrent.total_bytes));
    lines.push(format!("          {verified} of {total} here ({share:.1} %)"));
    lines.push(format!(
        "          down {} at {}/s ({} wasted), up {} at {}/s, ratio {}",
        size(torrent.downloaded_bytes),
        size(torrent.download_rate),
        size(torrent.wasted_bytes),
        size(torrent.uploaded_bytes),
        size(torrent.upload_rate),
        torrent.ratio.map_or_else(|| "none".to_owned(), |ratio| format!("{ratio:.2}")),
    ));
    lines.extend(torrent.peers.iter().map(|peer| {
        let (down, up) = (size(peer.download_rate), size(peer.upload_rate));
        let choked = if peer.unchokes_us { "" } else { ", chokes us" };
        let has = peer.progress * 100.0;
        format!("  peer    {}  {}  has {has:.0} %, down {down}/s, up {up}/s{choked}", peer.addr, peer.client)
    }));
}

pub(super) fn short(info_id: &str) -> &str {
    info_id.get(..SHORT_ID).unwrap_or(info_id)
}
