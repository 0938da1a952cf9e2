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
    order: BTreeSet<(u64, ConnId)>,
    places: BTreeMap<ConnId, u64>,
}

impl Ranking {
    /// A peer would deliver another block in `eta_s` seconds.
    fn set(&mut self, conn: ConnId, eta_s: f64) {
        // The bits of positive floats are in the order of the floats.
        let place = eta_s.to_bits();
        if let Some(before) = self.places.insert(conn, place) {
            self.order.remove(&(before, conn));
        }
        self.order.insert((place, conn));
    }

    pub(super) fn remove(&mut self, conn: ConnId) {
        if let Some(place) = self.places.remove(&conn) {
            self.order.remove(&(place, conn));
        }
    }

    /// Seconds until each peer would deliver another block, the soonest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (f64, ConnId)> + '_ {
        self.order.iter().map(|(place, conn)| (f64::from_bits(*place), *conn))
    }

    /// Seconds until a peer would deliver another block.
    pub(super) fn eta_s(&self, conn: ConnId) -> Option<f64> {
        self.places.get(&conn).map(|place| f64::from_bits(*place))
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
}
