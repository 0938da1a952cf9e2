//! A node: an engine, a model of its storage, its applications, and how it behaves towards others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::{Event, Net, PORT, Spec, Storage, TORRENT, all_blocks, blocks_of, corrupted, wire_id};
use crate::engine::sim::Held;
use crate::engine::{Config, Input, Output, TorrentManager, Verdict};
use crate::types::{Bitfield, BlockIndex, BlockSpan, ConnId, FileIndex, PeerIdentity, PieceIndex, ReadId, ReaderId};
use crate::wire::Message;

/// How a node behaves towards others. The default is honest.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::engine) struct Conduct {
    /// Of a thousand blocks, so many are wrong.
    pub(in crate::engine) corrupt: u64,
    /// Hashes are wrong.
    pub(in crate::engine) lies_about_hashes: bool,
    /// Hash requests are rejected: allowed, if unhelpful.
    pub(in crate::engine) rejects_hashes: bool,
    /// From this time on nothing asked for is sent, without a word.
    pub(in crate::engine) stalls_after: Option<Duration>,
    /// No fast extension, no extension protocol, no hash messages: the protocol of 2001.
    pub(in crate::engine) plain: bool,
    /// Of a thousand blocks, storage fails to keep so many.
    pub(in crate::engine) storage_fails: u64,
    /// Metainfo messages are wrong.
    pub(in crate::engine) lies_about_metainfo: bool,
}

impl Conduct {
    pub(in crate::engine) fn is_honest(&self) -> bool {
        self.corrupt == 0 && !self.lies_about_hashes && !self.lies_about_metainfo
    }
}

/// What an application reads.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct App {
    pub(in crate::engine) file: FileIndex,
    pub(in crate::engine) offset: u64,
    pub(in crate::engine) len: u64,
    pub(in crate::engine) chunk: u32,
    /// Reads in flight: the kernel's read-ahead.
    pub(in crate::engine) ahead: usize,
    /// Reads of a batch come in any order.
    pub(in crate::engine) shuffled: bool,
    /// Bytes a second that it takes in; 0 for all it can get.
    pub(in crate::engine) rate: f64,
    pub(in crate::engine) timeout: Duration,
}

impl App {
    pub(in crate::engine) fn file(file: u32, len: u64) -> Self {
        Self {
            file: FileIndex(file),
            offset: 0,
            len,
            chunk: 128 << 10,
            ahead: 4,
            shuffled: false,
            rate: 0.0,
            timeout: Duration::from_secs(60),
        }
    }
}

/// An application at work.
#[derive(Debug)]
pub(in crate::engine) struct Reading {
    app: App,
    reader: ReaderId,
    todo: VecDeque<(u64, u32)>,
    pub(in crate::engine) pending: BTreeMap<ReadId, (u64, u32, Instant)>,
    /// Time that each read took.
    pub(in crate::engine) waits: Vec<Duration>,
    pub(in crate::engine) failed: usize,
    /// When a reader of a fixed rate may go on.
    next: Option<Instant>,
}

impl Reading {
    pub(in crate::engine) fn new(app: App) -> Self {
        let (reader, todo) = (ReaderId(0), VecDeque::new());
        Self { app, reader, todo, pending: BTreeMap::new(), waits: Vec::new(), failed: 0, next: None }
    }

    pub(in crate::engine) fn is_finished(&self) -> bool {
        self.todo.is_empty() && self.pending.is_empty()
    }

    /// Goes somewhere else: what was to be read is not any more.
    pub(in crate::engine) fn seek(&mut self, offset: u64, len: u32) {
        self.todo = [(offset, len)].into();
    }
}

