//! Update records, and the networks that keep them or pass them on.
//!
//! To discovery a record is bytes: what it says, and whether it is newer, is judged by whoever asked. Where strangers
//! could fill a table with garbage, the node's [`RecordCheck`] says what is a record.

use std::time::Duration;

use futures::future::BoxFuture;

use crate::types::{InfoSig, PublicKey, RecordParts};

/// How long [`RecordNetwork::get`] takes at most.
pub const GET_TIMEOUT: Duration = Duration::from_secs(15);
/// How long [`RecordNetwork::put`] takes at most.
pub const PUT_TIMEOUT: Duration = Duration::from_secs(60);

/// A network that keeps update records or passes them on. What one network meets never stops another.
pub trait RecordNetwork: Send + Sync {
    /// Its name in `--discovery`: `dht`, `kad`, `gossip`.
    fn name(&self) -> &'static str;

    /// Records of `dataset` as the network has them: in no order, perhaps stale, perhaps several, and to be verified.
    /// Ends within [`GET_TIMEOUT`]; the list is empty if there are none, or the network is not there yet.
    ///
    /// `key` is the publisher's, where it is known: the mainline DHT cannot look without. `known` is the number that
    /// is known already: nodes may leave out what is not newer.
    fn get<'a>(
        &'a self,
        dataset: &'a InfoSig,
        key: Option<&'a PublicKey>,
        known: Option<u64>,
    ) -> BoxFuture<'a, Vec<RecordParts>>;

    /// Puts a record of `dataset` into the network, and returns how many nodes or peers took it. Ends within
    /// [`PUT_TIMEOUT`].
    ///
    /// `replaces` is the number of the newest record that was known before, so that a concurrent publisher is noticed.
    /// Without it only a higher number in the network is a conflict, as whoever puts a record again wants it.
    fn put<'a>(
        &'a self,
        dataset: &'a InfoSig,
        record: &'a RecordParts,
        replaces: Option<u64>,
    ) -> BoxFuture<'a, Result<usize, RecordNetworkError>>;

    /// Wants news of `dataset` at once, from now on. Counted: as many [`RecordNetwork::unfollow`] end it.
    fn follow(&self, dataset: &InfoSig);

    /// Wants them no more.
    fn unfollow(&self, dataset: &InfoSig);
}

/// Why a record was not put in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordNetworkError {
    /// The network cannot take it now; later perhaps.
    #[error("the network is not ready: {0}")]
    NotReady(String),
    /// The network is ahead: somebody has published since.
    #[error("expected no newer record in the network than the one replaced, got one")]
    Conflict,
    /// It did not work.
    #[error("{0}")]
    Failed(String),
    /// Nobody answered in time; some nodes may have it.
    #[error("expected the network to answer in time, got no answer")]
    Timeout,
}
