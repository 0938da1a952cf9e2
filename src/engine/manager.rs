//! TorrentManager: brings events to the torrents they belong to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use super::limits::Limits;
use super::rng::Rng;
use super::torrent::Torrent;
use super::{Config, DisconnectReason, Input, Output, ReadError, TorrentStats};
use crate::types::{ConnId, PeerIdentity, ReadId, ReaderId, TorrentKey};

/// All torrents of a node. See the module's page for how to drive it.
#[derive(Debug)]
pub struct TorrentManager {
    config: Config,
    rng: Rng,
    torrents: BTreeMap<TorrentKey, Torrent>,
    /// Every connection from [`Input::Connected`] to [`Input::Disconnected`].
    conns: BTreeMap<ConnId, TorrentKey>,
    readers: BTreeMap<ReaderId, TorrentKey>,
    reads: BTreeMap<ReadId, TorrentKey>,
    banned: BTreeSet<PeerIdentity>,
    limits: Limits,
    /// The share of each window has become smaller.
    windows_too_large: bool,
    outputs: VecDeque<Output>,
}

/// What a torrent may use while it handles something.
pub(super) struct Context<'a> {
    pub(super) now: Instant,
    pub(super) config: &'a Config,
    pub(super) rng: &'a mut Rng,
    pub(super) banned: &'a mut BTreeSet<PeerIdentity>,
    pub(super) limits: &'a mut Limits,
    pub(super) out: &'a mut VecDeque<Output>,
}

impl Context<'_> {
    pub(super) fn disconnect(&mut self, conn: ConnId, reason: DisconnectReason) {
        self.out.push_back(Output::Disconnect { conn, reason });
    }
}

