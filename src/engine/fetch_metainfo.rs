//! The metainfo from peers, when only the InfoID is known.
//!
//! knot peers send their whole envelope, ordinary clients the bare `info` (BEP 9). Envelopes of the same torrent may
//! differ outside `info`, and sizes may be lies, so one is never pieced together from several peers: a few peers are
//! asked at the same time, each for all of it, and the first that matches the InfoID wins. What one peer sent is then
//! its own doing, too. Envelopes, which may be signed, are preferred. The bare `info` of a BitTorrent v2 torrent lacks
//! piece hashes: the search goes on for those, see [`LayerFetch`], and for an envelope that has them. A hybrid torrent
//! can be read without: it is not searched for long.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use sha1::{Digest, Sha1};
use sha2::Sha256;

use super::fetch_layers::LayerFetch;
use crate::metainfo::{MAX_TORRENT_LEN, Metainfo, MetainfoError};
use crate::types::{ConnId, InfoId};
use crate::wire::METADATA_PIECE_LEN;

/// Peers that are asked at the same time, not counting those that take long.
const MAX_FETCHES: usize = 3;
/// Peers that are asked at the same time. The slowest makes room for one that was not asked yet.
const MAX_RUNNING: usize = 8;
/// Pieces that are asked of one peer at the same time.
const PIPELINE: u32 = 16;
/// Before a peer that did not deliver is asked again.
const RETRY: Duration = Duration::from_secs(15);
/// Before a piece is asked for again that a peer refused though it had sent others: it was asked for too many.
const PAUSE: Duration = Duration::from_secs(1);

/// What carries it. The first is preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Carrier {
    /// `knot_metainfo`: the envelope.
    Envelope,
    /// `ut_metadata`: the bare `info`.
    Info,
}

/// The search for one metainfo.
#[derive(Debug)]
pub(super) struct MetainfoFetch {
    id: InfoId,
    offers: BTreeMap<ConnId, Offer>,
    running: BTreeMap<ConnId, Assembly>,
    /// Once there is an `info` that lacks piece hashes.
    pub(super) layers: Option<LayerFetch>,
}

/// What a peer says that it has.
#[derive(Clone, Copy, Debug)]
struct Offer {
    carrier: Carrier,
    size: u32,
    /// It is not asked before this.
    retry: Option<Instant>,
}

#[derive(Debug)]
struct Assembly {
    carrier: Carrier,
    size: u32,
    pieces: Vec<Option<Bytes>>,
    /// No piece from this one on was asked for.
    next: u32,
    /// Pieces to ask for again.
    again: Vec<u32>,
    pause: Option<Instant>,
    in_flight: u32,
    received: u32,
    started: Instant,
    progress: Instant,
}

/// A piece to ask a peer for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PieceAsk {
    pub(super) conn: ConnId,
    pub(super) carrier: Carrier,
    pub(super) piece: u32,
}

/// What became of a piece.
#[derive(Debug)]
pub(super) enum Fetched {
    /// More is to come, or it was not asked for.
    Waiting,
    /// This is it.
    Done(Box<Metainfo>),
    /// This is it, and it cannot be used.
    Unusable(MetainfoError),
    /// All of it is there, and it is not what was asked for.
    Wrong(String),
}

impl Assembly {
    fn new(now: Instant, offer: &Offer) -> Self {
        Self {
            carrier: offer.carrier,
            size: offer.size,
            pieces: vec![None; offer.size.div_ceil(METADATA_PIECE_LEN) as usize],
            next: 0,
            again: Vec::new(),
            pause: None,
            in_flight: 0,
            received: 0,
            started: now,
            progress: now,
        }
    }

    /// The next piece to ask for, while there is room in the pipeline.
    fn ask(&mut self, now: Instant) -> Option<u32> {
        if self.in_flight >= PIPELINE || self.pause.is_some_and(|until| now < until) {
            return None;
        }
        let next = (self.next < self.pieces.len() as u32).then_some(self.next);
        let piece = self.again.pop().or(next)?;
        self.next = self.next.max(piece + 1);
        self.in_flight += 1;
        Some(piece)
    }

    fn is_fresh(&self, now: Instant, timeout: Duration) -> bool {
        now.saturating_duration_since(self.started) < timeout
    }

