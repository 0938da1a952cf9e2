//! Peers in the order in which they would deliver another block, kept up to date request by request, so that the best
//! one for a piece is found without a look at all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Torrent;
use crate::engine::manager::Context;
use crate::engine::scheduling::{ESTIMATE_LIFE, ESTIMATE_LIFE_PER_PEER, GUESSED_RATE};
use crate::types::ConnId;

/// What is expected of the swarm as a whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Estimate {
    /// Bytes a second that a peer which was not measured is taken to deliver: as much as the others do.
    pub(super) guess: f64,
    /// Bytes a second that all peers deliver, or are taken to.
    pub(super) rate: f64,
}

/// Peers by when they would deliver another block.
#[derive(Debug, Default)]
pub(super) struct Ranking {
    /// What is expected of the swarm, and since when.
    estimate: Option<(Instant, Estimate)>,
    /// When what is missing was last offered to all peers anew.
    reconsidered: Option<Instant>,
    order: BTreeSet<Place>,
    places: BTreeMap<ConnId, Place>,
    /// When peers will have room by themselves.
    room: BTreeSet<(Instant, ConnId)>,
    room_of: BTreeMap<ConnId, Instant>,
}

/// Where a peer is in the order. Of equals no one comes first for being known longest: where peers come and go in turn,
/// that would be the one that goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// The bits of the seconds: those of positive floats are in the order of the floats.
    eta: u64,
    tie: u64,
    conn: ConnId,
}

impl Place {
    fn new(conn: ConnId, eta_s: f64) -> Self {
        // Multiplication by an odd number scatters, and makes no two equal (Fibonacci hashing).
        Self { eta: eta_s.to_bits(), tie: conn.0.wrapping_mul(0x9E37_79B9_7F4A_7C15), conn }
    }

    fn told(self) -> (f64, ConnId) {
        (f64::from_bits(self.eta), self.conn)
    }
}

impl Ranking {
    /// A peer would deliver another block in `eta_s` seconds.
    fn set(&mut self, conn: ConnId, eta_s: f64) {
        let place = Place::new(conn, eta_s);
        self.remove(conn);
        self.places.insert(conn, place);
        self.order.insert(place);
    }

    pub(super) fn remove(&mut self, conn: ConnId) {
        if let Some(place) = self.places.remove(&conn) {
            self.order.remove(&place);
        }
        self.set_room(conn, None);
    }

    fn set_room(&mut self, conn: ConnId, at: Option<Instant>) {
        if let Some(before) = self.room_of.remove(&conn) {
            self.room.remove(&(before, conn));
        }
        if let Some(at) = at {
            self.room_of.insert(conn, at);
            self.room.insert((at, conn));
        }
    }

    /// When the next peer will have room by itself.
    pub(super) fn next_room(&self) -> Option<Instant> {
        self.room.first().map(|(at, _)| *at)
    }

    /// A peer that has room by now.
    pub(super) fn take_room(&mut self, now: Instant) -> Option<ConnId> {
        let (at, conn) = self.room.first().copied()?;
        (at <= now).then(|| {
            self.set_room(conn, None);
            conn
        })
    }

    /// Seconds until each peer would deliver another block, the soonest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (f64, ConnId)> + '_ {
        self.order.iter().map(|place| place.told())
    }

    /// Seconds until a peer would deliver another block.
    pub(super) fn eta_s(&self, conn: ConnId) -> Option<f64> {
        self.places.get(&conn).map(|place| place.told().0)
    }
}

impl Torrent {
    /// What the swarm delivers. Looked at anew every few milliseconds, and all peers with it.
    pub(super) fn estimate(&mut self, ctx: &Context<'_>) -> Estimate {
        let life = self.estimate_life();
        if let Some((at, estimate)) = self.ranking.estimate
            && ctx.now.saturating_duration_since(at) < life
        {
            return estimate;
        }
        let rates = self.peers.values().filter_map(|peer| peer.flow.rate(ctx.now));
        let (sum, count) = rates.fold((0.0, 0u32), |(sum, count), rate| (sum + rate, count + 1));
        let guess = if count == 0 { GUESSED_RATE } else { sum / f64::from(count) };
        let serving = self.peers.values().filter(|peer| !peer.chokes_us);
        let rate: f64 = serving.map(|peer| peer.flow.rate(ctx.now).unwrap_or(guess)).sum();
        let estimate = Estimate { guess, rate: rate.max(1.0) };
        let reconsidered = self.ranking.reconsidered;
        self.ranking = Ranking { estimate: Some((ctx.now, estimate)), reconsidered, ..Ranking::default() };
        for peer in self.peers.values() {
            self.ranking.set(peer.conn, peer.flow.eta(ctx.now, guess));
            self.ranking.set_room(peer.conn, peer.flow.room_at(ctx.now, self.purpose));
        }
        estimate
    }

    fn estimate_life(&self) -> Duration {
        ESTIMATE_LIFE.max(ESTIMATE_LIFE_PER_PEER * self.peers.len() as u32)
    }

    /// Whether so much time went by since this was last said that a block which was left to a better peer may be
    /// anybody's now.
    pub(super) fn is_time_to_reconsider(&mut self, now: Instant) -> bool {
        let life = self.estimate_life();
        let is_time = self.ranking.reconsidered.is_none_or(|at| now.saturating_duration_since(at) >= life);
        if is_time {
            self.ranking.reconsidered = Some(now);
        }
        is_time
    }

    /// A peer came, or what is asked of it has changed.
    pub(super) fn rerank(&mut self, now: Instant, conn: ConnId) {
        if let (Some(peer), Some((_, estimate))) = (self.peers.get(&conn), self.ranking.estimate) {
            self.ranking.set(conn, peer.flow.eta(now, estimate.guess));
            self.ranking.set_room(conn, peer.flow.room_at(now, self.purpose));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_move_as_their_estimates_do() {
        let mut ranking = Ranking::default();
        for (conn, eta) in [(1, 0.5), (2, 0.1), (3, f64::INFINITY), (1, 0.05), (4, 0.2), (2, 3.0)] {
            ranking.set(ConnId(conn), eta);
        }
        ranking.remove(ConnId(4));
        ranking.remove(ConnId(9));
        let order: Vec<_> = ranking.iter().map(|(eta, conn)| (eta, conn.0)).collect();
        assert_eq!(order, [(0.05, 1), (3.0, 2), (f64::INFINITY, 3)]);
        assert_eq!((ranking.eta_s(ConnId(2)), ranking.eta_s(ConnId(4))), (Some(3.0), None));
    }

    #[test]
    fn equals_come_in_no_order_of_age() {
        let mut ranking = Ranking::default();
        (0..100).for_each(|conn| ranking.set(ConnId(conn), 1.0));
        let order: Vec<u64> = ranking.iter().map(|(_, conn)| conn.0).collect();
        let rising = order.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!((25..75).contains(&rising), "{order:?}");
    }
}
