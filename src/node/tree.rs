//! The user's own files as content: listed, read in place, and guarded against change.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use rustix::fs::OFlags;

use crate::cache::{Nowait, read_into, read_nowait, stamp_of};
use crate::metainfo::{Entry, EntryKind, Metainfo, PathError, Source, TreePath};
use crate::types::{FileIndex, FileStamp};

/// Files that are kept open between reads.
const MAX_OPEN: NonZeroUsize = NonZeroUsize::MIN.saturating_add(127);

/// A file or directory that has been listed.
pub struct Scan {
    /// What a torrent of it is called: the last name of its path, or what was asked for.
    pub name: String,
    /// Its files, empty directories and symlinks, in the order of their paths, without roots.
    pub entries: Vec<Entry>,
    /// The content of the entries, with guards as they were when they were listed.
    pub source: TreeSource,
    /// What is neither file, directory nor symlink (sockets, pipes, devices) and was left out.
    pub skipped: Vec<PathBuf>,
}

/// Why a path cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Something could not be looked at.
    #[error("expected to read {path:?}, got an error: {error}")]
    Io {
        /// What.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A name or a link target that is no text.
    #[error("expected a name in UTF-8, got {path:?}: rename it, since others could not spell it")]
    NotUtf8 {
        /// What; or the link.
        path: PathBuf,
    },
    /// A path that a torrent cannot have.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A path without a name.
    #[error("expected a path that ends with a name, got {path:?}: give a name for the torrent")]
    NoName {
        /// The path.
        path: PathBuf,
    },
    /// Neither a file nor a directory.
    #[error("expected a file or a directory, got {path:?}, which is neither")]
    Special {
        /// The path.
        path: PathBuf,
    },
    /// A file where the torrent has a directory.
    #[error("expected the directory that holds the files of {name:?}, got the file {path:?}")]
    NotADirectory {
        /// The torrent.
        name: String,
        /// The path.
        path: PathBuf,
    },
}

/// Lists `path`. Follows no symlink but `path` itself. `name` is for a torrent that is to be called otherwise than
/// the path ends; a single file then has that name as well.
///
/// # Errors
/// When something in it cannot be read, or has a name that a torrent cannot hold.
pub fn scan(path: &Path, name: Option<&str>) -> Result<Scan, TreeError> {
    let root = canonical(path)?;
    let metadata = std::fs::metadata(&root).map_err(|error| io_error(&root, error))?;
    let name = match name {
        Some(name) => name.to_owned(),
        None => own_name(path, &root)?,
    };
    TreePath::new(&name)?;
    if metadata.is_dir() {
        return scan_directory(root, name);
    }
    if !metadata.is_file() {
        return Err(TreeError::Special { path: root });
    }
    let entry = Entry { path: TreePath::new(&name)?, kind: file_kind(&metadata) };
    let source = TreeSource::new(vec![Place { path: root, scanned: Some(stamp_of(&metadata)) }]);
    Ok(Scan { name, entries: vec![entry], source, skipped: Vec::new() })
}

fn scan_directory(root: PathBuf, name: String) -> Result<Scan, TreeError> {
    let mut found: Vec<(Entry, Place)> = Vec::new();
    let mut skipped = Vec::new();
    let mut directories = Vec::new();
    for item in walkdir::WalkDir::new(&root).min_depth(1).follow_links(false) {
        let item = item.map_err(|error| walk_error(&root, error))?;
        let path = relative(&root, item.path())?;
        let place = |scanned| Place { path: item.path().to_owned(), scanned };
        if item.file_type().is_dir() {
            directories.push((path, place(None)));
        } else if item.file_type().is_symlink() {
            let kind = EntryKind::Symlink { target: link_target(item.path())? };
            found.push((Entry { path, kind }, place(None)));
        } else if item.file_type().is_file() {
            let metadata = item.metadata().map_err(|error| walk_error(item.path(), error))?;
            found.push((Entry { path, kind: file_kind(&metadata) }, place(Some(stamp_of(&metadata)))));
        } else {
            skipped.push(item.path().to_owned());
        }
    }
    let parents = |path: &TreePath| path.parent().map(str::to_owned);
    let mut filled: HashSet<String> = found.iter().filter_map(|(entry, _)| parents(&entry.path)).collect();
    filled.extend(directories.iter().filter_map(|(path, _)| parents(path)));
    let empty = directories.into_iter().filter(|(path, _)| !filled.contains(path.as_str()));
    found.extend(empty.map(|(path, place)| (Entry { path, kind: EntryKind::Directory }, place)));
    found.sort_unstable_by(|(a, _), (b, _)| a.path.cmp(&b.path));
    skipped.sort_unstable();
    let (entries, places) = found.into_iter().unzip();
    Ok(Scan { name, entries, source: TreeSource::new(places), skipped })
}

