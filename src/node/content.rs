//! A torrent's content, for the filesystem and for `get` and `cat`.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::driver::Command;
use super::jobs::PendingRead;
use super::storage::TorrentStorage;
use crate::metainfo::Metainfo;
use crate::types::{FileIndex, ReadId, ReaderId, TorrentKey};
use crate::vfs::{Content, ContentError, ReadReply};

/// Names of readers and reads, unique in the process.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// A torrent with its metainfo and storage; dropped with its last user, and then removed from the engine.
pub(super) struct OpenTorrent {
    pub(super) key: TorrentKey,
    pub(super) metainfo: Arc<Metainfo>,
    pub(super) storage: Arc<TorrentStorage>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) ends: Ends,
    /// What it is a version of: its followers are met for as long as it is open.
    pub(super) dataset: Option<Arc<super::dataset::Dataset>>,
}

impl Drop for OpenTorrent {
    fn drop(&mut self) {
        if let Some(dataset) = &self.dataset {
            dataset.closed(self.key);
        }
        // Without a driver there is nothing to remove it from.
        let _ = self.commands.try_send(Command::Remove { torrent: self.key });
    }
}

/// Bytes at each end of a film or a song that are asked for when it is opened.
const END_LEN: u64 = 64 << 10;
/// Bytes of a file that is worth that.
const MEDIA_LEN: u64 = 4 << 20;
/// What such files are called.
const MEDIA: [&str; 17] = [
    "avi", "flac", "flv", "m2ts", "m4a", "m4v", "mkv", "mov", "mp3", "mp4", "mpeg", "mpg", "ogg", "opus", "ts", "webm",
    "wmv",
];

fn is_media(path: &str) -> bool {
    let extension = path.rsplit_once('.').map(|(_, extension)| extension);
    extension.is_some_and(|extension| MEDIA.iter().any(|media| extension.eq_ignore_ascii_case(media)))
}

/// Of which files the ends were asked for.
#[derive(Default)]
pub(super) struct Ends {
    never: AtomicBool,
    asked: Mutex<HashSet<u32>>,
}

impl Ends {
    /// Nothing is to be fetched that nobody reads.
    pub(super) fn never_ask(&self) {
        self.never.store(true, Ordering::Relaxed);
    }

    /// Whether the ends of a file may be asked for now; once.
    fn may_ask(&self, file: FileIndex) -> bool {
        !self.never.load(Ordering::Relaxed) && self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(file.0)
    }
}

/// A handle that is closed when nothing waits for it any more.
struct EndsReader {
    reader: ReaderId,
    commands: mpsc::Sender<Command>,
}

impl Drop for EndsReader {
    fn drop(&mut self) {
        let _ = self.commands.try_send(Command::CloseReader { reader: self.reader });
    }
}

/// The content as one user reads it, with a read timeout of its own.
pub(super) struct TorrentContent {
    pub(super) torrent: Arc<OpenTorrent>,
    /// Keeps the torrent's names in the registry.
    pub(super) _entry: Arc<super::registry::Entry>,
    pub(super) read_timeout: Duration,
}

impl TorrentContent {
    /// `len`, cut at the end of the file.
    fn clamp(&self, file: FileIndex, offset: u64, len: u32) -> u32 {
        let rest = self.torrent.metainfo.layout().file_length(file).saturating_sub(offset);
        u64::from(len).min(rest) as u32
    }

    /// Asks for the ends of a film or a song when it is opened for the first time: players read the index there before
    /// anything else, one end after the other.
    fn ask_ends(&self, file: FileIndex) {
        let torrent = &self.torrent;
        let (metainfo, storage) = (&torrent.metainfo, &torrent.storage);
        let length = metainfo.layout().file_length(file);
        let is_media = metainfo.entry(file).is_some_and(|entry| is_media(entry.path.as_str()));
        if !is_media || length < MEDIA_LEN || !torrent.ends.may_ask(file) || storage.is_complete() {
            return;
        }
        let reader = ReaderId(next_id());
        let (key, timeout) = (torrent.key, self.read_timeout);
        if self.send(Command::OpenReader { reader, torrent: key, file, timeout }).is_err() {
            return;
        }
        let open = Arc::new(EndsReader { reader, commands: torrent.commands.clone() });
        for offset in [0, length - END_LEN] {
            let open = open.clone();
            self.read(reader, file, offset, END_LEN as u32, Box::new(move |_| drop(open)));
        }
    }

    fn send(&self, command: Command) -> Result<(), ContentError> {
        self.torrent.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ContentError::Unavailable("too many reads are waiting".to_owned()),
            mpsc::error::TrySendError::Closed(_) => ContentError::Closed,
        })
    }
}

impl Content for TorrentContent {
    fn open(&self, file: FileIndex) -> ReaderId {
        let reader = ReaderId(next_id());
        let (torrent, timeout) = (self.torrent.key, self.read_timeout);
        // If the driver is gone, the first read says so.
        let _ = self.send(Command::OpenReader { reader, torrent, file, timeout });
        self.ask_ends(file);
        reader
    }

    fn close(&self, reader: ReaderId) {
        let _ = self.send(Command::CloseReader { reader });
    }

    fn read_cached(&self, reader: ReaderId, file: FileIndex, offset: u64, len: u32) -> Option<Bytes> {
        let len = self.clamp(file, offset, len);
        if len == 0 {
            return Some(Bytes::new());
        }
        // A storage error is met again, and reported, by `read`.
        let bytes = self.torrent.storage.read_verified(file, offset, len).ok()??;
        if !self.torrent.storage.is_complete() {
            let _ = self.send(Command::ReadCached { reader, offset, len });
        }
        Some(bytes)
    }

    fn read(&self, reader: ReaderId, file: FileIndex, offset: u64, len: u32, reply: ReadReply) {
        let len = self.clamp(file, offset, len);
        if len == 0 {
            return reply(Ok(Bytes::new()));
        }
        let pending =
            PendingRead::new(self.torrent.key, self.torrent.storage.clone(), reader, (file, offset, len), reply);
        // A command that cannot be sent drops the read, which ends it.
        let _ = self.send(Command::Read { read: ReadId(next_id()), pending });
    }

    fn cached_bytes(&self, file: FileIndex) -> u64 {
        self.torrent.storage.cached_bytes(file)
    }
}
