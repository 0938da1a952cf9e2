//! Peers in the order in which they would deliver another block, and those that have room for a request, kept up to date
//! request by request, so that the best one for a piece, and whom to ask, is found without a look at all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::Torrent;
use super::order::{Alarms, Order, Place, Timers};
use crate::engine::flow::{Outlook, Purpose, Room, View};
use crate::engine::manager::Context;
use crate::engine::peer::Peer;
use crate::engine::scheduling::{
    ESTIMATE_LIFE, ESTIMATE_LIFE_PER_PEER, GUESSED_RATE, NEAR, RECONSIDER, RECONSIDER_PER_PEER, TOGETHER, WORTH_IT,
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

/// Alarms that are kept for each peer at most, those included that no longer count.
const STALE_ALARMS: usize = 8;

/// Peers by when they would deliver another block, and which of them have room for a request.
#[derive(Debug)]
pub(super) struct Ranking {
    /// When the swarm was last looked at, what strangers are taken to deliver since then, and for what peers were ranked.
    looked: Option<Instant>,
    guess: Option<f64>,
    purpose: Option<Purpose>,
    /// When what is missing was last offered to all peers anew.
    reconsidered: Option<Instant>,
    order: Order,
    /// Those with room.
    open: Order,
    /// When others will have room by themselves.
    opening: Timers,
    /// When what is expected of peers changes by itself.
    changing: Alarms,
    ranked: BTreeMap<ConnId, Ranked>,
    /// Of those that were measured.
    measured: Sum,
    /// And of those of them that serve us.
    serving: Sum,
    /// Peers that serve us and were not measured.
    strangers: BTreeSet<ConnId>,
}

#[derive(Clone, Copy, Debug)]
struct Ranked {
    outlook: Outlook,
    /// It does not choke us.
    serves: bool,
}

/// Peers and the bytes a second that they deliver. Whole numbers: what was added is taken off again.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    peers: u32,
    rate: u64,
}

impl Sum {
    fn shift(&mut self, before: Option<f64>, after: Option<f64>) {
        if let Some(rate) = before.filter(|_| before != after) {
            (self.peers, self.rate) = (self.peers - 1, self.rate - rate as u64);
        }
        if let Some(rate) = after.filter(|_| before != after) {
            (self.peers, self.rate) = (self.peers + 1, self.rate + rate as u64);
        }
    }
}

impl Ranked {
    /// This, but for what is about as it was `before`.
    fn unless_near(self, now: Instant, before: &Self) -> Self {
        let (old, mut new) = (before.outlook, self.outlook);
        if new.arrival.is_near(old.arrival, now, NEAR) {
            new.arrival = old.arrival;
        }
        if let (Room::At(before), Room::At(at)) = (old.room, new.room)
            && before.max(at) - before.min(at) < TOGETHER
        {
            new.room = old.room;
        }
        if let (Some(before), Some(rate)) = (old.rate, new.rate)
            && (rate - before).abs() * f64::from(NEAR) <= before
        {
            new.rate = old.rate;
        }
        Self { outlook: new, ..self }
    }
}

