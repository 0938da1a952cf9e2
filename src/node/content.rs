//! A torrent's content, for the filesystem and for `get` and `cat`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
