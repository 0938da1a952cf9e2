//! What is known of the versions of one dataset.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::index::UpdateRow;
use crate::metainfo::Metainfo;
use crate::types::{InfoHash, InfoSig, PublicKey, RecordParts};
use crate::updates::{Judgement, UpdateRecord, judge};

/// Proofs of one dataset that are kept: one is enough.
const MAX_CONFLICTS: usize = 16;

/// The records of one dataset, and its first version.
#[derive(Default)]
pub(super) struct Known {
    /// The followed record of each version.
    records: BTreeMap<u64, UpdateRecord>,
    /// Other records of versions.
    conflicts: Vec<UpdateRecord>,
    /// The metainfo of the first version.
    pub(super) first: Option<Arc<Metainfo>>,
    /// When somebody last told what the newest version is, in Unix seconds.
    pub(super) checked_at: Option<i64>,
    /// Why the newest version is not shown.
    pub(super) problem: Option<String>,
}

/// A version that can be opened.
#[derive(Clone, Debug)]
pub(in crate::node) enum Edition {
    /// One that its publisher has signed a record of.
    Recorded(Box<UpdateRecord>),
    /// The first one, of which there is no record.
    First(Arc<Metainfo>),
}

impl Edition {
    pub(in crate::node) fn seq(&self) -> u64 {
        match self {
            Self::Recorded(record) => record.seq(),
            Self::First(_) => 1,
        }
    }

    pub(in crate::node) fn hash(&self) -> InfoHash {
        match self {
            Self::Recorded(record) => *record.hash(),
            Self::First(metainfo) => metainfo.info_hash(),
        }
    }

    pub(in crate::node) fn sig(&self) -> Option<InfoSig> {
        match self {
            Self::Recorded(record) => Some(*record.hash_sig()),
            Self::First(metainfo) => metainfo.info_sig(),
        }
    }

    pub(in crate::node) fn signed_at(&self) -> Option<i64> {
        match self {
            Self::Recorded(record) => Some(record.signed_at()),
            Self::First(_) => None,
        }
    }
}

impl Known {
    /// What the index has kept. Rows that do not verify any more are left out.
    pub(super) fn load(origin: &InfoSig, rows: &[UpdateRow]) -> Self {
        let mut known = Self::default();
        for row in rows {
            let record = RecordParts::from_bytes(&row.record).map(|parts| UpdateRecord::verify(&parts, origin));
            match record {
                Some(Ok(record)) => known.insert(record),
                _ => tracing::warn!(seq = row.seq, "an update record in the index is damaged"),
            }
        }
        known
    }

    /// What a verified record is worth at the time `now`.
    pub(super) fn judge(&self, record: &UpdateRecord, now: i64) -> Judgement {
        // History that was not known is history all the same; two records of one version are a proof at any age.
        match self.records.get(&record.seq()) {
            Some(same) => judge(Some(same), record, now),
            None => judge(self.newest_record(), record, now),
        }
    }

    /// Takes a record in. The first of its version is followed.
    pub(super) fn insert(&mut self, record: UpdateRecord) {
        match self.records.get(&record.seq()) {
            None => drop(self.records.insert(record.seq(), record)),
            Some(followed) if followed.hash() == record.hash() => {}
            Some(_) if self.conflicts.len() < MAX_CONFLICTS => {
                if !self.conflicts.iter().any(|known| known.seq() == record.seq() && known.hash() == record.hash()) {
                    self.conflicts.push(record);
                }
            }
            Some(_) => {}
        }
    }

    pub(super) fn newest_record(&self) -> Option<&UpdateRecord> {
        self.records.last_key_value().map(|(_, record)| record)
    }

    /// The versions of which there are records, ascending.
    pub(super) fn record_seqs(&self) -> impl Iterator<Item = u64> + '_ {
        self.records.keys().copied()
    }

    pub(super) fn record(&self, seq: u64) -> Option<&UpdateRecord> {
        self.records.get(&seq)
    }

    pub(super) fn conflicts(&self) -> &[UpdateRecord] {
        &self.conflicts
    }

    /// The publisher's key, where anything says it.
    pub(super) fn key(&self) -> Option<PublicKey> {
        let first = || self.first.as_ref()?.public_key();
        self.newest_record().map(|record| *record.key()).or_else(first)
    }

    /// The InfoHash of the first version, where anything says it.
    pub(super) fn original_hash(&self) -> Option<InfoHash> {
        let first = || self.first.as_ref().map(|first| first.info_hash());
        self.newest_record().map(|record| *record.original_hash()).or_else(first)
    }

    /// Every version, ascending.
    pub(super) fn editions(&self) -> impl DoubleEndedIterator<Item = Edition> + '_ {
        let first = self.first.iter().filter(|_| !self.records.contains_key(&1)).cloned().map(Edition::First);
        first.chain(self.records.values().cloned().map(|record| Edition::Recorded(Box::new(record))))
    }

    /// A version.
    pub(super) fn edition(&self, seq: u64) -> Option<Edition> {
        match (self.records.get(&seq), &self.first) {
            (Some(record), _) => Some(Edition::Recorded(Box::new(record.clone()))),
            (None, Some(first)) if seq == 1 => Some(Edition::First(first.clone())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metainfo::SecretKey;
    use crate::types::Digest;

    const NOW: i64 = 1_800_000_000;

    fn record(content: u8, seq: u64) -> UpdateRecord {
        let hash = |byte| InfoHash(Digest::from([byte; 32]));
        UpdateRecord::sign(&SecretKey::from_seed(&[1; 32]), hash(1), hash(content), seq, NOW).unwrap()
    }

    #[test]
    fn history_is_taken_in_and_forks_are_proofs_at_any_age() {
        let mut known = Known::default();
        [record(5, 5), record(2, 2)].into_iter().for_each(|record| known.insert(record));
        assert_eq!(known.judge(&record(3, 3), NOW), Judgement::Older);
        assert_eq!(known.judge(&record(9, 2), NOW), Judgement::Conflict);
        assert_eq!(known.judge(&record(9, 5), NOW), Judgement::Conflict);
        assert_eq!(known.judge(&record(2, 2), NOW), Judgement::Same);
        assert_eq!(known.judge(&record(6, 6), NOW), Judgement::Newer);
        for _ in 0..2 {
            known.insert(record(9, 2));
        }
        assert_eq!(
            (known.conflicts().len(), known.record(2).map(|record| *record.hash())),
            (1, Some(*record(2, 2).hash()))
        );
        assert_eq!(known.editions().map(|edition| edition.seq()).collect::<Vec<_>>(), [2, 5]);
        (10..100).for_each(|content| known.insert(record(content, 5)));
        assert_eq!(known.conflicts().len(), MAX_CONFLICTS);
    }

    #[test]
    fn what_the_index_kept_is_verified_again() {
        let origin = *record(5, 5).original();
        let row = |record: &UpdateRecord, bytes: Vec<u8>| UpdateRow {
            seq: record.seq(),
            info_hash: *record.hash(),
            record: bytes,
            followed: true,
        };
        let (good, bad) = (record(2, 2), record(3, 3));
        let mut damaged = bad.parts().to_bytes();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        let rows = [row(&good, good.parts().to_bytes()), row(&bad, damaged), row(&bad, b"de".to_vec())];
        let known = Known::load(&origin, &rows);
        assert_eq!(known.editions().map(|edition| edition.seq()).collect::<Vec<_>>(), [2]);
    }
}
