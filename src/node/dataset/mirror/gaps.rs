//! Asking peers for the records of versions that are older than the newest.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::node::dataset::Dataset;

/// Versions below the newest whose records are asked for.
const MAX_GAPS: u64 = 1024;
/// Records that are asked for at once: peers answer a few a second.
const AT_ONCE: usize = 16;
/// Until the next ones are.
const PAUSE: Duration = Duration::from_secs(1);
/// After all have been asked for in vain; doubles each time.
const SHORTEST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Which versions have been asked for. Numbers may be left out by their publisher, so that there need be no end to it.
#[derive(Default)]
pub(super) struct Gaps {
    /// What the last round began with: the newest version, how many are known, and how many may know more.
    state: (u64, usize, usize),
    /// The last one that was asked for.
    last: Option<u64>,
    next: Option<Instant>,
    wait: Duration,
    rounds: u32,
}

impl Gaps {
    /// Whether peers had time to tell of every version.
    pub(super) fn have_been_asked(&self) -> bool {
        self.rounds > 1
    }

    /// Asks for the next ones, if it is time to.
    pub(super) async fn ask(&mut self, dataset: &Dataset) {
        // Of a first version whose metainfo is known there may be a record, which newcomers ask for.
        let known: BTreeSet<u64> = dataset.known().record_seqs().collect();
        for seq in self.due(&known, dataset.followers().len(), Instant::now()) {
            dataset.ask(seq).await;
        }
    }

    /// The versions to ask for now, where `known` are known and `followers` may know more.
    fn due(&mut self, known: &BTreeSet<u64>, followers: usize, now: Instant) -> Vec<u64> {
        let Some(newest) = known.last().copied().filter(|_| followers > 0) else { return Vec::new() };
        let state = (newest, known.len(), followers);
        if std::mem::replace(&mut self.state, state) != state {
            // There is something new to know, or somebody new who may know it. A round that is under way goes on.
            self.wait = SHORTEST_WAIT;
            self.next = self.next.map(|next| next.min(now + PAUSE));
        }
        if self.next.is_some_and(|next| now < next) {
            return Vec::new();
        }
        let below = self.last.unwrap_or(newest);
        let oldest = newest.saturating_sub(MAX_GAPS).max(1);
        let due: Vec<u64> = (oldest..below).rev().filter(|seq| !known.contains(seq)).take(AT_ONCE).collect();
        let is_last = due.len() < AT_ONCE;
        self.last = due.last().copied().filter(|_| !is_last);
        self.next = Some(now + if is_last { self.wait } else { PAUSE });
        if is_last {
            self.wait = (self.wait * 2).min(LONGEST_WAIT);
            self.rounds = self.rounds.saturating_add(1);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gap_is_asked_for_again_and_again_but_ever_more_rarely() {
        let (mut gaps, start) = (Gaps::default(), Instant::now());
        let known = BTreeSet::from([3, 40]);
        assert_eq!(gaps.due(&known, 0, start), [0; 0], "there is nobody to ask");
        let mut asked = Vec::new();
        let mut rounds = Vec::new();
        for second in 0..3600 {
            let due = gaps.due(&known, 1, start + Duration::from_secs(second));
            assert!(due.len() <= AT_ONCE);
            if due.contains(&1) {
                rounds.push(second);
            }
            asked.extend(due);
        }
        let all: Vec<u64> = (1..40).rev().filter(|seq| *seq != 3).collect();
        assert_eq!(asked[..all.len()], all);
        assert_eq!(asked.len() % all.len(), 0);
        assert!(rounds.len() > 8 && rounds.len() < 20, "{rounds:?}");
        // Somebody who comes is asked soon.
        let due = gaps.due(&known, 2, start + Duration::from_secs(3600));
        let soon = gaps.due(&known, 2, start + Duration::from_secs(3602));
        assert!(due.contains(&39) || soon.contains(&39));
    }

    #[test]
    fn numbers_that_leave_out_a_lot_are_no_trouble() {
        let (mut gaps, start) = (Gaps::default(), Instant::now());
        let known = BTreeSet::from([1, u64::MAX]);
        let asked = (0..200).flat_map(|second| gaps.due(&known, 1, start + Duration::from_secs(second))).count();
        assert!((1024..4 * 1024).contains(&asked), "{asked}");
        let whole = BTreeSet::from([1, 2, 3]);
        assert_eq!(Gaps::default().due(&whole, 1, start), [0; 0]);
    }
}
