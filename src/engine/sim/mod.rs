//! A swarm of engines on a virtual clock: links with latency and bandwidth, storage that tells good bytes from bad,
//! peers that misbehave, and a checker of everything that must hold at every step. Everything comes from one seed.

mod check;
mod node;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use check::Checker;
pub(super) use node::{App, Conduct, Node, Reading};

use super::rng::Rng;
use super::{Config, Input, PieceOutcome, Prefetch, TorrentStats, Verdict};
use crate::metainfo::{LeafRequest, Metainfo, testing};
use crate::types::{
    AttemptId, Bitfield, BlockSpan, ConnId, FileIndex, HashAlgorithm, PeerAddr, PeerIdentity, PieceIndex, TorrentKey,
    WirePeerId,
};
use crate::wire::{Handshake, HashRequest, Message};

pub(super) const TORRENT: TorrentKey = TorrentKey(1);

/// Something on its way to a node.
#[derive(Debug)]
pub(super) enum Event {
    /// What the driver of the node would put in.
    Input(Input),
    /// A block with its quality; the payload itself is not simulated.
    Block {
        conn: ConnId,
        span: BlockSpan,
        good: bool,
    },
    Timeout,
    /// The application goes on.
    App,
    Die,
    Revive,
    /// Storage gives up a piece, whichever.
    Evict,
}

struct Scheduled {
    at: Instant,
    seq: u64,
    node: usize,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

/// One end of a connection.
struct End {
    node: usize,
    /// The other end.
    peer: ConnId,
    /// Nothing arrives there before what was sent before it.
    last: Instant,
}

/// What the nodes share.
pub(super) struct Net {
    pub(super) now: Instant,
    pub(super) start: Instant,
    pub(super) rng: Rng,
    pub(super) metainfo: Arc<Metainfo>,
    source: testing::MemSource,
    queue: BinaryHeap<Reverse<Scheduled>>,
    seq: u64,
    ends: BTreeMap<ConnId, End>,
    next_conn: u64,
    /// (latency to the middle of the network, alive, bytes a second up, when the uplink is free) of each node.
    links: Vec<Link>,
    pub(super) check: Checker,
    /// Nodes are at IP addresses, as ordinary clients are.
    sockets: bool,
}

pub(super) struct Link {
    pub(super) latency: Duration,
    pub(super) up: f64,
    free: Instant,
    alive: bool,
    plain: bool,
}

impl Net {
    pub(super) fn schedule(&mut self, at: Instant, node: usize, event: Event) {
        self.seq += 1;
        self.queue.push(Reverse(Scheduled { at, seq: self.seq, node, event }));
    }

    pub(super) fn soon(&mut self, node: usize, event: Event) {
        // Storage and the driver's tasks take their time, and not always the same.
        let delay = Duration::from_micros(20 + self.rng.below(200));
        self.schedule(self.now + delay, node, event);
    }

    fn latency(&self, a: usize, b: usize) -> Duration {
        self.links[a].latency + self.links[b].latency
    }

    /// A node dials: both ends hear of it, if there is anybody.
    pub(super) fn dial(&mut self, from: usize, addr: PeerAddr) {
        let to = node_at(&addr);
        let rtt = 2 * self.latency(from, to);
        if !self.links[to].alive || !self.links[from].alive {
            let failed = Input::ConnectFailed { torrent: TORRENT, addr };
            return self.schedule(self.now + rtt + Duration::from_millis(100), from, Event::Input(failed));
        }
        let (here, there) = (ConnId(self.next_conn), ConnId(self.next_conn + 1));
        self.next_conn += 2;
        self.ends.insert(here, End { node: from, peer: there, last: self.now });
        self.ends.insert(there, End { node: to, peer: here, last: self.now });
        for (at, node, other, conn, outgoing) in
            [(self.now + rtt, from, to, here, true), (self.now + rtt + rtt / 2, to, from, there, false)]
        {
            let plain = self.links[from].plain || self.links[to].plain;
            let mut handshake = Handshake::new(self.metainfo.info_id().swarm_id(), wire_id(other));
            if plain {
                handshake.reserved = [0; 8];
            }
            let connected = Input::Connected {
                conn,
                torrent: TORRENT,
                addr: self.addr(other, outgoing),
                identity: self.identity(other),
                handshake,
                outgoing,
            };
            self.ends.entry(conn).and_modify(|end| end.last = at);
            self.schedule(at, node, Event::Input(connected));
        }
    }

