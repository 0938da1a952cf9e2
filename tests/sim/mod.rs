//! A swarm of engines on a virtual clock: links with latency and bandwidth, storage that tells good bytes from bad,
//! peers that misbehave, and a checker of everything that must hold at every step. Everything comes from one seed.
//!
//! It is part of the engine's unit tests; `scripts/sim` prints what it measures as a table.

mod app;
mod check;
mod measure;
mod net;
mod node;
mod storage;
mod swarms;
mod table;

use std::sync::Arc;
use std::time::Duration;

pub(super) use app::{App, Pattern, Reading};
pub(super) use check::Checker;
pub(super) use net::{Event, Net, PORT, wire_id};
pub(super) use node::{Conduct, Node};
pub(super) use storage::{Bytes, Storage};

use super::{Config, Input, Prefetch, TorrentStats};
use crate::metainfo::{Metainfo, testing};
use crate::types::{Bitfield, BlockSpan, FileIndex, HashAlgorithm, PieceIndex, TorrentKey};
use crate::wire::Message;

pub(super) const TORRENT: TorrentKey = TorrentKey(1);

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

/// A torrent and its bytes.
#[derive(Clone)]
pub(super) struct Content {
    metainfo: Arc<Metainfo>,
    source: Arc<testing::MemSource>,
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
        Self::with(rng, Content { metainfo: metainfo.into(), source: source.into() }, sockets, specs)
    }

    fn with(rng: u64, content: Content, sockets: bool, specs: Vec<Spec>) -> Self {
        let mut net = Net::new(rng, content, sockets, &specs);
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
            let Some((node, event)) = self.net.next(end) else { return false };
            match event {
                Event::Die => self.net.die(node),
                Event::Revive => self.net.revive(node),
                event => self.nodes[node].on_event(&mut self.net, event),
            }
        }
        true
    }

    pub(super) fn run_for(&mut self, limit: Duration) {
        self.run_until(limit, |_| false);
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