    fn bytes_per_second(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.started).as_millis().max(1) as u64;
        u64::from(self.received) * u64::from(METADATA_PIECE_LEN) * 1000 / age
    }
}

impl MetainfoFetch {
    pub(super) fn new(id: InfoId) -> Self {
        Self { id, offers: BTreeMap::new(), running: BTreeMap::new(), layers: None }
    }

    /// A peer says how large what it has is; 0 if it has nothing yet.
    ///
    /// # Errors
    /// When nothing can be that large.
    pub(super) fn offer(&mut self, conn: ConnId, carrier: Carrier, size: u64) -> Result<(), String> {
        // A bare `info` proves no signature.
        let useless = carrier == Carrier::Info && (matches!(self.id, InfoId::Sig(_)) || self.layers.is_some());
        if size == 0 || useless {
            return Ok(());
        }
        let size = u32::try_from(size).ok().filter(|size| *size as usize <= MAX_TORRENT_LEN);
        let size = size.ok_or_else(|| format!("expected a metainfo of up to {MAX_TORRENT_LEN} bytes, got more"))?;
        let offer = self.offers.entry(conn).or_insert(Offer { carrier, size, retry: None });
        if carrier <= offer.carrier {
            (offer.carrier, offer.size) = (carrier, size);
        }
        Ok(())
    }

    /// Pieces that the peer which is furthest has sent, of how many; `None` while nobody is asked.
    pub(super) fn progress(&self) -> Option<(u32, u32)> {
        let pieces = |one: &Assembly| (one.received, one.pieces.len() as u32);
        self.running
            .values()
            .map(pieces)
            .max_by_key(|(received, all)| u64::from(*received) * 1000 / u64::from(*all).max(1))
    }

    pub(super) fn gone(&mut self, conn: ConnId) {
        self.offers.remove(&conn);
        self.running.remove(&conn);
        if let Some(layers) = &mut self.layers {
            layers.gone(conn);
        }
    }

    /// Pieces to ask for now. A fetch that goes on for longer than `timeout` takes nobody's place.
    pub(super) fn requests(&mut self, now: Instant, timeout: Duration) -> Vec<PieceAsk> {
        for (conn, offer) in self.ready(now) {
            let fresh = self.running.values().filter(|one| one.is_fresh(now, timeout));
            let (count, envelopes) = fresh
                .fold((0, false), |(count, envelopes), one| (count + 1, envelopes || one.carrier == Carrier::Envelope));
            if count >= MAX_FETCHES || envelopes && offer.carrier == Carrier::Info {
                break;
            }
            if self.running.len() >= MAX_RUNNING {
                let overdue = self.running.iter().filter(|(_, one)| !one.is_fresh(now, timeout));
                let slowest = overdue.min_by_key(|(_, one)| one.bytes_per_second(now)).map(|(conn, _)| *conn);
                let Some(slowest) = slowest else { break };
                self.refused(now, slowest);
            }
            self.running.insert(conn, Assembly::new(now, &offer));
        }
        let mut asks = Vec::new();
        for (conn, assembly) in &mut self.running {
            let (conn, carrier) = (*conn, assembly.carrier);
            asks.extend(std::iter::from_fn(|| assembly.ask(now)).map(|piece| PieceAsk { conn, carrier, piece }));
        }
        asks
    }

    /// Peers to ask, best first: envelopes, then the size that most peers name.
    fn ready(&self, now: Instant) -> Vec<(ConnId, Offer)> {
        let mut votes: BTreeMap<(Carrier, u32), usize> = BTreeMap::new();
        for offer in self.offers.values() {
            *votes.entry((offer.carrier, offer.size)).or_default() += 1;
        }
        let due = |conn: &ConnId, offer: &Offer| {
            !self.running.contains_key(conn) && offer.retry.is_none_or(|retry| now >= retry)
        };
        let mut ready: Vec<_> =
            self.offers.iter().filter(|(conn, offer)| due(conn, offer)).map(|(conn, offer)| (*conn, *offer)).collect();
        ready.sort_by_key(|(conn, offer)| {
            (offer.carrier, Reverse(votes.get(&(offer.carrier, offer.size)).copied()), *conn)
        });
        ready
    }

