//! Mounting before there is anything to show: the directory is empty until the metainfo comes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::api::{AddRequest, ApiError, MountRequest, Progress, TorrentInfo};
use super::handle::{NodeHandle, blocking, mount_options};
use super::mount::Pending;
use super::mounts::{Place, Wait};
use super::names::Lead;

/// How long a mount waits: until it is unmounted.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Reports of the wait that may wait to be noted.
const REPORTS: usize = 4;

/// A mount that waits.
struct Late {
    node: NodeHandle,
    lead: Lead,
    request: MountRequest,
    add: AddRequest,
    place: Place,
    wait: Arc<Wait>,
    /// When it is worth a warning that nothing has come.
    warn_after: Duration,
}

impl NodeHandle {
    /// Mounts an empty directory at once; what `lead` leads to appears in it when its metainfo is there.
    pub(super) async fn mount_empty(&self, lead: Lead, request: MountRequest) -> Result<TorrentInfo, ApiError> {
        let info_id = lead.id.to_string();
        let (options, wait) = (mount_options(&request, &info_id), Arc::new(Wait::new(info_id.clone())));
        let asked = Arc::downgrade(&wait);
        let waits_for = Box::new(move || asked.upgrade().map(|wait| wait.says()).unwrap_or_default());
        let pending = Pending { info_id: info_id.clone(), waits_for, dataset: None };
        let (mounter, at) = (self.0.mounter.clone(), request.mountpoint.clone());
        let session = blocking(move || mounter.mount_empty(pending, &at, &options)).await??;
        let place = self.0.mounts.insert_empty(request.mountpoint.clone(), session.into(), wait.clone());
        let late = Late {
            node: self.clone(),
            lead,
            warn_after: request.add.metainfo_timeout,
            add: AddRequest { metainfo_timeout: FOR_EVER, ..request.add.clone() },
            request,
            place: place.clone(),
            wait,
        };
        self.0.mounts.keep(&place, tokio::spawn(late.fill()));
        Ok(TorrentInfo { info_id, name: String::new(), total_length: 0 })
    }
}

impl Late {
    /// Waits for the torrent and shows it, or says why not.
    async fn fill(self) {
        let (progress, mut reports) = mpsc::channel(REPORTS);
        let open = self.node.open_any(&self.lead, &self.add, true, &progress);
        let opened = tokio::select! {
            opened = open => opened,
            () = self.note(&mut reports) => return,
        };
        let Self { node, wait, lead, request, place, .. } = self;
        let filled = match opened {
            Ok(torrent) => {
                // Fails only where the node ends.
                let _ = node.prefetch(&torrent, request.prefetch).await;
                let (mounts, at, shown) = (node.0.mounts.clone(), place.clone(), torrent.clone());
                let filled = blocking(move || mounts.show(&at, shown)).await.flatten();
                if matches!(filled, Ok(true)) {
                    let view = node.view_of(&torrent, &lead, &request);
                    return node.follow(view, torrent, place, request);
                }
                filled.map(drop)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = filled {
            wait.say(format!("nothing: it stays empty, since {error}"));
            node.0.warnings.add(format!("{} stays empty: {error}", place.mountpoint.display()));
        }
    }

    /// Notes what is being waited for, for as long as there are reports.
    async fn note(&self, reports: &mut mpsc::Receiver<Progress>) {
        let (started, mut warned) = (Instant::now(), false);
        while let Some(report) = reports.recv().await {
            let Progress::Metainfo(wait) = report else { continue };
            self.wait.say(wait.to_string());
            if !warned && started.elapsed() >= self.warn_after {
                warned = true;
                let (at, after) = (self.place.mountpoint.display(), humantime::format_duration(self.warn_after));
                self.node.0.warnings.add(format!("{at} is still empty after {after}: {wait}"));
            }
        }
    }
}