    /// Where a node listens, or from where it dials.
    pub(super) fn addr(&self, node: usize, listens: bool) -> PeerAddr {
        let ip = [10, 0, (node >> 8) as u8, node as u8];
        let port = if listens { PORT } else { 50_000 };
        if self.sockets { PeerAddr::Socket((ip, port).into()) } else { PeerAddr::Memory(node as u64) }
    }

    fn identity(&self, node: usize) -> PeerIdentity {
        match self.addr(node, true) {
            PeerAddr::Socket(addr) => PeerIdentity::Ip(addr.ip()),
            _ => PeerIdentity::Memory(node as u64),
        }
    }

    /// Sends over a connection, in order; `size` bytes keep the uplink busy. When they have left.
    pub(super) fn send(&mut self, conn: ConnId, size: u32, event: impl FnOnce(ConnId) -> Event) -> Instant {
        let Some(End { node, peer, .. }) = self.ends.get(&conn) else { return self.now };
        let (from, peer) = (*node, *peer);
        let Some(End { node: to, .. }) = self.ends.get(&peer) else { return self.now };
        let to = *to;
        let link = &mut self.links[from];
        if size > 0 {
            link.free = link.free.max(self.now) + Duration::from_secs_f64(f64::from(size) / link.up);
        }
        let left = if size > 0 { link.free } else { self.now };
        let mut at = left + self.latency(from, to);
        if let Some(end) = self.ends.get_mut(&peer) {
            at = at.max(end.last);
            end.last = at;
        }
        self.schedule(at, to, event(peer));
        left
    }

    /// Ends a connection: here at once, there when word arrives.
    pub(super) fn hang_up(&mut self, conn: ConnId) {
        let Some(end) = self.ends.remove(&conn) else { return };
        self.schedule(self.now, end.node, Event::Input(Input::Disconnected { conn }));
        self.check.closed(conn);
        if let Some(other) = self.ends.remove(&end.peer) {
            let at = other.last.max(self.now + self.latency(end.node, other.node));
            self.schedule(at, other.node, Event::Input(Input::Disconnected { conn: end.peer }));
        }
    }

    fn conns_of(&self, node: usize) -> Vec<ConnId> {
        self.ends.iter().filter(|(_, end)| end.node == node).map(|(conn, _)| *conn).collect()
    }

    pub(super) fn is_open(&self, conn: ConnId) -> bool {
        self.ends.contains_key(&conn)
    }

    /// The hashes that answer a request.
    pub(super) fn answer(&self, request: &HashRequest) -> Option<Vec<u8>> {
        let HashRequest { root, index, length, proof_layers, .. } = *request;
        let request = LeafRequest { root, index, length, proof_layers };
        let piece = *self.metainfo.pieces_of_leaf_request(&request).first()?;
        let leaves = self.leaves(piece);
        self.metainfo.answer_leaf_request(piece, &request, &leaves)
    }

    fn leaves(&self, piece: PieceIndex) -> Vec<[u8; 32]> {
        let (file, offset) = self.metainfo.layout().file_of_piece(piece).unwrap();
        let len = self.metainfo.layout().piece_len(piece) as usize;
        let data = &self.source.0[file.0 as usize][offset as usize..offset as usize + len];
        self.metainfo.piece_leaves(piece, data)
    }
}

/// Where nodes at IP addresses listen.
pub(super) const PORT: u16 = 6881;

fn node_at(addr: &PeerAddr) -> usize {
    match addr {
        PeerAddr::Memory(node) => *node as usize,
        PeerAddr::Socket(addr) => {
            assert_eq!(addr.port(), PORT, "nobody listens at {addr}");
            let core::net::IpAddr::V4(ip) = addr.ip() else { panic!("{addr}") };
            usize::from(ip.octets()[2]) << 8 | usize::from(ip.octets()[3])
        }
        PeerAddr::Libp2p(text) | PeerAddr::Web(text) => panic!("{text}"),
    }
}

pub(super) fn wire_id(node: usize) -> WirePeerId {
    let mut id = [0; 20];
    id[..8].copy_from_slice(&(node as u64 + 1).to_be_bytes());
    WirePeerId(id)
}

/// How a node is made.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) latency_ms: u64,
    pub(super) up: f64,
    pub(super) seeds: bool,
    pub(super) conduct: Conduct,
    /// Starts without the metainfo.
    pub(super) by_id: bool,
    /// Changes its configuration.
    pub(super) tune: fn(&mut Config),
}

pub(super) fn seed(latency_ms: u64, up: f64) -> Spec {
    Spec { latency_ms, up, seeds: true, conduct: Conduct::default(), by_id: false, tune: |_| {} }
}

