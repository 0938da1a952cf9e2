//! Rates and delays, measured with the times that inputs carry.

use std::time::{Duration, Instant};

use crate::types::BLOCK_LEN;

/// Bytes a second over about the last five seconds, idle times included: what status shows and the choker compares.
#[derive(Clone, Debug, Default)]
pub(super) struct RateMeter {
    bytes: f64,
    started: Option<Instant>,
    at: Option<Instant>,
}

impl RateMeter {
    const TAU_S: f64 = 5.0;

    pub(super) fn add(&mut self, now: Instant, bytes: u64) {
        self.bytes = self.decayed(now) + bytes as f64;
        self.at = Some(now);
        self.started.get_or_insert(now);
    }

    pub(super) fn per_second(&self, now: Instant) -> f64 {
        let Some(started) = self.started else { return 0.0 };
        let age = now.saturating_duration_since(started).as_secs_f64();
        // A young meter has seen only part of the window. The floor keeps the first bytes from looking like a flood.
        self.decayed(now) / (Self::TAU_S * (1.0 - (-age / Self::TAU_S).exp())).max(0.25)
    }

    fn decayed(&self, now: Instant) -> f64 {
        let Some(at) = self.at else { return 0.0 };
        self.bytes * (-now.saturating_duration_since(at).as_secs_f64() / Self::TAU_S).exp()
    }
}

/// Bytes a second that a peer delivers *while it has requests to answer*: its capacity, however little is asked.
#[derive(Clone, Debug)]
pub(super) struct DeliveryRate {
    bytes: f64,
    busy_s: f64,
    /// The last delivery, or when the peer got something to do after having had nothing.
    since: Option<Instant>,
}

impl DeliveryRate {
    const TAU_S: f64 = 1.0;
    /// Shortest time that the bytes may count for: a burst says little about the rate.
    const MIN_BUSY_S: f64 = 0.002;

    pub(super) fn new() -> Self {
        Self { bytes: 0.0, busy_s: 0.0, since: None }
    }

    /// Requests were sent to a peer that had none. What it delivers first is on its way for `delay_s` at least.
    pub(super) fn busy_from(&mut self, now: Instant, delay_s: f64) {
        self.since = Some(now + Duration::from_secs_f64(delay_s));
    }

    /// Something came that was not asked for any more: the time that it took counts for nothing.
    pub(super) fn went_by(&mut self, now: Instant) {
        self.since = self.since.map(|since| since.max(now));
    }

    /// Seconds since the last delivery, or since the first one could begin: less than nothing before that.
    pub(super) fn elapsed_s(&self, now: Instant) -> f64 {
        let Some(since) = self.since else { return 0.0 };
        let before_s = || -since.saturating_duration_since(now).as_secs_f64();
        now.checked_duration_since(since).map_or_else(before_s, |passed| passed.as_secs_f64())
    }

    /// Seconds that a block takes; `None` before the first one.
    pub(super) fn block_s(&self) -> Option<f64> {
        (self.bytes > 0.0).then(|| f64::from(BLOCK_LEN) * self.busy_s.max(Self::MIN_BUSY_S) / self.bytes)
    }

    pub(super) fn delivered(&mut self, now: Instant, bytes: u64) {
        let since = self.since.unwrap_or(now);
        let dt = now.saturating_duration_since(since).as_secs_f64();
        let keep = (-dt / Self::TAU_S).exp();
        self.bytes = self.bytes * keep + bytes as f64;
        self.busy_s = self.busy_s * keep + dt;
        self.since = Some(since.max(now));
    }

    /// The estimate; `None` while nothing was delivered. `waiting`: requests are unanswered, so silence counts.
    pub(super) fn per_second(&self, now: Instant, waiting: bool) -> Option<f64> {
        self.per_second_after(if waiting { self.elapsed_s(now) } else { 0.0 })
    }

    /// The estimate when a peer with unanswered requests has said nothing for so long.
    pub(super) fn per_second_after(&self, elapsed_s: f64) -> Option<f64> {
        // Between two blocks there is silence always.
        let silent_s = (elapsed_s - self.block_s()?).max(0.0);
        Some(self.bytes / (self.busy_s + silent_s).max(Self::MIN_BUSY_S))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steady(rate: u64, seconds: u64) -> (RateMeter, DeliveryRate, Instant) {
        let (mut meter, mut delivery, mut now) = (RateMeter::default(), DeliveryRate::new(), Instant::now());
        delivery.busy_from(now, 0.0);
        for _ in 0..seconds * 100 {
            now += Duration::from_millis(10);
            meter.add(now, rate / 100);
            delivery.delivered(now, rate / 100);
        }
        (meter, delivery, now)
    }

    #[test]
    fn steady_rates_are_found_and_forgotten() {
        let (meter, delivery, now) = steady(1_000_000, 20);
        assert!((meter.per_second(now) / 1e6 - 1.0).abs() < 0.05);
        assert!((delivery.per_second(now, true).unwrap() / 1e6 - 1.0).abs() < 0.05);
        let later = now + Duration::from_secs(60);
        assert!(meter.per_second(later) < 100.0);
        assert!(delivery.per_second(later, true).unwrap() < 50_000.0, "a silent peer is slow");
        assert!(delivery.per_second(later, false).unwrap() > 900_000.0, "an idle one is not");
    }

    #[test]
    fn delivery_rate_ignores_idle_time() {
        let (_, mut delivery, mut now) = steady(1_000_000, 5);
        now += Duration::from_secs(100);
        delivery.busy_from(now, 0.05);
        now += Duration::from_millis(66);
        delivery.delivered(now, 16_384);
        assert!((delivery.per_second(now, true).unwrap() / 1e6 - 1.0).abs() < 0.1);
    }
}
