//! Pieces that failed as a whole: what was received of them, and who may deliver them again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use super::{Active, BlockState, PieceManager};
use crate::types::{BlockDigest, BlockIndex, ConnId, PeerIdentity};

/// Peers that one block is had from, for comparison, before its piece is left to one peer. Of so many two sent the
/// right one, unless most of the swarm lies.
pub(in crate::engine) const MAX_COPIES: usize = 6;
/// Blocks of which copies are remembered in one torrent: those of a gigabyte.
const MAX_COMPARED_BLOCKS: u32 = 1 << 16;

/// A block as it was in a piece that failed.
#[derive(Clone, Debug)]
struct Copy {
    from: Arc<PeerIdentity>,
    digest: BlockDigest,
}

/// Who may deliver a piece of which some peer sent wrong bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::engine) enum Turn {
    /// Nobody, as nobody can.
    #[default]
    Nobody,
    /// Nobody since then: all of it is here, and other pieces tell perhaps who lied.
    Later(Instant),
    /// Each block whoever has not sent it before: if two send the same, it is right, unless they conspire.
    Others,
    /// One peer only, since then: if the piece fails again, that is proof.
    One(ConnId, Instant),
}

/// A piece that failed its check without a culprit.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct Isolation {
    pub(in crate::engine) turn: Turn,
    /// Peers that had the piece to themselves and did not finish.
    pub(in crate::engine) tried: Vec<ConnId>,
    /// The different copies of each block.
    copies: Box<[Vec<Copy>]>,
}

impl Isolation {
    /// The peer that has the piece to itself.
    pub(in crate::engine) fn sole(&self) -> Option<ConnId> {
        match self.turn {
            Turn::One(conn, _) => Some(conn),
            Turn::Nobody | Turn::Later(_) | Turn::Others => None,
        }
    }

    /// Whether all of it is here, as it was when it failed.
    pub(in crate::engine) fn is_put_off(&self) -> bool {
        matches!(self.turn, Turn::Later(_))
    }

    /// Whether the peer may deliver the block.
    fn admits(&self, block: u32, conn: ConnId, identity: &Arc<PeerIdentity>) -> bool {
        match self.turn {
            Turn::Nobody | Turn::Later(_) => false,
            Turn::Others => !self.was_sent(block, identity),
            Turn::One(sole, _) => sole == conn,
        }
    }

    /// Whether the peer sent the block before.
    pub(in crate::engine) fn was_sent(&self, block: u32, identity: &Arc<PeerIdentity>) -> bool {
        self.copies_of(block).iter().any(|copy| copy.from == *identity)
    }

    fn copies_of(&self, block: u32) -> &[Copy] {
        self.copies.get(block as usize).map_or(&[], Vec::as_slice)
    }
}

impl Active {
    /// Distinct peers that delivered blocks which are not verified.
    pub(in crate::engine) fn contributors(&self) -> Vec<Arc<PeerIdentity>> {
        let distinct: BTreeSet<_> = self.received().map(|(_, from)| from.clone()).collect();
        distinct.into_iter().collect()
    }

    /// Received blocks, and who sent them.
    pub(in crate::engine) fn received(&self) -> impl Iterator<Item = (u32, &Arc<PeerIdentity>)> {
        let received = (0..).zip(&self.blocks).filter(|(_, block)| block.state == BlockState::Received);
        received.filter_map(|(at, block)| Some((at, &block.from.as_ref()?.1)))
    }

    /// The blocks that were received failed their check together. Isolates the piece.
    pub(in crate::engine) fn failed(&mut self, digests: &[BlockDigest]) {
        let mut isolation = self.isolated.take().unwrap_or_default();
        if isolation.copies.is_empty() {
            isolation.copies = vec![Vec::new(); self.blocks.len()].into();
        }
        for (at, from) in self.received() {
            let (Some(copies), Some(digest)) = (isolation.copies.get_mut(at as usize), digests.get(at as usize)) else {
                continue;
            };
            let is_known = |copy: &Copy| copy.from == *from && copy.digest == *digest;
            if copies.len() < MAX_COPIES && !copies.iter().any(is_known) {
                copies.push(Copy { from: from.clone(), digest: *digest });
            }
        }
        self.isolated = Some(isolation);
    }

    /// Received blocks of a piece that failed, of which no other peer sent the same. `None` if there is none of which
    /// one more copy would tell.
    pub(in crate::engine) fn unconfirmed(&self) -> Option<Vec<u32>> {
        let isolation = self.isolated.as_ref()?;
        let is_confirmed = |at: u32, from: &Arc<PeerIdentity>| {
            let copies = isolation.copies_of(at);
            let own = copies.iter().rfind(|copy| copy.from == *from);
            own.is_some_and(|own| copies.iter().any(|copy| copy.digest == own.digest && copy.from != *from))
        };
        let blocks: Vec<u32> =
            self.received().filter(|(at, from)| !is_confirmed(*at, from)).map(|(at, _)| at).collect();
        let is_told = |at: &u32| (1..MAX_COPIES).contains(&isolation.copies_of(*at).len());
        (!blocks.is_empty() && blocks.iter().all(is_told)).then_some(blocks)
    }

    /// Who sent blocks of the piece that are not what they are now that it is verified: one of those blocks for each.
    pub(in crate::engine) fn culprits(&self, digests: &[BlockDigest]) -> BTreeMap<Arc<PeerIdentity>, BlockIndex> {
        let copies = self.isolated.iter().flat_map(|isolation| (0..).zip(&isolation.copies).zip(digests));
        let wrong = copies.flat_map(|((at, copies), digest)| {
            let wrong = copies.iter().filter(move |copy| copy.digest != *digest);
            wrong.map(move |copy| (copy.from.clone(), BlockIndex(at)))
        });
        wrong.collect()
    }
}

impl PieceManager {
    /// Whether the peer may deliver the block of an isolated piece; anybody may of another one.
    pub(in crate::engine) fn may_deliver(
        &self,
        (piece, block): (u32, u32),
        conn: ConnId,
        identity: &Arc<PeerIdentity>,
    ) -> bool {
        let isolation = self.active.get(&piece).and_then(|active| active.isolated.as_ref());
        isolation.is_none_or(|isolation| isolation.admits(block, conn, identity))
    }

    /// Whether so many pieces can be compared at once.
    pub(in crate::engine) fn can_compare(&self, pieces: usize) -> bool {
        pieces as u32 <= MAX_COMPARED_BLOCKS / self.layout.blocks_per_piece().max(1)
    }

    /// Blocks of an active piece that are still to come.
    pub(in crate::engine) fn awaited_blocks(&self, piece: u32) -> Vec<u32> {
        let is_awaited = |block: &super::Block| matches!(block.state, BlockState::Missing | BlockState::Requested);
        let blocks = self.active.get(&piece).map_or(&[][..], |active| &active.blocks);
        (0..).zip(blocks).filter(|(_, block)| is_awaited(block)).map(|(at, _)| at).collect()
    }

    /// Blocks of pieces that can only be verified as a whole, received from a peer and not being checked.
    pub(in crate::engine) fn received_from(&self, identity: &PeerIdentity) -> Vec<u32> {
        let pieces =
            self.active.iter().filter(|(piece, active)| active.checking.is_none() && self.needs_whole(**piece));
        let from = pieces.flat_map(|(piece, active)| active.received().map(move |received| (*piece, received)));
        let of_peer = from.filter(|(_, (_, from))| ***from == *identity);
        of_peer.map(|(piece, (at, _))| self.number(piece, at)).collect()
    }
}
