//! One connected peer: what it has, what it may, what is asked of it.

use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Output;
use super::fetch_metainfo::Carrier;
use super::flow::Flow;
use super::gossip::Gossip;
use super::meter::RateMeter;
use super::stats::PeerStats;
use super::upload::Upload;
use crate::metainfo::{LeafRequest, Metainfo};
use crate::types::{Bitfield, BitfieldError, ConnId, PeerAddr, PeerIdentity, PieceIndex, SwarmId, WirePeerId};
use crate::wire::{Handshake, HashRequest, Message};

/// What a peer has.
#[derive(Clone, Debug)]
pub(super) enum Owned {
    /// Told before the metainfo was known.
    Early { bitfield: Option<Bytes>, haves: Vec<PieceIndex>, all: bool },
    /// Every piece.
    All,
    /// Some.
    Some(Bitfield),
}

/// `have` messages that are kept while the metainfo is not known.
const MAX_EARLY_HAVES: usize = 1 << 16;
/// How long a piece is not asked again of a peer that refused it.
const REFUSED_FOR: Duration = Duration::from_secs(10);
const MAX_REFUSED: usize = 1024;
/// Hash requests that one peer may make at once, and a second.
const HASHES: (f64, f64) = (1024.0, 2048.0);
/// Pieces of the metainfo that one peer gets at once, and a second: they are copied to be sent.
const METAINFO_PIECES: (f64, f64) = (64.0, 256.0);

/// Messages about versions that are heard of one peer at once, and a second: each may mean three signatures to verify.
const UPDATES: (f64, f64) = (64.0, 32.0);

/// How often a peer may do something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Credit {
    left: f64,
    at: Instant,
    /// At once, and a second.
    limits: (f64, f64),
}

impl Credit {
    pub(super) fn new(now: Instant, limits: (f64, f64)) -> Self {
        Self { left: limits.0, at: now, limits }
    }

    /// Takes one; false if there is none.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.limits.1;
        self.left = (self.left + earned).min(self.limits.0);
        self.at = now;
        let may = self.left >= 1.0;
        self.left -= if may { 1.0 } else { 0.0 };
        may
    }
}

/// A question for leaf hashes.
#[derive(Clone, Copy, Debug)]
pub(super) struct HashAsk {
    pub(super) piece: u32,
    pub(super) leaves: LeafRequest,
    pub(super) sent: Instant,
    /// When the answer is expected.
    pub(super) due: Instant,
}

impl HashAsk {
    pub(super) fn wire(&self) -> HashRequest {
        let LeafRequest { root, index, length, proof_layers } = self.leaves;
        HashRequest { root, base_layer: 0, index, length, proof_layers }
    }
}

/// A connection whose handshakes are done.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) conn: ConnId,
    pub(super) addr: PeerAddr,
    pub(super) identity: Arc<PeerIdentity>,
    pub(super) wire_id: WirePeerId,
    pub(super) outgoing: bool,
    pub(super) since: Instant,
    /// Fast extension (BEP 6).
    pub(super) fast: bool,
    /// Its handshake says that it speaks hash requests (BEP 52).
    pub(super) offers_hashes: bool,
    /// It may be asked for hashes.
    pub(super) hashes: bool,
    /// The swarm that both ends named, after a change from v1 to v2.
    pub(super) swarm: SwarmId,
    pub(super) owned: Owned,
    /// Whether anything but a bitfield came: a bitfield would be late.
    pub(super) spoke: bool,
    /// Whether it was told what we have.
    pub(super) told_inventory: bool,
    /// Pieces that it has and we lack.
    pub(super) useful: u32,
    /// It does not answer requests.
    pub(super) chokes_us: bool,
    /// We told it that we want something.
    pub(super) we_are_interested: bool,
    /// It wants something.
    pub(super) is_interested: bool,
    /// We answer its requests.
    pub(super) unchoked: bool,
    /// When it was last unchoked or choked by us.
    pub(super) choke_changed: Option<Instant>,
    /// Pieces that we may request while choked.
    pub(super) allowed: BTreeSet<u32>,
    refused: BTreeMap<u32, Instant>,
    pub(super) flow: Flow,
    pub(super) upload: Upload,
    pub(super) asks: Vec<HashAsk>,
    hash_credit: Credit,
    metainfo_credit: Credit,
    /// It speaks the extension protocol (BEP 10), and was told what we can.
    pub(super) extended: bool,
    pub(super) told_extensions: bool,
    /// Its numbers for extensions; 0 where it has none.
    pub(super) metainfo_id: u8,
    pub(super) metadata_id: u8,
    pub(super) pex_id: u8,
    pub(super) update_id: u8,
    pub(super) dont_have_id: u8,
    /// It follows the dataset, and was told of the newest version.
    pub(super) met: bool,
    /// The record that it sent or was sent last.
    pub(super) knows_record: Option<Bytes>,
    update_credit: Credit,
    /// The last record that it sent when it had said too much.
    pub(super) late_record: Option<Bytes>,
    /// Pieces of the metainfo that it was sent.
    pub(super) metainfo_served: u32,
    pub(super) client: String,
    /// What it and we told each other of others.
    pub(super) gossip: Gossip,
    /// Where it takes connections, as it says. Only of peers that came by themselves.
    pub(super) listens: Option<SocketAddr>,
    /// Our address, as it says.
    pub(super) sees_us_at: Option<IpAddr>,
    /// It takes nothing (BEP 21).
    pub(super) upload_only: bool,
    pub(super) heard: Instant,
    pub(super) sent: Instant,
    pub(super) down: RateMeter,
    pub(super) up: RateMeter,
    pub(super) downloaded: u64,
    pub(super) uploaded: u64,
}

