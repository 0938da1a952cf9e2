//! When what was asked for is due.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::time::Instant;

use super::PieceManager;
use crate::types::ConnId;

/// Blocks on their way, by when they are due.
#[derive(Clone, Debug, Default)]
pub(super) struct Due(BTreeSet<(Instant, u32, ConnId)>);

impl Due {
    pub(super) fn insert(&mut self, due: Instant, number: u32, conn: ConnId) {
        self.0.insert((due, number, conn));
    }

    pub(super) fn remove(&mut self, due: Instant, number: u32, conn: ConnId) {
        self.0.remove(&(due, number, conn));
    }
}

impl PieceManager {
    /// Blocks on their way that are due before a time, and those that are due after another one; the first ones first.
    pub(in crate::engine) fn due_before_or_after(
        &self,
        before: Instant,
        after: Instant,
    ) -> impl Iterator<Item = (Instant, u32)> + '_ {
        let range = |range: (Bound<_>, Bound<_>)| self.due.0.range(range).map(|(due, number, _)| (*due, *number));
        let late = range((Bound::Unbounded, Bound::Excluded((before, 0, ConnId(0)))));
        late.chain(range((Bound::Excluded((after, u32::MAX, ConnId(u64::MAX))), Bound::Unbounded)))
    }
}
