//! The mounts of the node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::task::AbortOnDropHandle;

use super::Torrent;
use super::api::{ApiError, ErrorKind, MountStatus};
use super::mount::Mounted;
use crate::vfs::Version;

/// Mounted filesystems by mount point.
#[derive(Default)]
pub(super) struct Mounts(Mutex<BTreeMap<PathBuf, Mount>>);

struct Mount {
    session: Box<dyn Mounted>,
    content: Shown,
}

/// What a mount shows.
enum Shown {
    /// A torrent, which stays open as long.
    Torrent(Torrent),
    /// Nothing yet. The task that waits ends with the mount.
    Nothing(Arc<Wait>, Option<AbortOnDropHandle<()>>),
}

impl Mount {
    /// What it shows, if that is nothing because of `wait`.
    fn waiting(&mut self, wait: &Wait) -> Option<&mut Shown> {
        let is_it = matches!(&self.content, Shown::Nothing(own, _) if std::ptr::eq(&**own, wait));
        is_it.then_some(&mut self.content)
    }
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
    pub(super) fn insert(&self, mountpoint: PathBuf, session: Box<dyn Mounted>, torrent: Torrent) {
        self.lock().insert(mountpoint, Mount { session, content: Shown::Torrent(torrent) });
    }

    pub(super) fn insert_empty(&self, mountpoint: PathBuf, session: Box<dyn Mounted>, wait: Arc<Wait>) {
        self.lock().insert(mountpoint, Mount { session, content: Shown::Nothing(wait, None) });
    }

    /// Has the task that waits for a torrent end with its mount.
    pub(super) fn keep(&self, mountpoint: &Path, wait: &Wait, task: tokio::task::JoinHandle<()>) {
        let task = AbortOnDropHandle::new(task);
        if let Some(Shown::Nothing(_, place)) = self.lock().get_mut(mountpoint).and_then(|mount| mount.waiting(wait)) {
            *place = Some(task);
        }
    }

    /// Shows a torrent in the empty mount that waits so. Nothing happens if that has been unmounted.
    pub(super) fn fill(&self, mountpoint: &Path, wait: &Wait, torrent: Torrent) -> Result<(), ApiError> {
        let mut mounts = self.lock();
        let Some(mount) = mounts.get_mut(mountpoint) else { return Ok(()) };
        if mount.waiting(wait).is_none() {
            return Ok(());
        }
        let (metainfo, content) = (torrent.metainfo.clone(), torrent.content.clone());
        mount.session.show(Version { metainfo, content, release: None })?;
        mount.content = Shown::Torrent(torrent);
        Ok(())
    }

    /// Unmounts what is mounted at `mountpoint`; never waits for open files.
    pub(super) fn unmount(&self, mountpoint: &Path) -> Result<(), ApiError> {
        let Some(mount) = self.lock().remove(mountpoint) else {
            return Err(ApiError {
                kind: ErrorKind::Usage,
                message: format!(
                    "expected a mount point of this node, got {}: `knot status` lists the mounts",
                    mountpoint.display()
                ),
            });
        };
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
        let dead: Vec<Mount> = {
            let mut mounts = self.lock();
            let names: Vec<_> =
                mounts.iter().filter(|(_, mount)| !mount.session.is_alive()).map(|(name, _)| name.clone()).collect();
            names.iter().filter_map(|name| mounts.remove(name)).collect()
        };
        for mount in dead {
            if let Err(error) = mount.session.unmount() {
                tracing::debug!(%error, "closing a mount that was ended from outside");
            }
        }
    }

    pub(super) fn list(&self) -> Vec<MountStatus> {
        self.lock()
            .iter()
            .map(|(mountpoint, mount)| {
                let (info_id, waits_for) = match &mount.content {
                    Shown::Torrent(torrent) => (torrent.info.info_id.clone(), None),
                    Shown::Nothing(wait, _) => (wait.info_id.clone(), Some(wait.says())),
                };
                MountStatus { mountpoint: mountpoint.clone(), info_id, waits_for }
            })
            .collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Mount>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