impl Peer {
    pub(super) fn new(
        now: Instant,
        conn: ConnId,
        addr: PeerAddr,
        identity: PeerIdentity,
        handshake: &Handshake,
        outgoing: bool,
    ) -> Self {
        let ip = if let PeerAddr::Socket(addr) = &addr { Some(addr.ip()) } else { None };
        Self {
            conn,
            addr,
            identity: Arc::new(identity),
            wire_id: handshake.peer_id,
            outgoing,
            since: now,
            fast: handshake.supports_fast(),
            offers_hashes: handshake.supports_hashes(),
            hashes: false,
            swarm: handshake.swarm,
            owned: Owned::Early { bitfield: None, haves: Vec::new(), all: false },
            spoke: false,
            told_inventory: false,
            useful: 0,
            chokes_us: true,
            we_are_interested: false,
            is_interested: false,
            unchoked: false,
            choke_changed: None,
            allowed: BTreeSet::new(),
            refused: BTreeMap::new(),
            flow: Flow::new(handshake.supports_fast()),
            upload: Upload::default(),
            asks: Vec::new(),
            hash_credit: Credit::new(now, HASHES),
            metainfo_credit: Credit::new(now, METAINFO_PIECES),
            extended: handshake.supports_extensions(),
            told_extensions: false,
            metainfo_id: 0,
            metadata_id: 0,
            pex_id: 0,
            update_id: 0,
            met: false,
            knows_record: None,
            update_credit: Credit::new(now, UPDATES),
            late_record: None,
            dont_have_id: 0,
            metainfo_served: 0,
            client: String::new(),
            gossip: Gossip::new(now, ip),
            listens: None,
            sees_us_at: None,
            upload_only: false,
            heard: now,
            sent: now,
            down: RateMeter::default(),
            up: RateMeter::default(),
            downloaded: 0,
            uploaded: 0,
        }
    }

    pub(super) fn send(&mut self, now: Instant, out: &mut VecDeque<Output>, message: Message) {
        self.sent = now;
        out.push_back(Output::Send { conn: self.conn, message });
    }

    pub(super) fn has(&self, piece: u32) -> bool {
        match &self.owned {
            Owned::Early { .. } => false,
            Owned::All => true,
            Owned::Some(bits) => bits.contains(piece),
        }
    }

    /// Whether it is asked only for what no other peer delivers: a web seed.
    pub(super) fn is_reserve(&self) -> bool {
        matches!(*self.identity, PeerIdentity::Web(_))
    }

    /// Whether it may be asked for hashes of the torrent.
    pub(super) fn speaks_hashes_of(&self, metainfo: &Metainfo) -> bool {
        let is_client = matches!(self.addr, PeerAddr::Socket(_));
        !self.is_reserve() && metainfo.speaks_hashes(self.swarm, self.offers_hashes, is_client)
    }

