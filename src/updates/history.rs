//! Which record is followed: the newest, never an older one, and never two of the same number.

use super::UpdateRecord;

/// How far a publisher's clock may be ahead of this one, in seconds.
const MAX_AHEAD_S: i64 = 3600;

/// What a verified record is worth to somebody who follows `newest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It is followed from now on.
    Newer,
    /// It is the one that is followed.
    Same,
    /// It says what was so before.
    Older,
    /// It gives the version that is followed to other content: it is not followed, but kept and shown as a proof that
    /// the key has signed both, or has been copied.
    Conflict,
    /// It is of a time that has not come: perhaps later.
    FromTheFuture,
}

/// Judges a record at the time `now` (Unix seconds), by the newest one that was durably stored. Of the same version
/// signed again, with another time, the first one stays.
pub fn judge(newest: Option<&UpdateRecord>, record: &UpdateRecord, now: i64) -> Judgement {
    if record.signed_at() > now.saturating_add(MAX_AHEAD_S) {
        return Judgement::FromTheFuture;
    }
    let Some(newest) = newest else { return Judgement::Newer };
    match record.seq().cmp(&newest.seq()) {
        std::cmp::Ordering::Greater => Judgement::Newer,
        std::cmp::Ordering::Less => Judgement::Older,
        std::cmp::Ordering::Equal if record.hash() == newest.hash() => Judgement::Same,
        std::cmp::Ordering::Equal => Judgement::Conflict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metainfo::SecretKey;
    use crate::types::{Digest, InfoHash};

    const NOW: i64 = 1_800_000_000;

    fn record(content: u8, seq: u64, signed_at: i64) -> UpdateRecord {
        let hash = |byte| InfoHash(Digest::from([byte; 32]));
        UpdateRecord::sign(&SecretKey::from_seed(&[1; 32]), hash(0), hash(content), seq, signed_at).unwrap()
    }

    #[test]
    fn only_what_is_newer_is_followed() {
        let newest = record(5, 7, NOW);
        let of = |content, seq, at| judge(Some(&newest), &record(content, seq, at), NOW);
        assert_eq!(judge(None, &newest, NOW), Judgement::Newer);
        assert_eq!(of(6, 8, NOW - 100), Judgement::Newer);
        assert_eq!(of(5, 8, NOW), Judgement::Newer, "a publisher goes back by a new version");
        assert_eq!(of(4, 6, NOW + 100), Judgement::Older);
        assert_eq!(of(5, 7, NOW + 100), Judgement::Same);
        assert_eq!(of(6, 7, NOW), Judgement::Conflict);
        assert_eq!(of(6, 8, NOW + MAX_AHEAD_S), Judgement::Newer);
        assert_eq!(of(6, 8, NOW + MAX_AHEAD_S + 1), Judgement::FromTheFuture);
        assert_eq!(of(6, 8, i64::MAX), Judgement::FromTheFuture);
        assert_eq!(judge(None, &record(1, 1, i64::MAX), i64::MAX), Judgement::Newer);
    }
}
