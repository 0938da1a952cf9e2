//! Trackers: HTTP (BEP 3, 7, 23, 24, 31, 48) and UDP (BEP 15, 41), in announce lists (BEP 12).
//!
//! Each swarm has a task that tells its trackers that this peer started, goes on, has become complete and stopped,
//! and passes on the peers that they name. Everything that a tracker can do wrong is an error in
//! [`Source::state`], and the next try comes later each time.

mod announce;
mod board;
mod client;
pub mod decode;
mod http;
mod pace;
mod swarm;
mod tiers;
mod udp;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::http::{HttpLimits, LocalAddrs};
use super::{Found, JoinOptions, ProgressFn, Source};
use crate::types::{SwarmId, WirePeerId};
use swarm::{Orders, Shared};

pub use announce::{Announce, Answer, Event, Retry, SwarmSize, TrackerError};
pub use client::TrackerClient;
pub use http::HttpTrackerError;
pub use pace::Pace;
pub use udp::{UdpError, UdpPatience};

/// The name in `--discovery`.
pub const NAME: &str = "trackers";
/// Announces that may be under way at a time.
const MAX_ANNOUNCES: usize = 64;

/// How patient, and how modest, the source is.
#[derive(Clone, Copy, Debug)]
pub struct TrackerLimits {
    /// Towards HTTP trackers.
    pub http: HttpLimits,
    /// Towards UDP trackers.
    pub udp: UdpPatience,
    /// How often they are asked.
    pub pace: Pace,
    /// How long trackers have to take note that a swarm is left.
    pub farewell: Duration,
}

impl Default for TrackerLimits {
    fn default() -> Self {
        Self {
            http: HttpLimits::default(),
            udp: UdpPatience::default(),
            pace: Pace::default(),
            farewell: Duration::from_secs(5),
        }
    }
}

/// The source that asks trackers.
pub struct Trackers {
    shared: Arc<Shared>,
    runtime: Handle,
    swarms: Mutex<HashMap<SwarmId, Task>>,
}

/// The task of a swarm. It outlives the swarm until the trackers have heard the farewell.
struct Task {
    orders: watch::Sender<Orders>,
    /// Taken by the task that follows, which waits for it: a farewell must not overtake the next start.
    handle: Option<JoinHandle<()>>,
}

impl Trackers {
    /// A source for the peer `peer_id` that asks from the addresses `local` and reports over `found`. Must be
    /// called within a tokio runtime.
    pub fn new(
        peer_id: WirePeerId,
        local: LocalAddrs,
        limits: TrackerLimits,
        progress: ProgressFn,
        found: mpsc::Sender<Found>,
    ) -> Self {
        let shared = Shared {
            client: TrackerClient::new(&limits, local),
            limits,
            peer_id,
            progress,
            found,
            board: board::Board::default(),
            slots: Semaphore::new(MAX_ANNOUNCES),
        };
        Self { shared: Arc::new(shared), runtime: Handle::current(), swarms: Mutex::default() }
    }

    /// The address at which a tracker saw this node last (BEP 24).
    pub fn external_ip(&self) -> Option<IpAddr> {
        self.shared.board.external_ip()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SwarmId, Task>> {
        self.swarms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the task of a swarm, behind the one that is taking leave of it.
    fn start(&self, swarm: SwarmId, options: JoinOptions, before: Option<JoinHandle<()>>) -> Task {
        let (orders, receiver) = watch::channel(Orders { options: Some(options), completed: false });
        let shared = self.shared.clone();
        let handle = self.runtime.spawn(async move {
            if let Some(before) = before {
                // It ends in bounded time; if it panicked, that is its own affair.
                let _ = before.await;
            }
            swarm::run(shared, swarm, receiver).await;
        });
        Task { orders, handle: Some(handle) }
    }
}

impl Source for Trackers {
    fn name(&self) -> &'static str {
        NAME
    }

    fn join(&self, swarm: SwarmId, options: &JoinOptions) {
        let mut swarms = self.lock();
        swarms.retain(|_, task| task.handle.as_ref().is_some_and(|handle| !handle.is_finished()));
        let leaving = match swarms.get_mut(&swarm) {
            Some(task) if task.orders.borrow().options.is_some() => {
                task.orders.send_if_modified(|orders| {
                    let is_new = orders.options.as_ref() != Some(options);
                    orders.options = Some(options.clone());
                    is_new
                });
                return;
            }
            Some(task) => task.handle.take(),
            None => None,
        };
        let task = self.start(swarm, options.clone(), leaving);
        swarms.insert(swarm, task);
    }

    fn leave(&self, swarm: SwarmId) {
        if let Some(task) = self.lock().get(&swarm) {
            task.orders.send_replace(Orders::default());
        }
    }

    fn completed(&self, swarm: SwarmId) {
        if let Some(task) = self.lock().get(&swarm) {
            task.orders.send_if_modified(|orders| {
                let is_new = orders.options.is_some() && !orders.completed;
                orders.completed |= is_new;
                is_new
            });
        }
    }

    fn state(&self) -> String {
        self.shared.board.state()
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        let tasks: Vec<_> = self.lock().drain().map(|(_, task)| task).collect();
        let longest = self.shared.limits.farewell * 2;
        async move {
            tasks.iter().for_each(|task| drop(task.orders.send_replace(Orders::default())));
            let aborts: Vec<_> =
                tasks.iter().filter_map(|task| task.handle.as_ref()).map(|h| h.abort_handle()).collect();
            let ends = join_all(tasks.into_iter().filter_map(|task| task.handle));
            if timeout(longest, ends).await.is_err() {
                aborts.iter().for_each(tokio::task::AbortHandle::abort);
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
