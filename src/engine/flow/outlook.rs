//! What is to be expected of a peer: when one more block would come, and whether it should be asked for one.
//!
//! A peer sends one block after the other. So the next one comes when all before it have come, and what it has sent of
//! the current one is reckoned from the time since the last. Queues hold what the path needs and a little more: a quick
//! peer is asked for several when one comes, a slow one for the next when it is about to be done, so that what turns out
//! to be urgent meanwhile waits for little more than the block that is being sent.

use std::time::{Duration, Instant};

use super::Flow;
use crate::engine::scheduling::{
    BULK_SLACK_S, CONTENDED_SLACK_S, DEVIATIONS, FAST_DEPTH, FAST_RATE, FIRST_DEPTH, GUESSED_DELAY_S, LATE, LATE_S,
    MAX_SLACK_S, MAX_STREAM_DEPTH, PROBE_S, STREAM_SLACK_S, TIMED_S,
};
use crate::types::BLOCK_LEN;

/// Seconds after which an answer is expected at the latest.
pub(super) const MAX_ETA_S: f64 = 3600.0;

/// What a queue of requests is for: the later ones of these keep it shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::engine) enum Purpose {
    /// Nobody reads, only throughput counts.
    Bulk,
    /// One reads.
    Stream,
    /// Several wait for blocks.
    Contended,
}

/// From where a queue of requests is looked at.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct View {
    pub(in crate::engine) now: Instant,
    /// Bytes a second that a peer which was not measured is taken to deliver.
    pub(in crate::engine) guess: f64,
    pub(in crate::engine) purpose: Purpose,
    /// Requests to one peer at most.
    pub(in crate::engine) cap: u32,
    /// Peers that could be asked instead.
    pub(in crate::engine) peers: usize,
    /// How many times as full as it is to be the queue may be.
    pub(in crate::engine) share: f64,
}

/// Whether a peer has room for another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Room {
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

/// When one more block would come from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Arrival {
    /// So long after it is asked for.
    After(Duration),
    /// When those before it have come, and it, whenever it is asked for until then.
    At(Instant),
}

impl Arrival {
    /// Whether it differs from another one by no more than one of so many parts of the time until then.
    pub(in crate::engine) fn is_near(self, other: Self, now: Instant, parts: u32) -> bool {
        match (self, other) {
            (Self::After(one), Self::After(other)) => one.abs_diff(other) <= other / parts,
            (Self::At(one), Self::At(other)) => {
                let until = other.saturating_duration_since(now);
                one.saturating_duration_since(now).abs_diff(until) <= until / parts
            }
            _ => false,
        }
    }
}

/// What is to be expected of a peer.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Outlook {
    pub(in crate::engine) arrival: Arrival,
    pub(in crate::engine) room: Room,
    /// When this will be different though nothing was sent and nothing came.
    pub(in crate::engine) until: Option<Instant>,
    /// Bytes a second; `None` before the first block.
    pub(in crate::engine) rate: Option<f64>,
}

/// Whether a peer of so many bytes a second is asked for another block when the moment comes: of quicker ones more is
/// asked when a block comes.
fn is_timed(rate: f64) -> bool {
    f64::from(BLOCK_LEN) > rate * TIMED_S
}

/// Seconds until the block that a peer sends is clearly late, and if it is, until it is so once more.
fn good_for_s(pace: Pace) -> f64 {
    let coming_s = pace.block_s - pace.elapsed_s;
    let late_s = if coming_s > 0.0 { pace.block_s } else { -coming_s };
    coming_s.max(0.0) + (late_s * LATE).max(LATE_S)
}

impl Flow {
    /// Bytes a second that the peer delivers; `None` before the first block.
    pub(in crate::engine) fn rate(&self, now: Instant) -> Option<f64> {
        self.delivery.per_second(now, !self.requests.is_empty())
    }

    /// Seconds from a request to its block, of an idle peer; `None` before the first block.
    pub(in crate::engine) fn delay_s(&self) -> Option<f64> {
        self.min_delay.map(|delay| delay.as_secs_f64())
    }

    /// What the peer delivers now; `None` before the first block.
    fn pace(&self, now: Instant) -> Option<Pace> {
        let elapsed_s = self.delivery.elapsed_s(now);
        let rate = self.delivery.per_second_after(if self.requests.is_empty() { 0.0 } else { elapsed_s })?.max(1.0);
        Some(Pace { rate, block_s: f64::from(BLOCK_LEN) / rate, elapsed_s })
    }

    /// Seconds on the way there and back, without the block itself.
    pub(super) fn path_s(&self) -> f64 {
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
    pub(in crate::engine) fn has_room(&self, view: &View) -> bool {
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
    pub(in crate::engine) fn outlook(&self, view: &View) -> Outlook {
        let pace = self.pace(view.now);
        let backlog_s = pace.map_or(0.0, |pace| self.backlog_s(pace, 0));
        let room = if self.has_room_at(view, pace, backlog_s) {
            Room::Now
        } else {
            self.opens_at(view, pace, backlog_s).map_or(Room::Later, Room::At)
        };
        let eta = Duration::from_secs_f64(self.eta_at(view.guess, pace, backlog_s, 0).min(MAX_ETA_S));
        let busy_s = pace.map_or(0.0, |pace| backlog_s + pace.block_s - self.delay_s().unwrap_or(0.0));
        let is_busy = backlog_s > 0.0 && busy_s > 0.0 && self.stalls == 0;
        let arrival = if is_busy { Arrival::At(view.now + eta) } else { Arrival::After(eta) };
        let waits = pace.filter(|_| backlog_s > 0.0).map(|pace| {
            let wait_s = good_for_s(pace);
            Duration::from_secs_f64(if is_busy { wait_s.min(busy_s) } else { wait_s })
        });
        Outlook { arrival, room, until: waits.map(|wait| view.now + wait), rate: pace.map(|pace| pace.rate) }
    }

    /// When the peer will have room just because time goes by.
    fn opens_at(&self, view: &View, pace: Option<Pace>, backlog_s: f64) -> Option<Instant> {
        let pace = pace.filter(|pace| self.stalls == 0 && is_timed(pace.rate))?;
        let wait_s = backlog_s - self.path_s() - self.slack_s(view.purpose);
        let is_known = wait_s >= 0.0 && (pace.elapsed_s < pace.block_s) && wait_s < MAX_ETA_S;
        is_known.then(|| view.now + Duration::from_secs_f64(wait_s))
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

    /// Seconds until one more block would arrive. `guess`: bytes a second of a peer that is not measured yet.
    pub(in crate::engine) fn eta(&self, now: Instant, guess: f64) -> f64 {
        self.eta_without(now, guess, 0)
    }

    /// Seconds until one more block would arrive if so many of the requests were given up.
    pub(in crate::engine) fn eta_without(&self, now: Instant, guess: f64, given_up: usize) -> f64 {
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
}
