//! The mounts of the node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;
use tokio_util::task::AbortOnDropHandle;

use super::Torrent;
use super::api::{ApiError, ErrorKind, MountEvent, MountEventKind, MountStatus};
use super::dataset::{Following, unix_now, version_of};
use super::mount::Mounted;

/// Events that may wait for one that listens slowly; then it misses the oldest.
const EVENTS_AHEAD: usize = 256;

/// Mounted filesystems by mount point.
pub(super) struct Mounts {
    by_place: Mutex<BTreeMap<PathBuf, Mount>>,
    events: broadcast::Sender<MountEvent>,
}

impl Default for Mounts {
    fn default() -> Self {
        Self { by_place: Mutex::default(), events: broadcast::Sender::new(EVENTS_AHEAD) }
    }
}

/// One mount. Another one at the same mount point is another place.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) mountpoint: PathBuf,
    session: Arc<dyn Mounted>,
}

struct Mount {
    session: Arc<dyn Mounted>,
    content: Shown,
    /// The task that fills it while it shows nothing; ends with the mount.
    filling: Option<AbortOnDropHandle<()>>,
    /// What keeps it on the newest version of a dataset.
    following: Option<Following>,
}

/// What a mount shows.
enum Shown {
    /// A torrent, which stays open as long.
    Torrent(Box<Torrent>),
    /// Nothing yet.
    Nothing(Arc<Wait>),
}

/// The wait of an empty mount for its torrent.
pub(super) struct Wait {
    info_id: String,
    says: Mutex<String>,
}

impl Wait {
    pub(super) fn new(info_id: String) -> Self {
        Self { info_id, says: Mutex::new("waiting for the metainfo".to_owned()) }
    }

    /// What is missing.
    pub(super) fn says(&self) -> String {
        self.says.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn say(&self, what: String) {
        *self.says.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }
}

impl Mounts {
    pub(super) fn insert(&self, mountpoint: PathBuf, session: Arc<dyn Mounted>, torrent: Torrent) -> Place {
        self.put(mountpoint, session, Shown::Torrent(Box::new(torrent)))
    }

    pub(super) fn insert_empty(&self, mountpoint: PathBuf, session: Arc<dyn Mounted>, wait: Arc<Wait>) -> Place {
        self.put(mountpoint, session, Shown::Nothing(wait))
    }

    fn put(&self, mountpoint: PathBuf, session: Arc<dyn Mounted>, content: Shown) -> Place {
        let mount = Mount { session: session.clone(), content, filling: None, following: None };
        self.tell(&mountpoint, &mount, MountEventKind::Mount);
        self.lock().insert(mountpoint.clone(), mount);
        Place { mountpoint, session }
    }

    /// Has the task that waits for a torrent end with its mount.
    pub(super) fn keep(&self, place: &Place, task: tokio::task::JoinHandle<()>) {
        let task = AbortOnDropHandle::new(task);
        self.at(place, |mount| mount.filling = Some(task));
    }

    /// Has what follows a dataset end with its mount.
    pub(super) fn set_following(&self, place: &Place, following: Following) {
        self.at(place, |mount| mount.following = Some(following));
    }

    /// Shows a torrent in place of what the mount shows. False if that has been unmounted.
    pub(super) fn show(&self, place: &Place, torrent: Torrent) -> Result<bool, ApiError> {
        if self.at(place, |_| ()).is_none() {
            return Ok(false);
        }
        // Not under the lock: the kernel may take its time, and asks for content meanwhile.
        place.session.show(version_of(&torrent))?;
        let shown = self.at(place, |mount| {
            mount.content = Shown::Torrent(Box::new(torrent));
            self.tell(&place.mountpoint, mount, MountEventKind::Switch);
        });
        Ok(shown.is_some())
    }

    /// Holds a mount on the version that it shows, or lets it go on. Waits for a switch that is under way.
    pub(super) fn freeze(&self, mountpoint: &Path, frozen: bool) -> Result<(), ApiError> {
        // Not under the lock, which the switch needs.
        let hold = {
            let mounts = self.lock();
            let mount = mounts.get(mountpoint).ok_or_else(|| no_mount(mountpoint))?;
            mount.following.as_ref().map(Following::hold).ok_or_else(|| follows_nothing(mountpoint))?
        };
        if hold.set(frozen) {
            let kind = if frozen { MountEventKind::Freeze } else { MountEventKind::Thaw };
            if let Some(mount) = self.lock().get(mountpoint) {
                self.tell(mountpoint, mount, kind);
            }
        }
        Ok(())
    }

    /// What happens to mounts from now on.
    pub(super) fn events(&self) -> broadcast::Receiver<MountEvent> {
        self.events.subscribe()
    }

