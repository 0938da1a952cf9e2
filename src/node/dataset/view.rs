//! The versions of a dataset as a mount looks into them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;

use super::{Dataset, Edition};
use crate::node::api::{AddRequest, ApiError};
use crate::node::handle::{NodeHandle, Shared, Torrent};
use crate::node::names::Lead;
use crate::vfs;

/// How long a version may take to be opened whose metainfo is here: nobody is waited for but the disk.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Clone)]
pub(in crate::node) struct View {
    pub(in crate::node) node: Weak<Shared>,
    pub(in crate::node) dataset: Arc<Dataset>,
    pub(in crate::node) lead: Arc<Lead>,
    pub(in crate::node) add: AddRequest,
    runtime: Handle,
    /// Versions whose metainfo is being fetched.
    fetching: Arc<Mutex<HashSet<u64>>>,
}

impl View {
    /// Of the dataset that `lead` names; versions are opened as `add` says. To be made where the node runs.
    pub(in crate::node) fn new(node: &NodeHandle, dataset: Arc<Dataset>, lead: Lead, add: AddRequest) -> Self {
        let add = AddRequest { at: None, prefetch_all: false, ..add };
        let (node, runtime) = (Arc::downgrade(&node.0), Handle::current());
        Self { node, dataset, lead: Arc::new(lead), add, runtime, fetching: Arc::default() }
    }

    /// Opens a version.
    pub(in crate::node) async fn open(&self, node: &NodeHandle, edition: Edition) -> Result<Torrent, ApiError> {
        // Nobody is told how far it is.
        let (progress, _) = tokio::sync::mpsc::channel(1);
        node.open_edition(&self.dataset, edition, &self.lead, &self.add, &progress).await
    }

    fn is_here(&self, node: &Shared, edition: &Edition) -> bool {
        match edition {
            Edition::First(_) => true,
            Edition::Recorded(record) => node.store.has_metainfo(record.hash()).unwrap_or(false),
        }
    }

    /// Has the metainfo of a version fetched, which the next look then finds.
    fn fetch(&self, node: NodeHandle, edition: Edition) {
        let seq = edition.seq();
        if !self.fetching.lock().unwrap_or_else(PoisonError::into_inner).insert(seq) {
            return;
        }
        let view = self.clone();
        self.runtime.spawn(async move {
            if let Err(error) = view.open(&node, edition).await {
                tracing::debug!(seq, %error, "a version that was looked into is not here");
            }
            view.fetching.lock().unwrap_or_else(PoisonError::into_inner).remove(&seq);
        });
    }
}

impl vfs::Dataset for View {
    fn seqs(&self) -> Vec<u64> {
        self.dataset.known().editions().map(|edition| edition.seq()).collect()
    }

    fn newest(&self) -> Option<u64> {
        let node = self.node.upgrade()?;
        let editions: Vec<_> = self.dataset.known().editions().rev().collect();
        editions.iter().find(|edition| self.is_here(&node, edition)).map(Edition::seq)
    }

    fn describe(&self, seq: u64) -> Option<vfs::VersionInfo> {
        let edition = self.dataset.known().edition(seq)?;
        let (info_hash, info_sig, signed_at) = (edition.hash(), edition.sig()?, edition.signed_at());
        Some(vfs::VersionInfo { info_hash, info_sig, signed_at })
    }

    fn version(&self, seq: u64) -> Option<vfs::Version> {
        let node = NodeHandle(self.node.upgrade()?);
        let edition = self.dataset.known().edition(seq)?;
        if !self.is_here(&node.0, &edition) {
            self.fetch(node, edition);
            return None;
        }
        let opened = self.runtime.block_on(async { timeout(OPEN_TIMEOUT, self.open(&node, edition)).await });
        let torrent = opened.ok()?.inspect_err(|error| tracing::debug!(seq, %error, "a version cannot be opened"));
        Some(version_of(&torrent.ok()?))
    }

    fn checked_at(&self) -> Option<i64> {
        self.dataset.known().checked_at
    }
}

/// What a mount shows of a torrent.
pub(in crate::node) fn version_of(torrent: &Torrent) -> vfs::Version {
    let release = torrent.membership.as_ref().map(|membership| vfs::Release {
        origin: membership.dataset.origin,
        seq: membership.edition.seq(),
        signed_at: membership.edition.signed_at(),
    });
    vfs::Version { metainfo: torrent.metainfo.clone(), content: torrent.content.clone(), release }
}