impl Ranking {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            looked: None,
            guess: None,
            purpose: None,
            reconsidered: None,
            order: Order::new(now),
            open: Order::new(now),
            opening: Timers::new(now),
            changing: Alarms::new(now),
            ranked: BTreeMap::new(),
            measured: Sum::default(),
            serving: Sum::default(),
            strangers: BTreeSet::new(),
        }
    }

    /// Ranks a peer. What is about as it was stays as it is: most blocks come when they are expected.
    fn set(&mut self, now: Instant, conn: ConnId, ranked: Ranked) {
        let before = self.ranked.get(&conn).copied();
        let after = before.map_or(ranked, |before| ranked.unless_near(now, &before));
        self.ranked.insert(conn, after);
        self.shift(conn, before, Some(after));
    }

    pub(super) fn remove(&mut self, conn: ConnId) {
        let before = self.ranked.remove(&conn);
        self.shift(conn, before, None);
    }

    fn shift(&mut self, conn: ConnId, before: Option<Ranked>, after: Option<Ranked>) {
        let arrival = |ranked: Ranked| ranked.outlook.arrival;
        self.order.shift(conn, before.map(arrival), after.map(arrival));
        let open = |ranked: Ranked| (ranked.outlook.room == Room::Now).then_some(ranked.outlook.arrival);
        self.open.shift(conn, before.and_then(open), after.and_then(open));
        let opening = |ranked: Ranked| if let Room::At(at) = ranked.outlook.room { Some(at) } else { None };
        self.opening.shift(conn, before.and_then(opening), after.and_then(opening));
        let until = |ranked: Ranked| ranked.outlook.until;
        if let Some(at) = after.and_then(until).filter(|at| before.and_then(until) != Some(*at)) {
            self.alarm(at, conn);
        }
        let rate = |ranked: Ranked| ranked.outlook.rate;
        self.measured.shift(before.and_then(rate), after.and_then(rate));
        let serving = |ranked: Ranked| ranked.outlook.rate.filter(|_| ranked.serves);
        self.serving.shift(before.and_then(serving), after.and_then(serving));
        let is_stranger = |ranked: Ranked| ranked.serves && ranked.outlook.rate.is_none();
        match (before.is_some_and(is_stranger), after.is_some_and(is_stranger)) {
            (true, false) => drop(self.strangers.remove(&conn)),
            (false, true) => drop(self.strangers.insert(conn)),
            _ => {}
        }
    }

    /// Bytes a second that those deliver which were measured, on average.
    fn mean(&self) -> f64 {
        if self.measured.peers == 0 { GUESSED_RATE } else { self.measured.rate as f64 / f64::from(self.measured.peers) }
    }

    /// Bytes a second that a peer which was not measured is taken to deliver.
    fn guess(&self) -> f64 {
        self.guess.unwrap_or(GUESSED_RATE)
    }

    fn estimate(&self) -> Estimate {
        let rate = self.serving.rate as f64 + self.guess() * self.strangers.len() as f64;
        Estimate { guess: self.guess(), rate: rate.max(1.0) }
    }

    /// Seconds until each peer would deliver another block, the soonest first.
    pub(super) fn iter(&self, now: Instant) -> impl Iterator<Item = (f64, ConnId)> + '_ {
        self.order.iter(now)
    }

    /// The first peer behind `after` that has room.
    pub(super) fn next_open(&self, now: Instant, after: Option<Place>) -> Option<Place> {
        self.open.next(now, after)
    }

    /// Whether a peer has room.
    pub(super) fn is_open(&self, conn: ConnId) -> bool {
        self.ranked.get(&conn).is_some_and(|ranked| ranked.outlook.room == Room::Now)
    }

    /// When it is time to ask those that will have room by themselves.
    pub(super) fn next_opening(&self) -> Option<Instant> {
        self.opening.next().map(|at| at + TOGETHER)
    }

    /// A peer that has room from now on, by itself.
    pub(super) fn take_opening(&mut self, now: Instant) -> Option<ConnId> {
        let conn = self.opening.due(now.checked_sub(TOGETHER)?).next()?;
        let before = *self.ranked.get(&conn)?;
        let after = Ranked { outlook: Outlook { room: Room::Now, ..before.outlook }, ..before };
        self.ranked.insert(conn, after);
        self.shift(conn, Some(before), Some(after));
        Some(conn)
    }

    /// Looks at a peer anew at that time. Alarms that no longer count are dropped when there are too many of them.
    fn alarm(&mut self, at: Instant, conn: ConnId) {
        if self.changing.len() > STALE_ALARMS * (self.ranked.len() + 1) {
            self.changing.clear();
            for (conn, ranked) in &self.ranked {
                ranked.outlook.until.into_iter().for_each(|at| self.changing.set(at, *conn));
            }
        }
        self.changing.set(at, conn);
    }

    /// Peers of which something else is to be expected by now.
    fn changed(&mut self, now: Instant) -> Vec<ConnId> {
        let due = std::iter::from_fn(|| self.changing.take(now));
        let is_due = |ranked: &Ranked| ranked.outlook.until.is_some_and(|until| until <= now);
        due.filter(|conn| self.ranked.get(conn).is_some_and(is_due)).collect()
    }
}