pub(super) fn leech(latency_ms: u64, up: f64) -> Spec {
    Spec { seeds: false, ..seed(latency_ms, up) }
}

impl Spec {
    pub(super) fn tune(mut self, tune: fn(&mut Config)) -> Self {
        self.tune = tune;
        self
    }

    pub(super) fn conduct(mut self, conduct: Conduct) -> Self {
        self.conduct = conduct;
        self
    }
}

fn contents(files: &[usize]) -> Vec<Vec<u8>> {
    files.iter().zip(1..).map(|(len, at)| testing::content(at, *len)).collect()
}

/// The whole simulation.
pub(super) struct Sim {
    pub(super) net: Net,
    pub(super) nodes: Vec<Node>,
}

impl Sim {
    /// A swarm of one torrent; nobody knows anybody yet.
    pub(super) fn new(
        rng: u64,
        algorithm: HashAlgorithm,
        piece_length: u32,
        files: &[usize],
        specs: Vec<Spec>,
    ) -> Self {
        Self::of(rng, testing::torrent(algorithm, piece_length, &contents(files)), false, specs)
    }

    /// A swarm of an ordinary torrent at IP addresses, with padding between its files or not.
    pub(super) fn ordinary(rng: u64, piece_length: usize, padded: bool, files: &[usize], specs: Vec<Spec>) -> Self {
        Self::of(rng, testing::v1_torrent(piece_length, padded, &contents(files)), true, specs)
    }

    fn of(rng: u64, (metainfo, source): (Metainfo, testing::MemSource), sockets: bool, specs: Vec<Spec>) -> Self {
        let start = Instant::now();
        let link = |spec: &Spec| Link {
            latency: Duration::from_micros(spec.latency_ms * 1000),
            up: spec.up,
            free: start,
            alive: true,
            plain: spec.conduct.plain,
        };
        let mut net = Net {
            now: start,
            start,
            rng: Rng::new(rng),
            metainfo: Arc::new(metainfo),
            source,
            queue: BinaryHeap::new(),
            seq: 0,
            ends: BTreeMap::new(),
            next_conn: 1,
            links: specs.iter().map(link).collect(),
            check: Checker::default(),
            sockets,
        };
        let nodes = specs.into_iter().enumerate().map(|(at, spec)| Node::new(&mut net, at, spec)).collect();
        Self { net, nodes }
    }

    /// Tells `node` of `others`.
    pub(super) fn introduce(&mut self, node: usize, others: impl IntoIterator<Item = usize>) {
        for other in others.into_iter().filter(|other| *other != node) {
            let addr = self.net.addr(other, true);
            self.net.schedule(self.net.now, node, Event::Input(Input::PeerFound { torrent: TORRENT, addr }));
        }
    }

    pub(super) fn prefetch_all(&mut self, node: usize) {
        let input = Input::SetPrefetch { torrent: TORRENT, prefetch: Prefetch::All };
        self.net.schedule(self.net.now, node, Event::Input(input));
    }

    pub(super) fn at(&mut self, ms: u64, node: usize, event: Event) {
        self.net.schedule(self.net.start + Duration::from_millis(ms), node, event);
    }

    /// Gives a node an application that reads; it starts now.
    pub(super) fn read(&mut self, node: usize, app: App) -> usize {
        self.nodes[node].apps.push(Reading::new(app));
        let at = self.nodes[node].apps.len() - 1;
        self.nodes[node].start_app(&mut self.net, at);
        self.net.schedule(self.net.now, node, Event::App);
        at
    }

    /// Lets things happen until `done`, or for so long of virtual time. Whether it was done.
    pub(super) fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Sim) -> bool) -> bool {
        let end = self.net.now + limit;
        while !done(self) {
            let Some(Reverse(next)) = self.net.queue.pop() else { return false };
            if next.at > end {
                self.net.queue.push(Reverse(next));
                self.net.now = end;
                return false;
            }
            self.net.now = self.net.now.max(next.at);
            self.dispatch(next.node, next.event);
        }
        true
    }

    pub(super) fn run_for(&mut self, limit: Duration) {
        self.run_until(limit, |_| false);
    }

    fn dispatch(&mut self, node: usize, event: Event) {
        match event {
            Event::Die => {
                self.net.links[node].alive = false;
                for conn in self.net.conns_of(node) {
                    self.net.hang_up(conn);
                }
            }
            Event::Revive => self.net.links[node].alive = true,
            event => self.nodes[node].on_event(&mut self.net, event),
        }
    }

    /// All apps of a node have read everything they wanted.
    pub(super) fn finished(&self, node: usize) -> bool {
        self.nodes[node].apps.iter().all(Reading::is_finished)
    }

    pub(super) fn stats(&self, node: usize) -> TorrentStats {
        self.nodes[node].engine.stats(self.net.now, TORRENT).unwrap()
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.net.now - self.net.start
    }

    /// Hedges stay in their budget, and only liars are banned.
    pub(super) fn check_end(&self) {
        for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.conduct.is_honest()) {
            let stats = self.stats(at);
            let useful = stats.downloaded_bytes - stats.wasted.total();
            let budget = useful / 20 + 24 * 16384 + stats.wasted.corrupt / 20;
            assert!(stats.hedged_bytes <= budget, "node {at}: hedged {} of {useful}", stats.hedged_bytes);
            // Verdicts may still be on their way from storage.
            assert!(stats.verified_bytes <= node.verified_bytes(&self.net), "node {at}");
            for banned in &node.banned {
                let banned = (0..self.nodes.len()).find(|node| self.net.identity(*node) == *banned).unwrap();
                assert!(!self.nodes[banned].conduct.is_honest(), "honest node {banned} was banned by {at}");
            }
        }
    }
}

