//! Who delivered what of a piece that failed as a whole: the blame comes when a later attempt shows which blocks
//! were wrong.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::{Active, BlockState};
use crate::types::{AttemptId, BlockIndex, BlockSpan, PeerIdentity};

/// Failed attempts at one piece that are remembered. Only the first has several deliverers: after it one peer at a
/// time may deliver, and a failure is proof at once.
const MAX_ATTEMPTS: usize = 2;

/// The last failed attempts at a piece.
#[derive(Clone, Debug, Default)]
pub(super) struct FailedAttempts(VecDeque<Attempt>);

#[derive(Clone, Debug)]
struct Attempt {
    id: AttemptId,
    /// Who delivered each block, `None` of those that were verified before.
    from: Box<[Option<Arc<PeerIdentity>>]>,
}

impl Active {
    /// The blocks that were received failed their check together.
    pub(in crate::engine) fn remember_failure(&mut self, id: AttemptId) {
        let from = self.blocks.iter().map(|block| {
            let received = block.state == BlockState::Received;
            block.from.as_ref().filter(|_| received).map(|(_, identity)| identity.clone())
        });
        let from = from.collect();
        let FailedAttempts(failed) = &mut self.failed;
        failed.truncate(MAX_ATTEMPTS - 1);
        failed.push_front(Attempt { id, from });
    }

    /// Who delivered the blocks of failed attempts that turned out to be wrong: one of those blocks for each.
    pub(in crate::engine) fn culprits(
        &self,
        wrong: &[(AttemptId, BlockSpan)],
    ) -> BTreeMap<Arc<PeerIdentity>, BlockIndex> {
        let culprit = |(id, span): &(AttemptId, BlockSpan)| {
            let attempt = self.failed.0.iter().find(|attempt| attempt.id == *id)?;
            Some((attempt.from.get(span.block().0 as usize)?.clone()?, span.block()))
        };
        wrong.iter().filter_map(culprit).collect()
    }
}
