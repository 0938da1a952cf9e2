//! Peers in the order in which they would deliver another block, and those that have room for a request, kept up to date
//! request by request, so that the best one for a piece, and whom to ask, is found without a look at all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Instant;

use super::Torrent;
use crate::engine::flow::{Outlook, Room, View};
use crate::engine::manager::Context;
use crate::engine::peer::Peer;
use crate::engine::scheduling::{
    ESTIMATE_LIFE, ESTIMATE_LIFE_PER_PEER, GUESSED_RATE, NEAR, RECONSIDER, RECONSIDER_PER_PEER, WORTH_IT,
};
use crate::types::ConnId;

/// What is expected of the swarm as a whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Estimate {
    /// Bytes a second that a peer which was not measured is taken to deliver: as much as the others do.
    pub(super) guess: f64,
    /// Bytes a second that all peers deliver, or are taken to.
    pub(super) rate: f64,
}

/// Peers by when they would deliver another block, and which of them have room for a request.
#[derive(Debug, Default)]
pub(super) struct Ranking {
    /// What is expected of the swarm, and since when.
    estimate: Option<(Instant, Estimate)>,
    /// When what is missing was last offered to all peers anew.
    reconsidered: Option<Instant>,
    order: BTreeSet<Place>,
    /// Those with room.
    open: BTreeSet<Place>,
    /// When others will have room by themselves.
    opening: BTreeSet<(Instant, ConnId)>,
    ranked: BTreeMap<ConnId, Ranked>,
}

#[derive(Clone, Copy, Debug)]
struct Ranked {
    place: Place,
    room: Room,
}

/// Where a peer is in the order. Of equals no one comes first for being known longest: where peers come and go in turn,
/// that would be the one that goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
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

    pub(super) fn conn(self) -> ConnId {
        self.conn
    }

    fn told(self) -> (f64, ConnId) {
        (f64::from_bits(self.eta), self.conn)
    }
}

impl Ranking {
    /// Ranks a peer anew, unless it is where it was, about.
    fn update(&mut self, conn: ConnId, outlook: Outlook) {
        let is_near = |ranked: &Ranked| {
            let before_s = ranked.place.told().0;
            ranked.room == outlook.room && (outlook.eta_s - before_s).abs() <= before_s * NEAR
        };
        if !self.ranked.get(&conn).is_some_and(is_near) {
            self.set(conn, outlook);
        }
    }

    fn set(&mut self, conn: ConnId, outlook: Outlook) {
        self.remove(conn);
        let place = Place::new(conn, outlook.eta_s);
        self.ranked.insert(conn, Ranked { place, room: outlook.room });
        self.order.insert(place);
        match outlook.room {
            Room::Now => drop(self.open.insert(place)),
            Room::At(at) => drop(self.opening.insert((at, conn))),
            Room::Later => {}
        }
    }

    pub(super) fn remove(&mut self, conn: ConnId) {
        let Some(Ranked { place, room }) = self.ranked.remove(&conn) else { return };
        self.order.remove(&place);
        match room {
            Room::Now => drop(self.open.remove(&place)),
            Room::At(at) => drop(self.opening.remove(&(at, conn))),
            Room::Later => {}
        }
    }

    /// Seconds until each peer would deliver another block, the soonest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (f64, ConnId)> + '_ {
        self.order.iter().map(|place| place.told())
    }

    /// The first peer behind `after` that has room.
    pub(super) fn next_open(&self, after: Option<Place>) -> Option<Place> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.open.range((from, Bound::Unbounded)).next().copied()
    }

    /// The place of a peer, if it has room.
    pub(super) fn open_place(&self, conn: ConnId) -> Option<Place> {
        self.ranked.get(&conn).filter(|ranked| ranked.room == Room::Now).map(|ranked| ranked.place)
    }

    /// When the next peer will have room by itself.
    pub(super) fn next_opening(&self) -> Option<Instant> {
        self.opening.first().map(|(at, _)| *at)
    }

    /// A peer that has room from now on, by itself.
    pub(super) fn take_opening(&mut self, now: Instant) -> Option<ConnId> {
        let (_, conn) = self.opening.first().copied().filter(|(at, _)| *at <= now)?;
        self.opening.pop_first();
        let ranked = self.ranked.get_mut(&conn)?;
        ranked.room = Room::Now;
        self.open.insert(ranked.place);
        Some(conn)
    }
}