    pub(super) fn is_seed(&self) -> bool {
        match &self.owned {
            Owned::Early { all, .. } => *all,
            Owned::All => true,
            Owned::Some(bits) => bits.is_full(),
        }
    }

    /// Where others can dial it, as far as is known.
    pub(super) fn dialable(&self) -> Option<SocketAddr> {
        match self.addr {
            PeerAddr::Socket(addr) if self.outgoing => Some(addr),
            _ => self.listens,
        }
    }

    /// Notes a `have` that came before the metainfo; false if there are too many.
    pub(super) fn early_have(&mut self, piece: PieceIndex) -> bool {
        let Owned::Early { haves, .. } = &mut self.owned else { return true };
        haves.push(piece);
        haves.len() <= MAX_EARLY_HAVES
    }

    /// The metainfo is known: makes sense of what the peer said before.
    ///
    /// # Errors
    /// When its bitfield is not one of this torrent.
    pub(super) fn settle(&mut self, pieces: u32) -> Result<(), BitfieldError> {
        let Owned::Early { bitfield, haves, all } = &self.owned else { return Ok(()) };
        let mut bits = match bitfield {
            Some(bytes) => Bitfield::from_bytes(bytes, pieces)?,
            None if *all => Bitfield::full(pieces),
            None => Bitfield::new(pieces),
        };
        for piece in haves {
            bits.insert(piece.0);
        }
        self.set_owned(bits);
        Ok(())
    }

    pub(super) fn set_owned(&mut self, bits: Bitfield) {
        self.owned = if bits.is_full() && !bits.is_empty() { Owned::All } else { Owned::Some(bits) };
    }

    /// Whether requests for `piece` would be answered.
    pub(super) fn serves(&self, now: Instant, piece: u32) -> bool {
        self.has(piece)
            && (!self.chokes_us || self.allowed.contains(&piece))
            && self.refused.get(&piece).is_none_or(|at| now.saturating_duration_since(*at) > REFUSED_FOR)
    }

    /// Whether requests for any piece would be answered.
    pub(super) fn serves_all(&self, now: Instant) -> bool {
        let refuses = |at: &Instant| now.saturating_duration_since(*at) <= REFUSED_FOR;
        self.is_seed() && !self.chokes_us && !self.refused.values().any(refuses)
    }

    /// The peer rejected a block of `piece` though it does not choke us.
    pub(super) fn refused(&mut self, now: Instant, piece: u32) {
        if self.refused.len() >= MAX_REFUSED {
            self.refused.clear();
        }
        self.refused.insert(piece, now);
        self.allowed.remove(&piece);
    }

    /// Whether the peer may make another hash request now.
    pub(super) fn may_ask_hashes(&mut self, now: Instant) -> bool {
        self.hash_credit.take(now)
    }

    /// Whether the peer may have another piece of the metainfo now.
    pub(super) fn may_ask_metainfo(&mut self, now: Instant) -> bool {
        self.metainfo_credit.take(now)
    }

    /// Whether another message about versions is heard now.
    pub(super) fn may_tell_updates(&mut self, now: Instant) -> bool {
        self.update_credit.take(now)
    }

    /// Its number for the extension that carries the metainfo; 0 if it has none.
    pub(super) fn carrier_id(&self, carrier: Carrier) -> u8 {
        match carrier {
            Carrier::Envelope => self.metainfo_id,
            Carrier::Info => self.metadata_id,
        }
    }

    pub(super) fn stats(&self, now: Instant, pieces: u32) -> PeerStats {
        let progress = match &self.owned {
            Owned::Early { .. } => 0.0,
            Owned::All => 1.0,
            Owned::Some(bits) => f64::from(bits.count()) / f64::from(pieces.max(1)),
        };
        PeerStats {
            conn: self.conn,
            addr: self.addr.clone(),
            identity: (*self.identity).clone(),
            client: self.client.clone(),
            downloaded_bytes: self.downloaded,
            uploaded_bytes: self.uploaded,
            download_rate: self.down.per_second(now) as u64,
            upload_rate: self.up.per_second(now) as u64,
            progress,
            unchokes_us: !self.chokes_us,
            unchoked: self.unchoked,
            requests: self.flow.in_flight(),
            delay: self.flow.delay_s().map(Duration::from_secs_f64),
        }
    }
}
