//! `knot status`

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::args::{Common, no_node};
use super::error::CliError;
use super::output::{self, size};
use crate::control::{Client, ControlError, Events};
use crate::node::api::{DatasetStatus, NodeStatus, TorrentStatus, VersionInfo};

/// Hex digits of an InfoID that people are shown: enough to tell torrents apart.
const SHORT_ID: usize = 16;

/// Versions of one kind that people are shown.
const MAX_SEQS: usize = 8;
/// Times from here on, in Unix seconds, have no usual form.
const YEAR_10000: u64 = 253_402_300_800;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write a line of JSON whenever a mount comes, shows another version (`"event":"switch"`), is frozen or thawed, or
    /// goes, until the node ends
    #[arg(long)]
    follow: bool,
}

pub(super) async fn run(common: &Common, args: Args) -> Result<(), CliError> {
    let store = common.running_store()?;
    let client = Client::new(store.socket());
    let unanswered = |error| match error {
        ControlError::NoNode { .. } | ControlError::Leaving => no_node(store.path()),
        error => error.into(),
    };
    if args.follow {
        return follow(client.events().await.map_err(unanswered)?).await;
    }
    let status = client.status().await.map_err(unanswered)?;
    if common.json { output::json(&status) } else { output::bytes(for_people(&status).as_bytes()) }
}

async fn follow(mut events: Events) -> Result<(), CliError> {
    output::note("following the mounts of this store; Ctrl-C ends it");
    while let Some(event) = events.next().await? {
        output::json(&event)?;
    }
    output::note("the node of this store has ended");
    Ok(())
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
        let held = if mount.frozen { ", frozen" } else { "" };
        lines.extend(mount.version.iter().map(|version| format!("          {}{held}", called(version))));
        lines.extend(mount.waits_for.iter().map(|what| format!("          empty, {what}")));
    }
    status.datasets.iter().for_each(|dataset| add_dataset(&mut lines, dataset));
    status.torrents.iter().for_each(|torrent| add_torrent(&mut lines, torrent));
    lines.extend(status.warnings.iter().map(|warning| format!("warning   {warning}")));
    lines.join("\n") + "\n"
}

fn add_dataset(lines: &mut Vec<String>, dataset: &DatasetStatus) {
    let newest = dataset.newest.as_ref().map_or_else(|| "no version known".to_owned(), called);
    lines.push(format!("dataset   {}  newest: {newest}", short(&dataset.origin)));
    let checked = dataset.checked_at.map_or_else(|| "never".to_owned(), |at| format!("{} ago", age(at)));
    let versions = output::counted(dataset.versions, "version");
    let followers = output::counted(dataset.followers, "follower");
    lines.push(format!("          {versions} known, checked {checked}, {followers} met"));
    if let Some(mirror) = &dataset.mirror {
        let lists = [("complete", &mirror.complete), ("fetching", &mirror.fetching), ("not found", &mirror.missing)];
        let lists = lists.iter().filter(|(_, seqs)| !seqs.is_empty()).map(|(what, seqs)| {
            let more = if seqs.len() > MAX_SEQS { ", …" } else { "" };
            let seqs: Vec<_> = seqs.iter().take(MAX_SEQS).map(u64::to_string).collect();
            format!(", {what}: {}{more}", seqs.join(", "))
        });
        lines.push(format!("  mirror  {} versions served{}", mirror.served, lists.collect::<String>()));
    }
    lines.extend(
        dataset.mirror.iter().filter_map(|mirror| mirror.problem.as_ref()).map(|what| format!("  problem {what}")),
    );
    lines.extend(dataset.problem.iter().map(|problem| format!("  problem {problem}")));
    lines.extend(dataset.conflicts.iter().map(|other| {
        let (seq, hash) = (other.seq, &other.info_hash);
        format!("  proof   its key has signed another version {seq}, {hash}, which is not followed")
    }));
}

/// A version for people.
fn called(version: &VersionInfo) -> String {
    let at = version.signed_at.and_then(|at| u64::try_from(at).ok()).filter(|at| *at < YEAR_10000);
    let signed = at.map(|at| {
        let at = UNIX_EPOCH + Duration::from_secs(at);
        format!(", signed {}", humantime::format_rfc3339_seconds(at))
    });
    format!("version {}{}", version.seq, signed.unwrap_or_default())
}

/// How long ago a time is, in Unix seconds.
fn age(at: i64) -> humantime::FormattedDuration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    humantime::format_duration(Duration::from_secs(now.saturating_sub(u64::try_from(at).unwrap_or(0))))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_shown_whatever_their_publisher_says_of_the_time() {
        let version = |signed_at| VersionInfo { seq: 7, info_hash: String::new(), info_sig: String::new(), signed_at };
        assert_eq!(called(&version(Some(1_700_000_000))), "version 7, signed 2023-11-14T22:13:20Z");
        assert_eq!(called(&version(Some(253_402_300_799))), "version 7, signed 9999-12-31T23:59:59Z");
        for strange in [None, Some(-1), Some(253_402_300_800), Some(i64::MAX)] {
            assert_eq!(called(&version(strange)), "version 7");
        }
    }
}