    /// A piece came.
    pub(super) fn data(
        &mut self,
        now: Instant,
        conn: ConnId,
        carrier: Carrier,
        piece: u32,
        total: u64,
        data: Bytes,
    ) -> Fetched {
        let Some(assembly) = self.running.get_mut(&conn).filter(|one| one.carrier == carrier) else {
            return Fetched::Waiting;
        };
        let expected = assembly.size.saturating_sub(piece.saturating_mul(METADATA_PIECE_LEN)).min(METADATA_PIECE_LEN);
        if total != u64::from(assembly.size) || piece >= assembly.next || data.len() != expected as usize {
            self.refused(now, conn);
            return Fetched::Waiting;
        }
        let Some(slot) = assembly.pieces.get_mut(piece as usize).filter(|slot| slot.is_none()) else {
            return Fetched::Waiting;
        };
        *slot = Some(data);
        assembly.in_flight = assembly.in_flight.saturating_sub(1);
        assembly.received += 1;
        assembly.progress = now;
        if assembly.received < assembly.pieces.len() as u32 {
            return Fetched::Waiting;
        }
        let mut bytes = BytesMut::with_capacity(assembly.size as usize);
        for piece in assembly.pieces.iter().flatten() {
            bytes.extend_from_slice(piece);
        }
        self.offers.remove(&conn);
        self.running.remove(&conn);
        match self.judge(carrier, bytes.freeze()) {
            Fetched::Done(metainfo) if metainfo.lacks_layers() => {
                self.layers.get_or_insert_with(|| LayerFetch::new(now, *metainfo));
                self.offers.retain(|_, offer| offer.carrier == Carrier::Envelope);
                self.running.retain(|_, one| one.carrier == Carrier::Envelope);
                Fetched::Waiting
            }
            fetched => fetched,
        }
    }

    /// Whether this is what was asked for.
    fn judge(&self, carrier: Carrier, bytes: Bytes) -> Fetched {
        let metainfo = match carrier {
            Carrier::Envelope => Metainfo::from_bytes(bytes),
            Carrier::Info => match Metainfo::from_info_bytes(&bytes) {
                Err(error) if self.is_hash_of(&bytes) => return Fetched::Unusable(error),
                metainfo => metainfo,
            },
        };
        match metainfo {
            Ok(metainfo) if metainfo.matches(&self.id) => Fetched::Done(Box::new(metainfo)),
            Ok(other) => {
                Fetched::Wrong(format!("expected the metainfo of {}, got that of {}", self.id, other.info_id()))
            }
            Err(error) => Fetched::Wrong(format!("expected the metainfo of {}, got {error}", self.id)),
        }
    }

    /// Whether the InfoID is the infohash of an ordinary torrent with this `info`.
    fn is_hash_of(&self, info: &[u8]) -> bool {
        let id = self.id.as_bytes();
        id == &Sha1::digest(info)[..] || id == &Sha256::digest(info)[..]
    }

    /// A peer will not send a piece. One that has sent others was asked for too many at once.
    pub(super) fn rejected(&mut self, now: Instant, conn: ConnId, carrier: Carrier, piece: u32) {
        let Some(assembly) = self.running.get_mut(&conn).filter(|one| one.carrier == carrier) else { return };
        let missing = assembly.pieces.get(piece as usize).is_some_and(Option::is_none);
        if assembly.received == 0 || !missing || piece >= assembly.next || assembly.again.contains(&piece) {
            self.refused(now, conn);
            return;
        }
        assembly.again.push(piece);
        assembly.in_flight = assembly.in_flight.saturating_sub(1);
        assembly.pause = Some(now + PAUSE);
    }

    /// A peer did not deliver: others are asked first.
    fn refused(&mut self, now: Instant, conn: ConnId) {
        if self.running.remove(&conn).is_some()
            && let Some(offer) = self.offers.get_mut(&conn)
        {
            offer.retry = Some(now + RETRY);
        }
    }

    /// Gives up on peers that sent nothing for `timeout`.
    pub(super) fn expire(&mut self, now: Instant, timeout: Duration) {
        let silent = |one: &Assembly| now.saturating_duration_since(one.progress) >= timeout;
        let silent: Vec<_> = self.running.iter().filter(|(_, one)| silent(one)).map(|(conn, _)| *conn).collect();
        for conn in silent {
            self.refused(now, conn);
        }
    }
}
