//! The network between the nodes, and the virtual time in which things happen.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Bytes, Checker, Content, Spec, TORRENT};
use crate::engine::Input;
use crate::engine::rng::Rng;
use crate::metainfo::{LeafRequest, Metainfo, testing};
use crate::types::{BlockSpan, ConnId, PeerAddr, PeerIdentity, PieceIndex, WirePeerId};
use crate::wire::{Handshake, HashRequest};

/// Something on its way to a node.
#[derive(Debug)]
pub(in crate::engine) enum Event {
    /// What the driver of the node would put in.
    Input(Input),
    /// A block; the payload itself is not simulated.
    Block {
        conn: ConnId,
        span: BlockSpan,
        bytes: Bytes,
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
pub(in crate::engine) struct Net {
    pub(in crate::engine) now: Instant,
    pub(in crate::engine) start: Instant,
    pub(in crate::engine) rng: Rng,
    pub(in crate::engine) metainfo: Arc<Metainfo>,
    source: Arc<testing::MemSource>,
    queue: BinaryHeap<Reverse<Scheduled>>,
    seq: u64,
    ends: BTreeMap<ConnId, End>,
    next_conn: u64,
    links: Vec<Link>,
    pub(in crate::engine) check: Checker,
    /// Nodes are at IP addresses, as ordinary clients are.
    sockets: bool,
}

/// How a node is connected to the middle of the network.
struct Link {
    latency: Duration,
    /// Bytes a second up.
    up: f64,
    /// When the uplink has sent what it was given.
    free: Instant,
    alive: bool,
    /// The protocol of 2001.
    plain: bool,
}

impl Net {
    pub(super) fn new(rng: u64, content: Content, sockets: bool, specs: &[Spec]) -> Self {
        let start = Instant::now();
        let link = |spec: &Spec| Link {
            latency: Duration::from_micros(spec.latency_ms * 1000),
            up: spec.up,
            free: start,
            alive: true,
            plain: spec.conduct.plain,
        };
        Self {
            now: start,
            start,
            rng: Rng::new(rng),
            metainfo: content.metainfo,
            source: content.source,
            queue: BinaryHeap::new(),
            seq: 0,
            ends: BTreeMap::new(),
            next_conn: 1,
            links: specs.iter().map(link).collect(),
            check: Checker::default(),
            sockets,
        }
    }

    /// What happens next, and to whom, unless it is after `end`: time goes on to it.
    pub(super) fn next(&mut self, end: Instant) -> Option<(usize, Event)> {
        if self.queue.peek().is_none_or(|Reverse(next)| next.at > end) {
            self.now = self.now.max(end);
            return None;
        }
        let Reverse(next) = self.queue.pop()?;
        self.now = self.now.max(next.at);
        Some((next.node, next.event))
    }

    /// A node goes, and its connections with it.
    pub(super) fn die(&mut self, node: usize) {
        self.links[node].alive = false;
        let conns: Vec<_> = self.ends.iter().filter(|(_, end)| end.node == node).map(|(conn, _)| *conn).collect();
        for conn in conns {
            self.hang_up(conn);
        }
    }

    pub(super) fn revive(&mut self, node: usize) {
        self.links[node].alive = true;
    }

    pub(in crate::engine) fn schedule(&mut self, at: Instant, node: usize, event: Event) {
        self.seq += 1;
        self.queue.push(Reverse(Scheduled { at, seq: self.seq, node, event }));
    }

    pub(in crate::engine) fn soon(&mut self, node: usize, event: Event) {
        // Storage and the driver's tasks take their time, and not always the same.
        let delay = Duration::from_micros(20 + self.rng.below(200));
        self.schedule(self.now + delay, node, event);
    }

    fn latency(&self, a: usize, b: usize) -> Duration {
        self.links[a].latency + self.links[b].latency
    }

    /// A node dials: both ends hear of it, if there is anybody.
    pub(in crate::engine) fn dial(&mut self, from: usize, addr: PeerAddr) {
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
    pub(in crate::engine) fn addr(&self, node: usize, listens: bool) -> PeerAddr {
        let ip = [10, 0, (node >> 8) as u8, node as u8];
        let port = if listens { PORT } else { 50_000 };
        if self.sockets { PeerAddr::Socket((ip, port).into()) } else { PeerAddr::Memory(node as u64) }
    }

    pub(super) fn identity(&self, node: usize) -> PeerIdentity {
        match self.addr(node, true) {
            PeerAddr::Socket(addr) => PeerIdentity::Ip(addr.ip()),
            _ => PeerIdentity::Memory(node as u64),
        }
    }

    /// Sends over a connection, in order; `size` bytes keep the uplink busy. When they have left.
    pub(in crate::engine) fn send(&mut self, conn: ConnId, size: u32, event: impl FnOnce(ConnId) -> Event) -> Instant {
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
    pub(in crate::engine) fn hang_up(&mut self, conn: ConnId) {
        let Some(end) = self.ends.remove(&conn) else { return };
        self.schedule(self.now, end.node, Event::Input(Input::Disconnected { conn }));
        self.check.closed(conn);
        if let Some(other) = self.ends.remove(&end.peer) {
            let at = other.last.max(self.now + self.latency(end.node, other.node));
            self.schedule(at, other.node, Event::Input(Input::Disconnected { conn: end.peer }));
        }
    }

    pub(in crate::engine) fn is_open(&self, conn: ConnId) -> bool {
        self.ends.contains_key(&conn)
    }

    /// The hashes that answer a request.
    pub(in crate::engine) fn answer(&self, request: &HashRequest) -> Option<Vec<u8>> {
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
pub(in crate::engine) const PORT: u16 = 6881;

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

pub(in crate::engine) fn wire_id(node: usize) -> WirePeerId {
    let mut id = [0; 20];
    id[..8].copy_from_slice(&(node as u64 + 1).to_be_bytes());
    WirePeerId(id)
}