impl Torrent {
    /// What the swarm delivers. Those peers are ranked anew of which something else is to be expected by now.
    pub(super) fn estimate(&mut self, ctx: &Context<'_>) -> Estimate {
        let life = ESTIMATE_LIFE.max(ESTIMATE_LIFE_PER_PEER * self.peers.len() as u32);
        if self.ranking.looked.is_none_or(|at| ctx.now.saturating_duration_since(at) >= life) {
            self.look_at_swarm(ctx);
        }
        let changed = self.ranking.changed(ctx.now);
        changed.into_iter().for_each(|conn| self.rerank(ctx, conn, WORTH_IT));
        self.ranking.estimate()
    }

    /// Ranks those peers anew of which something else is to be expected because of others.
    fn look_at_swarm(&mut self, ctx: &Context<'_>) {
        self.purpose = self.readers.purpose(ctx.now);
        let ranking = &mut self.ranking;
        ranking.looked = Some(ctx.now);
        let mean = ranking.mean();
        let is_near = ranking.guess.is_some_and(|guess| (mean - guess).abs() * f64::from(NEAR) <= guess);
        // Room for requests depends on what they are for.
        let is_same = ranking.purpose.replace(self.purpose) == Some(self.purpose);
        if !is_near {
            ranking.guess = Some(mean);
        }
        let changed: Vec<ConnId> = match (is_same, is_near) {
            (true, true) => return,
            (true, false) => ranking.strangers.iter().copied().collect(),
            (false, _) => self.peers.keys().copied().collect(),
        };
        changed.into_iter().for_each(|conn| self.rerank(ctx, conn, WORTH_IT));
    }

    /// From where a peer's requests are looked at.
    fn view(&self, ctx: &Context<'_>, share: f64) -> View {
        View {
            now: ctx.now,
            guess: self.ranking.guess(),
            purpose: self.purpose,
            cap: ctx.config.max_requests,
            peers: self.peers.len(),
            share,
        }
    }

