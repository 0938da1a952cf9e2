//! What reaches the driver.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::discovery::Found;
use crate::engine::{Meeting, PieceOutcome, Prefetch, TorrentStats, Verdict};
use crate::metainfo::Metainfo;
use crate::node::jobs::PendingRead;
use crate::node::peer::{Established, Incoming};
use crate::node::storage::TorrentStorage;
use crate::types::{BlockSpan, ConnId, FileIndex, InfoId, PeerAddr, PieceIndex, ReadId, ReaderId, SwarmId, TorrentKey};

/// What comes back from connections, dials, storage and sources.
pub(in crate::node) enum Event {
    Established(Established),
    DialFailed { torrent: TorrentKey, addr: PeerAddr },
    Frames { conn: ConnId, frames: Vec<Incoming> },
    Written { conn: ConnId, blocks: Vec<(BlockSpan, bool)> },
    Gone { conn: ConnId },
    Found(Found),
    Stored(Vec<StoredBlock>),
    Checked { torrent: TorrentKey, piece: PieceIndex, outcome: PieceOutcome },
    Lost { torrent: TorrentKey, piece: PieceIndex },
    ReadAgain { read: ReadId, pending: PendingRead },
}

/// What became of a block.
pub(in crate::node) struct StoredBlock {
    pub(in crate::node) torrent: TorrentKey,
    pub(in crate::node) conn: ConnId,
    pub(in crate::node) span: BlockSpan,
    pub(in crate::node) verdict: Verdict,
}

/// The metainfo that peers sent, or why it cannot be used.
pub(in crate::node) type Fetched = Result<Arc<Metainfo>, String>;

/// What the handles of the node ask for.
pub(in crate::node) enum Command {
    AddById {
        torrent: TorrentKey,
        id: InfoId,
        /// What it may be served and looked for under.
        swarms: Vec<SwarmId>,
        fetched: oneshot::Sender<Fetched>,
        sources: Option<Vec<String>>,
    },
    Open {
        torrent: TorrentKey,
        metainfo: Arc<Metainfo>,
        storage: Arc<TorrentStorage>,
        sources: Option<Vec<String>>,
    },
    Remove {
        torrent: TorrentKey,
    },
    /// The place where those meet who follow a dataset; said again when something changes.
    Meet {
        torrent: TorrentKey,
        swarm: SwarmId,
        meeting: Meeting,
        /// The metainfo of the first version, where it is searched.
        fetched: Option<oneshot::Sender<Fetched>>,
        sources: Option<Vec<String>>,
    },
    /// The newest update record of a dataset, for those who meet there.
    TellRecord {
        torrent: TorrentKey,
        record: Bytes,
    },
    AskRecord {
        torrent: TorrentKey,
        seq: u64,
    },
    SendRecord {
        conn: ConnId,
        record: Option<Bytes>,
    },
    /// Blocks that storage has verified though no peer sent them.
    Found {
        torrent: TorrentKey,
        blocks: Vec<BlockSpan>,
    },
    /// Leaf hashes are wanted of pieces that nobody reads.
    FetchLeaves {
        torrent: TorrentKey,
        pieces: Vec<PieceIndex>,
    },
    /// Where a peer of the torrent is; more are known.
    PeerAt {
        torrent: TorrentKey,
        addr: PeerAddr,
    },
    Prefetch {
        torrent: TorrentKey,
        prefetch: Prefetch,
    },
    /// What somebody knows who asks for the torrent.
    Hints {
        torrent: TorrentKey,
        peers: Vec<PeerAddr>,
        trackers: Vec<Vec<String>>,
    },
    OpenReader {
        reader: ReaderId,
        torrent: TorrentKey,
        file: FileIndex,
        timeout: Duration,
    },
    CloseReader {
        reader: ReaderId,
    },
    ReadCached {
        reader: ReaderId,
        offset: u64,
        len: u32,
    },
    Read {
        read: ReadId,
        pending: PendingRead,
    },
    /// What the cache may hold has changed, in bytes.
    CacheSize(u64),
    Stats {
        torrent: TorrentKey,
        reply: oneshot::Sender<Option<TorrentStats>>,
    },
}

/// What peers say where the followers of a dataset meet.
pub(in crate::node) enum MeetingNews {
    /// One is there, whom content may be had from.
    Met { torrent: TorrentKey, addr: PeerAddr },
    /// One says what the newest version is, or that it knows of none.
    Heard { torrent: TorrentKey, record: Option<Bytes> },
    /// One wants the record of a version.
    Asked { torrent: TorrentKey, conn: ConnId, seq: u64 },
}
