//! Mounts of knot that this process does not serve: another store's, or what a killed node has left.

use std::path::Path;

use super::device::{self, FS_TYPE};
use super::error::MountError;
use super::mountinfo::mounts_at;
use crate::node::api::ApiError;

/// Takes away the mount of knot at `mountpoint`, whoever serves it. The path is absolute and without symlinks.
///
/// # Errors
/// When no mount of knot is there, or the kernel refuses; the message says what to do.
pub fn unmount_foreign(mountpoint: &Path) -> Result<(), ApiError> {
    let unusable = |error| MountError::Unusable { path: mountpoint.to_owned(), error };
    match mounts_at(mountpoint).map_err(unusable)?.pop() {
        Some(mount) if mount.fs_type == FS_TYPE => {}
        _ => return Err(MountError::NotMounted { path: mountpoint.to_owned() }.into()),
    }
    device::unmount(mountpoint)?;
    Ok(())
}
