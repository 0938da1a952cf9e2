//! What scheduling is tuned with, in one place. The values come from the simulated swarms (`scripts/sim`) and from
//! `scripts/bench stream`; the modules that use them say how.

use std::time::Duration;

use crate::types::BLOCK_LEN;

// Queues of requests to one peer.

/// Requests to all peers of which nothing is measured, before anything is known of them.
pub(super) const FIRST_DEPTH: u32 = 16;
/// A block that took so much longer than the quickest one, or a quarter more, was queued at the peer.
pub(super) const QUEUED: Duration = Duration::from_millis(20);
/// A block is too late to cancel if the peer begins with it before the cancel arrives: within the path, so many blocks,
/// and so many seconds.
pub(super) const SETTLED_BLOCKS: f64 = 1.3;
pub(super) const SETTLED_S: f64 = 0.01;
/// A block that is late by this share of the time that it takes, and by so many seconds, changes what is expected.
pub(super) const LATE: f64 = 0.125;
pub(super) const LATE_S: f64 = 0.005;
/// Seconds that a block takes from which the moment to ask for the next one is waited for.
pub(super) const TIMED_S: f64 = 0.005;
/// How late it may be: what several peers are to be asked for at about the same time is found at once.
pub(super) const TOGETHER: Duration = Duration::from_micros(1500);
/// Seconds of its rate that a peer is asked for at most, beyond the path, to see whether it can do more.
pub(super) const PROBE_S: f64 = 1.0;
/// Bytes a second from which the pipeline is never shallower than [`FAST_DEPTH`]: the estimates are then finer than
/// the jitter of two busy machines.
pub(super) const FAST_RATE: f64 = 20e6;
pub(super) const FAST_DEPTH: u32 = 128;
/// Requests of a stream, whatever its rate: 16 MiB.
pub(super) const MAX_STREAM_DEPTH: u32 = 1024;
/// Seconds of a peer's rate that its queue holds more than the path, while somebody reads, and while nobody does.
pub(super) const STREAM_SLACK_S: f64 = 0.1;
pub(super) const BULK_SLACK_S: f64 = 3.0;
/// The same while readers contend: whoever comes next waits for all of it.
pub(super) const CONTENDED_SLACK_S: f64 = 0.01;
/// It holds so many times, too, what arrivals deviate from what was expected; seconds that both are at most.
pub(super) const DEVIATIONS: f64 = 4.0;
pub(super) const MAX_SLACK_S: f64 = 0.3;
/// How full a queue may be to be filled: the effort is not spent for every single block of a deep one.
pub(super) const WORTH_IT: f64 = 7.0 / 8.0;
/// Taken for the delay and the rate of a peer that nothing is known of.
pub(super) const GUESSED_DELAY_S: f64 = 0.15;
pub(super) const GUESSED_RATE: f64 = 1e6;
/// Silence after which a peer counts as stalled: by its pace, within these; and of one that has never answered.
pub(super) const MIN_STALL: Duration = Duration::from_secs(2);
pub(super) const FIRST_STALL: Duration = Duration::from_secs(5);
pub(super) const MAX_STALL: Duration = Duration::from_secs(20);

// Windows of readers.

/// Contiguous bytes after which a window opens: more than thumbnailers and `file` read at one place.
pub(super) const OPENS_AT: u64 = 256 << 10;
/// From this run on the window may be twice as long as the run.
pub(super) const TRUSTED_AT: u64 = 4 << 20;
/// How far beside the run a read may be and still belong to it.
pub(super) const NEARBY: u64 = 1 << 20;
/// How far behind the end of the run a read may look back.
pub(super) const LOOK_BACK: u64 = 8 << 20;
/// Contiguous bytes beyond a gap after which the gap is taken to be skipped: more than one batch of read-ahead.
pub(super) const SKIPS_AT: u64 = 1 << 20;
/// Reads apart from the run before it is given up.
pub(super) const MAX_APART: usize = 24;
/// Bytes a second that a reader is taken to read at least: one that pauses may go on at any time.
pub(super) const MIN_CONSUMPTION: f64 = 100e3;
/// Bytes that a window moves by at least, if it is large.
pub(super) const WINDOW_STEP: u64 = 256 << 10;
/// A reader that has not read for so long no longer counts as streaming.
pub(super) const IDLE_AFTER: Duration = Duration::from_secs(10);
/// Seconds of the swarm's rate that a window holds at most.
pub(super) const WINDOW_S: f64 = 4.0;
/// Bytes that a window may hold whatever the rate: slow swarms have to be asked ahead all the more.
pub(super) const MIN_WINDOW: f64 = 1024.0 * 1024.0;

