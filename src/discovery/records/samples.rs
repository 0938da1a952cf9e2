//! Records for tests.

use std::sync::Arc;

use super::*;
use crate::metainfo::SecretKey;
use crate::types::{Digest, InfoHash};
use crate::updates::UpdateRecord;

/// A dataset, by its publisher and its first version.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) publisher: u8,
    pub(crate) first: u8,
}

pub(crate) const SAMPLE: Sample = Sample { publisher: 1, first: 0x11 };

impl Sample {
    fn record(self, seq: u64, content: u8) -> UpdateRecord {
        let hash = |byte| InfoHash(Digest::from([byte; 32]));
        let key = SecretKey::from_seed(&[self.publisher; 32]);
        UpdateRecord::sign(&key, hash(self.first), hash(content), seq, 1_800_000_000).unwrap()
    }

    pub(crate) fn parts(self, seq: u64) -> RecordParts {
        self.record(seq, 0x22).parts()
    }

    /// Another content under the same number.
    pub(crate) fn conflicting(self, seq: u64) -> RecordParts {
        self.record(seq, 0x33).parts()
    }

    pub(crate) fn dataset(self) -> InfoSig {
        *self.record(1, 0).original()
    }

    pub(crate) fn key(self) -> PublicKey {
        *self.record(1, 0).key()
    }
}

pub(crate) fn check() -> RecordCheck {
    Arc::new(|bytes| {
        let record = UpdateRecord::verify_own(&RecordParts::from_bytes(bytes)?).ok()?;
        Some(CheckedRecord { dataset: *record.original(), seq: record.seq() })
    })
}

pub(crate) fn seqs(records: &[RecordParts]) -> Vec<i64> {
    let mut seqs: Vec<_> = records.iter().map(|record| record.seq).collect();
    seqs.sort_unstable();
    seqs
}
