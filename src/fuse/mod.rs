//! Mounts torrents with FUSE: the only room that knows the kernel interface.
//!
//! The kernel's page cache does most of the work. Inodes never change their bytes, so it keeps pages over closing
//! and opening, and a second read of anything does not come here at all. Requests are served by a few threads that
//! never wait; see `waiting` for what happens to a read whose bytes are elsewhere.

mod adapter;
mod convert;
mod device;
mod error;
mod foreign;
mod mountinfo;
mod mountpoint;
mod waiting;

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{Config, INodeNo, Notifier, Session, SessionACL};
use rustix::fs::{AtFlags, Mode, OFlags, Stat};

use crate::node::api::ApiError;
use crate::node::mount::{MountOptions, MountView, Mounted, Mounter, Pending};
use crate::vfs::{Ino, Owner, Switch, Version, Vfs};
use adapter::Adapter;
use device::Unmounted;
use error::MountError;
use mountinfo::MountEntry;
use waiting::{Waiting, drop_stale_pages};

pub use foreign::unmount_foreign;

/// Threads that serve one mount, at the most; each has a device of its own.
const MAX_THREADS: usize = 4;
/// How far the kernel reads ahead, where it may be told. Where bytes come from a swarm 200 µs away, one reader gets
/// 420 MiB/s with the kernel's 128 KiB, 1000 with this and 1400 with 1 MiB; but all of a request must be here before
/// any of it is read, and a page fault in a mapped file asks for this much around it.
const READ_AHEAD_KIB: u32 = 512;
/// How long to wait for the threads of a mount that has been taken away. They end at once, unless a program that
/// still uses it keeps them.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Mounts with FUSE: by `mount(2)` where this process may, else by `fusermount3`.
#[derive(Clone, Copy, Debug, Default)]
pub struct FuseMounter;

impl Mounter for FuseMounter {
    fn mount(&self, view: MountView, mountpoint: &Path, options: &MountOptions) -> Result<Box<dyn Mounted>, ApiError> {
        let vfs = Vfs::new(view.version, view.dataset, owner(options)).map_err(MountError::Tree)?;
        Ok(Box::new(FuseMount::start(vfs, mountpoint, options)?))
    }

    fn mount_empty(
        &self,
        pending: Pending,
        mountpoint: &Path,
        options: &MountOptions,
    ) -> Result<Box<dyn Mounted>, ApiError> {
        let vfs = Vfs::pending(owner(options), pending.info_id, pending.waits_for, pending.dataset);
        Ok(Box::new(FuseMount::start(vfs, mountpoint, options)?))
    }
}

fn owner(options: &MountOptions) -> Owner {
    Owner { uid: options.uid, gid: options.gid }
}

/// A mount that is being served.
struct FuseMount {
    mountpoint: PathBuf,
    /// `major:minor` of the filesystem.
    device: String,
    vfs: Arc<Vfs>,
    waiting: Arc<Waiting>,
    connection: Arc<Connection>,
}

/// The device of a mount, for as long as its threads run. Not longer: the last to close it ends the mount, and
/// programs must not wait for threads that are gone.
struct Connection(Mutex<Option<Device>>);

struct Device {
    fd: OwnedFd,
    /// Has a hold on the device as well.
    notifier: Notifier,
}

impl Connection {
    fn is_served(&self) -> bool {
        self.device().is_some()
    }

    fn is_alive(&self) -> bool {
        self.device().as_ref().is_some_and(|device| device::is_connected(&device.fd))
    }

    fn notifier(&self) -> Option<Notifier> {
        self.device().as_ref().map(|device| device.notifier.clone())
    }

    fn device(&self) -> MutexGuard<'_, Option<Device>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FuseMount {
    fn start(vfs: Vfs, mountpoint: &Path, options: &MountOptions) -> Result<Self, MountError> {
        let mountpoint = mountpoint::prepare(mountpoint)?;
        let (waiting, failures) = Waiting::new();
        let waiting = Arc::new(waiting);
        let vfs = Arc::new(vfs);
        let adapter = Adapter::new(Arc::clone(&vfs), Arc::clone(&waiting));
        let fd = device::mount(&mountpoint, options)?;
        let taken_back = |error| {
            let _ = device::detach(&mountpoint);
            error
        };
        let own_fd = fd.try_clone().map_err(|error| taken_back(MountError::Handshake(error)))?;
        // Who may look is the kernel's to decide, by the mount option; fuser would keep out even root.
        let session = Session::from_fd(adapter, fd, SessionACL::All, config())
            .map_err(|error| taken_back(MountError::Handshake(error)))?;
        let notifier = session.notifier();
        let device = Device { fd: own_fd, notifier: notifier.clone() };
        let connection = Arc::new(Connection(Mutex::new(Some(device))));
        let served = Arc::clone(&connection);
        let serve = move || {
            if let Err(error) = session.run() {
                tracing::warn!(%error, "a mount has ended");
            }
            *served.device() = None;
        };
        thread::Builder::new()
            .name("knot-fuse".into())
            .spawn(serve)
            .map_err(|error| taken_back(MountError::Thread(error)))?;
        thread::Builder::new()
            .name("knot-fuse-pages".into())
            .spawn(move || drop_stale_pages(&failures, &notifier))
            .map_err(|error| taken_back(MountError::Thread(error)))?;
        let mounts = mountinfo::mounts_at(&mountpoint).unwrap_or_default();
        let device = mounts.into_iter().next_back().map(|mount| mount.device).unwrap_or_default();
        device::raise_read_ahead(&device, READ_AHEAD_KIB);
        Ok(Self { mountpoint, device, vfs, waiting, connection })
    }