impl Torrent {
    /// What the swarm delivers. Looked at anew every few milliseconds, and all peers with it.
    pub(super) fn estimate(&mut self, ctx: &Context<'_>) -> Estimate {
        let life = ESTIMATE_LIFE.max(ESTIMATE_LIFE_PER_PEER * self.peers.len() as u32);
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
        self.ranking.estimate = Some((ctx.now, estimate));
        self.purpose = self.readers.purpose(ctx.now);
        let view = self.view(ctx, guess, WORTH_IT);
        for peer in self.peers.values() {
            self.ranking.update(peer.conn, peer.flow.outlook(&view));
        }
        estimate
    }

    /// From where a peer's requests are looked at.
    fn view(&self, ctx: &Context<'_>, guess: f64, share: f64) -> View {
        View {
            now: ctx.now,
            guess,
            purpose: self.purpose,
            cap: ctx.config.max_requests,
            peers: self.peers.len(),
            share,
        }
    }

    /// Whether a peer's queue has room, if it may be `share` times as full as it is to be.
    pub(super) fn queue_has_room(&self, ctx: &Context<'_>, peer: &Peer, share: f64) -> bool {
        peer.flow.has_room(&self.view(ctx, GUESSED_RATE, share))
    }

    /// Whether so much time went by since this was last said that a block which was left to a better peer may be
    /// anybody's now.
    pub(super) fn is_time_to_reconsider(&mut self, now: Instant) -> bool {
        let life = RECONSIDER.max(RECONSIDER_PER_PEER * self.peers.len() as u32);
        let is_time = self.ranking.reconsidered.is_none_or(|at| now.saturating_duration_since(at) >= life);
        if is_time {
            self.ranking.reconsidered = Some(now);
        }
        is_time
    }

    /// A peer came, or what is asked of it has changed. Its queue has room if it may be `share` times as full as it is
    /// to be.
    pub(super) fn rerank(&mut self, ctx: &Context<'_>, conn: ConnId, share: f64) {
        if let (Some(peer), Some((_, estimate))) = (self.peers.get(&conn), self.ranking.estimate) {
            let outlook = peer.flow.outlook(&self.view(ctx, estimate.guess, share));
            self.ranking.set(conn, outlook);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn outlook(eta_s: f64, room: Room) -> Outlook {
        Outlook { eta_s, room }
    }

    #[test]
    fn peers_move_as_their_outlooks_do() {
        let mut ranking = Ranking::default();
        for (conn, eta) in [(1, 0.5), (2, 0.1), (3, f64::INFINITY), (1, 0.05), (4, 0.2), (2, 3.0)] {
            ranking.set(ConnId(conn), outlook(eta, Room::Later));
        }
        ranking.remove(ConnId(4));
        ranking.remove(ConnId(9));
        ranking.update(ConnId(2), outlook(3.01, Room::Later));
        let order: Vec<_> = ranking.iter().map(|(eta, conn)| (eta, conn.0)).collect();
        assert_eq!(order, [(0.05, 1), (3.0, 2), (f64::INFINITY, 3)]);
        ranking.update(ConnId(2), outlook(2.0, Room::Later));
        assert_eq!(ranking.iter().nth(1), Some((2.0, ConnId(2))));
        assert_eq!((ranking.next_open(None), ranking.next_opening()), (None, None));
    }

    #[test]
    fn those_with_room_come_in_their_order() {
        let now = Instant::now();
        let soon = now + Duration::from_secs(1);
        let mut ranking = Ranking::default();
        let rooms = [(1, 0.3, Room::Now), (2, 0.1, Room::At(soon)), (3, 0.2, Room::Now), (4, 0.4, Room::Later)];
        rooms.into_iter().for_each(|(conn, eta, room)| ranking.set(ConnId(conn), outlook(eta, room)));
        let first = ranking.next_open(None).unwrap();
        let second = ranking.next_open(Some(first)).unwrap();
        assert_eq!((first.conn(), second.conn(), ranking.next_open(Some(second))), (ConnId(3), ConnId(1), None));
        assert_eq!(ranking.open_place(ConnId(3)), Some(first));
        assert_eq!((ranking.next_opening(), ranking.take_opening(now)), (Some(soon), None));
        assert_eq!((ranking.take_opening(soon), ranking.take_opening(soon)), (Some(ConnId(2)), None));
        assert_eq!(ranking.next_open(None).map(Place::conn), Some(ConnId(2)));
    }

    #[test]
    fn equals_come_in_no_order_of_age() {
        let mut ranking = Ranking::default();
        (0..100).for_each(|conn| ranking.set(ConnId(conn), outlook(1.0, Room::Now)));
        let order: Vec<u64> = ranking.iter().map(|(_, conn)| conn.0).collect();
        let rising = order.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!((25..75).contains(&rising), "{order:?}");
    }
}