fn file_kind(metadata: &Metadata) -> EntryKind {
    EntryKind::File { length: metadata.len(), root: None, executable: metadata.mode() & 0o111 != 0 }
}

fn canonical(path: &Path) -> Result<PathBuf, TreeError> {
    path.canonicalize().map_err(|error| io_error(path, error))
}

/// The last name of `path` as it was given, or, where it ends with dots, as it was resolved.
fn own_name(path: &Path, root: &Path) -> Result<String, TreeError> {
    let name = path.file_name().or(root.file_name()).ok_or_else(|| TreeError::NoName { path: root.to_owned() })?;
    name.to_str().map(str::to_owned).ok_or_else(|| TreeError::NotUtf8 { path: path.to_owned() })
}

fn relative(root: &Path, path: &Path) -> Result<TreePath, TreeError> {
    let text = path.strip_prefix(root).unwrap_or(path).to_str();
    Ok(TreePath::new(text.ok_or_else(|| TreeError::NotUtf8 { path: path.to_owned() })?)?)
}

fn link_target(path: &Path) -> Result<String, TreeError> {
    let target = std::fs::read_link(path).map_err(|error| io_error(path, error))?;
    target.into_os_string().into_string().map_err(|_| TreeError::NotUtf8 { path: path.to_owned() })
}

fn io_error(path: &Path, error: io::Error) -> TreeError {
    TreeError::Io { path: path.to_owned(), error }
}

fn walk_error(root: &Path, error: walkdir::Error) -> TreeError {
    let path = error.path().unwrap_or(root).to_owned();
    TreeError::Io { path, error: error.into() }
}

/// Files of the user as the content of a torrent, read where they lie. Never writes.
pub struct TreeSource {
    places: Vec<Place>,
    open: Mutex<LruCache<u32, Arc<File>>>,
}

struct Place {
    path: PathBuf,
    /// What was there when it was listed; of files that were.
    scanned: Option<FileStamp>,
}

impl TreeSource {
    fn new(places: Vec<Place>) -> Self {
        Self { places, open: Mutex::new(LruCache::new(MAX_OPEN)) }
    }

    /// The files of `metainfo` at `path`: the directory that holds them, or the one file. Nothing is opened yet;
    /// what is missing there shows when it is read.
    ///
    /// # Errors
    /// When `path` cannot be looked at, or is a file and the torrent a directory.
    pub fn for_metainfo(path: &Path, metainfo: &Metainfo) -> Result<Self, TreeError> {
        let root = canonical(path)?;
        let metadata = std::fs::metadata(&root).map_err(|error| io_error(&root, error))?;
        if metadata.is_file() {
            if !matches!(metainfo.entries(), [only] if only.is_file()) {
                return Err(TreeError::NotADirectory { name: metainfo.name().to_owned(), path: root });
            }
            return Ok(Self::new(vec![Place { path: root, scanned: None }]));
        }
        let place = |path| Place { path, scanned: None };
        Ok(Self::new(paths_of(&root, metainfo).into_iter().map(place).collect()))
    }

    /// Where `file` lies.
    pub fn path(&self, file: FileIndex) -> Option<&Path> {
        self.places.get(file.0 as usize).map(|place| &*place.path)
    }

    /// What `file` was when it was listed; `None` of one that was not.
    pub fn scanned(&self, file: FileIndex) -> Option<FileStamp> {
        self.places.get(file.0 as usize)?.scanned
    }

    /// What lies at the path of `file` now.
    ///
    /// # Errors
    /// When there is no regular file.
    pub fn guard(&self, file: FileIndex) -> io::Result<FileStamp> {
        let metadata = std::fs::symlink_metadata(&self.place(file)?.path)?;
        regular(&metadata)?;
        Ok(stamp_of(&metadata))
    }

