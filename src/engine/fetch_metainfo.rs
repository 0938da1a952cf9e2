//! The metainfo from peers, when only the InfoID is known.
//!
//! Envelopes of the same torrent may differ outside `info`, so one is never pieced together from several peers: a few
//! peers are asked at the same time, each for all of it, and the first that matches the InfoID wins. What one peer
//! sent is then its own doing, too.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::metainfo::{MAX_METAINFO_LEN, Metainfo};
use crate::types::{ConnId, InfoId};
use crate::wire::METADATA_PIECE_LEN;

/// Peers that are asked at the same time.
const MAX_FETCHES: usize = 3;
/// Pieces that are asked of one peer at the same time.
const PIPELINE: u32 = 16;
/// Before a peer that did not deliver is asked again.
const RETRY: Duration = Duration::from_secs(15);

/// The search for one metainfo.
#[derive(Debug)]
pub(super) struct MetainfoFetch {
    id: InfoId,
    /// Peers that offer it, and its size as they say; with the time before which they are not asked.
    offers: BTreeMap<ConnId, (u32, Option<Instant>)>,
    running: BTreeMap<ConnId, Assembly>,
}

#[derive(Debug)]
struct Assembly {
    size: u32,
    pieces: Vec<Option<Bytes>>,
    asked: u32,
    received: u32,
    progress: Instant,
}

/// What became of a piece.
#[derive(Debug)]
pub(super) enum Fetched {
    /// More is to come, or it was not asked for.
    Waiting,
    /// This is it.
    Done(Box<Metainfo>),
    /// All of it is there, and it is not what was asked for.
    Wrong(String),
}

impl MetainfoFetch {
    pub(super) fn new(id: InfoId) -> Self {
        Self { id, offers: BTreeMap::new(), running: BTreeMap::new() }
    }

    /// A peer says how large its metainfo is.
    ///
    /// # Errors
    /// When nothing can be that large.
    pub(super) fn offer(&mut self, conn: ConnId, size: u64) -> Result<(), String> {
        match u32::try_from(size).ok().filter(|size| (1..=MAX_METAINFO_LEN).contains(&(*size as usize))) {
            Some(size) => {
                self.offers.entry(conn).or_insert((size, None));
                Ok(())
            }
            None => Err(format!("expected a metainfo of 1 to {MAX_METAINFO_LEN} bytes, got {size}")),
        }
    }

    pub(super) fn gone(&mut self, conn: ConnId) {
        self.offers.remove(&conn);
        self.running.remove(&conn);
    }

    /// Pieces to ask for now.
    pub(super) fn requests(&mut self, now: Instant) -> VecDeque<(ConnId, u32)> {
        for (conn, (size, retry)) in &self.offers {
            let ready = retry.is_none_or(|at| now >= at);
            if ready && self.running.len() < MAX_FETCHES && !self.running.contains_key(conn) {
                let count = size.div_ceil(METADATA_PIECE_LEN);
                let pieces = vec![None; count as usize];
                self.running.insert(*conn, Assembly { size: *size, pieces, asked: 0, received: 0, progress: now });
            }
        }
        let mut requests = VecDeque::new();
        for (conn, assembly) in &mut self.running {
            while assembly.asked < assembly.pieces.len() as u32 && assembly.asked < assembly.received + PIPELINE {
                requests.push_back((*conn, assembly.asked));
                assembly.asked += 1;
            }
        }
        requests
    }

    /// A piece came.
    pub(super) fn data(&mut self, now: Instant, conn: ConnId, piece: u32, total: u64, data: Bytes) -> Fetched {
        let Some(assembly) = self.running.get_mut(&conn) else { return Fetched::Waiting };
        let expected = assembly.size.saturating_sub(piece.saturating_mul(METADATA_PIECE_LEN)).min(METADATA_PIECE_LEN);
        if total != u64::from(assembly.size) || piece >= assembly.asked || data.len() != expected as usize {
            self.refused(now, conn);
            return Fetched::Waiting;
        }
        let Some(slot) = assembly.pieces.get_mut(piece as usize).filter(|slot| slot.is_none()) else {
            return Fetched::Waiting;
        };
        *slot = Some(data);
        assembly.received += 1;
        assembly.progress = now;
        if assembly.received < assembly.pieces.len() as u32 {
            return Fetched::Waiting;
        }
        let mut bytes = BytesMut::with_capacity(assembly.size as usize);
        for piece in assembly.pieces.iter().flatten() {
            bytes.extend_from_slice(piece);
        }
        self.gone(conn);
        match Metainfo::from_bytes(bytes.freeze()) {
            Ok(metainfo) if metainfo.matches(&self.id) => Fetched::Done(Box::new(metainfo)),
            Ok(other) => {
                Fetched::Wrong(format!("expected the metainfo of {}, got that of {}", self.id, other.info_id()))
            }
            Err(error) => Fetched::Wrong(format!("expected the metainfo of {}, got {error}", self.id)),
        }
    }

    /// A peer will not send a piece: others are asked first.
    pub(super) fn refused(&mut self, now: Instant, conn: ConnId) {
        if self.running.remove(&conn).is_some()
            && let Some(offer) = self.offers.get_mut(&conn)
        {
            offer.1 = Some(now + RETRY);
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
