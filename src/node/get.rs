//! Writing a torrent out into a directory.
//!
//! What fits into the cache is fetched there, moved out when it is complete and served in place from then on: a download
//! takes its room once. The rest is copied. Files are under a hidden name beside their destination and get their real
//! name when they are complete, so a half-written download is never mistaken for a whole one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::oneshot;

use super::api::{ApiError, ErrorKind, Progress};
use super::handle::{NodeHandle, ProgressSink, Torrent, blocking, destination, failure};
use super::storage::TorrentStorage;
use crate::engine::ReadError;
use crate::metainfo::{Entry, EntryKind, Metainfo};
use crate::types::{FileIndex, ReaderId};
use crate::vfs::{Content, ContentError, ReadReply};

/// Bytes of one read.
const CHUNK_LEN: u64 = 1 << 20;
/// Reads in flight.
const CHUNKS_AT_ONCE: usize = 16;
/// How often it is looked how far a download is.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How often progress is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// What is to be written.
pub(super) struct Order<'a> {
    pub(super) node: &'a NodeHandle,
    pub(super) torrent: &'a Torrent,
    /// The entries that are wanted; `None` for all.
    pub(super) selected: Option<&'a [FileIndex]>,
    /// Whether all of it has room in the cache: then it is fetched there, and moved.
    pub(super) fits: bool,
}

/// Where things go.
#[derive(Clone)]
struct Places {
    /// What it is called when it is complete.
    target: PathBuf,
    /// What it is called until then.
    staging: PathBuf,
    /// The directory that paths of entries are below.
    root: PathBuf,
    single: bool,
}

impl Places {
    fn of(&self, entry: &Entry) -> PathBuf {
        if self.single { self.staging.clone() } else { self.root.join(entry.path.as_str()) }
    }
}

impl Order<'_> {
    /// Writes the entries below `dest`; the path of what was made.
    pub(super) async fn write_out(&self, dest: &Path, progress: &ProgressSink) -> Result<PathBuf, ApiError> {
        let places = self.places(dest)?;
        let at = places.clone();
        blocking(move || fs::create_dir_all(&at.root).map_err(|error| io_error("create", &at.root, &error))).await??;
        let meter = Arc::new(Meter::new(self.node.clone(), self.torrent.clone(), progress.clone()));
        if self.fits {
            let (storage, at) = (self.torrent.source.torrent.storage.clone(), places.clone());
            if self.fetch(&meter).await? && blocking(move || move_out(&storage, &at)).await?? {
                return Ok(places.target);
            }
        }
        let is_wanted = |at: usize| self.selected.is_none_or(|selected| selected.contains(&FileIndex(at as u32)));
        for (at, entry) in self.torrent.metainfo.entries().iter().enumerate().filter(|(at, _)| is_wanted(*at)) {
            write_entry(self.torrent, FileIndex(at as u32), entry, &places.of(entry), &meter).await?;
        }
        let (metainfo, at) = (self.torrent.metainfo.clone(), places.clone());
        blocking(move || {
            make_links(metainfo.entries(), &at.root)?;
            fs::rename(&at.staging, &at.target).map_err(|error| io_error("rename to", &at.target, &error))
        })
        .await??;
        Ok(places.target)
    }

    fn places(&self, dest: &Path) -> Result<Places, ApiError> {
        let target = destination(dest, &self.torrent.metainfo);
        if target.symlink_metadata().is_ok() {
            return Err(ApiError {
                kind: ErrorKind::Usage,
                message: format!(
                    "expected nothing at {}, but it exists: move it away or choose another -o",
                    target.display()
                ),
            });
        }
        let staging = dest.join(format!(".{}.knot-part", self.torrent.metainfo.name()));
        let single = is_single_file(self.torrent);
        let root = if single { dest.to_owned() } else { staging.clone() };
        Ok(Places { target, staging, root, single })
    }

    /// Waits until every byte is verified and here; false if the disk has no room to keep it.
    async fn fetch(&self, meter: &Arc<Meter>) -> Result<bool, ApiError> {
        let source = &self.torrent.source;
        let storage = &source.torrent.storage;
        let (mut most, mut since) = (storage.verified_bytes(), Instant::now());
        let mut counted = since;
        while !storage.is_complete() {
            if storage.lacks_room() {
                return Ok(false);
            }
            if let Some(message) = storage.contradiction() {
                return Err(ApiError { kind: ErrorKind::Verification, message });
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
            // Counting goes over every file.
            if counted.elapsed() < PROGRESS_INTERVAL {
                continue;
            }
            counted = Instant::now();
            let verified = storage.verified_bytes();
            meter.report(verified).await;
            if verified > most {
                (most, since) = (verified, Instant::now());
            } else if since.elapsed() >= source.read_timeout {
                let peers = self.node.stats(self.torrent.key).await.map_or(0, |stats| stats.peers.len());
                let timeout = ReadError::Timeout { timeout: source.read_timeout, peers };
                return Err(ApiError { kind: ErrorKind::NotFound, message: timeout.to_string() });
            }
        }
        Ok(true)
    }
}

