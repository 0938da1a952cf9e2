//! What the index keeps of datasets that change.

use super::shared::lock;
use super::{StorageError, Store};
use crate::index::{PublicationRow, SeedRecord, TorrentRecord, UpdateRow};
use crate::metainfo::Metainfo;
use crate::types::{InfoHash, InfoSig};
use crate::updates::UpdateRecord;

impl Store {
    /// Keeps a metainfo of which nothing may be here.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub(in crate::node) fn put_metainfo(&self, metainfo: &Metainfo) -> Result<(), StorageError> {
        let record = TorrentRecord {
            info_hash: metainfo.info_hash(),
            info_id: metainfo.info_id(),
            metainfo: metainfo.bytes().to_vec(),
        };
        let now_ms = self.shared.now_us() / 1000;
        Ok(lock(&self.shared.index).put_torrent(&record, now_ms)?)
    }

    /// Whether a metainfo is kept, without reading and verifying it, which takes long where it is large.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub(in crate::node) fn has_metainfo(&self, info_hash: &InfoHash) -> Result<bool, StorageError> {
        Ok(lock(&self.shared.index).has_torrent(info_hash)?)
    }

    /// Keeps where content lies with the user, in place of what was kept for the path.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub(in crate::node) fn put_seed(&self, seed: &SeedRecord) -> Result<(), StorageError> {
        Ok(lock(&self.shared.index).put_seed(seed)?)
    }

    /// Keeps a verified record, durably. False if it was known.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub(in crate::node) fn put_update(&self, record: &UpdateRecord) -> Result<bool, StorageError> {
        let (now_ms, bytes) = (self.shared.now_us() / 1000, record.parts().to_bytes());
        let mut index = lock(&self.shared.index);
        Ok(index.put_update(record.original(), record.seq(), record.hash(), &bytes, now_ms)?)
    }

    /// Every record of a dataset that was kept.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub(in crate::node) fn updates(&self, origin: &InfoSig) -> Result<Vec<UpdateRow>, StorageError> {
        Ok(lock(&self.shared.index).updates(origin)?)
    }

    /// Keeps that it was found out just now what the newest version is.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub(in crate::node) fn put_checked(&self, origin: &InfoSig, at_s: i64) -> Result<(), StorageError> {
        let at_ms = u64::try_from(at_s).unwrap_or(0).saturating_mul(1000);
        Ok(lock(&self.shared.index).put_checked(origin, at_ms)?)
    }

    /// When it was last found out what the newest version is, in Unix seconds.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub(in crate::node) fn checked(&self, origin: &InfoSig) -> Result<Option<i64>, StorageError> {
        Ok(lock(&self.shared.index).checked(origin)?.map(|ms| (ms / 1000) as i64))
    }

    /// Keeps what is published under the name of a dataset.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub(in crate::node) fn put_publication(&self, origin: &InfoSig, row: &PublicationRow) -> Result<(), StorageError> {
        Ok(lock(&self.shared.index).put_publication(origin, row)?)
    }

    /// What is published under the name of a dataset.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub(in crate::node) fn publication(&self, origin: &InfoSig) -> Result<Option<PublicationRow>, StorageError> {
        Ok(lock(&self.shared.index).publication(origin)?)
    }
}
