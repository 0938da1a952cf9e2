//! The task that drives the engine: every input passes through here, every output is carried out here.
//!
//! It never waits for a peer or a disk. Connections have tasks of their own ([`super::peer`]), storage is used on
//! blocking threads ([`super::jobs`]), and everything comes back as an [`Event`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tracing::{debug, warn};

use super::jobs::{Jobs, PendingRead, StoreJob};
use super::peer::{self, Established, Incoming, Outgoing, ReceivedBlock, StorageSlot};
use super::registry::Swarms;
use super::storage::TorrentStorage;
use super::warnings::Warnings;
use crate::discovery::{Found, Source};
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
/// Dials at once.
const DIALS_AT_ONCE: usize = 64;

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

/// What the handles of the node ask for.
pub(super) enum Command {
    AddById { torrent: TorrentKey, id: InfoId, fetched: oneshot::Sender<Arc<Metainfo>>, sources: Option<Vec<String>> },
    Open { torrent: TorrentKey, metainfo: Arc<Metainfo>, storage: Arc<TorrentStorage>, sources: Option<Vec<String>> },
    Remove { torrent: TorrentKey },
    Prefetch { torrent: TorrentKey, prefetch: Prefetch },
    Peers { torrent: TorrentKey, addrs: Vec<PeerAddr> },
    OpenReader { reader: ReaderId, torrent: TorrentKey, file: FileIndex, timeout: std::time::Duration },
    CloseReader { reader: ReaderId },
    ReadCached { reader: ReaderId, offset: u64, len: u32 },
    Read { read: ReadId, pending: PendingRead },
    Stats { torrent: TorrentKey, reply: oneshot::Sender<Option<TorrentStats>> },
}

/// What the driver is made of.
pub(super) struct Parts {
    pub(super) engine: TorrentManager,
    pub(super) transports: Vec<Arc<dyn Transport>>,
    pub(super) sources: Vec<Arc<dyn Source>>,
    pub(super) swarms: Arc<Swarms>,
    pub(super) peer_id: WirePeerId,
    pub(super) own_name: String,
    pub(super) warnings: Arc<Warnings>,
    pub(super) events: mpsc::Sender<Event>,
}

struct Conn {
    torrent: TorrentKey,
    queue: mpsc::Sender<Outgoing>,
    reader: AbortHandle,
}

struct TorrentSlot {
    storage: StorageSlot,
    swarm: SwarmId,
    joined: Vec<SwarmId>,
    sources: Option<Vec<String>>,
    fetched: Option<oneshot::Sender<Arc<Metainfo>>>,
    metainfo: Option<Arc<Metainfo>>,
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
    dials: Arc<Semaphore>,
}

