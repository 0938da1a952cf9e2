//! Update records in the Kademlia network.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use libp2p::kad::{GetRecordOk, K_VALUE, PutRecordError, PutRecordOk, QueryId, QueryResult, Quorum, Record, RecordKey};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{timeout, timeout_at};

use super::values::Refusal;
use super::{Behaviour, NAME};
use crate::discovery::records::{
    Desk, GET_TIMEOUT, MAX_FOUND, PushedRecord, RecordCheck, RecordNetwork, RecordNetworkError, STORE_TIMEOUT, checked,
    is_ahead, key_of, spelled,
};
use crate::types::{InfoSig, PublicKey, RecordParts};

type Outcome = Result<usize, RecordNetworkError>;

/// What the driver is asked for.
enum Request {
    Get { dataset: InfoSig, found: mpsc::Sender<RecordParts> },
    Put { record: Record, done: oneshot::Sender<Outcome> },
}

/// Makes the network, and the part of the driver that works for it. Newer records of followed datasets that other
/// nodes leave here are reported over `pushed`.
pub(super) fn network(check: RecordCheck, pushed: mpsc::Sender<PushedRecord>) -> (KadRecords, RecordDriver) {
    let desk = Arc::new(Desk::new());
    let (gets, puts) = (HashMap::new(), HashMap::new());
    let driver = RecordDriver { desk: desk.clone(), check: check.clone(), pushed, gets, puts };
    (KadRecords { desk, check }, driver)
}

/// Asks for what the driver does.
pub struct KadRecords {
    desk: Arc<Desk<Request>>,
    check: RecordCheck,
}

impl KadRecords {
    async fn look_up(&self, dataset: &InfoSig) -> Vec<RecordParts> {
        let until = tokio::time::Instant::now() + GET_TIMEOUT;
        let Some(_turn) = self.desk.turn(GET_TIMEOUT).await else { return Vec::new() };
        let (found, mut finds) = mpsc::channel(MAX_FOUND);
        self.desk.ask(Request::Get { dataset: *dataset, found });
        let mut records = Vec::new();
        let collect = async {
            while let Some(record) = finds.recv().await {
                records.push(record);
            }
        };
        // What came until the time is up counts.
        let _ = timeout_at(until, collect).await;
        records
    }

    async fn store(&self, dataset: &InfoSig, parts: &RecordParts, replaces: Option<u64>) -> Outcome {
        let (bytes, _) = spelled(&self.check, dataset, parts)?;
        // Nodes say nothing of what they refuse: only a look tells.
        if let Some(replaces) = replaces
            && is_ahead(&self.look_up(dataset).await, parts, replaces)
        {
            return Err(RecordNetworkError::Conflict);
        }
        let store = async {
            let _turn = self.desk.turn(STORE_TIMEOUT).await.ok_or(RecordNetworkError::Timeout)?;
            let (done, outcome) = oneshot::channel();
            self.desk.ask(Request::Put { record: Record::new(key_of(dataset).to_vec(), bytes), done });
            outcome.await.unwrap_or(Err(RecordNetworkError::Timeout))
        };
        timeout(STORE_TIMEOUT, store).await.unwrap_or(Err(RecordNetworkError::Timeout))
    }
}

impl RecordNetwork for KadRecords {
    fn name(&self) -> &'static str {
        NAME
    }

    fn get<'a>(
        &'a self,
        dataset: &'a InfoSig,
        _: Option<&'a PublicKey>,
        _: Option<u64>,
    ) -> BoxFuture<'a, Vec<RecordParts>> {
        self.look_up(dataset).boxed()
    }

    fn put<'a>(
        &'a self,
        dataset: &'a InfoSig,
        record: &'a RecordParts,
        replaces: Option<u64>,
    ) -> BoxFuture<'a, Outcome> {
        self.store(dataset, record, replaces).boxed()
    }

    fn follow(&self, dataset: &InfoSig) {
        self.desk.follow(dataset);
    }

    fn unfollow(&self, dataset: &InfoSig) {
        self.desk.unfollow(dataset);
    }
}

/// Does it.
pub(super) struct RecordDriver {
    desk: Arc<Desk<Request>>,
    check: RecordCheck,
    pushed: mpsc::Sender<PushedRecord>,
    gets: HashMap<QueryId, Get>,
    puts: HashMap<QueryId, oneshot::Sender<Outcome>>,
}