impl TorrentManager {
    /// An engine without torrents. `seed` decides everything that is left to chance.
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            limits: Limits::new(&config),
            windows_too_large: false,
            config,
            rng: Rng::new(seed),
            torrents: BTreeMap::new(),
            conns: BTreeMap::new(),
            readers: BTreeMap::new(),
            reads: BTreeMap::new(),
            banned: BTreeSet::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Something happened at `now`. Times never go back. Inputs about what is not known (any more) are ignored, but a
    /// block is always answered and a read always ends.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::AddById { torrent, id } => {
                self.torrents.entry(torrent).or_insert_with(|| Torrent::new(now, torrent, Some(id)));
            }
            Input::Meet { torrent, meeting } => {
                self.torrents.entry(torrent).or_insert_with(|| Torrent::new(now, torrent, None));
                self.with(now, torrent, |one, ctx| one.meet(ctx, meeting));
            }
            Input::TellRecord { torrent, record } => self.with(now, torrent, |one, ctx| one.tell_record(ctx, record)),
            Input::AskRecord { torrent, seq } => self.with(now, torrent, |one, ctx| one.ask_record(ctx, seq)),
            Input::Open { torrent, metainfo, verified } => {
                self.torrents.entry(torrent).or_insert_with(|| Torrent::new(now, torrent, None));
                self.with(now, torrent, |one, ctx| one.open(ctx, metainfo, verified));
            }
            Input::Remove { torrent } => self.remove(now, torrent),
            Input::SetPrefetch { torrent, prefetch } => {
                self.with(now, torrent, |one, ctx| one.set_prefetch(ctx, prefetch))
            }
            Input::PeerFound { torrent, addr } => self.with(now, torrent, |one, ctx| one.peer_found(ctx, addr)),
            Input::ConnectFailed { torrent, addr } => {
                self.with(now, torrent, |one, ctx| one.connect_failed(ctx, &addr))
            }
            Input::OpenReader { reader, torrent, file, timeout } => {
                self.readers.insert(reader, torrent);
                self.with(now, torrent, |one, ctx| one.open_reader(ctx, reader, file, timeout));
            }
            Input::Connected { .. } => self.connected(now, input),
            Input::Read { .. } | Input::ReadCached { .. } | Input::CancelRead { .. } | Input::CloseReader { .. } => {
                self.reading(now, input)
            }
            Input::Stored { torrent, span, conn, verdict } => {
                self.with(now, torrent, |one, ctx| one.stored(ctx, span, conn, verdict))
            }
            Input::PieceChecked { torrent, piece, outcome } => {
                self.with(now, torrent, |one, ctx| one.piece_checked(ctx, piece.0, outcome))
            }
            Input::Found { torrent, blocks } => self.with(now, torrent, |one, ctx| one.found_here(ctx, &blocks)),
            Input::FetchLeaves { torrent, pieces } => {
                self.with(now, torrent, |one, ctx| one.fetch_leaves(ctx, &pieces))
            }
            Input::Lost { torrent, piece } => self.with(now, torrent, |one, ctx| one.lost(ctx, piece.0)),
            Input::Disconnected { conn }
            | Input::Message { conn, .. }
            | Input::SendRecord { conn, .. }
            | Input::Block { conn, .. }
            | Input::BlockSent { conn, .. }
            | Input::BlockUnreadable { conn, .. } => self.of_connection(now, conn, input),
        }
    }

    /// The time that [`TorrentManager::poll_timeout`] named has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<_> = self.torrents.iter().filter(|(_, one)| one.next_duty() <= now).map(|(key, _)| *key).collect();
        for key in due {
            self.with(now, key, |one, ctx| one.duties(ctx));
        }
        while self.limits.download.is_ready(now)
            && let Some(key) = self.limits.requesters.pop_front()
        {
            self.with(now, key, |one, _| one.take_turn());
        }
        self.send_in_turn(now);
    }

    /// Lets the read-ahead windows of all readers together have `bytes`, so that what is fetched ahead never evicts
    /// what is about to be read: a part of what the cache may hold. Every window gets the same share, 256 KiB at least.
    pub fn set_window_budget(&mut self, bytes: u64) {
        let before = self.limits.window_share();
        self.limits.set_window_budget(bytes);
        self.windows_too_large |= self.limits.window_share() < before;
    }

    /// The next thing to do; `None` when there is nothing until the next input or timeout.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front()?;
        if let Output::ReadReady { read } | Output::ReadFailed { read, .. } = &output {
            self.reads.remove(read);
        }
        Some(output)
    }

    /// When to call [`TorrentManager::handle_timeout`] next. Changes with every input.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let duty = self.torrents.values().map(Torrent::next_duty).min();
        duty.into_iter().chain(self.limits.next_look()).min()
    }

    /// A torrent at `now`, for status.
    pub fn stats(&self, now: Instant, torrent: TorrentKey) -> Option<TorrentStats> {
        self.torrents.get(&torrent).map(|one| one.stats(now))
    }

    /// Runs `action` on a torrent, then lets it use what has changed.
    fn with(&mut self, now: Instant, key: TorrentKey, action: impl FnOnce(&mut Torrent, &mut Context<'_>)) {
        let mut shrink = std::mem::take(&mut self.windows_too_large);
        self.act(now, key, |one, ctx| {
            let (before, share) = (one.open_windows(), ctx.limits.window_share());
            action(one, ctx);
            ctx.limits.open_windows = (ctx.limits.open_windows + one.open_windows()).saturating_sub(before);
            shrink |= ctx.limits.window_share() < share;
            one.schedule(ctx);
        });
        if shrink {
            self.limit_windows(now);
        }
        self.send_in_turn(now);
    }

    /// Makes windows smaller that have more than their share.
    fn limit_windows(&mut self, now: Instant) {
        let keys: Vec<_> = self.torrents.keys().copied().collect();
        for key in keys {
            self.act(now, key, |one, ctx| {
                one.limit_windows(ctx);
                one.schedule(ctx);
            });
        }
    }

    fn act(&mut self, now: Instant, key: TorrentKey, action: impl FnOnce(&mut Torrent, &mut Context<'_>)) {
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        let ctx = &mut Context {
            now,
            config: &self.config,
            rng: &mut self.rng,
            banned: &mut self.banned,
            limits: &mut self.limits,
            out: &mut self.outputs,
        };
        action(torrent, ctx);
    }

    /// Has blocks sent, as far as the limit allows.
    fn send_in_turn(&mut self, now: Instant) {
        while !self.limits.senders.is_empty() && self.limits.upload.is_ready(now) {
            if let Some((key, conn)) = self.limits.senders.pop_front() {
                self.act(now, key, |one, ctx| one.send_in_turn(ctx, conn));
            }
        }
    }

    fn remove(&mut self, now: Instant, torrent: TorrentKey) {
        self.with(now, torrent, |one, ctx| one.close(ctx));
        self.limits.requesters.retain(|of| *of != torrent);
        self.torrents.remove(&torrent);
        self.readers.retain(|_, of| *of != torrent);
    }

    fn connected(&mut self, now: Instant, input: Input) {
        let Input::Connected { conn, torrent, addr, identity, handshake, outgoing } = input else { return };
        self.conns.insert(conn, torrent);
        let refusal = if !self.torrents.contains_key(&torrent) {
            Some(DisconnectReason::Removed)
        } else if self.banned.contains(&identity) {
            Some(DisconnectReason::Banned)
        } else {
            None
        };
        if let Some(reason) = refusal {
            self.outputs.push_back(Output::Disconnect { conn, reason });
            self.with(now, torrent, |one, ctx| one.connect_failed(ctx, &addr));
            return;
        }
        self.with(now, torrent, |one, ctx| one.connected(ctx, conn, addr, identity, &handshake, outgoing));
    }

    fn of_connection(&mut self, now: Instant, conn: ConnId, input: Input) {
        let torrent = match input {
            Input::Disconnected { .. } => self.conns.remove(&conn),
            _ => self.conns.get(&conn).copied(),
        };
        let known = torrent.is_some_and(|key| self.torrents.get(&key).is_some_and(|one| one.has_conn(conn)));
        let Some(torrent) = torrent.filter(|_| known) else {
            if let Input::Block { span, .. } = input {
                self.outputs.push_back(Output::Discard { span });
            }
            return;
        };
        self.with(now, torrent, |one, ctx| match input {
            Input::Disconnected { .. } => one.disconnected(ctx, conn),
            Input::Message { message, .. } => one.message(ctx, conn, message),
            Input::SendRecord { record, .. } => one.send_record(ctx, conn, record),
            Input::Block { span, .. } => one.block(ctx, conn, span),
            Input::BlockSent { span, .. } => one.block_sent(ctx, conn, span),
            Input::BlockUnreadable { span, .. } => one.block_unreadable(ctx, conn, span),
            _ => {}
        });
    }

    fn reading(&mut self, now: Instant, input: Input) {
        match input {
            Input::Read { read, reader, offset, len } => {
                let torrent = self.readers.get(&reader).copied();
                let Some(torrent) = torrent.filter(|key| self.torrents.get(key).is_some_and(|one| one.is_open()))
                else {
                    self.outputs.push_back(Output::ReadFailed { read, reason: ReadError::Closed });
                    return;
                };
                self.reads.insert(read, torrent);
                self.with(now, torrent, |one, ctx| one.read(ctx, read, reader, offset, len));
            }
            Input::ReadCached { reader, offset, len } => {
                let Some(torrent) = self.readers.get(&reader).copied() else { return };
                self.with(now, torrent, |one, ctx| one.read_cached(ctx, reader, offset, len));
            }
            Input::CancelRead { read } => {
                let Some(torrent) = self.reads.remove(&read) else { return };
                self.with(now, torrent, |one, ctx| one.cancel_read(ctx, read));
            }
            Input::CloseReader { reader } => {
                let Some(torrent) = self.readers.remove(&reader) else { return };
                self.with(now, torrent, |one, ctx| one.close_reader(ctx, reader));
            }
            _ => {}
        }
    }
}
