//! Mounts that follow a dataset: each shows the newest version, as soon as it can be shown.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::view::{View, version_of};
use super::{Dataset, Edition};
use crate::engine::Prefetch;
use crate::node::api::{ApiError, MountRequest, TorrentInfo};
use crate::node::driver::Command;
use crate::node::handle::{NodeHandle, ProgressSink, Torrent, blocking, failure, mount_options};
use crate::node::mount::MountView;
use crate::node::mounts::{Mounts, Place};
use crate::node::names::Lead;

/// Waits after a version that could not be shown.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What keeps a mount on the newest version; ends with it.
pub(in crate::node) struct Following {
    hold: Hold,
    _task: AbortOnDropHandle<()>,
}

impl Following {
    pub(in crate::node) fn hold(&self) -> Hold {
        self.hold.clone()
    }

    pub(in crate::node) fn is_frozen(&self) -> bool {
        *self.hold.frozen.borrow()
    }
}

/// Holds a mount on the version that it shows, and lets it go on.
#[derive(Clone, Default)]
pub(in crate::node) struct Hold {
    frozen: watch::Sender<bool>,
    /// Held while the mount switches: who has frozen it sees no switch any more.
    turn: Arc<Mutex<()>>,
}

impl Hold {
    /// Says whether that is new. Waits for a switch that is under way.
    pub(in crate::node) fn set(&self, frozen: bool) -> bool {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.frozen.send_replace(frozen) != frozen
    }

    /// Shows `torrent` at `place`, unless that is frozen. False if nothing is to be shown there.
    fn show(&self, mounts: &Mounts, place: &Place, torrent: Torrent) -> Result<bool, ApiError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if *self.frozen.borrow() { Ok(false) } else { mounts.show(place, torrent) }
    }
}

impl NodeHandle {
    /// Mounts a torrent, or a dataset: then the mount follows it.
    ///
    /// # Errors
    /// As [`NodeHandle::open`], and those of the mount point.
    pub async fn mount(&self, request: MountRequest, progress: ProgressSink) -> Result<TorrentInfo, ApiError> {
        let lead = Lead::new(&request.add.torrent, &request.add.peers, self.0.local).await?;
        if request.lazy && !self.knows(&lead, &request.add.discovery).await? {
            return self.mount_empty(lead, request).await;
        }
        let torrent = self.open_any(&lead, &request.add, true, &progress).await?;
        self.prefetch(&torrent, request.prefetch).await?;
        let view = self.view_of(&torrent, &lead, &request);
        let dataset = view.clone().map(|view| Arc::new(view) as Arc<dyn crate::vfs::Dataset>);
        let mounted = MountView { version: version_of(&torrent), dataset };
        let options = mount_options(&request, &torrent.info.info_id);
        let (mounter, at) = (self.0.mounter.clone(), request.mountpoint.clone());
        let session = blocking(move || mounter.mount(mounted, &at, &options)).await??;
        let info = torrent.info.clone();
        let place = self.0.mounts.insert(request.mountpoint.clone(), session.into(), torrent.clone());
        self.follow(view, torrent, place, request);
        Ok(info)
    }

    /// What a mount wants of its torrent.
    pub(in crate::node) async fn prefetch(&self, torrent: &Torrent, prefetch: Prefetch) -> Result<(), ApiError> {
        match prefetch {
            Prefetch::Window => Ok(()),
            wanted => self.send(Command::Prefetch { torrent: torrent.key, prefetch: wanted }).await,
        }
    }

    /// The versions of the dataset that a torrent was opened as one of.
    pub(in crate::node) fn view_of(&self, torrent: &Torrent, lead: &Lead, request: &MountRequest) -> Option<View> {
        let dataset = torrent.membership.as_ref()?.dataset.clone();
        if let Some(poll) = request.poll {
            dataset.poll_every(poll);
        }
        Some(View::new(self, dataset, lead.clone(), request.add.clone()))
    }

    /// Keeps a mount on the newest version, unless it is to stay on one.
    pub(in crate::node) fn follow(&self, view: Option<View>, shown: Torrent, place: Place, request: MountRequest) {
        let Some(view) = view.filter(|_| request.add.at.is_none()) else { return };
        let hold = Hold::default();
        let follower = Follower {
            kept: VecDeque::new(),
            keep: request.keep_versions as usize,
            prefetch: request.prefetch,
            hook: request.on_update.map(|command| Hook::start(command, request.mountpoint)),
            view,
            shown,
            place: place.clone(),
            is_frozen: hold.frozen.subscribe(),
            hold: hold.clone(),
        };
        let task = AbortOnDropHandle::new(tokio::spawn(follower.run()));
        self.0.mounts.set_following(&place, Following { hold, _task: task });
    }
}

struct Follower {
    view: View,
    shown: Torrent,
    /// Versions that were shown, newest last.
    kept: VecDeque<Torrent>,
    keep: usize,
    prefetch: Prefetch,
    place: Place,
    hold: Hold,
    is_frozen: watch::Receiver<bool>,
    hook: Option<Hook>,
}

