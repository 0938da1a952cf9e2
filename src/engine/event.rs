//! What goes into the engine and what comes out of it.
//!
//! The driver owns sockets, disks and clocks. It turns what happens there into [`Input`]s and carries out
//! [`Output`]s. Payload bytes stay with the driver: the engine sees spans and verdicts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::metainfo::Metainfo;
use crate::types::{
    Bitfield, BlockSpan, ConnId, FileIndex, InfoId, PeerAddr, PeerIdentity, PieceIndex, ReadId, ReaderId, SwarmId,
    TorrentKey,
};
use crate::wire::{Handshake, Message};

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// The user wants a torrent of which only the id is known: find peers, fetch the metainfo.
    AddById {
        /// The driver's name for it.
        torrent: TorrentKey,
        /// What its metainfo must match.
        id: InfoId,
    },
    /// The place where those meet who follow a dataset; said again when something changes.
    Meet {
        /// The driver's name for it; no content is exchanged under it.
        torrent: TorrentKey,
        /// What is to happen there.
        meeting: Meeting,
    },
    /// The newest update record of a dataset: peers hear of it at once.
    TellRecord {
        /// Where its followers meet.
        torrent: TorrentKey,
        /// The verified record.
        record: Bytes,
    },
    /// The update record of a version is wanted; those that peers have come as [`Output::RecordHeard`].
    AskRecord {
        /// Where its followers meet.
        torrent: TorrentKey,
        /// Which version.
        seq: u64,
    },
    /// The answer to [`Output::RecordAsked`].
    SendRecord {
        /// To whom.
        conn: ConnId,
        /// The record, if there is one.
        record: Option<Bytes>,
    },
    /// A torrent with its metainfo; answers [`Output::MetainfoFetched`] or comes without one.
    Open {
        /// The driver's name for it; new, or one that was added by id.
        torrent: TorrentKey,
        /// The verified metainfo.
        metainfo: Arc<Metainfo>,
        /// Blocks that storage holds verified, by running block number
        /// ([`crate::metainfo::Layout::block_number`]).
        verified: Bitfield,
    },
    /// Forget a torrent: its connections close, its reads fail.
    Remove {
        /// Which.
        torrent: TorrentKey,
    },
    /// What to fetch beyond what is read.
    SetPrefetch {
        /// Which torrent.
        torrent: TorrentKey,
        /// How much of it.
        prefetch: Prefetch,
    },

    /// A source named a peer.
    PeerFound {
        /// Of which torrent.
        torrent: TorrentKey,
        /// Where.
        addr: PeerAddr,
    },
    /// A handshake has completed, in either direction.
    Connected {
        /// The driver's name for the connection; never used again after [`Input::Disconnected`].
        conn: ConnId,
        /// The torrent whose swarm id both sides named.
        torrent: TorrentKey,
        /// Where the peer was reached, or came from.
        addr: PeerAddr,
        /// What a ban would apply to.
        identity: PeerIdentity,
        /// What the peer said.
        handshake: Handshake,
        /// Whether this side dialled.
        outgoing: bool,
    },
    /// A dial asked for by [`Output::Connect`] came to nothing.
    ConnectFailed {
        /// Of which torrent.
        torrent: TorrentKey,
        /// Where.
        addr: PeerAddr,
    },
    /// A connection is over, whoever ended it.
    Disconnected {
        /// Which.
        conn: ConnId,
    },
    /// A message without payload bytes.
    Message {
        /// From whom.
        conn: ConnId,
        /// Any message but `piece`.
        message: Message,
    },
    /// A `piece` message. The driver holds the payload until the engine answers, in this very call, with
    /// [`Output::Store`] or [`Output::Discard`].
    Block {
        /// From whom.
        conn: ConnId,
        /// What it claims to be.
        span: BlockSpan,
    },
    /// An [`Output::SendBlock`] has left for the socket.
    BlockSent {
        /// To whom.
        conn: ConnId,
        /// What.
        span: BlockSpan,
    },
    /// An [`Output::SendBlock`] could not be read from storage: answer with a reject.
    BlockUnreadable {
        /// To whom.
        conn: ConnId,
        /// What.
        span: BlockSpan,
    },

    /// The outcome of an [`Output::Store`].
    Stored {
        /// Which torrent.
        torrent: TorrentKey,
        /// What.
        span: BlockSpan,
        /// From whom it came.
        conn: ConnId,
        /// What became of it.
        verdict: Verdict,
    },
    /// The outcome of an [`Output::CheckPiece`].
    PieceChecked {
        /// Which torrent.
        torrent: TorrentKey,
        /// Which piece.
        piece: PieceIndex,
        /// Whether its hash matched.
        outcome: PieceOutcome,
    },
    /// Storage has blocks verified that came another way than from peers.
    Found {
        /// Which torrent.
        torrent: TorrentKey,
        /// Which blocks.
        blocks: Vec<BlockSpan>,
    },
    /// The leaf hashes of pieces are wanted, though nobody reads them; those that peers tell come as
    /// [`Output::SetLeaves`].
    FetchLeaves {
        /// Which torrent.
        torrent: TorrentKey,
        /// Which pieces.
        pieces: Vec<PieceIndex>,
    },
    /// Storage gave up a piece (eviction, a damaged cache, a changed source): all its blocks are missing again,
    /// verified or not. To be put in before a read that found them gone is tried again.
    Lost {
        /// Which torrent.
        torrent: TorrentKey,
        /// Which piece: all its blocks.
        piece: PieceIndex,
    },

    /// A file was opened for reading.
    OpenReader {
        /// The driver's name for the handle.
        reader: ReaderId,
        /// Which torrent.
        torrent: TorrentKey,
        /// Which file; the read-ahead window stays inside it.
        file: FileIndex,
        /// How long a read of this handle waits without progress.
        timeout: Duration,
    },
    /// A read that storage could not answer from verified blocks.
    Read {
        /// The driver's name for it.
        read: ReadId,
        /// The handle.
        reader: ReaderId,
        /// First byte, counted from the start of the file.
        offset: u64,
        /// Bytes, inside the file.
        len: u32,
    },
    /// A read that storage answered at once: moves the window, waits for nothing.
    ReadCached {
        /// The handle.
        reader: ReaderId,
        /// First byte, counted from the start of the file.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Nobody waits for this read any more.
    CancelRead {
        /// Which.
        read: ReadId,
    },
    /// The handle was closed: its reads fail, its window goes.
    CloseReader {
        /// Which.
        reader: ReaderId,
    },
}