/// A look-up that is under way.
struct Get {
    dataset: InfoSig,
    found: mpsc::Sender<RecordParts>,
    /// What has come: most nodes have the same record.
    seen: Vec<Vec<u8>>,
}

impl RecordDriver {
    pub(super) async fn changed(&self) {
        self.desk.news().await;
    }

    pub(super) fn drive(&mut self, kad: &mut Behaviour) {
        if !self.desk.has_news() {
            return;
        }
        for request in self.desk.take() {
            match request {
                Request::Get { dataset, found } => {
                    let id = kad.get_record(RecordKey::new(&key_of(&dataset)));
                    self.gets.insert(id, Get { dataset, found, seen: Vec::new() });
                }
                Request::Put { record, done } => self.put(kad, record, done),
            }
        }
    }

    fn put(&mut self, kad: &mut Behaviour, record: Record, done: oneshot::Sender<Outcome>) {
        let kept = match kad.store_mut().values.put(record.clone(), true, Instant::now()) {
            Ok(_) => Ok(()),
            Err(Refusal::NotNewer) => Err(RecordNetworkError::Conflict),
            Err(Refusal::Bad | Refusal::Full) => {
                Err(RecordNetworkError::Failed("this node keeps too many records of its own already".to_owned()))
            }
        };
        let started = kept.and_then(|()| {
            // All of the nearest nodes, not only the first: otherwise the library stops at what it was asked for.
            kad.put_record(record, Quorum::All).map_err(|error| RecordNetworkError::Failed(error.to_string()))
        });
        match started {
            Ok(id) => drop(self.puts.insert(id, done)),
            // Fails if the wait for it is over.
            Err(error) => drop(done.send(Err(error))),
        }
    }

    /// Takes the progress of a look-up or of a put; `last` if there will be no more.
    pub(super) fn progressed(&mut self, kad: &mut Behaviour, id: QueryId, result: QueryResult, last: bool) {
        match result {
            QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(found))) => self.found(kad, id, found.record),
            QueryResult::PutRecord(result) => {
                if let Some(done) = self.puts.remove(&id) {
                    let _ = done.send(stored(result));
                }
            }
            _ => {}
        }
        if last {
            // Closes the channel, which tells that this was all.
            self.gets.remove(&id);
        }
    }

    fn found(&mut self, kad: &mut Behaviour, id: QueryId, record: Record) {
        let Some(get) = self.gets.get_mut(&id) else { return };
        if get.seen.contains(&record.value) || get.seen.len() >= MAX_FOUND {
            return;
        }
        let good = checked(&self.check, &record.value).filter(|(_, good)| good.dataset == get.dataset);
        let Some((parts, _)) = good else { return };
        get.seen.push(record.value);
        if let Err(TrySendError::Closed(_)) = get.found.try_send(parts)
            && let Some(mut query) = kad.query_mut(&id)
        {
            query.finish();
        }
    }

    /// Keeps a record that another node brought, if it is a good and a newer one.
    pub(super) fn brought(&mut self, kad: &mut Behaviour, record: Record) {
        match kad.store_mut().values.put(record, false, Instant::now()) {
            Ok(Some((record, good))) if self.desk.is_followed(&good.dataset) => {
                let pushed = PushedRecord { dataset: good.dataset, record, source: NAME };
                if self.pushed.try_send(pushed).is_err() {
                    tracing::debug!(dataset = %good.dataset, "too many records at once: a look-up brings this one again");
                }
            }
            Ok(_) => {}
            Err(refusal) => tracing::debug!(?refusal, "refused an update record"),
        }
    }
}

/// How many nodes say that they took it.
fn stored(result: Result<PutRecordOk, PutRecordError>) -> Outcome {
    match result {
        Ok(_) => Ok(K_VALUE.get()),
        Err(PutRecordError::QuorumFailed { success, .. } | PutRecordError::Timeout { success, .. })
            if !success.is_empty() =>
        {
            Ok(success.len())
        }
        Err(PutRecordError::QuorumFailed { .. }) => {
            Err(RecordNetworkError::NotReady("no node of the network was reached".to_owned()))
        }
        Err(PutRecordError::Timeout { .. }) => Err(RecordNetworkError::Timeout),
    }
}