fn chunks(length: u64) -> impl Iterator<Item = u64> {
    (0..length.div_ceil(CHUNK_LEN)).map(|chunk| chunk * CHUNK_LEN)
}

/// Moves what is complete in the cache to its place and serves it from there; false where it must be copied.
fn move_out(storage: &TorrentStorage, places: &Places) -> Result<bool, ApiError> {
    let Some(mut files) = storage.hand_over() else { return Ok(false) };
    let entries = storage.metainfo().entries();
    for (entry, at) in entries.iter().zip(0..) {
        let path = places.of(entry);
        match &entry.kind {
            EntryKind::Directory => fs::create_dir_all(&path).map_err(|error| io_error("create", &path, &error))?,
            // Links come last: nothing is ever written through one.
            EntryKind::Symlink { .. } => {}
            EntryKind::File { executable, .. } => {
                let made = path.parent().map_or(Ok(()), fs::create_dir_all);
                // Left by a download that was broken off.
                let _ = fs::remove_file(&path);
                match made.and_then(|()| files.move_file(FileIndex(at), &path)) {
                    Ok(()) if *executable => {
                        make_executable(&path).map_err(|error| io_error("change", &path, &error))?
                    }
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::CrossesDevices => return Ok(false),
                    Err(error) => return Err(io_error("move to", &path, &error)),
                }
            }
        }
    }
    make_links(entries, &places.root)?;
    fs::rename(&places.staging, &places.target).map_err(|error| io_error("rename to", &places.target, &error))?;
    // What is there is complete whether it can be served or not.
    if let Err(error) = files.finish(&places.target) {
        tracing::warn!("{error}");
    }
    Ok(true)
}

/// The entries at paths of a torrent, or below them.
///
/// # Errors
/// When there is nothing at one of them.
pub(super) fn entries_at(metainfo: &Metainfo, paths: &[String]) -> Result<Vec<FileIndex>, ApiError> {
    let mut found = Vec::new();
    for path in paths {
        let wanted = path.trim_end_matches('/');
        let is_at = |entry: &Entry| {
            let rest = entry.path.as_str().strip_prefix(wanted);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let before = found.len();
        found.extend(metainfo.entries().iter().zip(0..).filter(|(entry, _)| is_at(entry)).map(|(_, at)| FileIndex(at)));
        if found.len() == before {
            let message = format!(
                "expected the path of a file or directory in {:?}, got {path:?}: knot inspect lists them",
                metainfo.name()
            );
            return Err(ApiError { kind: ErrorKind::Usage, message });
        }
    }
    Ok(found)
}

/// Whether the torrent is one file under its own name, not a directory.
fn is_single_file(torrent: &Torrent) -> bool {
    match torrent.metainfo.entries() {
        [entry] => matches!(entry.kind, EntryKind::File { .. }) && entry.path.as_str() == torrent.metainfo.name(),
        _ => false,
    }
}

async fn write_entry(
    torrent: &Torrent,
    file: FileIndex,
    entry: &Entry,
    path: &Path,
    meter: &Arc<Meter>,
) -> Result<(), ApiError> {
    let owned = path.to_owned();
    match &entry.kind {
        EntryKind::Directory => {
            blocking(move || fs::create_dir_all(&owned).map_err(|error| io_error("create", &owned, &error))).await?
        }
        // Links come last: nothing is ever written through one.
        EntryKind::Symlink { .. } => Ok(()),
        EntryKind::File { executable, .. } => {
            let executable = *executable;
            let out = blocking(move || create_file(&owned, executable)).await??;
            copy_file(torrent, file, out, path, meter).await
        }
    }
}

fn create_file(path: &Path, executable: bool) -> Result<Arc<File>, ApiError> {
    let make = || {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = File::create(path)?;
        if executable {
            make_executable(path)?;
        }
        Ok(Arc::new(file))
    };
    make().map_err(|error| io_error("create", path, &error))
}

/// Whoever may read it may run it.
fn make_executable(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    fs::set_permissions(path, fs::Permissions::from_mode(mode | (mode & 0o444) >> 2))
}

fn make_links(entries: &[Entry], root: &Path) -> Result<(), ApiError> {
    for entry in entries {
        if let EntryKind::Symlink { target } = &entry.kind {
            let path = root.join(entry.path.as_str());
            let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| {
                let _ = fs::remove_file(&path);
                symlink(target, &path)
            });
            made.map_err(|error| io_error("link", &path, &error))?;
        }
    }
    Ok(())
}

