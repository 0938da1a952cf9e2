//! The task that drives the engine: every input passes through here, every output is carried out here.
//!
//! It never waits for a peer or a disk. Connections have tasks of their own ([`super::peer`]), storage is used on
//! blocking threads ([`super::jobs`]), and everything comes back as an [`Event`].

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tracing::{debug, warn};

use super::dials::Dialler;
use super::jobs::{Jobs, PendingRead, StoreJob};
use super::peer::{self, Established, Incoming, Outgoing, ReceivedBlock};
use super::slot::{Meeting, TorrentSlot};
use super::storage::TorrentStorage;
use super::tally::Tally;
use super::warnings::Warnings;
use super::webseed::WebSeeds;
use crate::discovery::{Found, trackers};
use crate::engine::{
    DisconnectReason, Input, Output, PieceOutcome, Prefetch, ReadError, TorrentManager, TorrentStats, Verdict,
};
use crate::metainfo::Metainfo;
use crate::transports::Transport;
use crate::types::{
    Bitfield, BlockSpan, ConnId, FileIndex, InfoId, PeerAddr, PieceIndex, ReadId, ReaderId, SwarmId, TorrentKey,
    WirePeerId,
};
use crate::vfs::ContentError;
use crate::wire::Decoder;

/// Events taken from a queue before outputs of finished storage batches are looked at again.
const EVENTS_AT_ONCE: usize = 64;
/// Events that may wait for the driver; senders wait when it is full.
pub(super) const EVENT_QUEUE: usize = 1024;
/// Commands that may wait for the driver; each stands for a request of the kernel or of a client.
pub(super) const COMMAND_QUEUE: usize = 16 * 1024;
/// Blocks that may be on their way from sockets to storage: 32 MiB.
const RECEIVE_BUDGET_BLOCKS: usize = 2048;
/// How often it is looked whether a torrent has become complete, while anything happens.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What comes back from connections, dials, storage and sources.
pub(super) enum Event {
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
pub(super) struct StoredBlock {
    pub(super) torrent: TorrentKey,
    pub(super) conn: ConnId,
    pub(super) span: BlockSpan,
    pub(super) verdict: Verdict,
}

/// The metainfo that peers sent, or why it cannot be used.
pub(super) type Fetched = Result<Arc<Metainfo>, String>;

/// What the handles of the node ask for.
pub(super) enum Command {
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

/// What the driver is made of.
pub(super) struct Parts {
    pub(super) engine: TorrentManager,
    pub(super) transports: Vec<Arc<dyn Transport>>,
    pub(super) web_seeds: Arc<WebSeeds>,
    pub(super) meeting: Meeting,
    pub(super) peer_id: WirePeerId,
    /// The libp2p peer id.
    pub(super) own_name: String,
    /// Where BitTorrent clients reach this node.
    pub(super) own_addrs: Vec<SocketAddr>,
    pub(super) warnings: Arc<Warnings>,
    pub(super) events: mpsc::Sender<Event>,
}

struct Conn {
    torrent: TorrentKey,
    queue: mpsc::Sender<Outgoing>,
    reader: AbortHandle,
}

/// The driver's state; lives in its task.
pub(super) struct Driver {
    parts: Parts,
    conns: HashMap<ConnId, Conn>,
    torrents: HashMap<TorrentKey, TorrentSlot>,
    reads: HashMap<ReadId, PendingRead>,
    jobs: Jobs,
    next_conn: u64,
    receive_budget: Arc<Semaphore>,
    dialler: Dialler,
    looked: Instant,
}

impl Driver {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            jobs: Jobs::new(parts.events.clone()),
            dialler: Dialler::new(&parts),
            parts,
            conns: HashMap::new(),
            torrents: HashMap::new(),
            reads: HashMap::new(),
            next_conn: 0,
            receive_budget: Arc::new(Semaphore::new(RECEIVE_BUDGET_BLOCKS)),
            looked: Instant::now(),
        }
    }

