//! The mounts of the node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Torrent;
use super::api::{ApiError, ErrorKind, MountStatus};
use super::mount::Mounted;

/// Mounted filesystems by mount point.
#[derive(Default)]
pub(super) struct Mounts(Mutex<BTreeMap<PathBuf, Mount>>);

struct Mount {
    session: Box<dyn Mounted>,
    /// Keeps the torrent open.
    torrent: Torrent,
}

impl Mounts {
    pub(super) fn insert(&self, mountpoint: PathBuf, session: Box<dyn Mounted>, torrent: Torrent) {
        self.lock().insert(mountpoint, Mount { session, torrent });
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
            .map(|(mountpoint, mount)| MountStatus {
                mountpoint: mountpoint.clone(),
                info_id: mount.torrent.info.info_id.clone(),
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
