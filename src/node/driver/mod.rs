//! The task that drives the engine: every input passes through here, every output is carried out here.
//!
//! It never waits for a peer or a disk. Connections have tasks of their own ([`super::peer`]), storage is used on
//! blocking threads ([`super::jobs`]), and everything comes back as an [`Event`].

mod connections;
mod message;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tracing::warn;

use super::dials::Dialler;
use super::jobs::{Jobs, PendingRead, StoreJob};
use super::peer::{Outgoing, ReceivedBlock};
use super::slot::{Meeting, TorrentSlot};
use super::storage::TorrentStorage;
use super::warnings::Warnings;
use super::webseed::WebSeeds;
use crate::engine::{self, Input, Output, ReadError, TorrentManager};
use crate::metainfo::Metainfo;
use crate::transports::Transport;
use crate::types::{Bitfield, BlockSpan, ConnId, PeerAddr, ReadId, SwarmId, TorrentKey, WirePeerId};
use crate::vfs::ContentError;

pub(super) use message::{Command, Event, Fetched, MeetingNews, StoredBlock};

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
    /// Where it goes what peers say of datasets; what does not fit is dropped, as peers say it again.
    pub(super) meeting_news: mpsc::Sender<MeetingNews>,
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
            Command::Meet { torrent, swarm, meeting, fetched, sources } => {
                self.meet(now, torrent, swarm, meeting, (fetched, sources));
            }
            Command::TellRecord { torrent, record } => self.tell(now, Input::TellRecord { torrent, record }),
            Command::AskRecord { torrent, seq } => self.tell(now, Input::AskRecord { torrent, seq }),
            Command::SendRecord { conn, record } => self.tell(now, Input::SendRecord { conn, record }),
            Command::Found { torrent, blocks } => self.tell(now, Input::Found { torrent, blocks }),
            Command::FetchLeaves { torrent, pieces } => self.tell(now, Input::FetchLeaves { torrent, pieces }),
            Command::PeerAt { torrent, addr } => self.tell(now, Input::PeerFound { torrent, addr }),
            Command::Prefetch { torrent, prefetch } => {
                let Some(slot) = self.torrents.get_mut(&torrent) else { return };
                // Whoever wants most has it so, and who wants less than usual only while nobody wants more.
                let wanted = slot.prefetch.map_or(prefetch, |before| before.max(prefetch));
                slot.prefetch = Some(wanted);
                self.tell(now, Input::SetPrefetch { torrent, prefetch: wanted });
            }
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

    fn meet(
        &mut self,
        now: Instant,
        torrent: TorrentKey,
        swarm: SwarmId,
        meeting: engine::Meeting,
        (fetched, sources): (Option<oneshot::Sender<Fetched>>, Option<Vec<String>>),
    ) {
        let new = || TorrentSlot::new(torrent, meeting.id, sources);
        let slot = self.torrents.entry(torrent).or_insert_with(new);
        slot.fetched = fetched.or(slot.fetched.take());
        slot.join(&self.parts.meeting, &[swarm]);
        self.tell(now, Input::Meet { torrent, meeting });
    }

    fn news(&self, news: MeetingNews) {
        // Peers say it again, and networks are asked now and then.
        let _ = self.parts.meeting_news.try_send(news);
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
                Output::CheckPiece { torrent, piece, blocks, failed_before } => {
                    if let Some(storage) = self.storage(torrent) {
                        self.jobs.check(torrent, storage, piece, blocks, failed_before);
                    }
                }
                Output::MetainfoFetched { torrent, metainfo } => self.metainfo_fetched(torrent, Ok(metainfo)),
                Output::HybridFound { torrent, swarm } => {
                    if let Some(slot) = self.torrents.get_mut(&torrent) {
                        slot.is_hybrid(&self.parts.meeting, swarm);
                    }
                }
                Output::MetainfoRefused { torrent, reason } => {
                    let reason = format!("the metainfo that peers sent cannot be used: {reason}");
                    self.parts.warnings.add(reason.clone());
                    self.metainfo_fetched(torrent, Err(reason));
                }
                Output::PeerMet { torrent, addr } => self.news(MeetingNews::Met { torrent, addr }),
                Output::RecordHeard { torrent, record } => self.news(MeetingNews::Heard { torrent, record }),
                Output::RecordAsked { torrent, conn, seq } => self.news(MeetingNews::Asked { torrent, conn, seq }),
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
        other @ (ReadError::Timeout { .. } | ReadError::Inconsistent) => ContentError::Unavailable(other.to_string()),
    }
}