    /// Has the kernel meet the files whose pages it would lose. Like any program that looks at the mount, which is
    /// answered by other threads.
    fn keep_pages(&self, switch: &Switch<'_>) {
        if switch.kept().is_empty() {
            return;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(root) = rustix::fs::open(&self.mountpoint, flags, Mode::empty()) else { return };
        let is_own = |stat: Stat| {
            let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
            self.device == format!("{major}:{minor}")
        };
        // Something else may be mounted over it.
        if !rustix::fs::fstat(&root).is_ok_and(is_own) {
            return;
        }
        for path in switch.kept() {
            if let Err(error) = rustix::fs::statat(&root, path, AtFlags::SYMLINK_NOFOLLOW) {
                tracing::debug!(path, %error, "the pages of files that have not changed are not kept");
                return;
            }
        }
    }

    /// The mounts at its place, from itself upwards; none where it has been unmounted.
    fn mounts(&self) -> Vec<MountEntry> {
        let mut mounts = mountinfo::mounts_at(&self.mountpoint).unwrap_or_default();
        let own = mounts.iter().position(|mount| mount.device == self.device);
        own.map(|own| mounts.split_off(own)).unwrap_or_default()
    }

    fn take_away(&self) -> Result<(), MountError> {
        if !self.connection.is_alive() {
            return Ok(());
        }
        let mounts = self.mounts();
        if let [_, .., over] = mounts.as_slice() {
            return Err(MountError::Covered { path: self.mountpoint.clone(), over: over.source.clone() });
        }
        // What waits for the swarm would keep its reader, and its reader the mount.
        self.waiting.close();
        if mounts.is_empty() {
            return Ok(());
        }
        if device::unmount(&self.mountpoint)? == Unmounted::Detached {
            tracing::info!(mountpoint = ?self.mountpoint, "unmounted while it was in use");
            device::abort(&self.device);
        }
        Ok(())
    }
}

impl Mounted for FuseMount {
    fn is_alive(&self) -> bool {
        self.connection.is_alive() && !self.mounts().is_empty()
    }

    fn show(&self, version: Version) -> Result<(), ApiError> {
        let Some(switch) = self.vfs.switch(version).map_err(MountError::Tree)? else { return Ok(()) };
        self.keep_pages(&switch);
        // Not held over the end of this: see `Connection`.
        let notifier = self.connection.notifier();
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        let forgotten = notifier.ok_or_else(gone).and_then(|notifier| have_forgotten(&notifier, &switch));
        forgotten.map_err(|error| MountError::Switch { path: self.mountpoint.clone(), error })?;
        switch.finish();
        Ok(())
    }

    fn unmount(&self) -> Result<(), ApiError> {
        self.take_away()?;
        let deadline = Instant::now() + END_TIMEOUT;
        while self.connection.is_served() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
        if self.connection.is_served() {
            tracing::warn!(mountpoint = ?self.mountpoint, "unmounted, but a program still holds files of it open");
        }
        Ok(())
    }
}

impl Drop for FuseMount {
    fn drop(&mut self) {
        if let Err(error) = self.take_away() {
            tracing::warn!(%error, "a mount is left behind");
        }
    }
}

/// Has the kernel forget what is about to change: see [`Switch`]. Waits for requests under way, so no thread that
/// answers requests may do it, nor one that holds a lock that an answer needs.
fn have_forgotten(notifier: &Notifier, switch: &Switch<'_>) -> io::Result<()> {
    let root = INodeNo(Ino::ROOT.0);
    for name in switch.names() {
        notifier.inval_entry(root, OsStr::new(name))?;
    }
    for (directory, name) in switch.leftovers() {
        notifier.inval_entry(INodeNo(directory.0), OsStr::new(name))?;
    }
    // Attributes only: what is below zero has no pages.
    notifier.inval_inode(root, -1, 0)
}

fn config() -> Config {
    let cores = thread::available_parallelism().map_or(2, usize::from);
    let mut config = Config::default();
    config.n_threads = Some(cores.clamp(2, MAX_THREADS));
    config.clone_fd = true;
    config
}
