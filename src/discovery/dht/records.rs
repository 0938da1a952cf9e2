//! Update records as mutable items (BEP 44) of the mainline DHT.
//!
//! An item goes out as it came: key, salt, number, value and the publisher's signature, so that whoever has a record
//! can put it in again without the secret key. The value travels as a byte string, and nothing of it is read here.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use mainline::MutableItem;
use mainline::async_dht::AsyncDht;
use mainline::errors::{PutMutableError, PutQueryError};
use sha1::{Digest as _, Sha1};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::NAME;
use crate::discovery::records::{
    GET_TIMEOUT, MAX_FOUND, RecordCheck, RecordNetwork, RecordNetworkError, STORE_TIMEOUT, is_ahead, spelled,
};
use crate::discovery::wanted::Wanted;
use crate::types::{InfoSig, PublicKey, RecordParts};

/// Look-ups and puts under way.
const MAX_UNDER_WAY: usize = 16;

/// The DHT node that the worker runs, for those who need it too.
pub(super) struct Node {
    running: watch::Sender<Option<AsyncDht>>,
    /// Whether a record was asked for, which is a reason to start.
    asked: AtomicBool,
    wanted: Arc<Wanted>,
    stop: CancellationToken,
}

impl Node {
    pub(super) fn new(wanted: Arc<Wanted>, stop: CancellationToken) -> Self {
        Self { running: watch::Sender::new(None), asked: AtomicBool::new(false), wanted, stop }
    }

    /// Tells which node runs now.
    pub(super) fn set(&self, running: Option<AsyncDht>) {
        self.running.send_replace(running);
    }

    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    fn ask(&self) {
        if !self.asked.swap(true, Ordering::AcqRel) {
            self.wanted.wake();
        }
    }

    /// The node, which is started if need be.
    async fn running(&self, wait: Duration) -> Option<AsyncDht> {
        self.ask();
        let mut running = self.running.subscribe();
        let running = self.stop.run_until_cancelled(timeout(wait, running.wait_for(Option::is_some))).await?;
        running.ok()?.ok()?.clone()
    }
}

/// The DHT as a keeper of records.
pub(super) struct DhtRecords {
    node: Arc<Node>,
    check: RecordCheck,
    slots: Semaphore,
}

impl DhtRecords {
    pub(super) fn new(node: Arc<Node>, check: RecordCheck) -> Self {
        Self { node, check, slots: Semaphore::new(MAX_UNDER_WAY) }
    }

    async fn look_up(&self, dataset: &InfoSig, key: &PublicKey, known: Option<u64>) -> Vec<RecordParts> {
        let until = Instant::now() + GET_TIMEOUT;
        let Ok(Ok(_slot)) = timeout_at(until, self.slots.acquire()).await else { return Vec::new() };
        let Some(dht) = self.node.running(until.saturating_duration_since(Instant::now())).await else {
            return Vec::new();
        };
        let salt: [u8; 20] = Sha1::digest(dataset.0).into();
        let mut found = Vec::new();
        let collect = async {
            let mut items = dht.get_mutable(&key.0, Some(&salt), known.and_then(|seq| i64::try_from(seq).ok()));
            while let Some(item) = items.next().await {
                let record = parts(&item, salt);
                if found.len() < MAX_FOUND && !found.contains(&record) {
                    found.push(record);
                }
            }
        };
        // The crate panics when its thread is dead. What came until the time is up counts.
        let collect = timeout_at(until, AssertUnwindSafe(collect).catch_unwind());
        let _ = self.node.stop.run_until_cancelled(collect).await;
        found
    }

    async fn store(
        &self,
        dataset: &InfoSig,
        record: &RecordParts,
        replaces: Option<u64>,
    ) -> Result<usize, RecordNetworkError> {
        spelled(&self.check, dataset, record)?;
        let cas = replaces.and_then(|seq| i64::try_from(seq).ok());
        match self.store_once(record, cas).await {
            Err(RecordNetworkError::Conflict) if cas.is_some() => {}
            outcome => return outcome,
        }
        // Nodes that missed the last version also say that it is not the one replaced. They are only behind.
        let newer = self.look_up(dataset, &PublicKey(record.key), replaces).await;
        if is_ahead(&newer, record, replaces.unwrap_or_default()) {
            return Err(RecordNetworkError::Conflict);
        }
        self.store_once(record, None).await
    }

    async fn store_once(&self, record: &RecordParts, cas: Option<i64>) -> Result<usize, RecordNetworkError> {
        let until = Instant::now() + STORE_TIMEOUT / 2;
        let Ok(Ok(_slot)) = timeout_at(until, self.slots.acquire()).await else {
            return Err(RecordNetworkError::Timeout);
        };
        let not_ready = || RecordNetworkError::NotReady(self.node.wanted.state());
        let wait = until.saturating_duration_since(Instant::now());
        let dht = self.node.running(wait).await.ok_or_else(not_ready)?;
        let RecordParts { key, salt, seq, signature, value } = record;
        let item = MutableItem::new_signed_unchecked(*key, *signature, value, *seq, Some(salt));
        let put = timeout_at(until, AssertUnwindSafe(dht.put_mutable(item, cas)).catch_unwind());
        match self.node.stop.run_until_cancelled(put).await {
            Some(Ok(Ok(Ok(outcome)))) => Ok(outcome.stored_at as usize),
            Some(Ok(Ok(Err(error)))) => Err(failure(error)),
            Some(Err(_)) => Err(RecordNetworkError::Timeout),
            Some(Ok(Err(_))) | None => Err(not_ready()),
        }
    }
}

impl RecordNetwork for DhtRecords {
    fn name(&self) -> &'static str {
        NAME
    }

    fn get<'a>(
        &'a self,
        dataset: &'a InfoSig,
        key: Option<&'a PublicKey>,
        known: Option<u64>,
    ) -> BoxFuture<'a, Vec<RecordParts>> {
        match key {
            Some(key) => self.look_up(dataset, key, known).boxed(),
            None => futures::future::ready(Vec::new()).boxed(),
        }
    }

    fn put<'a>(
        &'a self,
        dataset: &'a InfoSig,
        record: &'a RecordParts,
        replaces: Option<u64>,
    ) -> BoxFuture<'a, Result<usize, RecordNetworkError>> {
        self.store(dataset, record, replaces).boxed()
    }

    /// The DHT pushes nothing. The node is started, so that look-ups find it running.
    fn follow(&self, _: &InfoSig) {
        self.node.ask();
    }

    fn unfollow(&self, _: &InfoSig) {}
}

fn parts(item: &MutableItem, salt: [u8; 20]) -> RecordParts {
    RecordParts { key: *item.key(), salt, seq: item.seq(), signature: *item.signature(), value: item.value().to_vec() }
}

fn failure(error: PutMutableError) -> RecordNetworkError {
    match error {
        PutMutableError::Concurrency(_) => RecordNetworkError::Conflict,
        PutMutableError::Query(PutQueryError::Timeout) => RecordNetworkError::Timeout,
        PutMutableError::Query(error @ PutQueryError::NoClosestNodes) => {
            RecordNetworkError::NotReady(error.to_string())
        }
        PutMutableError::Query(PutQueryError::ErrorResponse(error)) => {
            RecordNetworkError::Failed(format!("DHT nodes refused the record: {}", error.description))
        }
    }
}

#[cfg(test)]
mod tests;
