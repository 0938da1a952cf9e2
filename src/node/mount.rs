//! What the node needs from whoever puts a torrent into the directory tree of this machine. The node knows no
//! kernel interface: `main` hands it a [`Mounter`].

use std::path::Path;
use std::sync::Arc;

use super::api::{ApiError, ErrorKind};
use crate::vfs::{Dataset, Says, Version};

/// Mounts torrents.
pub trait Mounter: Send + Sync {
    /// Shows `view` at `mountpoint`: an existing, empty directory, absolute. Ready when this returns. Blocks for
    /// as long as the kernel takes, so call it where that is allowed.
    ///
    /// # Errors
    /// When the directory cannot be a mount point, or the kernel refuses; the message says what to do.
    fn mount(&self, view: MountView, mountpoint: &Path, options: &MountOptions) -> Result<Box<dyn Mounted>, ApiError>;

    /// Shows an empty directory, until [`Mounted::show`].
    ///
    /// # Errors
    /// As [`Mounter::mount`].
    fn mount_empty(
        &self,
        pending: Pending,
        mountpoint: &Path,
        options: &MountOptions,
    ) -> Result<Box<dyn Mounted>, ApiError>;
}

/// For programs that use torrents and mount none.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMounts;

impl Mounter for NoMounts {
    fn mount(&self, _: MountView, _: &Path, _: &MountOptions) -> Result<Box<dyn Mounted>, ApiError> {
        Err(no_mounts())
    }

    fn mount_empty(&self, _: Pending, _: &Path, _: &MountOptions) -> Result<Box<dyn Mounted>, ApiError> {
        Err(no_mounts())
    }
}

fn no_mounts() -> ApiError {
    ApiError { kind: ErrorKind::Failure, message: "this program mounts nothing".to_owned() }
}

/// A torrent of which nothing can be shown yet.
pub struct Pending {
    /// Its InfoID.
    pub info_id: String,
    /// Says what it waits for, whenever somebody asks.
    pub waits_for: Says,
    /// The dataset whose versions it is to show, if it is one.
    pub dataset: Option<Arc<dyn Dataset>>,
}

/// What to show.
#[derive(Clone)]
pub struct MountView {
    /// The first of what it shows.
    pub version: Version,
    /// The dataset whose versions it shows, if it is one.
    pub dataset: Option<Arc<dyn Dataset>>,
}

/// How to show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Whether users other than the mounter may look.
    pub allow_other: bool,
    /// Owner of every file.
    pub uid: u32,
    /// Group of every file.
    pub gid: u32,
    /// What `mount` and `df` show as the source, such as `knot:NAME`.
    pub fs_name: String,
}

/// A mount. Dropping it takes it away as [`Mounted::unmount`] does, without waiting.
pub trait Mounted: Send + Sync {
    /// Whether it is still there: not if it was unmounted from outside.
    fn is_alive(&self) -> bool;

    /// Shows a version in place of what is shown: of the empty directory, or of another version. Programs see the one
    /// or the other; what they have open stays as it was. The version that is shown already gets a new release, and
    /// nothing else happens. Blocks for as long as the kernel takes, so call it where that is allowed, with no lock
    /// held that a [`Dataset`] or a [`crate::vfs::Content`] needs to answer.
    ///
    /// # Errors
    /// When the version cannot be shown; then the mount goes on showing what it showed.
    fn show(&self, version: Version) -> Result<(), ApiError>;

    /// Takes it away. Programs that still use it lose it: their reads fail. Blocks for a few seconds at the most.
    ///
    /// # Errors
    /// When the kernel refuses; the message says what to do.
    fn unmount(&self) -> Result<(), ApiError>;
}