/// A node of the swarm.
pub(in crate::engine) struct Node {
    pub(in crate::engine) at: usize,
    pub(in crate::engine) engine: TorrentManager,
    pub(in crate::engine) storage: Storage,
    pub(in crate::engine) conduct: Conduct,
    pub(in crate::engine) apps: Vec<Reading>,
    pub(in crate::engine) banned: BTreeSet<PeerIdentity>,
    /// Quality of the block being handled.
    arriving: Option<bool>,
    timer: Option<Instant>,
    next_read: u64,
    /// The metainfo came from peers.
    pub(in crate::engine) fetched_metainfo: bool,
}

impl Node {
    pub(in crate::engine) fn new(net: &mut Net, at: usize, spec: Spec) -> Self {
        let mut config = Config { peer_id: wire_id(at), listen_port: Some(PORT), ..Config::default() };
        (spec.tune)(&mut config);
        let mut node = Self {
            at,
            engine: TorrentManager::new(config, net.rng.next()),
            storage: Storage::default(),
            conduct: spec.conduct,
            apps: Vec::new(),
            banned: BTreeSet::new(),
            arriving: None,
            timer: None,
            next_read: 1,
            fetched_metainfo: false,
        };
        let layout = net.metainfo.layout();
        let verified = if spec.seeds { all_blocks(&net.metainfo) } else { Bitfield::new(layout.block_numbers()) };
        if spec.seeds {
            for number in verified.iter() {
                let stride = layout.blocks_per_piece();
                node.storage.blocks.insert((number / stride, number % stride * 16384), Held::Verified);
            }
        }
        // Padding is always there.
        node.storage.blocks.extend(layout.padding_blocks().map(|span| ((span.piece.0, span.begin), Held::Verified)));
        let input = if spec.by_id {
            Input::AddById { torrent: TORRENT, id: net.metainfo.info_id() }
        } else {
            Input::Open { torrent: TORRENT, metainfo: net.metainfo.clone(), verified }
        };
        node.handle(net, input);
        node
    }

    pub(in crate::engine) fn verified_bytes(&self, net: &Net) -> u64 {
        let layout = net.metainfo.layout();
        let verified = self.storage.blocks.iter().filter(|(_, held)| **held == Held::Verified);
        let span = |piece, begin| layout.block_span(PieceIndex(piece), BlockIndex(begin / 16384));
        verified.map(|((piece, begin), _)| u64::from(span(*piece, *begin).len)).sum()
    }

    pub(in crate::engine) fn on_event(&mut self, net: &mut Net, event: Event) {
        match event {
            Event::Input(input) => {
                if let Input::Message { conn, .. } = &input
                    && !net.is_open(*conn)
                {
                    return;
                }
                self.handle(net, input);
            }
            Event::Block { conn, span, good } => {
                if net.is_open(conn) {
                    net.check.block_arrives(conn, span);
                    self.arriving = Some(good);
                    self.handle(net, Input::Block { conn, span });
                    assert_eq!(self.arriving, None, "every block is answered in the same call");
                }
            }
            Event::Timeout => {
                if self.timer.is_some_and(|at| at <= net.now) {
                    self.timer = None;
                    self.engine.handle_timeout(net.now);
                    self.drain(net);
                }
            }
            Event::App => self.go_on(net),
            Event::Evict => self.evict(net),
            Event::Die | Event::Revive => {}
        }
    }

    pub(in crate::engine) fn handle(&mut self, net: &mut Net, input: Input) {
        net.check.input(net.start, net.now, self.at, &input);
        self.engine.handle(net.now, input);
        self.drain(net);
    }

    fn drain(&mut self, net: &mut Net) {
        while let Some(output) = self.engine.poll_output() {
            net.check.output(net.start, net.now, self.at, &output, &self.storage);
            self.carry_out(net, output);
        }
        let wanted = self.engine.poll_timeout();
        if let Some(at) = wanted.filter(|at| self.timer.is_none_or(|timer| *at < timer)) {
            self.timer = Some(at);
            net.schedule(at.max(net.now), self.at, Event::Timeout);
        }
    }

    fn stalls(&self, net: &Net) -> bool {
        self.conduct.stalls_after.is_some_and(|after| net.now - net.start >= after)
    }