    /// Appends `len` bytes from `offset` to `buf`, and tells what the file was after that. If it is what it was when
    /// the content was verified, then so are the bytes.
    ///
    /// # Errors
    /// When not all of the bytes can be read; `buf` is as it was then.
    pub fn read_guarded(&self, file: FileIndex, offset: u64, len: u32, buf: &mut Vec<u8>) -> io::Result<FileStamp> {
        let handle = self.handle(file)?;
        let start = buf.len();
        read_into(&handle, buf, len as usize, offset)?;
        handle.metadata().map(|metadata| stamp_of(&metadata)).inspect_err(|_| buf.truncate(start))
    }

    /// [`Self::read_guarded`] of a file that is open and whose bytes are in memory; `None` if it may have to wait.
    pub fn read_guarded_nowait(&self, file: FileIndex, offset: u64, len: u32) -> Option<(Vec<u8>, FileStamp)> {
        let handle = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&file.0).cloned()?;
        match read_nowait(&handle, len as usize, offset) {
            // A filesystem that can say so is a local one: what it knows of the file is in memory, too.
            Ok(Nowait::Read(bytes)) => Some((bytes, handle.metadata().map(|metadata| stamp_of(&metadata)).ok()?)),
            Ok(Nowait::WouldBlock) | Err(_) => None,
        }
    }

    /// Closes `file`, so that the next read sees what lies at its path then: after a guard that has changed.
    pub fn reopen(&self, file: FileIndex) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).pop(&file.0);
    }

    fn place(&self, file: FileIndex) -> io::Result<&Place> {
        self.places.get(file.0 as usize).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn handle(&self, file: FileIndex) -> io::Result<Arc<File>> {
        if let Some(handle) = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&file.0) {
            return Ok(Arc::clone(handle));
        }
        // Not under the lock: a slow disk must not hold up reads of other files.
        let handle = Arc::new(open(&self.place(file)?.path)?);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).put(file.0, Arc::clone(&handle));
        Ok(handle)
    }
}

impl Source for TreeSource {
    fn read_at(&self, file: FileIndex, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.handle(file)?.read_exact_at(buf, offset)
    }

    fn check_unchanged(&self, file: FileIndex) -> io::Result<()> {
        let (now, scanned) = (self.guard(file)?, self.place(file)?.scanned);
        match scanned {
            Some(then) if then.size != now.size => {
                Err(io::Error::other(format!("expected {} bytes, got {}", then.size, now.size)))
            }
            Some(then) if then != now => Err(io::Error::other("it was written to or replaced since it was listed")),
            _ => Ok(()),
        }
    }
}

/// Where the entries of `metainfo` lie below `root`. Names that are shown in another way than the torrent spells them
/// are on disk as it spells them where another client made the tree, and as they are shown where knot did: whichever
/// finds more files.
fn paths_of(root: &Path, metainfo: &Metainfo) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = metainfo.entries().iter().map(|entry| root.join(entry.path.as_str())).collect();
    let spelt = |(at, shown): (u32, &PathBuf)| {
        let raw = raw_path(root, &metainfo.raw_path(FileIndex(at))?)?;
        (raw != *shown).then_some((at as usize, raw))
    };
    let spelt: Vec<(usize, PathBuf)> = (0..).zip(&paths).filter_map(spelt).collect();
    let is_file = |path: &PathBuf| std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
    let as_spelt = spelt.iter().filter(|(_, path)| is_file(path)).count();
    let as_shown = spelt.iter().filter(|(at, _)| is_file(&paths[*at])).count();
    if as_spelt > as_shown {
        spelt.into_iter().for_each(|(at, path)| paths[at] = path);
    }
    paths
}

/// The path of names that are any bytes; `None` if it would not be below `root`.
fn raw_path(root: &Path, names: &[Vec<u8>]) -> Option<PathBuf> {
    let mut path = root.to_owned();
    for name in names {
        let is_one = !matches!(&name[..], b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0);
        path.push(is_one.then(|| OsStr::from_bytes(name))?);
    }
    (!names.is_empty()).then_some(path)
}

/// Opens a regular file, and nothing that has taken its place: no symlink, and no pipe that would wait for a writer.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    regular(&file.metadata()?)?;
    Ok(file)
}

fn regular(metadata: &Metadata) -> io::Result<()> {
    match metadata.is_file() {
        true => Ok(()),
        false => Err(io::Error::other("expected a regular file, got something else")),
    }
}

#[cfg(test)]
mod tests;
