//! What was published stays servable when its folder changes: its files are kept in the publisher's store.
//!
//! `snapshots/<InfoHash>/<name>` holds the files of a version, as blocks shared with the publisher's own files where the
//! filesystem can do that. A snapshot is made under another name and renamed when all of it is on the disk, so one that
//! is there is whole.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use super::api::{ApiError, Snapshot};
use super::handle::failure;
use super::tree::{self, TreeSource};
use crate::cache::stamp_of;
use crate::metainfo::{EntryKind, Metainfo};
use crate::types::{FileIndex, FileRoot, FileStamp};

/// The directory of all snapshots, in the store.
const DIR: &str = "snapshots";
/// Behind the name of one that is being made.
const PARTIAL: &str = "part";

/// Only one is made at a time: whoever begins clears away what others have not finished.
static MAKING: Mutex<()> = Mutex::new(());

/// A version to keep.
pub(super) struct Version<'a> {
    /// Where it is: the file or directory that was published.
    pub(super) path: &'a Path,
    /// What it is.
    pub(super) metainfo: &'a Metainfo,
    /// Its files as they were when they were hashed.
    pub(super) stamps: &'a [(u32, FileStamp)],
}

/// A version that is kept already: files that have not changed can be shared with it.
pub(super) struct Previous<'a> {
    /// Where it lies.
    pub(super) path: &'a Path,
    /// What it is.
    pub(super) metainfo: &'a Metainfo,
}

/// What became of a version's files.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// Where they lie, if they are kept.
    pub(super) path: Option<PathBuf>,
    /// As they are there, if they have just been put there: they are what was hashed.
    pub(super) stamps: Vec<(u32, FileStamp)>,
    /// What the user should know of it.
    pub(super) note: Option<String>,
}