    fn carry_out(&mut self, net: &mut Net, output: Output) {
        match output {
            Output::Connect { addr, .. } => net.dial(self.at, addr),
            Output::Disconnect { conn, .. } => net.hang_up(conn),
            Output::Ban { identity, .. } => {
                self.banned.insert(identity);
            }
            Output::Send { conn, message } => self.send(net, conn, message),
            Output::SendBlock { conn, span } => {
                if !self.storage.is_verified(span) {
                    // Evicted a moment ago.
                    return net.soon(self.at, Event::Input(Input::BlockUnreadable { conn, span }));
                }
                if self.stalls(net) {
                    return;
                }
                let good = net.rng.below(1000) >= self.conduct.corrupt;
                let left = net.send(conn, span.len, |conn| Event::Block { conn, span, good });
                net.schedule(left, self.at, Event::Input(Input::BlockSent { conn, span }));
            }
            Output::SendHashes { conn, request } => {
                let answer = net.answer(&request).filter(|_| !self.conduct.rejects_hashes);
                let message = match answer {
                    Some(hashes) => Message::Hashes { request, hashes: hashes.into() },
                    None => Message::HashReject(request),
                };
                self.send(net, conn, message);
            }
            Output::Store { torrent, conn, span } => {
                let good = self.arriving.take().expect("a block is being handled");
                let fails = net.rng.below(1000) < self.conduct.storage_fails;
                let verdict =
                    if fails { Verdict::Failed } else { self.storage.store(&net.metainfo.clone(), span, good) };
                net.soon(self.at, Event::Input(Input::Stored { torrent, span, conn, verdict }));
            }
            Output::Discard { .. } => assert!(self.arriving.take().is_some(), "a block is being handled"),
            Output::SetLeaves { piece, .. } => {
                self.storage.leaves.insert(piece.0);
            }
            Output::CheckPiece { torrent, piece, blocks } => {
                let outcome = self.storage.check(piece.0, &blocks);
                net.soon(self.at, Event::Input(Input::PieceChecked { torrent, piece, outcome }));
            }
            Output::MetainfoFetched { torrent, metainfo } => {
                assert_eq!(metainfo.info_hash(), net.metainfo.info_hash());
                self.fetched_metainfo = true;
                let verified = Bitfield::new(metainfo.layout().block_numbers());
                net.soon(self.at, Event::Input(Input::Open { torrent, metainfo, verified }));
            }
            Output::MetainfoRefused { reason, .. } => panic!("{reason}"),
            Output::HybridFound { .. }
            | Output::PeerMet { .. }
            | Output::RecordHeard { .. }
            | Output::RecordAsked { .. } => {}
            Output::ReadReady { read } => self.read_done(net, read, true),
            Output::ReadFailed { read, .. } => self.read_done(net, read, false),
        }
    }

    fn send(&mut self, net: &mut Net, conn: ConnId, message: Message) {
        if self.stalls(net) && matches!(message, Message::Reject(_) | Message::Hashes { .. }) {
            return;
        }
        let mut message = message;
        if self.conduct.lies_about_hashes {
            message = corrupted(message);
        }
        if let (true, Message::Extended { id: 1, payload }) = (self.conduct.lies_about_metainfo, &mut message) {
            let mut wrong = payload.to_vec();
            if let Some(last) = wrong.last_mut().filter(|_| payload.len() > 200) {
                *last ^= 1;
            }
            *payload = wrong.into();
        }
        net.send(conn, 0, |conn| Event::Input(Input::Message { conn, message }));
    }

