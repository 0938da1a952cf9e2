//! When to announce next.

use std::time::{Duration, Instant};

use super::announce::Answer;

/// How often trackers are asked.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The shortest time between regular announces, whatever a tracker says.
    pub shortest: Duration,
    /// The time between them where a tracker says nothing.
    pub usual: Duration,
    /// The longest time, whatever a tracker says.
    pub longest: Duration,
    /// How soon to ask again while peers are wanted, where a tracker names no minimum.
    pub eager: Duration,
    /// How soon to ask again after the first failure; doubles with each.
    pub first_retry: Duration,
    /// The longest time between tries.
    pub longest_retry: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            shortest: Duration::from_secs(60),
            usual: Duration::from_secs(30 * 60),
            longest: Duration::from_secs(2 * 60 * 60),
            eager: Duration::from_secs(2 * 60),
            first_retry: Duration::from_secs(10),
            longest_retry: Duration::from_secs(30 * 60),
        }
    }
}

/// When the next regular announce is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// If peers are wanted.
    pub(super) earliest: Instant,
    /// In any case.
    pub(super) latest: Instant,
}

impl Pace {
    /// `jitter` from 0 to 1 spreads the announces of many peers and swarms; it never makes one early.
    pub(super) fn after_answer(&self, now: Instant, answer: &Answer, jitter: f64) -> Due {
        let min = answer.min_interval.map(|min| min.min(self.longest));
        let usual = answer.interval.unwrap_or(self.usual).min(self.longest);
        let latest = usual.max(min.unwrap_or_default()).max(self.shortest);
        let earliest = min.unwrap_or(self.eager).max(self.shortest).min(latest);
        Due { earliest: now + spread(earliest, 0.05 * jitter), latest: now + spread(latest, 0.05 * jitter) }
    }

    /// How long to wait after so many failures in a row.
    pub(super) fn after_failures(&self, failures: u32, jitter: f64) -> Duration {
        let doublings = 2u32.saturating_pow(failures.saturating_sub(1));
        let wait = self.first_retry.checked_mul(doublings).unwrap_or(self.longest_retry);
        spread(wait.min(self.longest_retry), 0.25 * jitter)
    }
}

fn spread(wait: Duration, part: f64) -> Duration {
    wait + wait.mul_f64(part.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn due(interval: Option<Duration>, min_interval: Option<Duration>) -> (Duration, Duration) {
        let now = Instant::now();
        let answer = Answer { interval, min_interval, ..Answer::default() };
        let due = Pace::default().after_answer(now, &answer, 0.0);
        (due.earliest - now, due.latest - now)
    }

    #[test]
    fn trackers_are_obeyed_within_bounds() {
        assert_eq!(due(Some(45 * MINUTE), None), (2 * MINUTE, 45 * MINUTE));
        assert_eq!(due(Some(45 * MINUTE), Some(15 * MINUTE)), (15 * MINUTE, 45 * MINUTE));
        assert_eq!(due(Some(10 * MINUTE), Some(15 * MINUTE)), (15 * MINUTE, 15 * MINUTE));
        assert_eq!(due(None, None), (2 * MINUTE, 30 * MINUTE));
        assert_eq!(due(Some(Duration::ZERO), Some(Duration::ZERO)), (MINUTE, MINUTE));
        assert_eq!(due(Some(Duration::MAX), Some(Duration::MAX)), (120 * MINUTE, 120 * MINUTE));
    }

    #[test]
    fn failures_back_off() {
        let waits: Vec<_> = (1..5).map(|failures| Pace::default().after_failures(failures, 0.0).as_secs()).collect();
        assert_eq!(waits, [10, 20, 40, 80]);
        assert_eq!(Pace::default().after_failures(u32::MAX, 0.0), 30 * MINUTE);
    }

    proptest! {
        #[test]
        fn jitter_only_delays(interval in 0u64..10_000, min in 0u64..10_000, failures in 0u32..100, jitter in 0.0f64..1.0) {
            let now = Instant::now();
            let interval = Some(Duration::from_secs(interval));
            let answer = Answer { interval, min_interval: Some(Duration::from_secs(min)), ..Answer::default() };
            let pace = Pace::default();
            let (exact, spread) = (pace.after_answer(now, &answer, 0.0), pace.after_answer(now, &answer, jitter));
            prop_assert!(spread.earliest >= exact.earliest && spread.latest >= exact.latest);
            prop_assert!(spread.earliest <= spread.latest);
            prop_assert!(pace.after_failures(failures, jitter) >= pace.after_failures(failures, 0.0));
            prop_assert!(pace.after_failures(failures, jitter) <= pace.longest_retry.mul_f64(1.25));
        }
    }
}
