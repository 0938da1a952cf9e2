//! Update records, and the networks that keep them or pass them on.
//!
//! To discovery a record is bytes: what it says, and whether it is newer, is judged by whoever asked. Where strangers
//! could fill a table with garbage, the node's [`RecordCheck`] says what is a record.

mod desk;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use sha2::{Digest as _, Sha256};

use crate::types::{InfoSig, MAX_RECORD_LEN, PublicKey, RecordParts};

pub(super) use desk::Desk;

/// How long [`RecordNetwork::get`] takes at most.
pub const GET_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the nodes may take to store a record, after the look before it.
pub(super) const STORE_TIMEOUT: Duration = Duration::from_secs(35);
/// How long [`RecordNetwork::put`] takes at most.
pub const PUT_TIMEOUT: Duration = Duration::from_secs(60);
/// Different records that one [`RecordNetwork::get`] brings.
pub(super) const MAX_FOUND: usize = 64;

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

/// A record that came by itself. It is a good one of `dataset`, but perhaps no news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedRecord {
    /// Of which dataset.
    pub dataset: InfoSig,
    /// The record.
    pub record: RecordParts,
    /// Which network brought it.
    pub source: &'static str,
}

/// What the check of a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckedRecord {
    /// The dataset that it names, and that it is a good record of.
    pub dataset: InfoSig,
    /// Its number.
    pub seq: u64,
}

/// Verifies a record ([`RecordParts::to_bytes`]) by itself; `None` for anything else. Must not block.
pub type RecordCheck = Arc<dyn Fn(&[u8]) -> Option<CheckedRecord> + Send + Sync>;

/// The name of a dataset in the networks of knot: SHA-256 of its original InfoSig.
pub(super) fn key_of(dataset: &InfoSig) -> [u8; 32] {
    Sha256::digest(dataset.0).into()
}

/// The record that `bytes` are, if it is a good one in its only spelling: with a second one, the same record could
/// be passed on again and again.
pub(super) fn checked(check: &RecordCheck, bytes: &[u8]) -> Option<(RecordParts, CheckedRecord)> {
    if bytes.len() > MAX_RECORD_LEN {
        return None;
    }
    let parts = RecordParts::from_bytes(bytes).filter(|parts| parts.to_bytes() == bytes)?;
    Some((parts, check(bytes)?))
}

/// Spells the record to be put in, which must be a good one of `dataset`: nobody would keep another.
pub(super) fn spelled(
    check: &RecordCheck,
    dataset: &InfoSig,
    record: &RecordParts,
) -> Result<(Vec<u8>, CheckedRecord), RecordNetworkError> {
    let bytes = record.to_bytes();
    let good = checked(check, &bytes).filter(|(_, record)| record.dataset == *dataset);
    let (_, record) = good.ok_or_else(|| {
        RecordNetworkError::Failed("expected a good update record of the dataset to publish, got another".to_owned())
    })?;
    Ok((bytes, record))
}

/// Whether somebody else has published since `replaces`, by the records that the network has.
pub(super) fn is_ahead(found: &[RecordParts], record: &RecordParts, replaces: u64) -> bool {
    found.iter().any(|other| other != record && u64::try_from(other.seq).is_ok_and(|seq| seq > replaces))
}

#[cfg(test)]
pub(crate) mod samples;