/// Keeps a version in the store. Blocks the thread for as long as that takes.
///
/// # Errors
/// When a file is not what it was when it was hashed, or something cannot be written; then nothing is kept.
pub(super) fn keep(
    store: &Path,
    version: &Version<'_>,
    previous: &[Previous<'_>],
    mode: Snapshot,
) -> Result<Kept, ApiError> {
    if mode == Snapshot::None {
        return Ok(Kept::default());
    }
    let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let all = store.join(DIR);
    clear_partial(&all).map_err(|error| unusable("clear", &all, &error))?;
    let place = all.join(version.metainfo.info_hash().to_string());
    let kept = place.join(version.metainfo.name());
    if place.exists() {
        // Whoever serves it hashes it: it may have been there for long.
        return Ok(Kept { path: Some(kept), ..Kept::default() });
    }
    let partial = place.with_extension(PARTIAL);
    let stamps = version.stamps.iter().copied().collect();
    let making = Making { files: source(version)?, version, stamps, linkable: linkable(previous), mode };
    let made = making.make(&partial).and_then(|()| publish(&all, &partial, &place));
    match made {
        Ok(()) => Ok(Kept { stamps: stamps_at(&kept, version.metainfo)?, path: Some(kept), note: None }),
        Err(stop) => {
            // What stays is cleared away by the next one.
            let _ = fs::remove_dir_all(&partial);
            match stop {
                Stop::NoReflinks(errno) => {
                    Ok(Kept { note: Some(not_kept(version.path, store, errno)), ..Kept::default() })
                }
                Stop::Failed(error) => Err(error),
            }
        }
    }
}

/// Where the files of a version are kept, if they are.
pub(super) fn find(store: &Path, metainfo: &Metainfo) -> Option<PathBuf> {
    let place = store.join(DIR).join(metainfo.info_hash().to_string()).join(metainfo.name());
    place.symlink_metadata().is_ok().then_some(place)
}

fn clear_partial(all: &Path) -> io::Result<()> {
    remove_unless(all, |name| Path::new(name).extension().is_none_or(|extension| extension != PARTIAL))
}

/// Removes what lies in `dir` under names that are not good.
fn remove_unless(dir: &Path, is_good: impl Fn(&str) -> bool) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_none_or(|name| !is_good(name)) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Makes what was written durable, and only then gives it its name.
fn publish(all: &Path, partial: &Path, place: &Path) -> Result<(), Stop> {
    let publish = || -> io::Result<()> {
        // One by one, very many small files would take very long.
        rustix::fs::syncfs(File::open(partial)?)?;
        fs::rename(partial, place)?;
        File::open(all)?.sync_all()
    };
    publish().map_err(|error| Stop::Failed(unusable("write", place, &error)))
}

fn source(version: &Version<'_>) -> Result<TreeSource, ApiError> {
    TreeSource::for_metainfo(version.path, version.metainfo).map_err(|error| failure(error.to_string()))
}

fn stamps_at(kept: &Path, metainfo: &Metainfo) -> Result<Vec<(u32, FileStamp)>, ApiError> {
    let files = TreeSource::for_metainfo(kept, metainfo).map_err(|error| failure(error.to_string()))?;
    let all = (0..metainfo.entries().len() as u32).filter_map(|file| Some((file, files.guard(FileIndex(file)).ok()?)));
    Ok(all.collect())
}

/// What two files with one inode must have in common: content and mode.
type LinkKey = (FileRoot, u64, bool);

fn link_key(metainfo: &Metainfo, file: FileIndex) -> Option<LinkKey> {
    match metainfo.entry(file)?.kind {
        EntryKind::File { length, root: Some(root), executable } => Some((root, length, executable)),
        _ => None,
    }
}

/// The files of kept versions, by what is in them.
fn linkable(previous: &[Previous<'_>]) -> HashMap<LinkKey, PathBuf> {
    let mut found = HashMap::new();
    for Previous { path, metainfo } in previous {
        let Ok(files) = TreeSource::for_metainfo(path, metainfo) else { continue };
        for file in (0..metainfo.entries().len() as u32).map(FileIndex) {
            if let (Some(key), Some(path)) = (link_key(metainfo, file), files.path(file)) {
                found.entry(key).or_insert_with(|| path.to_owned());
            }
        }
    }
    found
}

/// Why a snapshot is not made.
enum Stop {
    /// It would take copies, which nobody asked for.
    NoReflinks(Errno),
    Failed(ApiError),
}

struct Making<'a> {
    version: &'a Version<'a>,
    files: TreeSource,
    stamps: HashMap<u32, FileStamp>,
    linkable: HashMap<LinkKey, PathBuf>,
    mode: Snapshot,
}

impl Making<'_> {
    fn make(&self, partial: &Path) -> Result<(), Stop> {
        let metainfo = self.version.metainfo;
        let top = partial.join(metainfo.name());
        let is_single_file = self.version.path.is_file();
        make_dirs(if is_single_file { partial } else { &top })?;
        let (mut last_parent, mut linked) = (PathBuf::new(), 0);
        for (entry, file) in metainfo.entries().iter().zip((0..).map(FileIndex)) {
            let to = if is_single_file { top.clone() } else { top.join(entry.path.as_str()) };
            if let Some(parent) = to.parent().filter(|parent| **parent != last_parent) {
                make_dirs(parent)?;
                last_parent = parent.to_owned();
            }
            match &entry.kind {
                EntryKind::Directory => make_dirs(&to)?,
                EntryKind::Symlink { target } => symlink(target, &to).map_err(|error| unwritable(&to, &error))?,
                EntryKind::File { executable, .. } => linked += u32::from(self.keep_file(file, *executable, &to)?),
            }
        }
        tracing::debug!(linked, "files of other snapshots are shared");
        Ok(())
    }

    /// Keeps one file; whether as a link.
    fn keep_file(&self, file: FileIndex, executable: bool, to: &Path) -> Result<bool, Stop> {
        let from = self.files.path(file).unwrap_or(self.version.path);
        let unreadable = |error: io::Error| failure(format!("expected to read {from:?}, got an error: {error}"));
        let source = tree::open(from).map_err(|error| Stop::Failed(unreadable(error)))?;
        let check = || -> Result<FileStamp, Stop> {
            let now = source.metadata().map_err(|error| Stop::Failed(unreadable(error)))?;
            let (then, now) = (self.stamps.get(&file.0), stamp_of(&now));
            if then == Some(&now) { Ok(now) } else { Err(Stop::Failed(changed(from))) }
        };
        let length = check()?.size;
        match self.clone_file(&source, length, to) {
            Ok(()) => {}
            Err(Refused::Errno(errno)) if self.mode == Snapshot::Auto => return Err(Stop::NoReflinks(errno)),
            Err(Refused::Errno(_)) if self.link_file(file, length, to) => return Ok(true),
            Err(Refused::Errno(_)) => copy(&source, to).map_err(|error| unwritable(to, &error))?,
            Err(Refused::Failed(error)) => return Err(unwritable(to, &error).into()),
        }
        let mode = if executable { 0o555 } else { 0o444 };
        fs::set_permissions(to, Permissions::from_mode(mode)).map_err(|error| unwritable(to, &error))?;
        // What was written to while it was copied may be neither what it was nor what it is.
        check()?;
        Ok(false)
    }

    /// Has `to` share the blocks of `source`.
    fn clone_file(&self, source: &File, length: u64, to: &Path) -> Result<(), Refused> {
        let target = new_file(to).map_err(Refused::Failed)?;
        if length == 0 {
            return Ok(());
        }
        rustix::fs::ioctl_ficlone(&target, source).map_err(|errno| {
            let cannot = [Errno::OPNOTSUPP, Errno::XDEV, Errno::INVAL, Errno::NOTTY, Errno::NOSYS, Errno::TXTBSY];
            if cannot.contains(&errno) { Refused::Errno(errno) } else { Refused::Failed(errno.into()) }
        })
    }

    /// Has `to` be a file of another snapshot, if one has this content. That touches the file, so what is served of it
    /// is hashed once more.
    fn link_file(&self, file: FileIndex, length: u64, to: &Path) -> bool {
        let Some(from) = link_key(self.version.metainfo, file).and_then(|key| self.linkable.get(&key)) else {
            return false;
        };
        let is_whole = fs::symlink_metadata(from).is_ok_and(|found| found.is_file() && found.len() == length);
        // Where it cannot be linked (there may be too many links to it), it is copied.
        is_whole && fs::remove_file(to).is_ok() && fs::hard_link(from, to).is_ok()
    }
}

