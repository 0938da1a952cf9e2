//! Whether a directory can be a mount point.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::device::{self, FS_TYPE};
use super::error::MountError;
use super::mountinfo::mounts_at;

/// Dead mounts on one directory that are taken away before it is given up.
const MAX_STALE: usize = 16;

/// The directory that `path` names, without symlinks, if something can be mounted there. What a killed node has
/// left there is taken away.
pub(super) fn prepare(path: &Path) -> Result<PathBuf, MountError> {
    let path = resolve(path)?;
    let unusable = |error| MountError::Unusable { path: path.clone(), error };
    for _ in 0..MAX_STALE {
        let Some(mount) = mounts_at(&path).map_err(unusable)?.pop() else { break };
        if !mount.fs_type.starts_with("fuse") {
            // An empty volume is as good as an empty directory.
            break;
        }
        // Listing asks the process behind it; attributes would come from the kernel's cache, dead or not.
        let is_dead = || matches!(fs::read_dir(&path), Err(error) if is_disconnected(&error));
        if mount.fs_type != FS_TYPE || !is_dead() {
            return Err(MountError::AlreadyMounted { path, fs_type: mount.fs_type, source_name: mount.source });
        }
        tracing::info!(mountpoint = ?path, source = mount.source, "taking away the mount of a node that has died");
        device::detach(&path)?;
    }
    check_empty(&path)?;
    Ok(path)
}

/// Symlinks are followed, but nothing is asked of the last directory itself: what is mounted there may be dead.
fn resolve(path: &Path) -> Result<PathBuf, MountError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => MountError::Missing { path: path.to_owned() },
        _ => MountError::Unusable { path: path.to_owned(), error },
    };
    match (fs::canonicalize(path), path.parent(), path.file_name()) {
        (Ok(path), _, _) => Ok(path),
        (Err(error), Some(parent), Some(name)) if is_disconnected(&error) => {
            Ok(fs::canonicalize(parent).map_err(failed)?.join(name))
        }
        (Err(error), _, _) => Err(failed(error)),
    }
}

fn check_empty(path: &Path) -> Result<(), MountError> {
    let unusable = |error| MountError::Unusable { path: path.to_owned(), error };
    let kind = fs::symlink_metadata(path).map_err(unusable)?.file_type();
    if !kind.is_dir() {
        let kind = match () {
            () if kind.is_file() => "a file",
            () if kind.is_socket() => "a socket",
            () if kind.is_fifo() => "a pipe",
            () => "a device",
        };
        return Err(MountError::NotADirectory { path: path.to_owned(), kind });
    }
    for entry in fs::read_dir(path).map_err(unusable)? {
        let name = entry.map_err(unusable)?.file_name();
        // A volume of its own is never emptier than this.
        if name != "lost+found" {
            return Err(MountError::NotEmpty { path: path.to_owned(), name: name.to_string_lossy().into_owned() });
        }
    }
    Ok(())
}

fn is_disconnected(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_empty_directories_will_do() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("a b");
        fs::create_dir(&empty).unwrap();
        assert_eq!(prepare(&empty).unwrap(), fs::canonicalize(&empty).unwrap());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&empty, &link).unwrap();
        assert_eq!(prepare(&link).unwrap(), fs::canonicalize(&empty).unwrap());

        fs::write(empty.join("file"), "").unwrap();
        assert!(matches!(prepare(&empty), Err(MountError::NotEmpty { name, .. }) if name == "file"));
        assert!(matches!(prepare(&empty.join("file")), Err(MountError::NotADirectory { kind: "a file", .. })));
        assert!(matches!(prepare(&empty.join("none")), Err(MountError::Missing { .. })));
        assert!(matches!(prepare(Path::new("/dev/null")), Err(MountError::NotADirectory { kind: "a device", .. })));
    }
}
