//! Why a mount fails, and what to do about it.

use std::io;
use std::path::PathBuf;

use crate::node::api::{ApiError, ErrorKind};
use crate::vfs::TreeError;

/// Why something could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub(super) enum MountError {
    #[error("expected an existing directory to mount on, got {path:?}, which does not exist: create it with mkdir -p")]
    Missing { path: PathBuf },
    #[error("expected a directory to mount on, got {path:?}, which is {kind}")]
    NotADirectory { path: PathBuf, kind: &'static str },
    #[error("expected an empty directory to mount on, got {path:?}, which holds {name:?}: choose another, or empty it")]
    NotEmpty { path: PathBuf, name: String },
    #[error(
        "{path:?} is already mounted ({source_name}, {fs_type}): unmount it first with knot unmount, or choose another directory"
    )]
    AlreadyMounted { path: PathBuf, fs_type: String, source_name: String },
    #[error("expected a mount of knot at {path:?}, got none: `knot status` and `findmnt -t fuse.knot` list them")]
    NotMounted { path: PathBuf },
    #[error("cannot use {path:?} as a mount point: {error}")]
    Unusable { path: PathBuf, error: io::Error },
    #[error(
        "cannot open /dev/fuse: {0}: load the kernel module with modprobe fuse; in a container, start it with --device /dev/fuse"
    )]
    NoDevice(io::Error),
    #[error("this user may not open /dev/fuse: as root, chmod 666 /dev/fuse, or mount as root")]
    DeviceDenied,
    #[error("cannot mount as this user without fusermount3: install the package fuse3, or mount as root")]
    NoHelper,
    #[error("fusermount3 refused: {0}")]
    Helper(String),
    #[error("--allow-other needs the line user_allow_other in /etc/fuse.conf: {0}")]
    AllowOther(String),
    #[error("the kernel refused to mount on {path:?}: {error}")]
    Kernel { path: PathBuf, error: io::Error },
    #[error("the kernel and this program do not agree on FUSE: {0}")]
    Handshake(io::Error),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    #[error("cannot show this torrent: {0}")]
    Tree(#[from] TreeError),
    #[error("cannot show another version at {path:?}: {error}")]
    Switch { path: PathBuf, error: io::Error },
    #[error("cannot unmount {path:?}, since {over} is mounted over it: unmount that first")]
    Covered { path: PathBuf, over: String },
    #[error("cannot unmount {path:?}: {error}: try umount -l as root, or fusermount3 -uz")]
    Unmount { path: PathBuf, error: String },
}

impl From<MountError> for ApiError {
    fn from(error: MountError) -> Self {
        use MountError::{AlreadyMounted, Missing, NotADirectory, NotEmpty, NotMounted};
        let kind = match error {
            Missing { .. } | NotADirectory { .. } | NotEmpty { .. } | AlreadyMounted { .. } | NotMounted { .. } => {
                ErrorKind::Usage
            }
            _ => ErrorKind::Failure,
        };
        Self { kind, message: error.to_string() }
    }
}
