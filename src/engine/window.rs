//! Where a handle reads, and how far ahead of it to fetch.
//!
//! The kernel reads ahead itself, in several requests at once that arrive in any order. So a position is not the
//! offset of the last read: it is the end of the contiguous run that the reads of late add up to. Reads a little
//! apart wait beside the run until the gap closes. Only a run opens a window, so small scattered reads never do.

use super::scheduling::{LOOK_BACK, MAX_APART, NEARBY, OPENS_AT, SKIPS_AT, TRUSTED_AT};
use std::ops::Range;

/// The sequential run of a handle.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    /// Contiguous bytes that were read.
    range: Range<u64>,
    /// Reads nearby that do not touch it yet; sorted, disjoint.
    apart: Vec<Range<u64>>,
    /// Bytes read in sequence: what the window grows with.
    earned: u64,
}

impl Run {
    /// A read happened. True if it is a seek: it does not belong to the run, which starts anew with it.
    pub(super) fn touch(&mut self, read: Range<u64>, window_end: u64) -> bool {
        if read.is_empty() {
            return false;
        }
        let ahead = read.start > window_end.max(self.range.end + NEARBY);
        let behind = read.start + NEARBY < self.range.start || read.end + LOOK_BACK < self.range.end;
        if ahead || behind || self.range.is_empty() {
            return self.restart(read);
        }
        self.apart.push(read.clone());
        self.apart.sort_unstable_by_key(|range| range.start);
        self.join();
        if let Some(at) = self.apart.iter().position(|range| range.end - range.start >= SKIPS_AT) {
            // Reading goes on beyond a gap that nobody fills.
            let skipped_to = self.apart.swap_remove(at);
            self.earned = self.earned / 2 + (skipped_to.end - skipped_to.start);
            self.apart.retain(|range| range.start > skipped_to.end);
            self.range = skipped_to;
        } else if self.apart.len() > MAX_APART {
            return self.restart(read);
        }
        false
    }

    fn restart(&mut self, read: Range<u64>) -> bool {
        let first = self.range.is_empty();
        self.earned = read.end - read.start;
        self.range = read;
        self.apart.clear();
        !first
    }

    /// Merges what touches.
    fn join(&mut self) {
        let mut rest: Vec<Range<u64>> = Vec::with_capacity(self.apart.len());
        for range in self.apart.drain(..) {
            match rest.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => rest.push(range),
            }
        }
        rest.retain(|range| {
            let touches = range.start <= self.range.end && range.end >= self.range.start;
            if touches {
                let before = self.range.end - self.range.start;
                self.range.start = self.range.start.min(range.start);
                self.range.end = self.range.end.max(range.end);
                self.earned += self.range.end - self.range.start - before;
            }
            !touches
        });
        self.apart = rest;
    }

    /// Where the handle reads next.
    pub(super) fn position(&self) -> u64 {
        self.range.end
    }

    /// Bytes to fetch ahead of the position, `limit` at most.
    pub(super) fn window(&self, limit: u64) -> u64 {
        match self.earned {
            ..OPENS_AT => 0,
            earned @ ..TRUSTED_AT => earned.min(limit),
            earned => earned.saturating_mul(2).min(limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const K: u64 = 1024;

    fn after(reads: &[(u64, u64)]) -> (Run, bool) {
        let mut run = Run::default();
        let mut sought = false;
        for (offset, len) in reads {
            sought = run.touch(*offset..offset + len, 0);
        }
        (run, sought)
    }

    #[test]
    fn sequential_reads_open_a_growing_window() {
        assert_eq!(after(&[(0, 128 * K)]).0.window(u64::MAX), 0);
        let (run, _) = after(&[(0, 128 * K), (128 * K, 128 * K)]);
        assert_eq!((run.position(), run.window(u64::MAX)), (256 * K, 256 * K));
        let reads: Vec<_> = (0..64).map(|at| (at * 128 * K, 128 * K)).collect();
        assert_eq!(after(&reads).0.window(u64::MAX), 16 << 20);
        assert_eq!(after(&reads).0.window(1 << 20), 1 << 20);
    }

    #[test]
    fn a_seek_starts_anew() {
        let reads: Vec<_> = (0..64).map(|at| (at * 128 * K, 128 * K)).chain([(900 << 20, 16 * K)]).collect();
        let (run, sought) = after(&reads);
        assert!(sought);
        assert_eq!((run.position(), run.window(u64::MAX)), ((900 << 20) + 16 * K, 0));
        let back: Vec<_> = (0..128).map(|at| (at * 128 * K, 128 * K)).chain([(0, 16 * K)]).collect();
        assert!(after(&back).1, "far back is a seek too");
    }

    #[test]
    fn a_gap_is_skipped() {
        let reads: Vec<_> =
            [(0, 512 * K)].into_iter().chain((0..8).map(|at| ((600 + at * 128) * K, 128 * K))).collect();
        assert_eq!(after(&reads[..8]).0.position(), 512 * K, "the gap may still be filled");
        let (run, _) = after(&reads);
        assert_eq!((run.position(), run.window(u64::MAX)), (1624 * K, 1280 * K));
    }

    proptest! {
        /// Read-ahead in batches of up to eight, each batch in any order, is as good as in order.
        #[test]
        fn reordered_read_ahead_is_no_seek(batches in prop::collection::vec(Just((0u64..8).collect::<Vec<_>>()).prop_shuffle(), 1..20)) {
            let mut run = Run::default();
            for (at, batch) in batches.iter().enumerate() {
                for slot in batch {
                    let offset = (at as u64 * 8 + slot) * 128 * K;
                    prop_assert!(!run.touch(offset..offset + 128 * K, 0));
                }
            }
            prop_assert_eq!(run.position(), batches.len() as u64 * 8 * 128 * K);
            prop_assert!(run.window(u64::MAX) >= 512 * K);
        }

        #[test]
        fn scattered_small_reads_open_nothing(offsets in prop::collection::vec(0u64..1 << 14, 1..200)) {
            let mut run = Run::default();
            let mut seen = std::collections::BTreeSet::new();
            for offset in offsets.into_iter().filter(|offset| seen.insert(offset / 2)) {
                // 16 KiB reads, never two that touch.
                run.touch(offset / 2 * 128 * K..offset / 2 * 128 * K + 16 * K, 0);
                prop_assert_eq!(run.window(u64::MAX), 0);
            }
        }
    }
}
