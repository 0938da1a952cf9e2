//! `knot run`

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;

use super::args::resolved;
use super::error::CliError;

/// Which version the root of a mount shows.
const SEQ: &str = "user.knot.seq";
/// Its longest value: the digits of a `u64`.
const MAX_SEQ: usize = 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Mount of a dataset that is to stay as it is for the command, while it goes on for everybody else
    #[arg(long, value_name = "MOUNTPOINT")]
    snapshot: PathBuf,
    /// The command and its arguments; KNOT_SNAPSHOT_SEQ tells it the version
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Becomes the command, in a mount namespace of its own where the version is mounted over the mount. To be called in a
/// process of one thread: no other can get a user namespace.
pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(CliError::Usage("expected a command to run, got none".into()));
    };
    let mountpoint = resolved(&args.snapshot)?;
    let seq = shown(&mountpoint)?;
    let version = mountpoint.join(".knot/versions").join(seq.to_string());
    // The command inherits it: an open directory is what keeps a version in the mount.
    let _pin = pin(&version)?;
    let cwd = env::current_dir().ok().filter(|cwd| cwd.starts_with(&mountpoint));
    let forbidden = |source: io::Error| {
        CliError::Failure(format!(
            "expected to get a mount namespace for the command, got: {source}; allow user namespaces (sysctl \
             user.max_user_namespaces, kernel.unprivileged_userns_clone), or mount the version apart with `knot mount \
             --at {seq}`"
        ))
    };
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    enter_namespace(uid, gid).map_err(forbidden)?;
    cover(&version, &mountpoint).map_err(forbidden)?;
    if let Some(cwd) = cwd {
        // What is open already, such as the current directory, is still in the mount below.
        env::set_current_dir(&cwd).map_err(|source| CliError::file("go back to", &cwd, source))?;
    }
    Err(exec(program, arguments, seq))
}

/// The version that a mount shows.
fn shown(mountpoint: &Path) -> Result<u64, CliError> {
    let mut value = [0; MAX_SEQ];
    let got = match rustix::fs::getxattr(mountpoint, SEQ, &mut value) {
        Ok(len) => match std::str::from_utf8(&value[..len]).ok().and_then(|text| text.parse().ok()) {
            Some(seq) => return Ok(seq),
            None => "a strange version".to_owned(),
        },
        Err(Errno::NODATA | Errno::NOTSUP) => "something else".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(no_dataset(mountpoint, &got))
}

fn pin(version: &Path) -> Result<OwnedFd, CliError> {
    // Not closed when the command begins.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    rustix::fs::open(version, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOENT | Errno::NOTDIR => no_dataset(version, "a directory within one"),
        error => CliError::file("open", version, error.into()),
    })
}

fn no_dataset(at: &Path, got: &str) -> CliError {
    CliError::Usage(format!(
        "expected a mount of a dataset, got {got} at {at:?}: `knot status` lists the mounts, and `knot mount` with an \
         InfoSig makes one"
    ))
}

/// Mounts of this process are seen by nobody else from here on.
fn enter_namespace(uid: u32, gid: u32) -> io::Result<()> {
    match nix::sched::unshare(CloneFlags::CLONE_NEWNS) {
        Err(nix::Error::EPERM) => {
            nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
            // Everybody is who he was. Without the first, the kernel refuses the last.
            fs::write("/proc/self/setgroups", "deny")?;
            fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
            fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
        }
        done => done?,
    }
    Ok(rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}

/// Has `version` seen at `mountpoint`.
fn cover(version: &Path, mountpoint: &Path) -> io::Result<()> {
    Ok(rustix::mount::mount_bind(version, mountpoint)?)
}

/// Becomes the command; the error if that cannot be.
fn exec(program: &OsStr, arguments: &[OsString], seq: u64) -> CliError {
    let source = Command::new(program).args(arguments).env("KNOT_SNAPSHOT_SEQ", seq.to_string()).exec();
    CliError::file("run", Path::new(program), source)
}
