//! What trackers are told of a torrent: counted by the driver, read by sources in their own tasks.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::peer::StorageSlot;
use crate::discovery::Progress;

/// Connections of a torrent above which more peers would not help.
const ENOUGH_PEERS: usize = 30;

/// The counters of one torrent.
#[derive(Default)]
pub(super) struct Tally {
    /// Payload bytes to peers.
    pub(super) uploaded: AtomicU64,
    /// Payload bytes from peers.
    pub(super) downloaded: AtomicU64,
    /// Connected peers.
    pub(super) peers: AtomicUsize,
    /// Empty while the metainfo is unknown.
    pub(super) storage: StorageSlot,
}

impl Tally {
    pub(super) fn progress(&self) -> Progress {
        let left = self.storage.get().map(|here| here.metainfo().total_length().saturating_sub(here.verified_bytes()));
        Progress {
            uploaded: self.uploaded.load(Relaxed),
            downloaded: self.downloaded.load(Relaxed),
            left,
            wants_peers: left != Some(0) && self.peers.load(Relaxed) < ENOUGH_PEERS,
        }
    }
}
