//! The kernel's side: `mount(2)` or `fusermount3`, unmounting, aborting, read-ahead.
//!
//! fuser can mount by itself, but unmounts the directory a second time when its session ends, whatever lies there
//! by then; so it is handed a device that is mounted already, and never learns where.

use std::ffi::CString;
use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::error::MountError;
use crate::node::mount::MountOptions;

/// The type that mounts of knot have in `mount`, `findmnt` and `/proc/mounts`.
pub(super) const FS_TYPE: &str = "fuse.knot";

const HELPER: &str = "fusermount3";

/// Mounts an unserved filesystem on `mountpoint` and returns the device that its requests come from.
pub(super) fn mount(mountpoint: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let device = fs::File::options().read(true).write(true).open("/dev/fuse").map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => MountError::DeviceDenied,
        _ => MountError::NoDevice(error),
    })?;
    let device = OwnedFd::from(device);
    match mount_directly(&device, mountpoint, options) {
        Ok(()) => Ok(device),
        Err(Errno::PERM) => mount_by_helper(mountpoint, options),
        Err(error) => Err(MountError::Kernel { path: mountpoint.to_owned(), error: error.into() }),
    }
}

fn mount_directly(device: &OwnedFd, mountpoint: &Path, options: &MountOptions) -> Result<(), Errno> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mut data = format!(
        "fd={},rootmode=40555,user_id={uid},group_id={gid},default_permissions,subtype=knot",
        device.as_raw_fd()
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    rustix::mount::mount(source(options), mountpoint, "fuse", flags, data.as_c_str())
}

/// Lets the setuid program `fusermount3` mount; it sends the device back over a socket, which it finds as its
/// standard input.
fn mount_by_helper(mountpoint: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let (ours, theirs) = UnixStream::pair().map_err(MountError::NoDevice)?;
    let mut list = format!("ro,nosuid,nodev,noatime,default_permissions,subtype=knot,fsname={}", source(options));
    if options.allow_other {
        list.push_str(",allow_other");
    }
    let child = Command::new(HELPER)
        .args(["-o", &list, "--"])
        .arg(mountpoint)
        .env("_FUSE_COMMFD", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|_| MountError::NoHelper)?;
    // The device comes before the helper leaves; where it leaves without, its end of the socket closes.
    let device = receive_device(&ours);
    let output = child.wait_with_output().map_err(|error| MountError::Helper(error.to_string()))?;
    match device {
        Ok(Some(device)) => Ok(device),
        Ok(None) => {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            match message.contains("user_allow_other") {
                true => Err(MountError::AllowOther(message)),
                false => Err(MountError::Helper(message)),
            }
        }
        Err(error) => Err(MountError::Helper(error.to_string())),
    }
}

fn receive_device(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => break,
        }
    }
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut devices) => devices.next(),
        _ => None,
    }))
}

/// Whether the filesystem behind a device still exists. It does not from the moment on that it is unmounted and
/// unused, or aborted; then its number, and the place where it was, may belong to another.
pub(super) fn is_connected(device: &OwnedFd) -> bool {
    let mut poll = [PollFd::new(device, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut poll, Some(&now)).is_ok() && !poll[0].revents().contains(PollFlags::ERR)
}

/// What is shown as the source; what would end an option or a line in the kernel's tables is replaced.
fn source(options: &MountOptions) -> String {
    let plain = |c: char| if c.is_control() || matches!(c, ',' | '\\') { '_' } else { c };
    let name: String = options.fs_name.chars().map(plain).take(200).collect();
    if name.is_empty() { "knot".to_owned() } else { name }
}

/// How a mount was taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unmounted {
    /// Nobody used it.
    Clean,
    /// Out of the directory tree, but in use.
    Detached,
}

/// Takes the topmost mount off `mountpoint`; from whoever uses it as well.
pub(super) fn unmount(mountpoint: &Path) -> Result<Unmounted, MountError> {
    match rustix::mount::unmount(mountpoint, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(Unmounted::Clean),
        Err(_) => detach(mountpoint).map(|()| Unmounted::Detached),
    }
}

/// Takes the topmost mount out of the directory tree at once, whoever uses it, and ends its connection where that
/// is permitted.
pub(super) fn detach(mountpoint: &Path) -> Result<(), MountError> {
    let failed = |error: String| MountError::Unmount { path: mountpoint.to_owned(), error };
    let flags = UnmountFlags::NOFOLLOW | UnmountFlags::DETACH | UnmountFlags::FORCE;
    match rustix::mount::unmount(mountpoint, flags) {
        Ok(()) => return Ok(()),
        Err(Errno::PERM) => {}
        Err(error) => return Err(failed(error.to_string())),
    }
    let output = Command::new(HELPER).args(["-u", "-z", "--"]).arg(mountpoint).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        Err(error) => Err(failed(format!("{HELPER}: {error}"))),
    }
}

/// Ends the connection of a detached mount, so that programs that still use it get errors instead of waiting.
/// Only where the kernel shows its connections; elsewhere the last user's close ends it.
pub(super) fn abort(device: &str) {
    if let Some((_, minor)) = device.split_once(':') {
        let _ = fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1");
    }
}

/// Lets the kernel read ahead by up to `kib` KiB, and so send requests of that size. Root may; others keep the
/// kernel's 128 KiB.
pub(super) fn raise_read_ahead(device: &str, kib: u32) {
    let _ = fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), kib.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_cannot_smuggle_options() {
        let options = |name: &str| MountOptions { allow_other: false, uid: 0, gid: 0, fs_name: name.to_owned() };
        assert_eq!(source(&options("knot:a,dev\\,suid\nb")), "knot:a_dev__suid_b");
        assert_eq!(source(&options("")), "knot");
        assert_eq!(source(&options(&"é".repeat(300))).chars().count(), 200);
    }
}