impl Driver {
    pub(super) fn new(parts: Parts) -> Self {
        let jobs = Jobs::new(parts.events.clone());
        Self {
            parts,
            conns: HashMap::new(),
            torrents: HashMap::new(),
            reads: HashMap::new(),
            jobs,
            next_conn: 0,
            receive_budget: Arc::new(Semaphore::new(RECEIVE_BUDGET_BLOCKS)),
            dials: Arc::new(Semaphore::new(DIALS_AT_ONCE)),
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
            Command::AddById { torrent, id, fetched, sources } => self.add_by_id(now, torrent, id, fetched, sources),
            Command::Open { torrent, metainfo, storage, sources } => {
                self.open(now, torrent, metainfo, storage, sources)
            }
            Command::Remove { torrent } => self.remove(now, torrent),
            Command::Prefetch { torrent, prefetch } => self.tell(now, Input::SetPrefetch { torrent, prefetch }),
            Command::Peers { torrent, addrs } => {
                addrs.into_iter().for_each(|addr| self.tell(now, Input::PeerFound { torrent, addr }));
            }
            Command::OpenReader { reader, torrent, file, timeout } => {
                self.tell(now, Input::OpenReader { reader, torrent, file, timeout });
            }
            Command::CloseReader { reader } => self.tell(now, Input::CloseReader { reader }),
            Command::ReadCached { reader, offset, len } => self.tell(now, Input::ReadCached { reader, offset, len }),
            Command::Read { read, pending } => self.read(now, read, pending),
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

    fn add_by_id(
        &mut self,
        now: Instant,
        torrent: TorrentKey,
        id: InfoId,
        fetched: oneshot::Sender<Arc<Metainfo>>,
        sources: Option<Vec<String>>,
    ) {
        let slot = TorrentSlot {
            storage: StorageSlot::default(),
            swarm: id.swarm_id(),
            joined: Vec::new(),
            sources,
            fetched: Some(fetched),
            metainfo: None,
        };
        self.torrents.insert(torrent, slot);
        self.tell(now, Input::AddById { torrent, id });
        self.join(torrent, vec![id.swarm_id()]);
    }

    fn open(
        &mut self,
        now: Instant,
        torrent: TorrentKey,
        metainfo: Arc<Metainfo>,
        storage: Arc<TorrentStorage>,
        sources: Option<Vec<String>>,
    ) {
        let slot = self.torrents.entry(torrent).or_insert_with(|| TorrentSlot {
            storage: StorageSlot::default(),
            swarm: metainfo.info_id().swarm_id(),
            joined: Vec::new(),
            sources,
            fetched: None,
            metainfo: None,
        });
        slot.metainfo = Some(metainfo.clone());
        let verified: Bitfield = storage.verified();
        // A torrent is opened once: the slot was empty.
        let _ = slot.storage.set(storage);
        let swarms = metainfo.swarm_ids();
        self.tell(now, Input::Open { torrent, metainfo, verified });
        self.join(torrent, swarms);
    }

    /// Serves, announces and looks for peers under `swarms` too.
    fn join(&mut self, torrent: TorrentKey, swarms: Vec<SwarmId>) {
        let Some(slot) = self.torrents.get_mut(&torrent) else { return };
        for swarm in swarms {
            if slot.joined.contains(&swarm) {
                continue;
            }
            self.parts.swarms.insert(swarm, torrent);
            slot.joined.push(swarm);
            allowed(&self.parts.sources, slot.sources.as_deref()).for_each(|source| source.join(swarm));
        }
    }

    fn remove(&mut self, now: Instant, torrent: TorrentKey) {
        let Some(slot) = self.torrents.remove(&torrent) else { return };
        for swarm in &slot.joined {
            if self.parts.swarms.remove(*swarm, torrent) {
                allowed(&self.parts.sources, slot.sources.as_deref()).for_each(|source| source.leave(*swarm));
            }
        }
        self.tell(now, Input::Remove { torrent });
    }

    fn read(&mut self, now: Instant, read: ReadId, pending: PendingRead) {
        let (reader, offset, len) = (pending.reader, pending.offset, pending.len);
        self.reads.insert(read, pending);
        self.tell(now, Input::Read { read, reader, offset, len });
    }

    fn found(&mut self, now: Instant, found: Found) {
        let own = matches!(&found.addr, PeerAddr::Libp2p(addr) if addr.ends_with(&self.parts.own_name));
        if let (Some(torrent), false) = (self.parts.swarms.find(found.swarm), own) {
            debug!(addr = %found.addr, source = found.source, "peer found");
            self.tell(now, Input::PeerFound { torrent, addr: found.addr });
        }
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
        tokio::spawn(peer::write_queue(conn, write_half, queued, slot.storage.clone(), events.clone()));
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
            self.tell(now, if sent { Input::BlockSent { conn, span } } else { Input::BlockUnreadable { conn, span } });
        }
    }

    fn gone(&mut self, now: Instant, conn: ConnId) {
        if let Some(gone) = self.conns.remove(&conn) {
            gone.reader.abort();
            self.tell(now, Input::Disconnected { conn });
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
                Output::MetainfoFetched { torrent, metainfo } => self.metainfo_fetched(torrent, metainfo),
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
        self.torrents.get(&torrent)?.storage.get().cloned()
    }

    fn metainfo_fetched(&mut self, torrent: TorrentKey, metainfo: Arc<Metainfo>) {
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
        let Some(slot) = self.torrents.get(&torrent) else { return };
        let transport = self.parts.transports.iter().find(|transport| transport.can_dial(&addr)).cloned();
        let (events, dials) = (self.parts.events.clone(), self.dials.clone());
        let (swarm, peer_id) = (slot.swarm, self.parts.peer_id);
        tokio::spawn(async move {
            let attempt = async {
                let _turn = dials.acquire().await.map_err(|error| error.to_string())?;
                let transport = transport.ok_or("no transport for this kind of address")?;
                let stream = transport.dial(addr.clone(), swarm).await.map_err(|error| error.to_string())?;
                peer::greet(stream, torrent, swarm, peer_id).await.map_err(|error| error.to_string())
            };
            let event = attempt.await.map_or_else(
                |error: String| {
                    debug!(%addr, error, "dial failed");
                    Event::DialFailed { torrent, addr: addr.clone() }
                },
                Event::Established,
            );
            let _ = events.send(event).await;
        });
    }
}

/// The sources that a torrent may use.
fn allowed<'a>(
    sources: &'a [Arc<dyn Source>],
    names: Option<&'a [String]>,
) -> impl Iterator<Item = &'a Arc<dyn Source>> {
    sources.iter().filter(move |source| names.is_none_or(|names| names.iter().any(|name| name == source.name())))
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