/// What storage holds of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    Unverified { good: bool },
    Verified,
}

/// A model of storage.
#[derive(Debug, Default)]
pub(super) struct Storage {
    pub(super) blocks: BTreeMap<(u32, u32), Held>,
    pub(super) leaves: std::collections::BTreeSet<u32>,
    /// Wrong blocks of pieces that failed as a whole.
    failed: BTreeMap<u32, Vec<(AttemptId, BlockSpan)>>,
    attempts: u64,
}

impl Storage {
    fn store(&mut self, metainfo: &Metainfo, span: BlockSpan, good: bool) -> Verdict {
        let key = (span.piece.0, span.begin);
        let single = metainfo.single_leaf(span.piece).is_some();
        if !single && !self.leaves.contains(&span.piece.0) {
            self.blocks.insert(key, Held::Unverified { good });
            return Verdict::Unverified;
        }
        if good {
            self.blocks.insert(key, Held::Verified);
            return Verdict::Verified;
        }
        Verdict::Corrupt
    }

    fn check(&mut self, piece: u32, spans: &[BlockSpan]) -> PieceOutcome {
        let bad =
            |span: &&BlockSpan| self.blocks.get(&(span.piece.0, span.begin)) == Some(&Held::Unverified { good: false });
        let corrupt: Vec<BlockSpan> = spans.iter().filter(bad).copied().collect();
        let known = self.leaves.contains(&piece);
        if !known && !corrupt.is_empty() {
            self.attempts += 1;
            let attempt = AttemptId(self.attempts);
            self.failed.entry(piece).or_default().extend(corrupt.into_iter().map(|span| (attempt, span)));
            return PieceOutcome::Corrupt { attempt };
        }
        for span in spans.iter().filter(|span| !corrupt.contains(span)) {
            let held = self.blocks.insert((span.piece.0, span.begin), Held::Verified);
            assert!(held.is_some(), "{span:?} was never stored");
        }
        for span in &corrupt {
            self.blocks.remove(&(span.piece.0, span.begin));
        }
        match self.failed.remove(&piece) {
            _ if known => PieceOutcome::Blocks { corrupt },
            Some(wrong) => PieceOutcome::VerifiedAfter { wrong },
            None => PieceOutcome::Verified,
        }
    }

    pub(super) fn is_verified(&self, span: BlockSpan) -> bool {
        self.blocks.get(&(span.piece.0, span.begin)) == Some(&Held::Verified)
    }
}

/// The blocks of a range of a file.
pub(super) fn blocks_of(metainfo: &Metainfo, file: FileIndex, offset: u64, len: u32) -> Vec<BlockSpan> {
    metainfo.layout().blocks_of_range(file, offset..offset + u64::from(len)).collect()
}

pub(super) fn all_blocks(metainfo: &Metainfo) -> Bitfield {
    let layout = metainfo.layout();
    let mut bits = Bitfield::new(layout.block_numbers());
    for piece in (0..layout.piece_count()).map(PieceIndex) {
        for block in (0..layout.blocks_in(piece)).map(crate::types::BlockIndex) {
            bits.insert(layout.block_number(piece, block));
        }
    }
    bits
}

/// A message of which the checker and the liars want to know.
pub(super) fn corrupted(message: Message) -> Message {
    match message {
        Message::Hashes { request, hashes } => {
            let mut wrong = hashes.to_vec();
            wrong[0] ^= 1;
            Message::Hashes { request, hashes: wrong.into() }
        }
        other => other,
    }
}