// Both ends of films and music.

/// Bytes at the head and at the tail that are asked for when the head is read for the first time.
pub(super) const HEAD_LEN: u64 = 256 << 10;
pub(super) const TAIL_LEN: u64 = 512 << 10;
/// So many files begun within that time are looked at, not played.
pub(super) const SCAN_FILES: usize = 4;
pub(super) const SCAN_WITHIN: Duration = Duration::from_secs(10);

// Who is asked for a block.

/// How long an estimate of the swarm holds at least, and per peer: looking at hundreds takes time.
pub(super) const ESTIMATE_LIFE: Duration = Duration::from_millis(20);
pub(super) const ESTIMATE_LIFE_PER_PEER: Duration = Duration::from_micros(250);
/// What is expected of a peer has to change by one of so many parts to be noted.
pub(super) const NEAR: u32 = 20;
/// How long it takes at least until blocks that were left to better peers are offered to all again, and per peer.
pub(super) const RECONSIDER: Duration = Duration::from_millis(5);
pub(super) const RECONSIDER_PER_PEER: Duration = Duration::from_micros(250);
/// Peers that found nothing to do because others are quicker, after which the slower ones are not looked at.
pub(super) const ENOUGH_UNNEEDED: u32 = 4;
/// Places that are looked at for a peer before it is left idle.
pub(super) const MAX_LOOKS: u32 = 256;
/// Where most of what is ahead of readers was asked for already, so many times as far is looked at once.
pub(super) const MAX_STRETCH: f64 = 16.0;
/// How many times as early as it is needed a block is to be expected to be in time.
pub(super) const IN_TIME: f64 = 1.5;
/// How much later than another peer one may deliver and still take a block: estimates are no better.
pub(super) const SLACK: f64 = 1.15;
pub(super) const SLACK_S: f64 = 0.005;

// Second copies.

/// Share of the useful bytes that may be asked of a second peer, and what may be before there are any.
pub(super) const HEDGE_SHARE: f64 = 0.05;
pub(super) const HEDGE_START: u64 = 16 * BLOCK_LEN as u64;
/// Share of that budget for readers that have several reads waiting; the rest is kept for those with one.
pub(super) const HEDGE_COMMON: f64 = 0.8;
/// Seconds before a reader gets to a block in which it may be asked for again if it is overdue: a peer that fell silent
/// is not waited for until its block holds up a read.
pub(super) const SOON_S: f64 = 1.0;
/// How many times as early as the first copy is expected a second one has to come: where the first one is on time, where
/// it is late, and of a peer of which nothing is known.
pub(super) const HEDGE_TIMES: f64 = 1.5;
pub(super) const HEDGE_TIMES_LATE: f64 = 1.0;
pub(super) const HEDGE_TIMES_STRANGER: f64 = 4.0;
/// Peers that are looked at for a second copy.
pub(super) const HEDGE_PEERS: usize = 16;
/// How many times as full as it is to be a queue may get by second copies.
pub(super) const HEDGE_QUEUE: f64 = 1.25;
/// Blocks of a read that is its reader's only one which are looked at for a second copy at once, and late ones of all
/// others.
pub(super) const HEDGE_LOOKS_SOLE: usize = 16;
pub(super) const HEDGE_LOOKS: usize = 128;
/// A second copy is not worth less than this.
pub(super) const MIN_GAIN_S: f64 = 0.03;
/// How long a peer has to answer a question for leaf hashes.
pub(super) const HASH_TIMEOUT: Duration = Duration::from_secs(4);
/// How long it has at least before another one is asked, too, and for how many times as long as its blocks take.
pub(super) const PATIENCE: Duration = Duration::from_millis(250);
pub(super) const PATIENCE_TIMES: f64 = 2.0;
/// A quicker peer is asked, too, if its block is expected so much earlier.
pub(super) const LEAVES_GAIN: Duration = Duration::from_millis(10);

// Way for reads that are blocked.

/// Blocks of a read that way is made for at once.
pub(super) const WAY_BLOCKS: usize = 16;
/// Peers whose queues may be cleared: those that would deliver first.
pub(super) const WAY_PEERS: usize = 48;
/// A queue is worth clearing if a block comes so many times as early by that, and so many seconds.
pub(super) const WAY_GAIN: f64 = 1.1;
pub(super) const WAY_GAIN_S: f64 = 0.01;

// What is on its way to a peer that asks us.

/// Seconds of a peer's rate that may be on their way from storage to its socket, and blocks that always may.
pub(super) const PIPELINE_S: f64 = 0.02;
pub(super) const MIN_PIPELINE: usize = 1;