    /// Whether a peer's queue has room, if it may be `share` times as full as it is to be.
    pub(super) fn queue_has_room(&self, ctx: &Context<'_>, peer: &Peer, share: f64) -> bool {
        peer.flow.has_room(&self.view(ctx, share))
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
        if let Some(peer) = self.peers.get(&conn) {
            let outlook = peer.flow.outlook(&self.view(ctx, share));
            self.ranking.set(ctx.now, conn, Ranked { outlook, serves: !peer.chokes_us });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::flow::Arrival;

    const MS: Duration = Duration::from_millis(1);

    fn outlook(arrival: Arrival, room: Room) -> Ranked {
        Ranked { outlook: Outlook { arrival, room, until: None, rate: None }, serves: true }
    }

    #[test]
    fn peers_move_as_their_outlooks_do() {
        let now = Instant::now();
        let mut ranking = Ranking::new(now);
        for (conn, after) in [(1, 500), (2, 100), (3, 9000), (1, 50), (4, 200), (2, 3000)] {
            ranking.set(now, ConnId(conn), outlook(Arrival::After(after * MS), Room::Later));
        }
        ranking.remove(ConnId(4));
        ranking.remove(ConnId(9));
        let order: Vec<_> = ranking.iter(now).map(|(eta, conn)| (eta, conn.0)).collect();
        assert_eq!(order, [(0.05, 1), (3.0, 2), (9.0, 3)]);
        ranking.set(now, ConnId(2), outlook(Arrival::At(now + 2000 * MS), Room::Later));
        assert_eq!(ranking.iter(now).nth(1), Some((2.0, ConnId(2))));
        assert_eq!((ranking.next_open(now, None), ranking.next_opening()), (None, None));
    }

    #[test]
    fn those_with_room_come_in_their_order() {
        let now = Instant::now();
        let soon = now + Duration::from_secs(1);
        let mut ranking = Ranking::new(now);
        for (conn, after, room) in
            [(1, 300, Room::Now), (2, 100, Room::At(soon)), (3, 200, Room::Now), (4, 400, Room::Later)]
        {
            ranking.set(now, ConnId(conn), outlook(Arrival::After(after * MS), room));
        }
        let first = ranking.next_open(now, None).unwrap();
        let second = ranking.next_open(now, Some(first)).unwrap();
        assert_eq!((first.conn(), second.conn(), ranking.next_open(now, Some(second))), (ConnId(3), ConnId(1), None));
        assert!(ranking.is_open(ConnId(3)) && !ranking.is_open(ConnId(2)));
        assert_eq!((ranking.next_opening(), ranking.take_opening(now)), (Some(soon + TOGETHER), None));
        assert_eq!(
            (ranking.take_opening(soon + TOGETHER), ranking.take_opening(soon + TOGETHER)),
            (Some(ConnId(2)), None)
        );
        assert_eq!(ranking.next_open(now, None).map(Place::conn), Some(ConnId(2)));
    }

    #[test]
    fn outlooks_are_good_until_they_change_by_themselves() {
        let now = Instant::now();
        let mut ranking = Ranking::new(now);
        for (conn, until) in [(1, Some(20)), (2, None), (3, Some(10)), (3, Some(30))] {
            let until = until.map(|until| now + until * MS);
            let Ranked { outlook, serves } = outlook(Arrival::After(MS), Room::Later);
            ranking.set(now, ConnId(conn), Ranked { outlook: Outlook { until, ..outlook }, serves });
        }
        assert_eq!(ranking.changed(now + 15 * MS), []);
        assert_eq!(ranking.changed(now + 20 * MS), [ConnId(1)]);
        ranking.remove(ConnId(3));
        assert_eq!(ranking.changed(now + 30 * MS), []);
    }

    #[test]
    fn alarms_that_no_longer_count_are_dropped() {
        let now = Instant::now();
        let mut ranking = Ranking::new(now);
        for round in 1..100 {
            for conn in 0..4 {
                let Ranked { outlook, serves } = outlook(Arrival::After(MS), Room::Later);
                let until = Some(now + round * 10 * MS);
                ranking.set(now, ConnId(conn), Ranked { outlook: Outlook { until, ..outlook }, serves });
            }
        }
        assert!(ranking.changing.len() <= 41, "{}", ranking.changing.len());
        assert_eq!(ranking.changed(now + 980 * MS), []);
        assert_eq!(ranking.changed(now + 990 * MS).len(), 4);
    }

    #[test]
    fn what_is_about_the_same_stays() {
        let now = Instant::now();
        let mut ranking = Ranking::new(now);
        let told = |ranking: &Ranking| {
            let Ranked { outlook, .. } = ranking.ranked[&ConnId(1)];
            (outlook.arrival, outlook.until, outlook.rate)
        };
        let mut look = |at_ms: u64, until_ms: u32, rate: f64| {
            let arrival = Arrival::At(now + Duration::from_millis(at_ms));
            let outlook = Outlook { arrival, room: Room::Later, until: Some(now + until_ms * MS), rate: Some(rate) };
            ranking.set(now + 100 * MS, ConnId(1), Ranked { outlook, serves: true });
            told(&ranking)
        };
        let first = look(300, 250, 1000.0);
        assert_eq!(look(305, 250, 1020.0), first);
        assert_eq!(look(295, 240, 900.0), (first.0, Some(now + 240 * MS), Some(900.0)), "sooner, and slower");
        assert_eq!(look(400, 300, 900.0).0, Arrival::At(now + 400 * MS));
    }

    #[test]
    fn the_swarm_is_the_sum_of_its_peers() {
        let now = Instant::now();
        let mut ranking = Ranking::new(now);
        for (conn, rate, serves) in [(1, None, true), (2, Some(5e6), false), (1, Some(3e6), true), (3, None, true)] {
            let Ranked { outlook, .. } = outlook(Arrival::After(MS), Room::Now);
            ranking.set(now, ConnId(conn), Ranked { outlook: Outlook { rate, ..outlook }, serves });
        }
        assert_eq!(ranking.mean(), 4e6);
        assert_eq!(ranking.estimate().rate, 3e6 + GUESSED_RATE);
        (1..=3).for_each(|conn| ranking.remove(ConnId(conn)));
        assert_eq!((ranking.mean(), ranking.estimate().rate), (GUESSED_RATE, 1.0));
    }
}
