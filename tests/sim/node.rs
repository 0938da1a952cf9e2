//! A node: an engine, a model of its storage, its applications, and how it behaves towards others.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::app::{Next, Wanted};
use super::{Bytes, Event, Net, PORT, Reading, Spec, Storage, TORRENT, all_blocks, blocks_of, corrupted, wire_id};
use crate::engine::{Config, Input, Output, TorrentManager, Verdict};
use crate::types::{Bitfield, BlockSpan, ConnId, PeerIdentity, PieceIndex, ReadId, ReaderId};
use crate::wire::Message;

/// How a node behaves towards others. The default is honest.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::engine) struct Conduct {
    /// Of a thousand blocks, so many are wrong.
    pub(in crate::engine) corrupt: u64,
    /// They are wrong in the same way as those of others that conspire.
    pub(in crate::engine) conspires: bool,
    /// Hashes are wrong.
    pub(in crate::engine) lies_about_hashes: bool,
    /// Hash requests are rejected: allowed, if unhelpful.
    pub(in crate::engine) rejects_hashes: bool,
    /// From this time on nothing asked for is sent, without a word.
    pub(in crate::engine) stalls_after: Option<Duration>,
    /// Only what is cancelled is sent, and all of it.
    pub(in crate::engine) answers_cancelled: bool,
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

/// A node of the swarm.
pub(in crate::engine) struct Node {
    pub(in crate::engine) at: usize,
    pub(in crate::engine) engine: TorrentManager,
    pub(in crate::engine) storage: Storage,
    pub(in crate::engine) conduct: Conduct,
    pub(in crate::engine) apps: Vec<Reading>,
    pub(in crate::engine) banned: BTreeSet<PeerIdentity>,
    /// Blocks that it keeps from those who asked for them.
    withheld: BTreeSet<(ConnId, BlockSpan)>,
    /// The block being handled.
    arriving: Option<Bytes>,
    timer: Option<Instant>,
    next_read: u64,
    /// Real time that its engine worked for.
    pub(in crate::engine) spent: Duration,
    /// The metainfo came from peers.
    pub(in crate::engine) fetched_metainfo: bool,
}

impl Node {
    pub(in crate::engine) fn new(net: &mut Net, at: usize, spec: Spec) -> Self {
        let mut config = Config { peer_id: wire_id(at), listen_port: Some(PORT), ..Config::default() };
        (spec.tune)(&mut config);
        let layout = net.metainfo.layout();
        let verified = if spec.seeds { all_blocks(&net.metainfo) } else { Bitfield::new(layout.block_numbers()) };
        let mut node = Self {
            at,
            engine: TorrentManager::new(config, net.rng.next()),
            storage: Storage::new(&net.metainfo, &verified),
            conduct: spec.conduct,
            apps: Vec::new(),
            banned: BTreeSet::new(),
            withheld: BTreeSet::new(),
            arriving: None,
            timer: None,
            next_read: 1,
            spent: Duration::ZERO,
            fetched_metainfo: false,
        };
        let input = if spec.by_id {
            Input::AddById { torrent: TORRENT, id: net.metainfo.info_id() }
        } else {
            Input::Open { torrent: TORRENT, metainfo: net.metainfo.clone(), verified }
        };
        node.handle(net, input);
        node
    }

    pub(in crate::engine) fn verified_bytes(&self, net: &Net) -> u64 {
        self.storage.verified_bytes(&net.metainfo)
    }