impl Follower {
    async fn run(mut self) {
        let dataset = self.view.dataset.clone();
        let mut changes = dataset.changes();
        let mut wait = SHORTEST_WAIT;
        loop {
            changes.mark_unchanged();
            let frozen = *self.is_frozen.borrow_and_update();
            let next = newer(&dataset, self.seq()).filter(|_| !frozen);
            let is_behind = next.is_some();
            if let Some(edition) = next {
                match self.advance(edition).await {
                    Ok(()) => {
                        wait = SHORTEST_WAIT;
                        continue;
                    }
                    Err(error) => dataset.set_problem(Some(error.to_string())),
                }
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                changed = self.is_frozen.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait), if is_behind => wait = (wait * 2).min(LONGEST_WAIT),
            }
        }
    }

    /// What is of the past makes room first; what is not to be kept goes, unless somebody has it open.
    async fn retire(&mut self) {
        let surplus = self.kept.len().saturating_sub(self.keep);
        let gone: Vec<_> = self.kept.drain(..surplus).collect();
        let past = self.kept.back().cloned();
        let retired = blocking(move || {
            if let Some(past) = past {
                past.source.torrent.storage.retire(false);
            }
            for torrent in gone {
                // By others than this one: those who read it through a mount, and those who opened it as well.
                let is_used = Arc::strong_count(&torrent.source) > 2 || Arc::strong_count(&torrent.source.torrent) > 2;
                torrent.source.torrent.storage.retire(!is_used);
            }
        });
        let _ = retired.await;
    }

    fn seq(&self) -> u64 {
        self.shown.membership.as_ref().map_or(0, |membership| membership.edition.seq())
    }

    /// Shows a version, once all of its names are here, and what has not changed has been taken over.
    async fn advance(&mut self, edition: Edition) -> Result<(), ApiError> {
        let (previous, seq) = (self.seq(), edition.seq());
        let node = self.view.node.upgrade().map(NodeHandle);
        let node = node.ok_or_else(|| failure("the node is shutting down".to_owned()))?;
        let dataset = self.view.dataset.clone();
        let open = self.view.open(&node, edition);
        let torrent = tokio::select! {
            opened = open => opened?,
            // What nobody has must not hold up what comes after it.
            () = newer_than(&dataset, seq) => return Ok(()),
        };
        node.take_over(&torrent, std::iter::once(&self.shown).chain(&self.kept)).await;
        node.prefetch(&torrent, self.prefetch).await?;
        let (mounts, place, next) = (node.0.mounts.clone(), self.place.clone(), torrent.clone());
        let hold = self.hold.clone();
        if !blocking(move || hold.show(&mounts, &place, next)).await?? {
            return Ok(());
        }
        dataset.set_problem(None);
        tracing::info!(origin = %dataset.origin, seq, previous, "a mount shows another version");
        self.kept.push_back(std::mem::replace(&mut self.shown, torrent));
        self.retire().await;
        if let Some(hook) = &self.hook {
            hook.run(previous, &self.shown);
        }
        Ok(())
    }
}

/// The newest version, if it is newer than `seq`.
fn newer(dataset: &Dataset, seq: u64) -> Option<Edition> {
    dataset.known().editions().next_back().filter(|edition| edition.seq() > seq)
}

async fn newer_than(dataset: &Dataset, seq: u64) {
    let mut changes = dataset.changes();
    while newer(dataset, seq).is_none() {
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// What the user wants to be run when a mount has moved: one at a time; of versions that come meanwhile, the newest.
struct Hook {
    newest: watch::Sender<BTreeMap<&'static str, String>>,
    _task: AbortOnDropHandle<()>,
}

impl Hook {
    fn start(command: String, mountpoint: PathBuf) -> Self {
        let (newest, mut told) = watch::channel(BTreeMap::new());
        let task = async move {
            while told.changed().await.is_ok() {
                let variables = told.borrow_and_update().clone();
                let run = tokio::process::Command::new("/bin/sh")
                    .arg("-c")
                    .arg(&command)
                    .env("KNOT_MOUNTPOINT", &mountpoint)
                    .envs(variables)
                    .stdin(Stdio::null())
                    .status()
                    .await;
                match run {
                    Ok(status) if status.success() => {}
                    Ok(status) => tracing::warn!(command, %status, "the command for updates failed"),
                    Err(error) => tracing::warn!(command, %error, "the command for updates cannot be run"),
                }
            }
        };
        Self { newest, _task: AbortOnDropHandle::new(tokio::spawn(task)) }
    }

    fn run(&self, previous: u64, shown: &Torrent) {
        let seq = shown.membership.as_ref().map_or(0, |membership| membership.edition.seq());
        self.newest.send_replace(BTreeMap::from([
            ("KNOT_SEQ", seq.to_string()),
            ("KNOT_PREVIOUS_SEQ", previous.to_string()),
            ("KNOT_INFOHASH", shown.metainfo.info_hash().to_string()),
            ("KNOT_INFOSIG", shown.info.info_id.clone()),
        ]));
    }
}
