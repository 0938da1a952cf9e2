//! Where a record network takes orders for the task that owns the swarm.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::key_of;
use crate::types::InfoSig;

/// Requests under way, and waiting to be taken up.
const MAX_REQUESTS: usize = 32;

/// Requests that wait, and the datasets that are followed. Shared between those who ask and the one who works.
pub(in crate::discovery) struct Desk<R> {
    slots: Semaphore,
    state: Mutex<State<R>>,
    is_new: AtomicBool,
    changed: Notify,
}

struct State<R> {
    requests: Vec<R>,
    /// By key, with how many want news of each.
    followed: HashMap<[u8; 32], (InfoSig, usize)>,
}

impl<R> Desk<R> {
    pub(in crate::discovery) fn new() -> Self {
        let state = State { requests: Vec::new(), followed: HashMap::new() };
        Self {
            slots: Semaphore::new(MAX_REQUESTS),
            state: Mutex::new(state),
            is_new: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }

    /// Waits for a turn; none comes within `wait` if too much is under way. To be held until the answer is there.
    pub(in crate::discovery) async fn turn(&self, wait: Duration) -> Option<SemaphorePermit<'_>> {
        timeout(wait, self.slots.acquire()).await.ok()?.ok()
    }

    /// Asks the one who works. If that one is gone, requests are dropped once there are too many.
    pub(in crate::discovery) fn ask(&self, request: R) {
        let mut state = self.lock();
        if state.requests.len() < MAX_REQUESTS {
            state.requests.push(request);
        }
        drop(state);
        self.changed();
    }

    /// Whether anything was asked or changed since the last call.
    pub(in crate::discovery) fn has_news(&self) -> bool {
        self.is_new.swap(false, Ordering::AcqRel)
    }

    /// What was asked since the last call.
    pub(in crate::discovery) fn take(&self) -> Vec<R> {
        std::mem::take(&mut self.lock().requests)
    }

    pub(in crate::discovery) fn follow(&self, dataset: &InfoSig) {
        self.lock().followed.entry(key_of(dataset)).or_insert((*dataset, 0)).1 += 1;
        self.changed();
    }

    pub(in crate::discovery) fn unfollow(&self, dataset: &InfoSig) {
        let key = key_of(dataset);
        let mut state = self.lock();
        let Some((_, count)) = state.followed.get_mut(&key) else { return };
        *count -= 1;
        if *count == 0 {
            state.followed.remove(&key);
            self.changed();
        }
    }

    pub(in crate::discovery) fn is_followed(&self, dataset: &InfoSig) -> bool {
        self.lock().followed.contains_key(&key_of(dataset))
    }

    /// What is followed, by key.
    pub(in crate::discovery) fn followed(&self) -> HashMap<[u8; 32], InfoSig> {
        self.lock().followed.iter().map(|(key, (dataset, _))| (*key, *dataset)).collect()
    }

    /// Waits until something was asked or changed since the last call. Safe to cancel.
    pub(in crate::discovery) async fn news(&self) {
        self.changed.notified().await;
    }

    fn changed(&self) {
        self.is_new.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_follows_twice_unfollows_twice_and_requests_are_bounded() {
        let desk = Desk::new();
        let dataset = InfoSig([1; 64]);
        desk.follow(&dataset);
        desk.follow(&dataset);
        desk.unfollow(&dataset);
        assert!(desk.is_followed(&dataset));
        desk.unfollow(&dataset);
        desk.unfollow(&dataset);
        assert!(!desk.is_followed(&dataset) && desk.followed().is_empty());

        let wait = Duration::from_millis(1);
        let mut turns = Vec::new();
        for number in 0..MAX_REQUESTS {
            turns.push(desk.turn(wait).await.unwrap());
            desk.ask(number);
        }
        assert!(desk.turn(wait).await.is_none());
        assert_eq!(desk.take().len(), MAX_REQUESTS);
        turns.pop();
        assert!(desk.turn(wait).await.is_some() && desk.take().is_empty());
        assert!(desk.has_news() && !desk.has_news());
        timeout(Duration::from_secs(10), desk.news()).await.unwrap();
    }
}
