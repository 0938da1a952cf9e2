//! The UpdateScanner: asks for newer versions now and then, and whenever somebody wants to know.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{sleep, timeout};

use super::Dataset;
use crate::discovery::RecordNetwork;
use crate::discovery::records::{GET_TIMEOUT, PUT_TIMEOUT};
use crate::node::handle::NodeHandle;

/// Between two looks, where nobody wants another interval.
pub(in crate::node) const DEFAULT_POLL: Duration = Duration::from_secs(5 * 60);
/// Between two looks, whatever is wanted.
const SHORTEST_POLL: Duration = Duration::from_secs(1);
/// What a network may take beyond what it promises to take at most.
const MARGIN: Duration = Duration::from_secs(5);
/// Between two times that a record is put again into networks that forget it (BEP 44: after two hours).
const REPEAT: Duration = Duration::from_secs(3600);
/// The same where no network has taken it: there may be no way to them yet.
const REPEAT_FAILED: Duration = Duration::from_secs(60);

/// Begins to look for newer versions, until nobody uses the dataset.
pub(super) fn start(node: &NodeHandle, dataset: &Arc<Dataset>) {
    let networks = node.networks_of(dataset);
    networks.iter().for_each(|network| network.follow(&dataset.origin));
    tokio::spawn(run(Arc::downgrade(dataset), Following { origin: dataset.origin, networks }));
}

/// The networks that tell of a dataset; they are told when nobody wants to hear of it any more.
struct Following {
    origin: crate::types::InfoSig,
    networks: Vec<Arc<dyn RecordNetwork>>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.networks.iter().for_each(|network| network.unfollow(&self.origin));
    }
}

async fn run(dataset: Weak<Dataset>, following: Following) {
    let mut repeat = Repeat::default();
    loop {
        let poll = {
            let Some(dataset) = dataset.upgrade() else { return };
            dataset.look(&following.networks).await;
            repeat.announce(&dataset, &following.networks).await;
            dataset.poll().max(SHORTEST_POLL)
        };
        // Many followers that began at the same time do not go on asking at the same time.
        let wait = poll.mul_f64(0.8 + 0.4 * f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX));
        let deadline = tokio::time::Instant::now() + wait;
        while tokio::time::Instant::now() < deadline {
            let Some(dataset) = dataset.upgrade() else { return };
            // A shorter interval may be wanted meanwhile, and nobody may use the dataset any more.
            let (pause, left) = (dataset.poll(), deadline - tokio::time::Instant::now());
            if pause < poll && left > pause {
                break;
            }
            // Whoever begins to serve does not wait for the next look.
            repeat.announce(&dataset, &following.networks).await;
            drop(dataset);
            sleep(left.min(SHORTEST_POLL)).await;
        }
    }
}

/// When the newest record was put into networks last, and whether any has taken it.
#[derive(Default)]
struct Repeat(Option<(tokio::time::Instant, bool)>);

impl Repeat {
    /// Puts the newest record again if that is due: once at the beginning, then so often that no network forgets it.
    async fn announce(&mut self, dataset: &Dataset, networks: &[Arc<dyn RecordNetwork>]) {
        let pause = |taken| if taken { REPEAT } else { REPEAT_FAILED };
        let is_due = self.0.is_none_or(|(at, taken)| at.elapsed() >= pause(taken));
        if !is_due || !dataset.serves() || networks.is_empty() || dataset.known().newest_record().is_none() {
            return;
        }
        let put = dataset.announce(networks, None).await;
        self.0 = Some((tokio::time::Instant::now(), put.iter().any(|(_, put)| put.is_ok())));
    }
}

impl Dataset {
    /// Asks every network for records, and peers for the newest: what they told when it came may have been lost.
    pub(in crate::node) async fn look(&self, networks: &[Arc<dyn RecordNetwork>]) {
        let (key, known) = {
            let known = self.known();
            (known.key(), known.newest_record().map(|record| record.seq()))
        };
        self.ask(0).await;
        let ask = |network: &Arc<dyn RecordNetwork>| {
            let network = network.clone();
            async move {
                let name = network.name();
                let records = timeout(GET_TIMEOUT + MARGIN, network.get(&self.origin, key.as_ref(), known)).await;
                for parts in records.unwrap_or_default() {
                    self.learn(parts, name).await;
                    self.answered();
                }
            }
        };
        join_all(networks.iter().map(ask)).await;
    }

    /// Puts the newest record into every network, in place of version `replaces`. What became of it, by network.
    pub(in crate::node) async fn announce(
        &self,
        networks: &[Arc<dyn RecordNetwork>],
        replaces: Option<u64>,
    ) -> Vec<(String, Result<usize, String>)> {
        let Some(parts) = self.known().newest_record().map(|record| record.parts()) else { return Vec::new() };
        let put = |network: &Arc<dyn RecordNetwork>| {
            let (network, parts) = (network.clone(), parts.clone());
            async move {
                let put = timeout(PUT_TIMEOUT + MARGIN, network.put(&self.origin, &parts, replaces)).await;
                let put = put.map_or_else(
                    |_| Err(format!("no answer within {PUT_TIMEOUT:?}")),
                    |put| put.map_err(|error| error.to_string()),
                );
                (network.name().to_owned(), put)
            }
        };
        join_all(networks.iter().map(put)).await
    }
}