async fn copy_file(
    torrent: &Torrent,
    file: FileIndex,
    out: Arc<File>,
    path: &Path,
    meter: &Arc<Meter>,
) -> Result<(), ApiError> {
    let length = torrent.metainfo.layout().file_length(file);
    let reader = torrent.content.open(file);
    let copied = stream::iter(chunks(length))
        .map(|offset| copy_chunk(&torrent.content, reader, file, offset, out.clone(), path, meter))
        .buffer_unordered(CHUNKS_AT_ONCE)
        .try_collect::<()>()
        .await;
    torrent.content.close(reader);
    copied
}

async fn copy_chunk(
    content: &Arc<dyn Content>,
    reader: ReaderId,
    file: FileIndex,
    offset: u64,
    out: Arc<File>,
    path: &Path,
    meter: &Arc<Meter>,
) -> Result<(), ApiError> {
    let bytes = read(content, reader, file, offset, CHUNK_LEN as u32).await?;
    let len = bytes.len() as u64;
    let written = blocking(move || out.write_all_at(&bytes, offset)).await?;
    written.map_err(|error| io_error("write", path, &error))?;
    meter.add(len).await;
    Ok(())
}

/// Reads from a torrent's content, waiting for peers.
///
/// # Errors
/// When the read times out or storage fails.
pub async fn read(
    content: &Arc<dyn Content>,
    reader: ReaderId,
    file: FileIndex,
    offset: u64,
    len: u32,
) -> Result<Bytes, ApiError> {
    answer(|reply| content.read(reader, file, offset, len, reply)).await
}

/// The answer to a read.
async fn answer(read: impl FnOnce(ReadReply)) -> Result<Bytes, ApiError> {
    let (reply, answer) = oneshot::channel();
    read(Box::new(move |result: Result<Bytes, ContentError>| {
        // Whoever read may have gone.
        let _ = reply.send(result);
    }));
    match answer.await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error @ ContentError::Unavailable(_))) => {
            Err(ApiError { kind: ErrorKind::NotFound, message: error.to_string() })
        }
        Ok(Err(error)) => Err(failure(error.to_string())),
        Err(_) => Err(failure("the node is shutting down".to_owned())),
    }
}

/// Counts what has been written and reports it now and then.
struct Meter {
    node: NodeHandle,
    torrent: Torrent,
    progress: ProgressSink,
    done: AtomicU64,
    reported: std::sync::Mutex<Instant>,
}

impl Meter {
    fn new(node: NodeHandle, torrent: Torrent, progress: ProgressSink) -> Self {
        Self { node, torrent, progress, done: AtomicU64::new(0), reported: std::sync::Mutex::new(Instant::now()) }
    }

    async fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.report(done).await;
    }

    async fn report(&self, done: u64) {
        let due = {
            let mut reported = self.reported.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let due = reported.elapsed() >= PROGRESS_INTERVAL;
            if due {
                *reported = Instant::now();
            }
            due
        };
        if due {
            let peers = self.node.stats(self.torrent.key).await.map_or(0, |stats| stats.peers.len());
            let total = self.torrent.info.total_length;
            let _ = self.progress.try_send(Progress::Fetching { done, total, peers });
        }
    }
}

fn io_error(action: &str, path: &Path, error: &io::Error) -> ApiError {
    failure(format!("cannot {action} {}: {error}", path.display()))
}
