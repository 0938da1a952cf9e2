//! What is asked of one peer: requests in flight, and what became of them.
//!
//! Every request ends: with its block, a reject, a disconnect, or as a *tombstone*. A tombstone remembers a request
//! that nobody waits for any more (cancelled, or given to another peer), so that its block is not taken for an
//! unsolicited one when it arrives all the same.

mod outlook;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::meter::DeliveryRate;
use super::scheduling::{
    FIRST_STALL, GUESSED_DELAY_S, GUESSED_RATE, MAX_STALL, MAX_STREAM_DEPTH, MIN_STALL, QUEUED, SETTLED_BLOCKS,
    SETTLED_S,
};
use crate::types::{BLOCK_LEN, BlockSpan};
use outlook::MAX_ETA_S;
pub(super) use outlook::{Arrival, Outlook, Purpose, Room, View};

/// A request that has been sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    /// Running block number.
    pub(super) number: u32,
    pub(super) span: BlockSpan,
    pub(super) sent: Instant,
    /// When the estimate of that time said it would arrive.
    pub(super) due: Instant,
    /// Whether that was more than a guess.
    reckoned: bool,
    /// No read waited for it: it was asked for ahead of a reader, or because everything is wanted.
    pub(super) ahead: bool,
}

#[derive(Clone, Copy, Debug)]
struct Tombstone {
    number: u32,
    at: Instant,
    /// The peer had begun to answer, as far as can be told: what it is asked for next comes after that.
    begun: bool,
}

/// What a peer's message about a block refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// A request in flight.
    Request,
    /// One that was given up.
    Tombstone,
    /// Nothing that was asked, as far as is remembered.
    Unknown,
}

/// Requests that a peer which says nothing is taken to queue; what most clients allow.
const DEFAULT_REQUEST_QUEUE: u32 = 250;
const MAX_TOMBSTONES: usize = 4096;
/// How long a tombstone can stop the peer from being asked for the block again.
const TOMBSTONE_LIFE: Duration = Duration::from_secs(30);

/// The requests to one peer.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    /// Whether the peer answers every request, cancelled ones too (BEP 6).
    fast: bool,
    requests: VecDeque<Request>,
    tombstones: VecDeque<Tombstone>,
    /// Those of them that are on their way.
    owed: usize,
    /// Tombstones were forgotten: an unknown block proves nothing any more.
    pub(super) forgetful: bool,
    delivery: DeliveryRate,
    /// Shortest time from a request to its block, ever.
    min_delay: Option<Duration>,
    /// Mean deviation of arrivals from what was expected, in seconds.
    deviation: f64,
    slow_start: Option<SlowStart>,
    /// Requests that the peer queues.
    peer_queue: u32,
    /// Last block, or first request after idleness.
    pub(super) progress: Option<Instant>,
    /// Stalls since the last block; a peer that stalls is asked for one block at a time.
    pub(super) stalls: u32,
}

/// How many requests may be in flight while it is not known yet how many the path takes.
#[derive(Clone, Debug)]
struct SlowStart {
    depth: u32,
    checked: Option<Instant>,
    rate: f64,
}

impl Flow {
    pub(super) fn new(fast: bool) -> Self {
        Self {
            fast,
            requests: VecDeque::new(),
            tombstones: VecDeque::new(),
            owed: 0,
            forgetful: false,
            delivery: DeliveryRate::new(),
            min_delay: None,
            deviation: 0.0,
            slow_start: Some(SlowStart { depth: 1, checked: None, rate: 0.0 }),
            peer_queue: DEFAULT_REQUEST_QUEUE,
            progress: None,
            stalls: 0,
        }
    }

    /// The peer said how many requests it queues.
    pub(super) fn set_peer_queue(&mut self, requests: u32) {
        self.peer_queue = requests.max(1);
    }

