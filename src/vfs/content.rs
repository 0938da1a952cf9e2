//! What a filesystem needs from whoever holds the bytes.

use bytes::Bytes;

use crate::types::{FileIndex, ReaderId};

/// The content of one torrent, read by file. Implemented by the node; none of its methods waits for the swarm.
pub trait Content: Send + Sync + 'static {
    /// A handle on `file`, with a read-ahead window of its own.
    fn open(&self, file: FileIndex) -> ReaderId;

    /// Ends a handle; its pending reads fail.
    fn close(&self, reader: ReaderId);

    /// The bytes, if all of them are verified and on this machine; `None` if a peer has to be asked.
    /// `len` is cut at the end of the file.
    fn read_cached(&self, reader: ReaderId, file: FileIndex, offset: u64, len: u32) -> Option<Bytes>;

    /// Calls `reply` once, from any thread: with the bytes when they are verified, else with an error after the
    /// read timeout at the latest. `len` is cut at the end of the file.
    fn read(&self, reader: ReaderId, file: FileIndex, offset: u64, len: u32, reply: ReadReply);

    /// Verified bytes of `file` on this machine.
    fn cached_bytes(&self, file: FileIndex) -> u64;
}

/// Where the bytes of a read go.
pub type ReadReply = Box<dyn FnOnce(Result<Bytes, ContentError>) + Send>;

/// Why a read came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// No peer delivered in time.
    #[error("{0}")]
    Unavailable(String),
    /// The storage failed.
    #[error("{0}")]
    Storage(String),
    /// The handle or the torrent was closed.
    #[error("closed while a read was waiting")]
    Closed,
}
