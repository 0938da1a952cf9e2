//! What is asked of one peer: requests in flight, how many may be, and when the next one would be answered.
//!
//! A peer sends one block after the other. So the next one comes when all before it have come, and what it has sent of
//! the current one is reckoned from the time since the last. Queues hold what the path needs and a little more: a quick
//! peer is asked for several when one comes, a slow one for the next when it is about to be done, so that whatever turns
//! out to be urgent meanwhile waits for one block at most.
//!
//! Every request ends: with its block, a reject, a disconnect, or as a *tombstone*. A tombstone remembers a request
//! that nobody waits for any more (cancelled, or given to another peer), so that its block is not taken for an
//! unsolicited one when it arrives all the same.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::meter::DeliveryRate;
use super::scheduling::{
    BULK_SLACK_S, CONTENDED_SLACK_S, DEVIATIONS, FAST_DEPTH, FAST_RATE, FIRST_DEPTH, FIRST_STALL, GUESSED_DELAY_S,
    GUESSED_RATE, MAX_SLACK_S, MAX_STALL, MAX_STREAM_DEPTH, MIN_STALL, PROBE_S, QUEUED, SETTLED_BLOCKS, SETTLED_S,
    STREAM_SLACK_S, TIMED_S,
};
use crate::types::{BLOCK_LEN, BlockSpan};

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

/// What a queue of requests is for, the shorter the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// Nobody reads, only throughput counts.
    Bulk,
    /// One reads.
    Stream,
    /// Several wait for blocks.
    Contended,
}

/// From where a queue of requests is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) now: Instant,
    /// Bytes a second that a peer which was not measured is taken to deliver.
    pub(super) guess: f64,
    pub(super) purpose: Purpose,
    /// Requests to one peer at most.
    pub(super) cap: u32,
    /// Peers that could be asked instead.
    pub(super) peers: usize,
    /// How many times as full as it is to be the queue may be.
    pub(super) share: f64,
}

/// Whether a peer has room for another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Now,
    /// By itself, before its next block comes.
    At(Instant),
    /// When a block comes, or not at all.
    Later,
}

/// What a peer delivers.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Bytes a second, and seconds that a block takes at that.
    rate: f64,
    block_s: f64,
    /// Seconds since its last block, or since the first one could begin: less than nothing before that.
    elapsed_s: f64,
}

/// What is to be expected of a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outlook {
    /// Seconds until one more block would arrive.
    pub(super) eta_s: f64,
    pub(super) room: Room,
}