/// Why blocks are not shared.
enum Refused {
    /// The filesystem cannot.
    Errno(Errno),
    /// It failed.
    Failed(io::Error),
}

fn copy(mut source: &File, to: &Path) -> io::Result<()> {
    // A link that failed has removed what was there.
    let mut target = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to)?;
    io::copy(&mut source, &mut target).map(drop)
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn make_dirs(path: &Path) -> Result<(), Stop> {
    // Files that only their owner could read are for nobody else in the store either.
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| unwritable(path, &error).into())
}

impl From<ApiError> for Stop {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

fn changed(path: &Path) -> ApiError {
    failure(format!(
        "expected {path:?} to be what it was when it was hashed, got a file that has changed: nothing is published; \
         publish again when it rests"
    ))
}

fn unwritable(path: &Path, error: &io::Error) -> ApiError {
    failure(format!(
        "expected to keep a published file at {path:?}, got an error: {error}; nothing is published. Make room, or \
         publish with --snapshot none"
    ))
}

fn unusable(verb: &str, path: &Path, error: &io::Error) -> ApiError {
    failure(format!("cannot {verb} the kept files of published versions in {path:?}: {error}"))
}

fn not_kept(path: &Path, store: &Path, errno: Errno) -> String {
    let why = match errno {
        Errno::XDEV => format!("the store {store:?} is on another filesystem, so it can share no blocks"),
        _ => "its filesystem has no reflinks, so the store can share no blocks".to_owned(),
    };
    format!(
        "when {path:?} changes, this version is not served from it any more: {why}; --snapshot copy keeps copies in \
         the store, --snapshot none says nothing"
    )
}

#[cfg(test)]
mod tests;
