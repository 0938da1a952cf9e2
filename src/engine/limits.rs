//! What all torrents share: the rates that the user allows, and the memory for reading ahead.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Config;
use crate::types::{BLOCK_LEN, ConnId, TorrentKey};

/// Seconds of the rate that may pass at once after a pause, and bytes that always may.
const BURST_S: f64 = 0.25;
const MIN_BURST: f64 = 2.0 * BLOCK_LEN as f64;
/// Between two looks at a bucket that is empty, at least: what has come in meanwhile passes together.
const QUANTUM_S: f64 = 0.01;
/// Bytes that every window may have, however many there are.
const MIN_SHARE: u64 = 256 << 10;

/// Bytes a second that may pass, as a token bucket. The last block before it is empty may overdraw it.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    /// Infinite where nothing is limited.
    rate: f64,
    tokens: f64,
    at: Option<Instant>,
}

impl Bucket {
    /// `None` and 0 limit nothing.
    fn new(bytes_per_second: Option<u64>) -> Self {
        let rate = bytes_per_second.filter(|rate| *rate > 0).map_or(f64::INFINITY, |rate| rate as f64);
        Self { rate, tokens: 0.0, at: None }
    }

    pub(super) fn is_limited(&self) -> bool {
        self.rate.is_finite()
    }

    /// Bytes a second, infinite if nothing is limited.
    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    fn burst(&self) -> f64 {
        (self.rate * BURST_S).max(MIN_BURST)
    }

    /// Whether something may pass now.
    pub(super) fn is_ready(&mut self, now: Instant) -> bool {
        if !self.is_limited() {
            return true;
        }
        self.tokens = match self.at {
            Some(at) => (self.tokens + self.rate * now.saturating_duration_since(at).as_secs_f64()).min(self.burst()),
            None => self.burst(),
        };
        self.at = Some(now);
        self.tokens > 0.0
    }

    pub(super) fn spend(&mut self, bytes: u32) {
        if self.is_limited() {
            self.tokens -= f64::from(bytes);
        }
    }

    /// What was spent did not pass.
    pub(super) fn refund(&mut self, bytes: u32) {
        if self.is_limited() {
            self.tokens = (self.tokens + f64::from(bytes)).min(self.burst());
        }
    }

    /// When to look again, once it was not ready.
    fn next_look(&self) -> Option<Instant> {
        let enough = (self.rate * QUANTUM_S).min(self.burst());
        let wait = ((enough - self.tokens) / self.rate).max(QUANTUM_S / 10.0);
        Some(self.at? + Duration::from_secs_f64(wait.min(3600.0)))
    }
}

/// Limits of all torrents together, and who waits for them.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) upload: Bucket,
    /// Connections with blocks to send; they take turns, a block at a time.
    pub(super) senders: VecDeque<(TorrentKey, ConnId)>,
    pub(super) download: Bucket,
    /// Torrents with blocks to ask for; they take turns.
    pub(super) requesters: VecDeque<TorrentKey>,
    /// Bytes of all read-ahead windows.
    window_budget: u64,
    pub(super) open_windows: usize,
    max_window: u64,
}

impl Limits {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            upload: Bucket::new(config.upload_limit),
            senders: VecDeque::new(),
            download: Bucket::new(config.download_limit),
            requesters: VecDeque::new(),
            window_budget: u64::MAX,
            open_windows: 0,
            max_window: config.max_window,
        }
    }

    pub(super) fn set_window_budget(&mut self, bytes: u64) {
        self.window_budget = bytes;
    }

    /// Bytes that one window may have.
    pub(super) fn window_share(&self) -> u64 {
        let share = self.window_budget / self.open_windows.max(1) as u64;
        share.max(MIN_SHARE).min(self.max_window)
    }

    /// When somebody who waits may go on.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let upload = self.upload.next_look().filter(|_| !self.senders.is_empty());
        let download = self.download.next_look().filter(|_| !self.requesters.is_empty());
        upload.into_iter().chain(download).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_let_pass_what_they_should() {
        for rate in [5_000u64, 100_000, 50_000_000] {
            let start = Instant::now();
            let (mut bucket, mut now, mut passed) = (Bucket::new(Some(rate)), start, 0u64);
            let end = start + Duration::from_secs(20);
            while now < end {
                while bucket.is_ready(now) {
                    bucket.spend(BLOCK_LEN);
                    passed += u64::from(BLOCK_LEN);
                }
                let next = bucket.next_look().unwrap();
                assert!(next > now);
                now = next;
            }
            let burst = (rate as f64 * BURST_S).max(MIN_BURST) + f64::from(BLOCK_LEN);
            let expected = rate as f64 * 20.0;
            assert!((passed as f64) > expected * 0.98 && (passed as f64) < expected * 1.02 + burst, "{rate}: {passed}");
        }
        for unlimited in [None, Some(0)] {
            let mut bucket = Bucket::new(unlimited);
            bucket.spend(u32::MAX);
            assert!(bucket.is_ready(Instant::now()) && !bucket.is_limited());
        }
    }

    #[test]
    fn windows_share_the_budget() {
        let mut limits = Limits::new(&Config::default());
        assert_eq!(limits.window_share(), 32 << 20);
        limits.set_window_budget(8 << 20);
        for (open, share) in [(0, 8 << 20), (1, 8 << 20), (4, 2 << 20), (1000, MIN_SHARE)] {
            limits.open_windows = open;
            assert_eq!(limits.window_share(), share);
        }
    }
}
