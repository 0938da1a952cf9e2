//! One engine with one torrent, and peers that say what a test has them say.

use core::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::sim::{TORRENT, all_blocks, wire_id};
use crate::engine::{Config, DisconnectReason, Input, Output, TorrentManager, TorrentStats};
use crate::metainfo::{Metainfo, testing};
use crate::types::{
    BLOCK_LEN, Bitfield, BlockSpan, ConnId, FileIndex, HashAlgorithm, PeerAddr, PeerIdentity, PieceIndex, ReadId,
    ReaderId,
};
use crate::wire::{ExtensionHandshake, Handshake, Message};

pub(super) const CONN: ConnId = ConnId(7);
pub(super) const S: Duration = Duration::from_secs(1);

/// An engine with one torrent of 8 pieces of 4 blocks.
pub(super) struct Lab {
    pub(super) engine: TorrentManager,
    pub(super) metainfo: Arc<Metainfo>,
    pub(super) now: Instant,
}

impl Lab {
    pub(super) fn new(algorithm: HashAlgorithm, seeds: bool) -> Self {
        let (metainfo, _) = testing::torrent(algorithm, 4 * BLOCK_LEN, &[testing::content(1, 8 << 16)]);
        let mut lab = Self::with(metainfo, |_| {});
        lab.open(seeds);
        lab
    }

    /// An engine that knows nothing yet; `change` changes its configuration.
    pub(super) fn with(metainfo: Metainfo, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { peer_id: wire_id(100), upload_queue: 20, send_pipeline: 4, ..Config::default() };
        change(&mut config);
        Self { engine: TorrentManager::new(config, 1), metainfo: Arc::new(metainfo), now: Instant::now() }
    }

    /// Opens the torrent, with everything or nothing.
    pub(super) fn open(&mut self, seeds: bool) -> Vec<Output> {
        let none = Bitfield::new(self.metainfo.layout().block_numbers());
        let verified = if seeds { all_blocks(&self.metainfo) } else { none };
        self.put(Input::Open { torrent: TORRENT, metainfo: self.metainfo.clone(), verified })
    }

    /// A peer of an ordinary client connects from `addr`.
    pub(super) fn connect_from(&mut self, conn: ConnId, node: usize, addr: &str, outgoing: bool) -> Vec<Output> {
        let handshake = Handshake::new(self.metainfo.info_hash().swarm_id(), wire_id(node)).without_hashes();
        let addr: SocketAddr = addr.parse().unwrap();
        let (addr, identity) = (PeerAddr::Socket(addr), PeerIdentity::Ip(addr.ip()));
        self.put(Input::Connected { conn, torrent: TORRENT, addr, identity, handshake, outgoing })
    }

    pub(super) fn hear(&mut self, conn: ConnId, message: Message) -> Vec<Output> {
        self.put(Input::Message { conn, message })
    }

    pub(super) fn put(&mut self, input: Input) -> Vec<Output> {
        self.engine.handle(self.now, input);
        std::iter::from_fn(|| self.engine.poll_output()).collect()
    }

    pub(super) fn wait(&mut self, duration: Duration) -> Vec<Output> {
        let end = self.now + duration;
        let mut out = Vec::new();
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.engine.handle_timeout(self.now);
            out.extend(std::iter::from_fn(|| self.engine.poll_output()));
        }
        self.now = end;
        out
    }

    pub(super) fn connect(&mut self, conn: ConnId, node: usize, fast: bool, outgoing: bool) -> Vec<Output> {
        let mut handshake = Handshake::new(self.metainfo.info_id().swarm_id(), wire_id(node));
        if !fast {
            handshake.reserved = [0; 8];
        }
        let (addr, identity) = (PeerAddr::Memory(node as u64), PeerIdentity::Memory(node as u64));
        self.put(Input::Connected { conn, torrent: TORRENT, addr, identity, handshake, outgoing })
    }

    pub(super) fn stats(&self) -> TorrentStats {
        self.engine.stats(self.now, TORRENT).unwrap()
    }

    pub(super) fn say(&mut self, message: Message) -> Vec<Output> {
        self.put(Input::Message { conn: CONN, message })
    }

    pub(super) fn read(&mut self, offset: u64, len: u32) -> Vec<Output> {
        let (reader, file) = (ReaderId(1), FileIndex(0));
        self.put(Input::OpenReader { reader, torrent: TORRENT, file, timeout: 60 * S });
        self.put(Input::Read { read: ReadId(offset), reader, offset, len })
    }
}

pub(super) fn sent(out: &[Output]) -> Vec<&Message> {
    out.iter().filter_map(|out| if let Output::Send { message, .. } = out { Some(message) } else { None }).collect()
}

pub(super) fn requests(out: &[Output]) -> Vec<BlockSpan> {
    let spans = sent(out).into_iter().filter_map(|m| if let Message::Request(span) = m { Some(*span) } else { None });
    spans.collect()
}

pub(super) fn is_closed(out: &[Output]) -> bool {
    out.iter().any(|out| matches!(out, Output::Disconnect { reason: DisconnectReason::Protocol(_), .. }))
}

pub(super) fn span(piece: u32, block: u32) -> BlockSpan {
    BlockSpan { piece: PieceIndex(piece), begin: block * BLOCK_LEN, len: BLOCK_LEN }
}

/// The extension handshakes in what was sent.
pub(super) fn handshakes(out: &[Output]) -> Vec<ExtensionHandshake> {
    let payload = |message| if let &Message::Extended { id: 0, ref payload } = message { Some(payload) } else { None };
    sent(out).into_iter().filter_map(payload).map(|payload| ExtensionHandshake::decode(payload).unwrap()).collect()
}