    pub(in crate::engine) fn start_app(&mut self, net: &mut Net, at: usize) {
        let reading = &mut self.apps[at];
        reading.reader = ReaderId(at as u64);
        let (reader, app) = (reading.reader, reading.app);
        let mut offset = app.offset;
        let end = app.offset + app.len;
        let mut batch = Vec::new();
        while offset < end {
            let len = u64::from(app.chunk).min(end - offset);
            batch.push((offset, len as u32));
            offset += len;
            if batch.len() == app.ahead || offset == end {
                while !batch.is_empty() {
                    let pick = if app.shuffled { net.rng.below(batch.len() as u64) as usize } else { 0 };
                    reading.todo.push_back(batch.remove(pick));
                }
            }
        }
        self.handle(net, Input::OpenReader { reader, torrent: TORRENT, file: app.file, timeout: app.timeout });
    }

    /// Lets applications read on.
    fn go_on(&mut self, net: &mut Net) {
        for at in 0..self.apps.len() {
            while self.apps[at].pending.len() < self.apps[at].app.ahead {
                let reading = &mut self.apps[at];
                if reading.next.is_some_and(|next| next > net.now) {
                    break;
                }
                let Some((offset, len)) = reading.todo.pop_front() else { break };
                if reading.app.rate > 0.0 {
                    let next = net.now + Duration::from_secs_f64(f64::from(len) / reading.app.rate);
                    reading.next = Some(next);
                    net.schedule(next, self.at, Event::App);
                }
                self.read(net, at, offset, len);
            }
        }
    }

    fn read(&mut self, net: &mut Net, at: usize, offset: u64, len: u32) {
        let (reader, file) = (self.apps[at].reader, self.apps[at].app.file);
        let blocks = blocks_of(&net.metainfo, file, offset, len);
        if blocks.iter().all(|span| self.storage.is_verified(*span)) {
            self.apps[at].waits.push(Duration::ZERO);
            self.handle(net, Input::ReadCached { reader, offset, len });
            net.soon(self.at, Event::App);
            return;
        }
        let read = ReadId(self.next_read);
        self.next_read += 1;
        self.apps[at].pending.insert(read, (offset, len, net.now));
        self.handle(net, Input::Read { read, reader, offset, len });
    }

    fn read_done(&mut self, net: &mut Net, read: ReadId, ready: bool) {
        let Some(reading) = self.apps.iter_mut().find(|reading| reading.pending.contains_key(&read)) else {
            panic!("{read:?} ended twice");
        };
        let Some((offset, len, since)) = reading.pending.remove(&read) else { return };
        if ready {
            reading.waits.push(net.now - since);
            let blocks: Vec<BlockSpan> = blocks_of(&net.metainfo, reading.app.file, offset, len);
            assert!(blocks.iter().all(|span| self.storage.is_verified(*span)), "only verified bytes are returned");
        } else {
            reading.failed += 1;
        }
        net.soon(self.at, Event::App);
    }

    /// Storage gives up some piece of which it holds something verified.
    fn evict(&mut self, net: &mut Net) {
        let verified = self.storage.blocks.iter().filter(|(_, held)| **held == Held::Verified);
        let pieces: BTreeSet<u32> = verified.map(|((piece, _), _)| *piece).collect();
        let Some(piece) = pieces.iter().nth(net.rng.below(pieces.len() as u64) as usize).copied() else { return };
        let layout = net.metainfo.layout();
        self.storage.blocks.retain(|(of, begin), _| {
            let span = layout.block_span(PieceIndex(*of), BlockIndex(*begin / 16384));
            *of != piece || layout.is_padding(span)
        });
        self.storage.leaves.remove(&piece);
        self.handle(net, Input::Lost { torrent: TORRENT, piece: PieceIndex(piece) });
    }

    /// The application seeks; its reads under way are killed.
    pub(in crate::engine) fn seek(&mut self, net: &mut Net, at: usize, offset: u64, len: u32) {
        let pending: Vec<_> = std::mem::take(&mut self.apps[at].pending).into_keys().collect();
        for read in pending {
            self.handle(net, Input::CancelRead { read });
        }
        self.apps[at].seek(offset, len);
        self.go_on(net);
    }
}
