//! The update records that this node keeps for the network: for each dataset the newest that came, and only good ones.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::kad::{KBucketDistance, KBucketKey, Record, RecordKey};

use crate::discovery::records::{CheckedRecord, RecordCheck, checked, key_of};
use crate::types::RecordParts;

/// How long a record is kept that nobody puts in again. Its followers do so every hour.
pub(super) const VALUE_TTL: Duration = Duration::from_secs(48 * 60 * 60);
/// Records that other nodes may leave here, and this node itself.
const MAX_OTHERS: usize = 4096;
const MAX_OWN: usize = 4096;

pub(super) struct Values {
    local: KBucketKey<PeerId>,
    check: RecordCheck,
    kept: HashMap<RecordKey, Kept>,
}

struct Kept {
    record: Record,
    seq: u64,
    /// How far its key is from this node.
    distance: KBucketDistance,
    /// Whether this node has put it in.
    own: bool,
}

/// Why a record is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is no good record, or not one of this key.
    Bad,
    /// A newer one is here, or another of the same number.
    NotNewer,
    /// There are enough, and all of them are nearer to this node.
    Full,
}

impl Values {
    pub(super) fn new(local: PeerId, check: RecordCheck) -> Self {
        Self { local: local.into(), check, kept: HashMap::new() }
    }

    pub(super) fn get(&self, key: &RecordKey) -> Option<&Record> {
        self.kept.get(key).map(|kept| &kept.record)
    }

    pub(super) fn remove(&mut self, key: &RecordKey) {
        self.kept.remove(key);
    }

    /// Keeps `record`, which this node puts in or another one. Returns what it says; `None` if it was here.
    pub(super) fn put(
        &mut self,
        mut record: Record,
        own: bool,
        now: Instant,
    ) -> Result<Option<(RecordParts, CheckedRecord)>, Refusal> {
        // Whatever the one who brought it says: a short life would take the record before it away.
        record.expires = Some(now + VALUE_TTL);
        let here = self.kept.get_mut(&record.key).filter(|kept| !kept.record.is_expired(now));
        if let Some(kept) = here
            && kept.record.value == record.value
        {
            kept.record.expires = record.expires;
            kept.own |= own;
            return Ok(None);
        }
        let good =
            checked(&self.check, &record.value).filter(|(_, good)| key_of(&good.dataset)[..] == *record.key.as_ref());
        let (parts, good) = good.ok_or(Refusal::Bad)?;
        let here = self.kept.get(&record.key).filter(|kept| !kept.record.is_expired(now));
        if here.is_some_and(|kept| kept.seq >= good.seq) {
            return Err(Refusal::NotNewer);
        }
        let own = own || here.is_some_and(|kept| kept.own);
        let distance = self.local.distance(&KBucketKey::from(record.key.clone()));
        if here.is_none() && !self.make_room(distance, own, now) {
            return Err(Refusal::Full);
        }
        self.kept.insert(record.key.clone(), Kept { record, seq: good.seq, distance, own });
        Ok(Some((parts, good)))
    }

    /// Drops what has expired, then the record that is farthest from this node, if that is farther than `distance`:
    /// nodes near that one keep it, and who wants to push records out has to find many that are near.
    fn make_room(&mut self, distance: KBucketDistance, own: bool, now: Instant) -> bool {
        let most = if own { MAX_OWN } else { MAX_OTHERS };
        if self.count(own) < most {
            return true;
        }
        self.kept.retain(|_, kept| !kept.record.is_expired(now));
        if self.count(own) < most {
            return true;
        }
        let same = self.kept.iter().filter(|(_, kept)| kept.own == own);
        match same.max_by_key(|(_, kept)| kept.distance).map(|(key, kept)| (key.clone(), kept.distance)) {
            Some((key, farthest)) if farthest > distance => self.kept.remove(&key).is_some(),
            _ => false,
        }
    }

