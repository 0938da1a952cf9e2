//! Peers in the order in which they would deliver another block, at whatever time it is asked for.
//!
//! A peer that has nothing to do delivers it so long after it is asked, a busy one at a certain time, when all before it
//! have come. So each kind has its own order, in which nothing moves only because time goes by, and a look merges them.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BTreeSet, BinaryHeap};
use std::ops::Bound;
use std::time::{Duration, Instant};

use crate::engine::flow::Arrival;
use crate::types::ConnId;

/// Where a peer is in an order: in the upper half the time, in nanoseconds; in the lower one the peer. One number is
/// compared in no time, and orders are looked at and changed several times for every block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u128);

/// Multiplication by an odd number scatters, and makes no two equal (Fibonacci hashing): of equals no one comes first for
/// being known longest. Where peers come and go in turn, that would be the one that goes next.
const SCATTER: u64 = 0x9E37_79B9_7F4A_7C15;
/// Its inverse modulo 2^64.
const GATHER: u64 = 0xF1DE_83E1_9937_733D;

impl Place {
    fn new(time: Duration, conn: ConnId) -> Self {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self(u128::from(nanoseconds) << 64 | u128::from(conn.0.wrapping_mul(SCATTER)))
    }

    pub(super) fn conn(self) -> ConnId {
        ConnId((self.0 as u64).wrapping_mul(GATHER))
    }

    fn time(self) -> Duration {
        Duration::from_nanos((self.0 >> 64) as u64)
    }

    /// The same peer so much later.
    fn later(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by.as_nanos() << 64))
    }

    /// The same peer so much earlier; `None` before the beginning of time.
    fn earlier(self, by: Duration) -> Option<Self> {
        self.0.checked_sub(by.as_nanos() << 64).map(Self)
    }
}

/// Peers by when one more block would come.
#[derive(Debug)]
pub(super) struct Order {
    epoch: Instant,
    /// By the time that it takes.
    idle: BTreeSet<Place>,
    /// By when, since the epoch.
    busy: BTreeSet<Place>,
}

impl Order {
    pub(super) fn new(epoch: Instant) -> Self {
        Self { epoch, idle: BTreeSet::new(), busy: BTreeSet::new() }
    }

    fn since_epoch(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.epoch)
    }

    /// A peer goes from one place to another one, comes, or leaves.
    pub(super) fn shift(&mut self, conn: ConnId, before: Option<Arrival>, after: Option<Arrival>) {
        if before != after {
            before.into_iter().for_each(|arrival| self.remove(conn, arrival));
            after.into_iter().for_each(|arrival| self.insert(conn, arrival));
        }
    }

    fn insert(&mut self, conn: ConnId, arrival: Arrival) {
        match arrival {
            Arrival::After(after) => self.idle.insert(Place::new(after, conn)),
            Arrival::At(at) => self.busy.insert(Place::new(self.since_epoch(at), conn)),
        };
    }

    fn remove(&mut self, conn: ConnId, arrival: Arrival) {
        match arrival {
            Arrival::After(after) => self.idle.remove(&Place::new(after, conn)),
            Arrival::At(at) => self.busy.remove(&Place::new(self.since_epoch(at), conn)),
        };
    }

    /// Seconds until each peer would deliver a block that it is asked for `now`, the soonest first.
    pub(super) fn iter(&self, now: Instant) -> impl Iterator<Item = (f64, ConnId)> + '_ {
        let now = self.since_epoch(now);
        let mut idle = self.idle.iter().map(move |place| place.later(now)).peekable();
        let mut busy = self.busy.iter().copied().peekable();
        let merged = std::iter::from_fn(move || match (idle.peek(), busy.peek()) {
            (Some(one), Some(other)) if one > other => busy.next(),
            (Some(_), _) => idle.next(),
            (None, _) => busy.next(),
        });
        merged.map(move |place| (place.time().saturating_sub(now).as_secs_f64(), place.conn()))
    }

    /// The first peer behind `after`, at the same time.
    pub(super) fn next(&self, now: Instant, after: Option<Place>) -> Option<Place> {
        let now = self.since_epoch(now);
        // Who is overdue comes before all idle ones.
        let idle_after = after.and_then(|place| place.earlier(now)).map_or(Bound::Unbounded, Bound::Excluded);
        let busy_after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let idle = self.idle.range((idle_after, Bound::Unbounded)).next().map(|place| place.later(now));
        let busy = self.busy.range((busy_after, Bound::Unbounded)).next().copied();
        idle.into_iter().chain(busy).min()
    }
}

/// Peers by when something about them changes by itself.
#[derive(Debug)]
pub(super) struct Timers {
    epoch: Instant,
    /// Since the epoch.
    set: BTreeSet<Place>,
}

impl Timers {
    pub(super) fn new(epoch: Instant) -> Self {
        Self { epoch, set: BTreeSet::new() }
    }

    fn place(&self, at: Instant, conn: ConnId) -> Place {
        Place::new(at.saturating_duration_since(self.epoch), conn)
    }

    /// The time of a peer changes, is set, or is none any more.
    pub(super) fn shift(&mut self, conn: ConnId, before: Option<Instant>, after: Option<Instant>) {
        if before != after {
            if let Some(before) = before {
                self.set.remove(&self.place(before, conn));
            }
            if let Some(after) = after {
                self.set.insert(self.place(after, conn));
            }
        }
    }

