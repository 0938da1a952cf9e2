//! The piece hashes of a BitTorrent v2 or hybrid torrent of which only `info` is known (BEP 52).
//!
//! `ut_metadata` does not carry them, so they are asked for by hash requests before the torrent is opened, each with
//! proof up to the root of its file. So every answer stands for itself: any number of peers may give a part, and whoever
//! gives a wrong one is known.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::fetch_metainfo::Fetched;
use crate::metainfo::{Form, HashRange, Metainfo};
use crate::types::{ConnId, SwarmId};

/// Questions to one peer at the same time.
const PER_PEER: usize = 16;
/// Questions to all at the same time.
const MAX_ASKED: usize = 256;
/// How long a peer has to answer.
const TIMEOUT: Duration = Duration::from_secs(4);
/// Before a peer that did not tell is asked again.
const RETRY: Duration = Duration::from_secs(15);
/// How long a hybrid torrent, which has v1 hashes too, waits for a peer that tells those of v2; the same where some are
/// dialled anew for v2; and for all of the hashes.
const NOBODY_FOR: Duration = Duration::from_secs(2);
const CHANGE_FOR: Duration = Duration::from_secs(6);
const HYBRID_FOR: Duration = Duration::from_secs(10);

/// A question that is under way.
#[derive(Debug)]
struct Ask {
    conn: ConnId,
    range: HashRange,
    sent: Instant,
}

/// The search for the piece hashes of one torrent.
#[derive(Debug)]
pub(super) struct LayerFetch {
    metainfo: Metainfo,
    since: Instant,
    /// How long it waits while there is nobody to ask.
    patience: Duration,
    /// Whether it was told that the torrent is hybrid.
    told: bool,
    todo: VecDeque<HashRange>,
    asked: Vec<Ask>,
    /// By root and first piece.
    got: BTreeMap<([u8; 32], u32), Bytes>,
    /// Peers that are not asked before a time.
    resting: BTreeMap<ConnId, Instant>,
}

impl LayerFetch {
    /// Of a metainfo that lacks them.
    pub(super) fn new(now: Instant, metainfo: Metainfo) -> Self {
        let todo = metainfo.layer_requests().into();
        Self {
            metainfo,
            since: now,
            patience: NOBODY_FOR,
            told: false,
            todo,
            asked: Vec::new(),
            got: BTreeMap::new(),
            resting: BTreeMap::new(),
        }
    }

    /// The metainfo that lacks them.
    pub(super) fn metainfo(&self) -> &Metainfo {
        &self.metainfo
    }

    /// The swarm of the v2 infohash, if the torrent is hybrid; once.
    pub(super) fn hybrid_news(&mut self) -> Option<SwarmId> {
        let is_news = self.metainfo.form() == Form::Hybrid && !std::mem::replace(&mut self.told, true);
        self.metainfo.v2_swarm().filter(|_| is_news)
    }

    /// Peers are dialled anew to be asked.
    pub(super) fn be_patient(&mut self) {
        self.patience = CHANGE_FOR;
    }

    /// The metainfo as it is, if it is of use without the hashes and nobody tells them; `able` are the peers to ask.
    pub(super) fn given_up(&self, now: Instant, able: &[ConnId]) -> Option<Metainfo> {
        let waited = now.saturating_duration_since(self.since);
        let nobody = able.iter().all(|conn| self.resting.contains_key(conn));
        let is_over = waited >= HYBRID_FOR || waited >= self.patience && nobody;
        (self.metainfo.has_layers() && is_over).then(|| self.metainfo.clone())
    }

    /// What to ask which of `able` for now. Who did not answer in time rests.
    pub(super) fn requests(&mut self, now: Instant, able: &[ConnId]) -> Vec<(ConnId, HashRange)> {
        let late = |ask: &Ask| now.saturating_duration_since(ask.sent) >= TIMEOUT;
        let late: Vec<_> = self.asked.iter().filter(|ask| late(ask)).map(|ask| ask.conn).collect();
        late.into_iter().for_each(|conn| self.rest(now, conn));
        self.resting.retain(|_, until| now < *until);
        let mut asks = Vec::new();
        for conn in able.iter().filter(|conn| !self.resting.contains_key(conn)) {
            let running = self.asked.iter().filter(|ask| ask.conn == *conn).count();
            let room = (PER_PEER.saturating_sub(running)).min(MAX_ASKED.saturating_sub(self.asked.len()));
            for range in self.todo.drain(..room.min(self.todo.len())) {
                self.asked.push(Ask { conn: *conn, range, sent: now });
                asks.push((*conn, range));
            }
        }
        asks
    }

    /// A peer's answer.
    pub(super) fn answered(&mut self, conn: ConnId, range: &HashRange, hashes: &[u8]) -> Fetched {
        let Some(at) = self.asked.iter().position(|ask| ask.conn == conn && ask.range == *range) else {
            return Fetched::Waiting;
        };
        let range = self.asked.swap_remove(at).range;
        let Some(layer) = self.metainfo.verify_layer(&range, hashes) else {
            self.todo.push_back(range);
            return Fetched::Wrong("expected hashes of pieces that lead to the root of their file, got others".into());
        };
        self.got.insert((range.root, range.index), Bytes::copy_from_slice(layer));
        if !self.todo.is_empty() || !self.asked.is_empty() {
            return Fetched::Waiting;
        }
        let mut layers: BTreeMap<[u8; 32], Vec<u8>> = BTreeMap::new();
        for ((root, _), layer) in &self.got {
            layers.entry(*root).or_default().extend_from_slice(layer);
        }
        let layers = layers.into_iter().map(|(root, layer)| (root, layer.into())).collect();
        match self.metainfo.with_layers(&layers) {
            Ok(metainfo) => Fetched::Done(Box::new(metainfo)),
            Err(error) => Fetched::Unusable(error),
        }
    }

    /// A peer will not tell: it may lack them itself.
    pub(super) fn rejected(&mut self, now: Instant, conn: ConnId, range: &HashRange) {
        if self.asked.iter().any(|ask| ask.conn == conn && ask.range == *range) {
            self.rest(now, conn);
        }
    }

    /// A peer is gone.
    pub(super) fn gone(&mut self, conn: ConnId) {
        self.resting.remove(&conn);
        self.give_back(conn);
    }

    fn rest(&mut self, now: Instant, conn: ConnId) {
        self.resting.insert(conn, now + RETRY);
        self.give_back(conn);
    }

    fn give_back(&mut self, conn: ConnId) {
        let todo = &mut self.todo;
        self.asked.retain(|ask| {
            if ask.conn == conn {
                todo.push_back(ask.range);
            }
            ask.conn != conn
        });
    }
}