    fn count(&self, own: bool) -> usize {
        self.kept.values().filter(|kept| kept.own == own).count()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::types::InfoSig;

    /// Believes that the key of a record is the dataset's name twice, and its value's first byte a verdict.
    fn check(bytes: &[u8]) -> Option<CheckedRecord> {
        let parts = RecordParts::from_bytes(bytes)?;
        let mut dataset = InfoSig([0; 64]);
        dataset.0[..32].copy_from_slice(&parts.key);
        (parts.value[0] == b'+').then_some(CheckedRecord { dataset, seq: parts.seq as u64 })
    }

    fn values() -> Values {
        Values::new(PeerId::random(), Arc::new(check))
    }

    fn record(dataset: u64, seq: i64, value: &str) -> Record {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&dataset.to_be_bytes());
        let parts = RecordParts { key, salt: [0; 20], seq, signature: [0; 64], value: value.into() };
        let mut name = InfoSig([0; 64]);
        name.0[..32].copy_from_slice(&key);
        Record::new(key_of(&name).to_vec(), parts.to_bytes())
    }

    #[test]
    fn only_good_records_are_kept_and_only_newer_ones_replace() {
        let (mut values, now) = (values(), Instant::now());
        let mut put = |record: &Record, own| values.put(record.clone(), own, now);
        let second = record(1, 2, "+");
        assert!(matches!(put(&second, false), Ok(Some((parts, good))) if parts.seq == 2 && good.seq == 2));
        assert_eq!(put(&second, true), Ok(None));
        assert_eq!(put(&record(1, 2, "+ another"), false), Err(Refusal::NotNewer));
        assert_eq!(put(&record(1, 1, "+"), true), Err(Refusal::NotNewer));
        assert_eq!(put(&record(1, 3, "-"), false), Err(Refusal::Bad));
        assert_eq!(put(&Record::new(second.key.clone(), vec![b'+'; 100]), false), Err(Refusal::Bad));
        let elsewhere = Record { key: record(2, 1, "+").key, ..record(1, 3, "+") };
        assert_eq!(put(&elsewhere, false), Err(Refusal::Bad));
        let mut spelled_otherwise = record(1, 3, "+");
        spelled_otherwise.value.splice(1..1, *b"1:ai0e");
        assert_eq!(put(&spelled_otherwise, false), Err(Refusal::Bad));
        assert!(matches!(put(&record(1, 3, "+"), false), Ok(Some(_))));
        assert_eq!(values.get(&second.key).unwrap().value, record(1, 3, "+").value);
        assert_eq!(values.kept.len(), 1);
    }

    #[test]
    fn records_expire_and_are_bounded_with_room_for_this_node() {
        let (mut values, now) = (values(), Instant::now());
        for wanted in [100 * VALUE_TTL, Duration::ZERO] {
            let timed = Record { expires: Some(now + wanted), ..record(0, 1, "+") };
            values.put(timed.clone(), false, now).unwrap();
            assert_eq!(values.get(&timed.key).unwrap().expires, Some(now + VALUE_TTL));
        }
        let (mut taken, mut full) = (0, 0);
        for dataset in 1..3 * MAX_OTHERS as u64 {
            match values.put(record(dataset, 1, "+"), false, now) {
                Ok(_) => taken += 1,
                Err(Refusal::Full) => full += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!(taken > MAX_OTHERS && full > 100, "near ones push far ones out: {taken} taken, {full} refused");
        assert_eq!(values.kept.len(), MAX_OTHERS);
        assert!(values.put(record(u64::MAX, 1, "+"), true, now).is_ok());
        let later = now + VALUE_TTL;
        values.put(record(u64::MAX - 1, 1, "+"), false, later).unwrap();
        assert_eq!(values.kept.len(), 1);
        assert!(values.put(record(u64::MAX, 1, "+"), false, later).is_ok(), "an expired one is forgotten");
    }
}