    /// Runs until every handle of the node is gone.
    pub(super) async fn run(mut self, mut events: mpsc::Receiver<Event>, mut commands: mpsc::Receiver<Command>) {
        let mut event_batch = Vec::with_capacity(EVENTS_AT_ONCE);
        let mut command_batch = Vec::with_capacity(EVENTS_AT_ONCE);
        loop {
            let due = self.parts.engine.poll_timeout();
            tokio::select! {
                biased;
                taken = commands.recv_many(&mut command_batch, EVENTS_AT_ONCE) => {
                    if taken == 0 {
                        break;
                    }
                    let now = Instant::now();
                    command_batch.drain(..).for_each(|command| self.on_command(now, command));
                }
                taken = events.recv_many(&mut event_batch, EVENTS_AT_ONCE) => {
                    if taken == 0 {
                        break;
                    }
                    let now = Instant::now();
                    event_batch.drain(..).for_each(|event| self.on_event(now, event));
                }
                () = sleep_until(due) => {
                    self.parts.engine.handle_timeout(Instant::now());
                    self.carry_out(None);
                }
            }
            self.jobs.dispatch();
            self.look();
        }
        self.conns.values().for_each(|conn| conn.reader.abort());
    }

    /// Tells the engine, then does what it says.
    fn tell(&mut self, now: Instant, input: Input) {
        self.parts.engine.handle(now, input);
        self.carry_out(None);
    }

    fn on_command(&mut self, now: Instant, command: Command) {
        match command {
            Command::AddById { torrent, id, swarms, fetched, sources } => {
                let mut slot = TorrentSlot::new(torrent, id, sources);
                slot.fetched = Some(fetched);
                self.tell(now, Input::AddById { torrent, id });
                slot.join(&self.parts.meeting, &swarms);
                self.torrents.insert(torrent, slot);
            }
            Command::Open { torrent, metainfo, storage, sources } => {
                self.open(now, torrent, metainfo, storage, sources)
            }
            Command::Remove { torrent } => self.remove(now, torrent),
            Command::Prefetch { torrent, prefetch } => self.tell(now, Input::SetPrefetch { torrent, prefetch }),
            Command::Hints { torrent, peers, trackers } => {
                if let Some(slot) = self.torrents.get_mut(&torrent) {
                    slot.add_trackers(&self.parts.meeting, &trackers);
                }
                peers.into_iter().for_each(|addr| self.tell(now, Input::PeerFound { torrent, addr }));
            }
            Command::OpenReader { reader, torrent, file, timeout } => {
                self.tell(now, Input::OpenReader { reader, torrent, file, timeout });
            }
            Command::CloseReader { reader } => self.tell(now, Input::CloseReader { reader }),
            Command::ReadCached { reader, offset, len } => self.tell(now, Input::ReadCached { reader, offset, len }),
            Command::Read { read, pending } => self.read(now, read, pending),
            Command::CacheSize(bytes) => self.parts.engine.set_window_budget(window_budget(bytes)),
            Command::Stats { torrent, reply } => {
                // Whoever asked may have gone.
                let _ = reply.send(self.parts.engine.stats(now, torrent));
            }
        }
    }

