//! `.knot`, which is found in the root but not listed: how far things are, and every version of a dataset.
//!
//! Of all names in here none may be remembered, but those below a version's own directory.

use std::sync::Arc;

use bytes::Bytes;

use super::attr::FsError;
use super::content::ContentError;
use super::fs::Vfs;
use super::ino::Ino;
use super::open::Open;
use super::table::{Garbage, Place};
use super::view::View;

/// The hidden directory in the root.
pub(super) const HIDDEN_DIR: &str = ".knot";
/// The file in it that tells how far the torrent is.
pub(super) const STATUS_FILE: &str = "status";
/// The directory in it that has a directory for each version.
pub(super) const VERSIONS_DIR: &str = "versions";
/// The symbolic link in it that leads to the newest of them.
pub(super) const CURRENT_LINK: &str = "current";

impl Vfs {
    /// The version whose directory is called so.
    pub(super) fn version_called(&self, name: &[u8]) -> Option<u64> {
        let name = std::str::from_utf8(name).ok()?;
        let seq: u64 = name.parse().ok()?;
        // One name each: neither `+1` nor `01`.
        let is_known = || self.dataset.as_ref().is_some_and(|dataset| dataset.describe(seq).is_some());
        (name == seq.to_string() && is_known()).then_some(seq)
    }

    /// Every version that has a directory.
    pub(super) fn versions(&self) -> Vec<u64> {
        let mut seqs = self.dataset.as_ref().map(|dataset| dataset.seqs()).unwrap_or_default();
        seqs.retain(|seq| Ino::of_version(*seq).is_some());
        seqs
    }

    pub(super) fn current_link(&self) -> Option<(Ino, Place)> {
        let seq = self.dataset.as_ref()?.newest()?;
        let ino = self.table_mut().link(seq, || self.numbers.next());
        Some((ino, Place::Current(seq)))
    }

    /// Where `.knot/current` leads when this is the newest version.
    pub(super) fn link_target(seq: u64) -> String {
        format!("{VERSIONS_DIR}/{seq}")
    }

    pub(super) fn signed_at_s(&self, seq: u64) -> u64 {
        let info = self.dataset.as_ref().and_then(|dataset| dataset.describe(seq));
        info.and_then(|info| info.signed_at).and_then(|at| u64::try_from(at).ok()).unwrap_or(0)
    }

    /// What is below a version's directory.
    ///
    /// # Errors
    /// When it is not known yet.
    pub(super) fn tree_of(&self, seq: u64) -> Result<Arc<View>, FsError> {
        if let Some(tree) = self.table().tree(seq) {
            return Ok(tree);
        }
        let dataset = self.dataset.as_ref().ok_or(FsError::NotFound)?;
        dataset.describe(seq).ok_or(FsError::NotFound)?;
        let version = dataset.version(seq).ok_or(FsError::NotYet)?;
        let root = Ino::of_version(seq).ok_or(FsError::NotFound)?;
        let tree = View::apart(&self.current(), version, root, &self.numbers)
            .map_err(|error| ContentError::Storage(error.to_string()))?;
        let mut garbage = Garbage::default();
        let tree = self.table_mut().keep_tree(seq, Arc::new(tree), &mut garbage);
        Ok(tree)
    }

    /// What the status file holds: one JSON object.
    pub(super) fn report(&self) -> Bytes {
        let (current, release) = {
            let table = self.table();
            (Arc::clone(&table.current), table.release.clone())
        };
        let open_files = self.open_handles().values().filter(|open| matches!(open, Open::File(_))).count();
        let mut report = serde_json::json!({ "open_files": open_files });
        if let Some(version) = &current.version {
            let cached: u64 = current.tree.files().map(|file| version.content.cached_bytes(file)).sum();
            report["name"] = version.metainfo.name().into();
            report["info_id"] = version.metainfo.info_id().to_string().into();
            report["info_hash"] = version.metainfo.info_hash().to_string().into();
            report["total_bytes"] = version.metainfo.total_length().into();
            report["cached_bytes"] = cached.into();
        } else if let Some(pending) = &self.pending {
            report["info_id"] = pending.info_id.as_str().into();
            report["waits_for"] = (pending.waits_for)().into();
        }
        if let Some(release) = release {
            report["origin"] = release.origin.to_string().into();
            report["seq"] = release.seq.into();
            report["signed_at"] = release.signed_at.into();
        }
        if let Some(dataset) = &self.dataset {
            report["newest_seq"] = dataset.newest().into();
            report["checked_at"] = dataset.checked_at().into();
        }
        let mut text = report.to_string();
        text.push('\n');
        text.into()
    }
}
