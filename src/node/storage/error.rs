//! Why storage failed, and what it has to say unasked.

use std::io;
use std::path::PathBuf;

use crate::index::IndexError;
use crate::types::{PieceIndex, TorrentKey};

/// Why storage could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StorageError {
    /// A file or directory failed.
    #[error("cannot {action} {path:?}: {error}", path = .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Hashing was broken off by its caller.
    #[error("stopped before everything was hashed")]
    Cancelled,
}

/// Something that happened in storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoreEvent {
    /// Verified blocks of a piece are gone (evicted, damaged, changed by somebody else): regard all of its blocks as
    /// missing.
    Lost {
        /// Which torrent.
        torrent: TorrentKey,
        /// Which piece.
        piece: PieceIndex,
    },
    /// Something that the user should know.
    Warning(String),
}

/// Who is told of events: from any thread, also in the middle of a read or write. Must return at once and must not
/// call storage.
pub(crate) type EventSink = Box<dyn Fn(StoreEvent) + Send + Sync>;