    fn on_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Established(peer) => self.connected(now, peer),
            Event::DialFailed { torrent, addr } => self.tell(now, Input::ConnectFailed { torrent, addr }),
            Event::Frames { conn, frames } => self.frames(now, conn, frames),
            Event::Written { conn, blocks } => self.written(now, conn, blocks),
            Event::Gone { conn } => self.gone(now, conn),
            Event::Found(found) => self.found(now, found),
            Event::Stored(blocks) => {
                for StoredBlock { torrent, conn, span, verdict } in blocks {
                    self.tell(now, Input::Stored { torrent, span, conn, verdict });
                }
            }
            Event::Checked { torrent, piece, outcome } => {
                self.tell(now, Input::PieceChecked { torrent, piece, outcome });
            }
            Event::Lost { torrent, piece } => self.tell(now, Input::Lost { torrent, piece }),
            Event::ReadAgain { read, pending } => self.read(now, read, pending),
        }
    }

    fn open(
        &mut self,
        now: Instant,
        torrent: TorrentKey,
        metainfo: Arc<Metainfo>,
        storage: Arc<TorrentStorage>,
        sources: Option<Vec<String>>,
    ) {
        let id = metainfo.info_id();
        let slot = self.torrents.entry(torrent).or_insert_with(|| TorrentSlot::new(torrent, id, sources));
        slot.metainfo = Some(metainfo.clone());
        let verified: Bitfield = storage.verified();
        slot.is_complete = storage.is_complete();
        // A torrent is opened once: the slot was empty.
        let _ = slot.tally.storage.set(storage);
        slot.join(&self.parts.meeting, &metainfo.swarm_ids());
        slot.add_trackers(&self.parts.meeting, &metainfo.hints().trackers);
        self.tell(now, Input::Open { torrent, metainfo, verified });
    }

    fn remove(&mut self, now: Instant, torrent: TorrentKey) {
        let Some(mut slot) = self.torrents.remove(&torrent) else { return };
        slot.leave_all(&self.parts.meeting);
        self.tell(now, Input::Remove { torrent });
    }

    /// Looks now and then whether a torrent has become complete.
    fn look(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.looked) >= LOOK_INTERVAL {
            self.looked = now;
            self.torrents.values_mut().for_each(|slot| slot.completed(&self.parts.meeting));
        }
    }

    fn read(&mut self, now: Instant, read: ReadId, pending: PendingRead) {
        let (reader, offset, len) = (pending.reader, pending.offset, pending.len);
        self.reads.insert(read, pending);
        self.tell(now, Input::Read { read, reader, offset, len });
    }

    fn found(&mut self, now: Instant, found: Found) {
        let Found { swarm, addr, source } = found;
        let own = match &addr {
            PeerAddr::Libp2p(addr) => addr.ends_with(&self.parts.own_name),
            PeerAddr::Socket(addr) => self.parts.own_addrs.contains(addr),
            PeerAddr::Web(_) | PeerAddr::Memory(_) => false,
        };
        let Some(torrent) = self.parts.meeting.swarms.find(swarm).filter(|_| !own) else { return };
        let Some(slot) = self.torrents.get_mut(&torrent) else { return };
        // A source that has not yet heard that the swarm is private may still name peers of it.
        if slot.is_private() && source != trackers::NAME {
            return;
        }
        debug!(%addr, source, "peer found");
        slot.found(&addr, swarm);
        self.tell(now, Input::PeerFound { torrent, addr });
    }

    fn connected(&mut self, now: Instant, peer: Established) {
        let Some(slot) = self.torrents.get(&peer.torrent) else { return };
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let mut decoder = Decoder::new();
        if let Some(metainfo) = &slot.metainfo {
            decoder.set_max_bitfield(metainfo.layout().piece_count());
        }
        let (read_half, write_half) = tokio::io::split(peer.io);
        let (queue, queued) = mpsc::channel(peer::WRITER_QUEUE);
        let events = self.parts.events.clone();
        slot.tally.peers.fetch_add(1, Relaxed);
        tokio::spawn(peer::write_queue(conn, write_half, queued, slot.tally.storage.clone(), events.clone()));
        let reader = tokio::spawn(peer::read_frames(conn, read_half, decoder, self.receive_budget.clone(), events))
            .abort_handle();
        self.conns.insert(conn, Conn { torrent: peer.torrent, queue, reader });
        let Established { torrent, addr, identity, handshake, outgoing, .. } = peer;
        self.tell(now, Input::Connected { conn, torrent, addr, identity, handshake, outgoing });
    }

    fn frames(&mut self, now: Instant, conn: ConnId, frames: Vec<Incoming>) {
        for frame in frames {
            // What a closed connection still had in its buffers is of no use.
            if !self.conns.contains_key(&conn) {
                return;
            }
            match frame {
                Incoming::Message(message) => self.tell(now, Input::Message { conn, message }),
                Incoming::Block(block) => {
                    self.count(conn, |tally| tally.downloaded.fetch_add(block.data.len() as u64, Relaxed));
                    self.parts.engine.handle(now, Input::Block { conn, span: block.span });
                    self.carry_out(Some(block));
                }
            }
        }
    }

    fn written(&mut self, now: Instant, conn: ConnId, blocks: Vec<(BlockSpan, bool)>) {
        if !self.conns.contains_key(&conn) {
            return;
        }
        for (span, sent) in blocks {
            if sent {
                self.count(conn, |tally| tally.uploaded.fetch_add(span.len.into(), Relaxed));
            }
            self.tell(now, if sent { Input::BlockSent { conn, span } } else { Input::BlockUnreadable { conn, span } });
        }
    }

    fn gone(&mut self, now: Instant, conn: ConnId) {
        self.count(conn, |tally| tally.peers.fetch_sub(1, Relaxed));
        if let Some(gone) = self.conns.remove(&conn) {
            gone.reader.abort();
            self.tell(now, Input::Disconnected { conn });
        }
    }

    /// Counts something of a connection's torrent.
    fn count<T>(&self, conn: ConnId, add: impl FnOnce(&Tally) -> T) {
        if let Some(slot) = self.conns.get(&conn).and_then(|conn| self.torrents.get(&conn.torrent)) {
            add(&slot.tally);
        }
    }

    /// Carries out everything that the engine wants done; `payload` is what came with the input just handled.
    fn carry_out(&mut self, mut payload: Option<ReceivedBlock>) {
        while let Some(output) = self.parts.engine.poll_output() {
            match output {
                Output::Connect { torrent, addr } => self.dial(torrent, addr),
                Output::Disconnect { conn, reason } => self.disconnect(conn, &reason),
                Output::Ban { identity, reason } => {
                    self.parts.warnings.add(format!("banned peer {identity}: {reason}"))
                }
                Output::Send { conn, message } => self.queue(conn, Outgoing::Message(message)),
                Output::SendBlock { conn, span } => self.queue(conn, Outgoing::Block(span)),
                Output::SendHashes { conn, request } => self.queue(conn, Outgoing::Hashes(request)),
                Output::Store { torrent, conn, span } => self.store(torrent, conn, span, payload.take()),
                Output::Discard { .. } => payload = None,
                Output::SetLeaves { torrent, piece, leaves } => {
                    if let Some(storage) = self.storage(torrent) {
                        storage.set_leaves(piece, leaves);
                    }
                }
                Output::CheckPiece { torrent, piece, blocks } => {
                    if let Some(storage) = self.storage(torrent) {
                        self.jobs.check(torrent, storage, piece, blocks);
                    }
                }
                Output::MetainfoFetched { torrent, metainfo } => self.metainfo_fetched(torrent, Ok(metainfo)),
                Output::MetainfoRefused { torrent, reason } => {
                    let reason = format!("the metainfo that peers sent cannot be used: {reason}");
                    self.parts.warnings.add(reason.clone());
                    self.metainfo_fetched(torrent, Err(reason));
                }
                Output::ReadReady { read } => {
                    if let Some(pending) = self.reads.remove(&read) {
                        self.jobs.answer(read, pending);
                    }
                }
                Output::ReadFailed { read, reason } => {
                    if let Some(pending) = self.reads.remove(&read) {
                        pending.fail(content_error(reason));
                    }
                }
            }
        }
    }

    fn storage(&self, torrent: TorrentKey) -> Option<Arc<TorrentStorage>> {
        self.torrents.get(&torrent)?.tally.storage.get().cloned()
    }

    fn metainfo_fetched(&mut self, torrent: TorrentKey, metainfo: Fetched) {
        if let Some(fetched) = self.torrents.get_mut(&torrent).and_then(|slot| slot.fetched.take()) {
            // Whoever asked may have given up; the torrent is removed then.
            let _ = fetched.send(metainfo);
        }
    }

    fn store(&mut self, torrent: TorrentKey, conn: ConnId, span: BlockSpan, payload: Option<ReceivedBlock>) {
        match (self.storage(torrent), payload) {
            (Some(storage), Some(block)) => {
                self.jobs.store(StoreJob { torrent, conn, span, storage, data: block.data, permit: block.permit });
            }
            _ => warn!(?span, "a block to store came without its payload or torrent"),
        }
    }

    fn queue(&mut self, conn: ConnId, outgoing: Outgoing) {
        let Some(peer) = self.conns.get(&conn) else { return };
        if peer.queue.try_send(outgoing).is_err() {
            self.disconnect(conn, &DisconnectReason::Protocol("does not read what is sent to it".to_owned()));
        }
    }

    /// Stops both tasks of a connection: the reader at once, the writer after what is queued; the writer's end
    /// brings [`Event::Gone`].
    fn disconnect(&mut self, conn: ConnId, reason: &DisconnectReason) {
        let Some(peer) = self.conns.get(&conn) else { return };
        debug!(conn = conn.0, torrent = peer.torrent.0, %reason, "disconnecting");
        peer.reader.abort();
        let events = self.parts.events.clone();
        tokio::spawn(async move { events.send(Event::Gone { conn }).await });
    }

    fn dial(&self, torrent: TorrentKey, addr: PeerAddr) {
        if let Some(slot) = self.torrents.get(&torrent) {
            self.dialler.dial(slot, addr);
        }
    }
}

/// What may be fetched ahead of all readers together, so that it does not push out what they are about to read.
pub(super) fn window_budget(cache_bytes: u64) -> u64 {
    cache_bytes / 4
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn content_error(reason: ReadError) -> ContentError {
    match reason {
        ReadError::Closed => ContentError::Closed,
        timeout @ ReadError::Timeout { .. } => ContentError::Unavailable(timeout.to_string()),
    }
}