/// What happens where the followers of a dataset meet.
#[derive(Clone, Debug)]
pub struct Meeting {
    /// The dataset: its original InfoSig.
    pub id: InfoId,
    /// Whether the metainfo of its first version is wanted; it comes as [`Output::MetainfoFetched`].
    pub search: bool,
    /// The metainfo of its first version, for peers that want it.
    pub envelope: Option<Bytes>,
}

/// What a torrent fetches though nobody has read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefetch {
    /// Nothing: only the blocks that reads wait for.
    None,
    /// What a handle that reads in sequence will want next.
    #[default]
    Window,
    /// That, and with idle capacity all of every file that was opened, rarest first.
    File,
    /// That, and with idle capacity everything, rarest first.
    All,
}

impl Prefetch {
    /// Whether idle capacity is used.
    pub(super) fn is_bulk(self) -> bool {
        self >= Self::File
    }
}

pub use crate::types::{PieceOutcome, Verdict};

/// Something to do.
#[derive(Debug)]
pub enum Output {
    /// Dial a peer and shake hands.
    Connect {
        /// For which torrent.
        torrent: TorrentKey,
        /// Where.
        addr: PeerAddr,
    },
    /// Close a connection; [`Input::Disconnected`] follows.
    Disconnect {
        /// Which.
        conn: ConnId,
        /// Why, for the log.
        reason: DisconnectReason,
    },
    /// Close every connection of a peer and take no new one.
    Ban {
        /// Whom.
        identity: PeerIdentity,
        /// What it did, for the user.
        reason: String,
    },
    /// Send a message without payload bytes.
    Send {
        /// To whom.
        conn: ConnId,
        /// What.
        message: Message,
    },
    /// Read a block from storage, zeros where it is padding, and send it; [`Input::BlockSent`] or [`Input::BlockUnreadable`] follows.
    SendBlock {
        /// To whom.
        conn: ConnId,
        /// What.
        span: BlockSpan,
    },
    /// Answer a BEP 52 hash request from storage with `hashes`, or with `hash reject`.
    SendHashes {
        /// To whom.
        conn: ConnId,
        /// The request.
        request: crate::wire::HashRequest,
    },
    /// Keep the payload of the [`Input::Block`] just handled; [`Input::Stored`] follows.
    Store {
        /// Which torrent.
        torrent: TorrentKey,
        /// From whom it came.
        conn: ConnId,
        /// What.
        span: BlockSpan,
    },
    /// Drop the payload of the [`Input::Block`] just handled.
    Discard {
        /// What.
        span: BlockSpan,
    },
    /// The leaf hashes of a piece, verified against the metainfo: verify its blocks with them from now on.
    SetLeaves {
        /// Which torrent.
        torrent: TorrentKey,
        /// Which piece.
        piece: PieceIndex,
        /// One hash a block.
        leaves: Arc<[[u8; 32]]>,
    },
    /// Verify the unverified blocks of a piece; [`Input::PieceChecked`] follows.
    CheckPiece {
        /// Which torrent.
        torrent: TorrentKey,
        /// Which piece.
        piece: PieceIndex,
        /// The blocks that were stored unverified: all of them but padding, or some where leaf hashes are known.
        blocks: Vec<BlockSpan>,
        /// It was [`PieceOutcome::Corrupt`] before: if it is right now, [`PieceOutcome::VerifiedAfter`] tells what it is.
        failed_before: bool,
    },
    /// The metainfo of a torrent that was added by id, verified against the id; [`Input::Open`] follows.
    MetainfoFetched {
        /// Which torrent.
        torrent: TorrentKey,
        /// The envelope.
        metainfo: Arc<Metainfo>,
    },
    /// The torrent that was added by its v1 infohash is hybrid: its peers are in the swarm of the v2 infohash too, and
    /// those in the v1 swarm may change to that one.
    HybridFound {
        /// Which torrent.
        torrent: TorrentKey,
        /// The swarm of its v2 infohash.
        swarm: SwarmId,
    },
    /// The metainfo of a torrent that was added by id has come, and cannot be used: nothing more is tried.
    MetainfoRefused {
        /// Which torrent.
        torrent: TorrentKey,
        /// Why, for the user.
        reason: String,
    },
    /// A peer follows the dataset, too. It may have content of any version.
    PeerMet {
        /// Where it was met.
        torrent: TorrentKey,
        /// Where it can be dialled.
        addr: PeerAddr,
    },
    /// A peer says which version it takes for the newest, or answers [`Input::AskRecord`]: unverified.
    RecordHeard {
        /// Where the followers meet.
        torrent: TorrentKey,
        /// The record; `None` if it knows of none.
        record: Option<Bytes>,
    },
    /// A peer wants the record of a version; [`Input::SendRecord`] follows.
    RecordAsked {
        /// Where the followers meet.
        torrent: TorrentKey,
        /// Who.
        conn: ConnId,
        /// Which version.
        seq: u64,
    },
    /// Every byte of the read is verified in storage.
    ReadReady {
        /// Which.
        read: ReadId,
    },
    /// The read came to nothing.
    ReadFailed {
        /// Which.
        read: ReadId,
        /// Why.
        reason: ReadError,
    },
}