    fn tell(&self, mountpoint: &Path, mount: &Mount, kind: MountEventKind) {
        // Nobody may listen.
        let _ = self.events.send(mount.event(mountpoint, kind));
    }

    /// Does something with a mount, if it is still there.
    fn at<T>(&self, place: &Place, act: impl FnOnce(&mut Mount) -> T) -> Option<T> {
        let mut mounts = self.lock();
        mounts.get_mut(&place.mountpoint).filter(|mount| Arc::ptr_eq(&mount.session, &place.session)).map(act)
    }

    /// Unmounts what is mounted at `mountpoint`; never waits for open files.
    pub(super) fn unmount(&self, mountpoint: &Path) -> Result<(), ApiError> {
        let Some(mount) = self.lock().remove(mountpoint) else {
            return Err(no_mount(mountpoint));
        };
        self.tell(mountpoint, &mount, MountEventKind::Unmount);
        mount.session.unmount()
    }

    pub(super) fn unmount_all(&self) {
        let mounts = std::mem::take(&mut *self.lock());
        for (mountpoint, mount) in mounts {
            if let Err(error) = mount.session.unmount() {
                tracing::warn!(mountpoint = %mountpoint.display(), %error, "unmounting at the end of the node failed");
            }
        }
    }

    /// Forgets mounts that were ended from outside (`fusermount3 -u`, `umount`).
    pub(super) fn forget_dead(&self) {
        let dead: Vec<_> = self.lock().extract_if(.., |_, mount| !mount.session.is_alive()).collect();
        for (mountpoint, mount) in dead {
            self.tell(&mountpoint, &mount, MountEventKind::Unmount);
            if let Err(error) = mount.session.unmount() {
                tracing::debug!(%error, "closing a mount that was ended from outside");
            }
        }
    }

    pub(super) fn list(&self) -> Vec<MountStatus> {
        self.lock().iter().map(|(mountpoint, mount)| mount.status(mountpoint)).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Mount>> {
        self.by_place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mount {
    fn status(&self, mountpoint: &Path) -> MountStatus {
        let torrent = match &self.content {
            Shown::Torrent(torrent) => torrent,
            Shown::Nothing(wait) => {
                return MountStatus {
                    mountpoint: mountpoint.to_owned(),
                    info_id: wait.info_id.clone(),
                    waits_for: Some(wait.says()),
                    version: None,
                    frozen: false,
                };
            }
        };
        let version = torrent.membership.as_ref().map(|membership| membership.edition.info());
        let frozen = self.following.as_ref().is_some_and(Following::is_frozen);
        let origin = torrent.membership.as_ref().map(|membership| membership.dataset.origin.to_string());
        // What is mounted is the dataset, whichever version it shows.
        let info_id = origin.unwrap_or_else(|| torrent.info.info_id.clone());
        MountStatus { mountpoint: mountpoint.to_owned(), info_id, waits_for: None, version, frozen }
    }

    fn event(&self, mountpoint: &Path, event: MountEventKind) -> MountEvent {
        let torrent = match &self.content {
            Shown::Torrent(torrent) => Some(torrent),
            Shown::Nothing(_) => None,
        };
        let membership = torrent.and_then(|torrent| torrent.membership.as_ref());
        MountEvent {
            event,
            mountpoint: mountpoint.to_owned(),
            origin: membership.map(|membership| membership.dataset.origin.to_string()),
            seq: membership.map(|membership| membership.edition.seq()),
            info_hash: torrent.map(|torrent| torrent.metainfo.info_hash().to_string()),
            info_sig: torrent.and_then(|torrent| torrent.metainfo.info_sig()).map(|sig| sig.to_string()),
            signed_at: membership.and_then(|membership| membership.edition.signed_at()),
            at: unix_now(),
        }
    }
}

fn follows_nothing(mountpoint: &Path) -> ApiError {
    ApiError {
        kind: ErrorKind::Usage,
        message: format!(
            "expected a mount that follows a dataset, got {}, which stays as it is anyway",
            mountpoint.display()
        ),
    }
}

fn no_mount(mountpoint: &Path) -> ApiError {
    ApiError {
        kind: ErrorKind::Usage,
        message: format!(
            "expected a mount point of this node, got {}: `knot status` lists the mounts",
            mountpoint.display()
        ),
    }
}

/// Ends dead mounts' torrents within a second, until the node goes.
pub(super) async fn watch(mounts: std::sync::Weak<Mounts>) {
    let mut tick = tokio::time::interval(std::time::Duration::from_secs(1));
    loop {
        tick.tick().await;
        let Some(mounts) = mounts.upgrade() else { return };
        let _ = tokio::task::spawn_blocking(move || Arc::as_ref(&mounts).forget_dead()).await;
    }
}