    /// When the first one is.
    pub(super) fn next(&self) -> Option<Instant> {
        self.set.first().map(|place| self.epoch + place.time())
    }

    /// Peers whose time has come.
    pub(super) fn due(&self, now: Instant) -> impl Iterator<Item = ConnId> + '_ {
        let end = self.place(now, ConnId(0)).time();
        self.set.iter().take_while(move |place| place.time() <= end).map(|place| place.conn())
    }
}

/// Times at which peers are to be looked at. Nothing is taken off before its time, which is cheap: whoever is told of a
/// time has to know whether it still counts.
#[derive(Debug)]
pub(super) struct Alarms {
    epoch: Instant,
    heap: BinaryHeap<Reverse<Place>>,
}

impl Alarms {
    pub(super) fn new(epoch: Instant) -> Self {
        Self { epoch, heap: BinaryHeap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    pub(super) fn clear(&mut self) {
        self.heap.clear();
    }

    pub(super) fn set(&mut self, at: Instant, conn: ConnId) {
        self.heap.push(Reverse(Place::new(at.saturating_duration_since(self.epoch), conn)));
    }

    /// A peer whose time has come.
    pub(super) fn take(&mut self, now: Instant) -> Option<ConnId> {
        let end = now.saturating_duration_since(self.epoch);
        let first = self.heap.peek_mut().filter(|first| first.0.time() <= end)?;
        Some(PeekMut::pop(first).0.conn())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn conns(order: &Order, now: Instant) -> Vec<u64> {
        order.iter(now).map(|(_, conn)| conn.0).collect()
    }

    #[test]
    fn busy_peers_get_ahead_of_idle_ones_as_time_goes_by() {
        let start = Instant::now();
        let mut order = Order::new(start);
        order.insert(ConnId(1), Arrival::After(50 * MS));
        order.insert(ConnId(2), Arrival::At(start + 80 * MS));
        order.insert(ConnId(3), Arrival::At(start + 70 * MS));
        order.insert(ConnId(4), Arrival::After(200 * MS));
        assert_eq!(conns(&order, start), [1, 3, 2, 4]);
        assert_eq!(conns(&order, start + 25 * MS), [3, 1, 2, 4]);
        let etas: Vec<f64> = order.iter(start + 40 * MS).map(|(eta_s, _)| (eta_s * 1000.0).round()).collect();
        assert_eq!(etas, [30.0, 40.0, 50.0, 200.0]);
        order.remove(ConnId(3), Arrival::At(start + 70 * MS));
        order.remove(ConnId(4), Arrival::After(200 * MS));
        assert_eq!(conns(&order, start + 100 * MS), [2, 1], "late ones come first until they are looked at anew");
    }

    #[test]
    fn one_after_the_other_is_found() {
        let start = Instant::now();
        let mut order = Order::new(start);
        for conn in 0..50 {
            order.insert(ConnId(conn), Arrival::After(u32::try_from(conn % 7).unwrap() * 10 * MS));
            order.insert(ConnId(100 + conn), Arrival::At(start + u32::try_from(conn % 9).unwrap() * 10 * MS));
        }
        for now in [start, start + 35 * MS] {
            let found = std::iter::successors(order.next(now, None), |place| order.next(now, Some(*place)));
            let found: Vec<u64> = found.map(|place| place.conn().0).collect();
            assert_eq!(found, conns(&order, now));
            assert_eq!(found.len(), 100);
        }
    }

    #[test]
    fn places_tell_time_and_peer() {
        for conn in [0, 1, 77, u64::MAX] {
            let place = Place::new(3 * MS, ConnId(conn));
            assert_eq!((place.time(), place.conn()), (3 * MS, ConnId(conn)));
            assert_eq!((place.later(MS), place.later(MS).earlier(MS)), (Place::new(4 * MS, ConnId(conn)), Some(place)));
            assert_eq!(place.earlier(4 * MS), None);
        }
    }

    #[test]
    fn timers_go_off_in_time() {
        let start = Instant::now();
        let mut timers = Timers::new(start);
        (1..=4).for_each(|conn| timers.shift(ConnId(conn), None, Some(start + MS * conn as u32)));
        timers.shift(ConnId(2), Some(start + 2 * MS), None);
        assert_eq!(timers.next(), Some(start + MS));
        assert_eq!(timers.due(start).count(), 0);
        assert_eq!(timers.due(start + 3 * MS).collect::<Vec<_>>(), [ConnId(1), ConnId(3)]);
    }

    #[test]
    fn alarms_go_off_in_their_order() {
        let start = Instant::now();
        let mut alarms = Alarms::new(start);
        [3, 1, 2, 1].into_iter().for_each(|conn| alarms.set(start + MS * conn, ConnId(u64::from(conn))));
        let mut taken = |ms: u32| std::iter::from_fn(|| alarms.take(start + MS * ms)).map(|conn| conn.0).collect();
        let (none, two, rest): (Vec<u64>, Vec<u64>, Vec<u64>) = (taken(0), taken(1), taken(5));
        assert_eq!((none, two, rest), (vec![], vec![1, 1], vec![2, 3]));
        assert_eq!(alarms.len(), 0);
    }

    #[test]
    fn equals_come_in_no_order_of_age() {
        let mut order = Order::new(Instant::now());
        (0..100).for_each(|conn| order.insert(ConnId(conn), Arrival::After(MS)));
        let rising = conns(&order, Instant::now()).windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!((25..75).contains(&rising), "{rising}");
    }
}