    pub(in crate::engine) fn on_event(&mut self, net: &mut Net, event: Event) {
        match event {
            Event::Input(input) => {
                if let Input::Message { conn, .. } = &input
                    && !net.is_open(*conn)
                {
                    return;
                }
                if let Input::Message { conn, message: Message::Cancel(span) } = &input
                    && self.withheld.remove(&(*conn, *span))
                {
                    let span = *span;
                    net.send(*conn, span.len, |conn| Event::Block { conn, span, bytes: Bytes::Right });
                    return;
                }
                self.handle(net, input);
            }
            Event::Block { conn, span, bytes } => {
                if net.is_open(conn) {
                    net.check.block_arrives(conn, span);
                    self.arriving = Some(bytes);
                    self.handle(net, Input::Block { conn, span });
                    assert_eq!(self.arriving, None, "every block is answered in the same call");
                }
            }
            Event::Timeout => {
                if self.timer.is_some_and(|at| at <= net.now) {
                    self.timer = None;
                    let began = Instant::now();
                    self.engine.handle_timeout(net.now);
                    self.spent += began.elapsed();
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
        let began = Instant::now();
        self.engine.handle(net.now, input);
        self.spent += began.elapsed();
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
                if self.conduct.answers_cancelled {
                    self.withheld.insert((conn, span));
                    return;
                }
                let way = if self.conduct.conspires { 0 } else { 1 + self.at as u64 };
                let is_right = net.rng.below(1000) >= self.conduct.corrupt;
                let bytes = if is_right { Bytes::Right } else { Bytes::Wrong(way) };
                let left = net.send(conn, span.len, |conn| Event::Block { conn, span, bytes });
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
                let bytes = self.arriving.take().expect("a block is being handled");
                let fails = net.rng.below(1000) < self.conduct.storage_fails;
                let verdict =
                    if fails { Verdict::Failed } else { self.storage.store(&net.metainfo.clone(), span, bytes) };
                net.soon(self.at, Event::Input(Input::Stored { torrent, span, conn, verdict }));
            }
            Output::Discard { .. } => assert!(self.arriving.take().is_some(), "a block is being handled"),
            Output::SetLeaves { piece, .. } => {
                self.storage.leaves.insert(piece.0);
            }
            Output::CheckPiece { torrent, piece, blocks, failed_before } => {
                let outcome = self.storage.check(&net.metainfo, piece.0, &blocks, failed_before);
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
        reading.start(net.now, ReaderId(at as u64), &mut net.rng);
        let (reader, app) = (reading.reader, reading.app);
        self.handle(net, Input::OpenReader { reader, torrent: TORRENT, file: app.file, timeout: app.timeout });
    }

    /// Lets applications read on.
    fn go_on(&mut self, net: &mut Net) {
        for at in 0..self.apps.len() {
            loop {
                match self.apps[at].next(net.now) {
                    Next::Read(wanted) => self.read(net, at, wanted),
                    Next::Wait(until) => {
                        net.schedule(until, self.at, Event::App);
                        break;
                    }
                    Next::Nothing => break,
                }
            }
        }
    }

    fn read(&mut self, net: &mut Net, at: usize, wanted: Wanted) {
        let (reader, file) = (self.apps[at].reader, self.apps[at].app.file);
        let Wanted { offset, len, .. } = wanted;
        let blocks = blocks_of(&net.metainfo, file, offset, len);
        if blocks.iter().all(|span| self.storage.is_verified(*span)) {
            self.apps[at].done(net.now, wanted, Duration::ZERO);
            self.handle(net, Input::ReadCached { reader, offset, len });
            net.soon(self.at, Event::App);
            return;
        }
        let read = ReadId(self.next_read);
        self.next_read += 1;
        self.apps[at].pending.insert(read, (wanted, net.now));
        self.handle(net, Input::Read { read, reader, offset, len });
    }

    fn read_done(&mut self, net: &mut Net, read: ReadId, ready: bool) {
        let Some(reading) = self.apps.iter_mut().find(|reading| reading.pending.contains_key(&read)) else {
            panic!("{read:?} ended twice");
        };
        let Some((wanted, since)) = reading.pending.remove(&read) else { return };
        if ready {
            reading.done(net.now, wanted, net.now - since);
            let blocks: Vec<BlockSpan> = blocks_of(&net.metainfo, reading.app.file, wanted.offset, wanted.len);
            assert!(blocks.iter().all(|span| self.storage.is_verified(*span)), "only verified bytes are returned");
        } else {
            reading.failed += 1;
        }
        net.soon(self.at, Event::App);
    }

    /// Storage gives up some piece of which it holds something verified.
    fn evict(&mut self, net: &mut Net) {
        let pieces = self.storage.pieces();
        let Some(piece) = pieces.iter().nth(net.rng.below(pieces.len() as u64) as usize).copied() else { return };
        self.storage.evict(&net.metainfo, piece);
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