    pub(super) fn in_flight(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn requests(&self) -> impl Iterator<Item = &Request> {
        self.requests.iter()
    }

    /// Whether an answer about the block is still due: asking again would make it ambiguous.
    pub(super) fn knows(&self, number: u32) -> bool {
        self.find(number).is_some() || self.knows_tombstone(number)
    }

    /// Whether an answer is due to a request that was given up.
    pub(super) fn knows_tombstone(&self, number: u32) -> bool {
        self.fast && self.tombstones.iter().any(|tomb| tomb.number == number)
    }

    /// Requests that may be in flight whatever the rate: what the peer queues, `cap` at most.
    pub(super) fn limit(&self, cap: u32) -> u32 {
        cap.min(self.peer_queue.saturating_sub(self.unanswered_tombstones()).max(1))
    }

    pub(super) fn find(&self, number: u32) -> Option<&Request> {
        self.requests.iter().find(|request| request.number == number)
    }

    /// A request was sent. When its block is due.
    pub(super) fn sent(&mut self, now: Instant, number: u32, span: BlockSpan, ahead: bool) -> Instant {
        if self.requests.is_empty() && self.owed == 0 {
            self.delivery.busy_from(now, self.path_s());
        }
        if self.requests.is_empty() {
            // One that owes answers to what was cancelled has been silent since then.
            if self.unanswered_tombstones() == 0 {
                self.progress = Some(now);
            }
        }
        let due = now + Duration::from_secs_f64(self.eta(now, GUESSED_RATE).min(MAX_ETA_S));
        self.requests.push_back(Request { number, span, sent: now, due, reckoned: self.min_delay.is_some(), ahead });
        due
    }

    /// A block came. Measures, if it was asked for.
    pub(super) fn arrived(&mut self, now: Instant, number: u32, len: u32) -> Answered {
        let answered = self.forget(number);
        let Some(request) = answered.1 else {
            self.delivery.went_by(now);
            return answered.0;
        };
        self.stalls = 0;
        self.progress = Some(now);
        let delay = now.saturating_duration_since(request.sent);
        self.min_delay = Some(self.min_delay.map_or(delay, |least| least.min(delay)));
        if request.reckoned {
            let late = now.saturating_duration_since(request.due).as_secs_f64();
            self.deviation += (late.min(5.0) - self.deviation) / 8.0;
        }
        self.delivery.delivered(now, u64::from(len));
        self.grow(now, delay);
        answered.0
    }

    /// The peer will not answer. That is an answer, too.
    pub(super) fn rejected(&mut self, now: Instant, number: u32) -> Answered {
        self.progress = Some(now);
        self.forget(number).0
    }

    fn forget(&mut self, number: u32) -> (Answered, Option<Request>) {
        // Peers answer in order, mostly: the search is short.
        if let Some(at) = self.requests.iter().position(|request| request.number == number) {
            return (Answered::Request, self.requests.remove(at));
        }
        if let Some(at) = self.tombstones.iter().position(|tomb| tomb.number == number) {
            let tomb = self.tombstones.remove(at);
            self.owed -= usize::from(tomb.is_some_and(|tomb| tomb.begun));
            return (Answered::Tombstone, None);
        }
        (Answered::Unknown, None)
    }

    /// Gives a request up; true if it was in flight.
    pub(super) fn bury(&mut self, now: Instant, number: u32) -> bool {
        let Some(at) = self.requests.iter().position(|request| request.number == number) else { return false };
        let begun = at < self.begun(now);
        self.requests.remove(at);
        self.remember(Tombstone { number, at: now, begun });
        true
    }

    /// Gives all requests up, and returns them.
    pub(super) fn bury_all(&mut self, now: Instant) -> Vec<Request> {
        let begun = self.begun(now);
        let given_up: Vec<_> = self.requests.drain(..).collect();
        for (at, request) in given_up.iter().enumerate() {
            self.remember(Tombstone { number: request.number, at: now, begun: at < begun });
        }
        given_up
    }

    fn remember(&mut self, tomb: Tombstone) {
        if self.tombstones.len() == MAX_TOMBSTONES {
            self.forget_tombstone();
        }
        // Whoever answers no cancel need not answer at all.
        let begun = tomb.begun && self.fast;
        self.owed += usize::from(begun);
        self.tombstones.push_back(Tombstone { begun, ..tomb });
    }

    fn forget_tombstone(&mut self) {
        let tomb = self.tombstones.pop_front();
        self.owed -= usize::from(tomb.is_some_and(|tomb| tomb.begun));
        self.forgetful = true;
    }

    /// Forgets tombstones that have had their time.
    pub(super) fn expire_tombstones(&mut self, now: Instant) {
        while self.tombstones.front().is_some_and(|tomb| now.saturating_duration_since(tomb.at) > TOMBSTONE_LIFE) {
            self.forget_tombstone();
        }
    }

    /// Two more requests a block until the rate no longer follows, or blocks queue up at the peer.
    fn grow(&mut self, now: Instant, delay: Duration) {
        let rate = self.rate(now).unwrap_or(0.0);
        let least = self.min_delay.unwrap_or_default();
        let round = least.max(Duration::from_millis(20)) * 2;
        let queued = delay.saturating_sub(least) > (least / 4).max(QUEUED);
        let in_flight = self.requests.len() as u32 + 1;
        let Some(start) = &mut self.slow_start else { return };
        // The first block says nothing of what the peer can: the second one tells whether they come one by one.
        let more = if start.checked.is_none() { 1 } else { 2 };
        start.depth = (start.depth.max(in_flight) + more).min(MAX_STREAM_DEPTH);
        match start.checked {
            _ if queued => self.slow_start = None,
            None => (start.checked, start.rate) = (Some(now), rate),
            Some(at) if now.saturating_duration_since(at) < round => {}
            Some(_) if rate > start.rate * 1.2 => (start.checked, start.rate) = (Some(now), rate),
            Some(_) => self.slow_start = None,
        }
    }

    /// Requests that were cancelled but may still sit in the peer's queue.
    fn unanswered_tombstones(&self) -> u32 {
        if self.fast { self.tombstones.len() as u32 } else { 0 }
    }

    /// How many of the requests the peer has begun to answer when a cancel arrives, as far as can be told.
    fn begun(&self, now: Instant) -> usize {
        let rate = self.rate(now).unwrap_or(GUESSED_RATE).max(1.0);
        let block_s = f64::from(BLOCK_LEN) / rate;
        let path_s = if self.min_delay.is_some() { self.path_s() } else { GUESSED_DELAY_S };
        // What comes within the path and the time of a block was begun; the first one comes soon, unless it is late.
        let first_s = (block_s - self.delivery.elapsed_s(now)).max(0.0);
        let within_s = path_s + block_s * SETTLED_BLOCKS + SETTLED_S - first_s;
        if within_s < 0.0 { 0 } else { ((within_s / block_s) as usize + 1).saturating_sub(self.owed) }
    }

    /// Requests ahead of readers that the peer cannot have begun to answer when a cancel arrives.
    pub(super) fn deferrable(&self, now: Instant) -> impl Iterator<Item = &Request> {
        self.requests.iter().skip(self.begun(now)).filter(|request| request.ahead)
    }

    /// How long the peer may stay silent with requests in flight.
    fn stall_after(&self, now: Instant) -> Duration {
        let Some(rate) = self.delivery.per_second(now, false) else { return FIRST_STALL };
        let gap = self.delay_s().unwrap_or(GUESSED_DELAY_S) + f64::from(BLOCK_LEN) / rate.max(1.0);
        Duration::from_secs_f64((4.0 * (gap + self.deviation)).min(60.0)).clamp(MIN_STALL, MAX_STALL)
    }

    /// Whether the peer leaves its requests unanswered for too long.
    pub(super) fn is_stalled(&self, now: Instant) -> bool {
        let silent = self.progress.map(|at| now.saturating_duration_since(at)).filter(|silent| *silent > MIN_STALL);
        !self.requests.is_empty() && silent.is_some_and(|silent| silent > self.stall_after(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::scheduling::FAST_DEPTH;
    use crate::types::PieceIndex;

    fn span(number: u32) -> BlockSpan {
        BlockSpan { piece: PieceIndex(number), begin: 0, len: BLOCK_LEN }
    }

    fn view(now: Instant, purpose: Purpose, cap: u32) -> View {
        View { now, guess: GUESSED_RATE, purpose, cap, peers: 1, share: 1.0 }
    }

    /// Keeps the pipeline full against a peer of `rate` bytes a second and `rtt`, for `seconds`.
    fn run(rate: f64, rtt: Duration, seconds: u64) -> (Flow, Instant) {
        let start = Instant::now();
        let (mut flow, mut now, mut next) = (Flow::new(true), start, 0);
        let mut free = start;
        let mut arrivals: VecDeque<(Instant, u32)> = VecDeque::new();
        while now < start + Duration::from_secs(seconds) {
            while flow.has_room(&view(now, Purpose::Stream, 2000)) {
                flow.sent(now, next, span(next), true);
                free = free.max(now + rtt / 2) + Duration::from_secs_f64(f64::from(BLOCK_LEN) / rate);
                arrivals.push_back((free + rtt / 2, next));
                next += 1;
            }
            let (at, number) = *arrivals.front().unwrap();
            match flow.outlook(&view(now, Purpose::Stream, 2000)).room {
                Room::At(opens) if opens < at => {
                    now = opens;
                    continue;
                }
                _ => now = at,
            }
            arrivals.pop_front();
            assert_eq!(flow.arrived(now, number, BLOCK_LEN), Answered::Request);
        }
        (flow, now)
    }

    /// How many requests there may be.
    fn depth(flow: &Flow, now: Instant, purpose: Purpose, cap: u32) -> usize {
        let mut flow = flow.clone();
        while flow.has_room(&view(now, purpose, cap)) {
            flow.sent(now, 1 << 30 | flow.in_flight() as u32, span(0), true);
        }
        flow.in_flight()
    }

    #[test]
    fn the_pipeline_fills_the_path_and_no_more() {
        for (rate, rtt_ms) in [(1e6, 20), (1e6, 400), (10e6, 200), (10e6, 1)] {
            let (mut flow, now) = run(rate, Duration::from_millis(rtt_ms), 20);
            flow.set_peer_queue(2000);
            let measured = flow.rate(now).unwrap();
            assert!((measured / rate - 1.0).abs() < 0.2, "{rate} {rtt_ms}: measured {measured}");
            let depth = depth(&flow, now, Purpose::Stream, 2000) as f64 * f64::from(BLOCK_LEN);
            let path = rate * rtt_ms as f64 / 1000.0;
            assert!(depth > path, "{rate} {rtt_ms}: depth {depth}");
            assert!(depth < path + rate * 0.5 + 65536.0, "{rate} {rtt_ms}: depth {depth}");
        }
    }

    #[test]
    fn a_slow_peer_is_asked_when_it_is_about_to_be_done() {
        // A block takes 200 ms.
        let (flow, now) = run(81_920.0, Duration::from_millis(40), 20);
        assert_eq!(flow.in_flight(), 1, "what is being sent");
        let outlook = |now, purpose| flow.outlook(&view(now, purpose, 2000));
        assert!(flow.eta(now, GUESSED_RATE) > 0.39);
        let Room::At(opens) = outlook(now, Purpose::Stream).room else { panic!("{flow:?}") };
        // The path, and a tenth of a second more.
        assert!((40..80).contains(&(opens - now).as_millis()), "{:?}", opens - now);
        assert_eq!(outlook(opens, Purpose::Stream).room, Room::Now);
        let Room::At(contended) = outlook(now, Purpose::Contended).room else { panic!("{flow:?}") };
        assert!(contended > opens, "later where others may come");
    }

    #[test]
    fn what_was_cancelled_too_late_takes_its_time() {
        let (mut flow, now) = run(81_920.0, Duration::from_millis(40), 20);
        let before_s = flow.eta(now, GUESSED_RATE);
        let number = flow.requests().next().unwrap().number;
        assert!(flow.bury(now, number));
        assert_eq!(flow.eta(now, GUESSED_RATE), before_s);
        let later = now + Duration::from_millis(200);
        assert_eq!(flow.arrived(later, number, BLOCK_LEN), Answered::Tombstone);
        assert!(flow.eta(later, GUESSED_RATE) < 0.3);
    }

    #[test]
    fn a_fast_peer_nearby_always_has_a_deep_queue() {
        let (mut flow, now) = run(200e6, Duration::from_micros(200), 1);
        flow.set_peer_queue(2000);
        assert!(depth(&flow, now, Purpose::Stream, 2000) >= FAST_DEPTH as usize);
    }

    #[test]
    fn a_peer_that_says_nothing_queues_as_much_as_most_clients_do() {
        let (mut flow, now) = run(100e6, Duration::from_millis(200), 5);
        assert_eq!(depth(&flow, now, Purpose::Bulk, 2000), 250);
        flow.bury_all(now);
        let mut flow = Flow { tombstones: VecDeque::new(), owed: 0, ..flow };
        for (says, most) in [(0, 1), (40, 40), (u32::MAX, 1500)] {
            flow.set_peer_queue(says);
            assert_eq!(depth(&flow, now, Purpose::Bulk, 1500), most, "reqq {says}");
        }
    }

    #[test]
    fn stalled_peers_are_noticed_and_asked_little() {
        let (mut flow, now) = run(1e6, Duration::from_millis(50), 5);
        assert!(!flow.is_stalled(now + Duration::from_secs(1)));
        assert!(flow.is_stalled(now + Duration::from_secs(3)));
        flow.bury_all(now);
        flow.stalls += 1;
        assert_eq!(depth(&flow, now, Purpose::Stream, 2000), 1);
    }

    #[test]
    fn given_up_requests_are_remembered() {
        let now = Instant::now();
        let mut flow = Flow::new(true);
        flow.sent(now, 7, span(7), false);
        assert!(flow.bury(now, 7) && !flow.bury(now, 7));
        assert!(flow.knows(7));
        assert_eq!(flow.arrived(now, 7, BLOCK_LEN), Answered::Tombstone);
        assert_eq!(flow.arrived(now, 7, BLOCK_LEN), Answered::Unknown);
    }
}
