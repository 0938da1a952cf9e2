//! How a web seed has been doing: when to leave it alone, and which of its files are of no use.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::types::FileIndex;

/// How long a server is left alone after its first failure; doubles with each.
const FIRST_REST: Duration = Duration::from_secs(1);
/// The longest, whatever the server says.
const MAX_REST: Duration = Duration::from_secs(600);
/// How long a file is not asked for that the server did not have as it should.
const FILE_REST: Duration = Duration::from_secs(60);
/// Files that are remembered.
const MAX_FILES: usize = 4096;

/// How one web seed of one torrent has been doing.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// In a row.
    failures: u32,
    rests_until: Option<Instant>,
    files: HashMap<FileIndex, Instant>,
    /// What was told last.
    told: String,
}

impl Health {
    /// For how long the server is still to be left alone; `None` if it may be asked.
    pub(super) fn rest(&self, now: Instant) -> Option<Duration> {
        let left = self.lock().rests_until?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// The server failed, and may have said how long it wants to be left alone.
    pub(super) fn failed(&self, now: Instant, retry_after: Option<Duration>) {
        let mut state = self.lock();
        let rest = FIRST_REST * (1 << state.failures.min(16));
        state.failures += 1;
        state.rests_until = Some(now + rest.max(retry_after.unwrap_or_default()).min(MAX_REST));
    }

    /// The server does not have a file as it should.
    pub(super) fn lacks(&self, now: Instant, file: FileIndex) {
        let mut state = self.lock();
        if state.files.len() >= MAX_FILES {
            state.files.clear();
        }
        state.files.insert(file, now + FILE_REST);
    }

    /// Whether a file is not to be asked for now.
    pub(super) fn is_lacking(&self, now: Instant, file: FileIndex) -> bool {
        self.lock().files.get(&file).is_some_and(|until| now < *until)
    }

    /// The server sent what it was asked for.
    pub(super) fn delivered(&self) {
        let mut state = self.lock();
        (state.failures, state.rests_until) = (0, None);
    }

    /// Whether a warning has not just been given.
    pub(super) fn is_news(&self, warning: &str) -> bool {
        let mut state = self.lock();
        let is_news = state.told != warning;
        state.told = warning.to_owned();
        is_news
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_fails_rests_longer_each_time_and_as_long_as_it_says() {
        let (health, now) = (Health::default(), Instant::now());
        assert_eq!(health.rest(now), None);
        for rest in [1, 2, 4, 8] {
            health.failed(now, None);
            assert_eq!(health.rest(now), Some(Duration::from_secs(rest)));
        }
        assert_eq!(health.rest(now + Duration::from_secs(8)), None);
        health.delivered();
        assert_eq!(health.rest(now), None);
        health.failed(now, Some(Duration::from_secs(30)));
        assert_eq!(health.rest(now), Some(Duration::from_secs(30)));
        (0..40).for_each(|_| health.failed(now, Some(Duration::from_secs(1 << 40))));
        assert_eq!(health.rest(now), Some(MAX_REST));
    }

    #[test]
    fn files_that_are_not_there_are_left_alone_for_a_while_and_told_of_once() {
        let (health, now) = (Health::default(), Instant::now());
        health.lacks(now, FileIndex(3));
        assert!(health.is_lacking(now, FileIndex(3)) && !health.is_lacking(now, FileIndex(4)));
        assert!(!health.is_lacking(now + FILE_REST, FileIndex(3)));
        assert!(health.is_news("a") && !health.is_news("a") && health.is_news("b"));
    }
}