/// Why a connection is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DisconnectReason {
    /// It broke the protocol.
    #[error("protocol violation: {0}")]
    Protocol(String),
    /// It, or we, have all that the other wants.
    #[error("neither side has anything for the other")]
    NoUse,
    /// It said nothing for too long.
    #[error("silent for {0:?}")]
    Silent(Duration),
    /// A second connection to the same peer.
    #[error("already connected to this peer")]
    Duplicate,
    /// The peer is banned.
    #[error("banned")]
    Banned,
    /// The peer may change to v2: it is dialled anew.
    #[error("to be dialled anew for v2")]
    Upgrade,
    /// There are enough connections.
    #[error("too many connections")]
    TooMany,
    /// The torrent is gone.
    #[error("torrent removed")]
    Removed,
}

/// Why a read failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nothing of it arrived for as long as the read timeout allows.
    #[error("no progress for {timeout:?} ({peers} connected peers); check the network, or give --peer ADDR")]
    Timeout {
        /// The read timeout.
        timeout: Duration,
        /// Peers that were connected when it ran out.
        peers: usize,
    },
    /// The torrent is a hybrid one that contradicts itself: its publisher's fault.
    #[error("the torrent is inconsistent: its v1 and its v2 hashes are of different content; ask its publisher")]
    Inconsistent,
    /// The reader or its torrent was closed.
    #[error("the file was closed while a read was waiting")]
    Closed,
}
