//! Writing a torrent out into a directory.
//!
//! Files grow under a hidden name beside their destination and get their real name when they are complete, so a
//! half-written download is never mistaken for a whole one.

use std::fs::{self, File};
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
use crate::metainfo::{Entry, EntryKind};
use crate::types::{FileIndex, ReaderId};
use crate::vfs::{Content, ContentError};

/// Bytes of one read.
const CHUNK_LEN: u64 = 1 << 20;
/// Reads in flight.
const CHUNKS_AT_ONCE: usize = 16;
/// How often progress is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Writes every entry of `torrent`, or those that are `selected`, below `dest`; the path of what was made.
pub(super) async fn write_out(
    node: &NodeHandle,
    torrent: &Torrent,
    dest: &Path,
    selected: Option<&[FileIndex]>,
    progress: &ProgressSink,
) -> Result<PathBuf, ApiError> {
    let target = destination(dest, &torrent.metainfo);
    if target.symlink_metadata().is_ok() {
        return Err(ApiError {
            kind: ErrorKind::Usage,
            message: format!(
                "expected nothing at {}, but it exists: move it away or choose another -o",
                target.display()
            ),
        });
    }
    let staging = dest.join(format!(".{}.knot-part", torrent.metainfo.name()));
    let single = is_single_file(torrent);
    let root = if single { dest.to_owned() } else { staging.clone() };
    blocking({
        let root = root.clone();
        move || fs::create_dir_all(root)
    })
    .await?
    .map_err(|error| io_error("create", &root, &error))?;

    let done = Arc::new(Meter::new(node.clone(), torrent.clone(), progress.clone()));
    let is_wanted = |at: usize| selected.is_none_or(|selected| selected.contains(&FileIndex(at as u32)));
    for (at, entry) in torrent.metainfo.entries().iter().enumerate().filter(|(at, _)| is_wanted(*at)) {
        let path = if single { staging.clone() } else { root.join(entry.path.as_str()) };
        write_entry(torrent, FileIndex(at as u32), entry, &path, &done).await?;
    }
    let links = torrent.metainfo.clone();
    blocking(move || make_links(links.entries(), &root)).await??;
    blocking({
        let (staging, target) = (staging, target.clone());
        move || fs::rename(&staging, &target).map_err(|error| io_error("rename to", &target, &error))
    })
    .await??;
    Ok(target)
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
            let mode = file.metadata()?.permissions().mode();
            // Whoever may read it may run it.
            file.set_permissions(fs::Permissions::from_mode(mode | (mode & 0o444) >> 2))?;
        }
        Ok(Arc::new(file))
    };
    make().map_err(|error| io_error("create", path, &error))
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
    let offsets = (0..length.div_ceil(CHUNK_LEN)).map(|chunk| chunk * CHUNK_LEN);
    let copied = stream::iter(offsets)
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
    let (reply, answer) = oneshot::channel();
    let to_answer = Box::new(move |result: Result<Bytes, ContentError>| {
        // Whoever read may have gone.
        let _ = reply.send(result);
    });
    content.read(reader, file, offset, len, to_answer);
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

fn io_error(action: &str, path: &Path, error: &std::io::Error) -> ApiError {
    failure(format!("cannot {action} {}: {error}", path.display()))
}