/// Whether a peer of so many bytes a second is asked for another block when the moment comes: of quicker ones more is
/// asked when a block comes.
fn is_timed(rate: f64) -> bool {
    f64::from(BLOCK_LEN) > rate * TIMED_S
}

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

    pub(super) fn sent(&mut self, now: Instant, number: u32, span: BlockSpan, ahead: bool) {
        if self.requests.is_empty() && self.owed == 0 {
            self.delivery.busy_from(now, self.path_s());
        }
        if self.requests.is_empty() {
            // One that owes answers to what was cancelled has been silent since then.
            if self.unanswered_tombstones() == 0 {
                self.progress = Some(now);
            }
        }
        let due = now + Duration::from_secs_f64(self.eta(now, GUESSED_RATE).min(3600.0));
        self.requests.push_back(Request { number, span, sent: now, due, reckoned: self.min_delay.is_some(), ahead });
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

    /// Bytes a second that the peer delivers; `None` before the first block.
    pub(super) fn rate(&self, now: Instant) -> Option<f64> {
        self.delivery.per_second(now, !self.requests.is_empty())
    }

    /// Seconds from a request to its block, of an idle peer; `None` before the first block.
    pub(super) fn delay_s(&self) -> Option<f64> {
        self.min_delay.map(|delay| delay.as_secs_f64())
    }

    /// What the peer delivers now; `None` before the first block.
    fn pace(&self, now: Instant) -> Option<Pace> {
        let elapsed_s = self.delivery.elapsed_s(now);
        let rate = self.delivery.per_second_after(if self.requests.is_empty() { 0.0 } else { elapsed_s })?.max(1.0);
        Some(Pace { rate, block_s: f64::from(BLOCK_LEN) / rate, elapsed_s })
    }

    /// Seconds on the way there and back, without the block itself.
    fn path_s(&self) -> f64 {
        let block_s = self.delivery.block_s().unwrap_or(0.0);
        (self.delay_s().unwrap_or(0.0) - block_s).max(0.0)
    }

    /// Seconds that the queue is to hold more than the path.
    fn slack_s(&self, purpose: Purpose) -> f64 {
        match purpose {
            Purpose::Bulk => BULK_SLACK_S,
            Purpose::Stream => (STREAM_SLACK_S + DEVIATIONS * self.deviation).min(MAX_SLACK_S),
            Purpose::Contended => (CONTENDED_SLACK_S + DEVIATIONS * self.deviation).min(MAX_SLACK_S),
        }
    }

    /// Whether another request is of use: without it the peer would have nothing to do for a while.
    pub(super) fn has_room(&self, view: &View) -> bool {
        let pace = self.pace(view.now);
        self.has_room_at(view, pace, pace.map_or(0.0, |pace| self.backlog_s(pace, 0)))
    }

    /// With the peer's rate, and the seconds that what was asked for takes.
    fn has_room_at(&self, view: &View, pace: Option<Pace>, backlog_s: f64) -> bool {
        let count = self.requests.len() as u32;
        if count >= self.limit(view.cap) || self.stalls > 0 {
            return count == 0;
        }
        let Some(Pace { rate, .. }) = pace else {
            // It may be slow: of a stranger among many little is asked.
            return count < (FIRST_DEPTH / (view.peers as u32).max(1)).max(1);
        };
        if view.purpose != Purpose::Bulk && count >= MAX_STREAM_DEPTH {
            return false;
        }
        let least = if rate > FAST_RATE { FAST_DEPTH } else { 1 };
        let start = self.slow_start.as_ref().map_or(0, |start| start.depth);
        // What a slow peer has been asked for is not asked of others.
        let probe = rate * (self.delay_s().unwrap_or(GUESSED_DELAY_S) + PROBE_S) / f64::from(BLOCK_LEN);
        let least = f64::from(least.max(start.min(probe.ceil() as u32)));
        let queue_s = self.path_s() + self.slack_s(view.purpose);
        let share = if is_timed(rate) { view.share.max(1.0) } else { view.share };
        // The moment that was waited for has come, as finely as clocks go.
        f64::from(count) + 0.5 < least * share || backlog_s < queue_s * share + 1e-6
    }

    /// When the peer would deliver another block, and whether it has room for the request.
    pub(super) fn outlook(&self, view: &View) -> Outlook {
        let pace = self.pace(view.now);
        let backlog_s = pace.map_or(0.0, |pace| self.backlog_s(pace, 0));
        let room = if self.has_room_at(view, pace, backlog_s) {
            Room::Now
        } else {
            self.opens_at(view, pace, backlog_s).map_or(Room::Later, Room::At)
        };
        Outlook { eta_s: self.eta_at(view.guess, pace, backlog_s, 0), room }
    }

    /// When the peer will have room just because time goes by, before its next block comes.
    fn opens_at(&self, view: &View, pace: Option<Pace>, backlog_s: f64) -> Option<Instant> {
        let pace = pace.filter(|pace| self.stalls == 0 && is_timed(pace.rate))?;
        let wait_s = backlog_s - self.path_s() - self.slack_s(view.purpose);
        (0.0..pace.block_s - pace.elapsed_s).contains(&wait_s).then(|| view.now + Duration::from_secs_f64(wait_s))
    }

    /// Seconds until all that was asked for has come, but for `left_out` requests.
    fn backlog_s(&self, pace: Pace, left_out: usize) -> f64 {
        let count = (self.requests.len() + self.owed).saturating_sub(left_out);
        if count == 0 {
            return 0.0;
        }
        // A block that is late is expected to take as long again as it is late.
        let coming_s = (pace.block_s - pace.elapsed_s).abs();
        coming_s + (count - 1) as f64 * pace.block_s
    }

    /// Requests that were cancelled but may still sit in the peer's queue.
    fn unanswered_tombstones(&self) -> u32 {
        if self.fast { self.tombstones.len() as u32 } else { 0 }
    }

    /// Seconds until one more block would arrive. `guess`: bytes a second of a peer that is not measured yet.
    pub(super) fn eta(&self, now: Instant, guess: f64) -> f64 {
        self.eta_without(now, guess, 0)
    }

    /// Seconds until one more block would arrive if so many of the requests were given up.
    pub(super) fn eta_without(&self, now: Instant, guess: f64, given_up: usize) -> f64 {
        let pace = self.pace(now);
        let backlog_s = pace.map_or(0.0, |pace| self.backlog_s(pace, given_up));
        self.eta_at(guess, pace, backlog_s, given_up)
    }

    fn eta_at(&self, guess: f64, pace: Option<Pace>, backlog_s: f64, given_up: usize) -> f64 {
        let block_s = pace.map_or(f64::from(BLOCK_LEN) / guess.max(1.0), |pace| pace.block_s);
        let estimate = match self.delay_s() {
            // What was measured of an idle peer is the path, and the time that a block takes.
            Some(alone_s) => alone_s.max(backlog_s + block_s) + 2.0 * self.deviation,
            None => GUESSED_DELAY_S + (self.requests.len().saturating_sub(given_up) + 1) as f64 * block_s,
        };
        // A stalled peer comes last, the more often it stalled the later.
        estimate + if self.stalls > 0 { f64::from(1u32 << self.stalls.min(10)) } else { 0.0 }
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
        let silent = self.progress.map(|at| now.saturating_duration_since(at));
        !self.requests.is_empty() && silent.is_some_and(|silent| silent > self.stall_after(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        assert!(outlook(now, Purpose::Stream).eta_s > 0.39);
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
