//! Pieces that failed as a whole, and who is to blame.
//!
//! If one peer sent all of a piece, its failure is proof. Otherwise the piece is *isolated*. Where there are peers
//! enough each block is fetched again from another one, and what differs from the first copy from a third: a block of
//! which two peers sent the same is taken to be right. Where that does not help, or few peers have the piece, it is
//! fetched from one peer at a time, so that the next failure is proof: from whoever has no other such piece to deliver,
//! and of these from whoever contributed to failed pieces most often.
//!
//! Once the piece is right it is known which copies were wrong, and who sent those is banned. What they sent of other
//! pieces is fetched again before it is checked. Honest peers are never banned by this: what they send alone does not
//! fail, and what they sent is what it turns out to be.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Content, Torrent};
use crate::engine::manager::Context;
use crate::engine::peer::Peer;
use crate::engine::pieces::{Leaves, MAX_COPIES, Turn};
use crate::engine::scheduling::GUESSED_RATE;
use crate::types::{BlockDigest, ConnId, PeerIdentity, PieceIndex};

/// Times that a peer may take for an isolated piece: as long as this, and a multiple of what its rate says.
const SOLE_LEAST: Duration = Duration::from_secs(8);
/// Of two peers that send different things either may be the liar.
const COMPARED_LEAST: usize = 3;
/// Blocks, for each peer, that are compared at once: enough to tell who lies often.
const COMPARED_PER_PEER: usize = 6;
/// A piece waits so long for others to tell who lied.
const LATER: Duration = Duration::from_secs(3);
/// Peers under suspicion that are remembered.
const MAX_SUSPECTS: usize = 1024;

impl Content {
    /// Whether a block may come from a peer: of an isolated piece not every one may.
    pub(super) fn may_deliver(&self, (piece, block): (u32, u32), peer: &Peer) -> bool {
        !self.isolated.contains(&piece) || self.pieces.may_deliver((piece, block), peer.conn, &peer.identity)
    }
}

impl Torrent {
    /// A piece failed as a whole; its blocks are what `digests` says.
    pub(super) fn piece_failed(&mut self, ctx: &mut Context<'_>, piece: u32, digests: &[BlockDigest]) {
        let Some(content) = &mut self.content else { return };
        let needs_leaves = content.needs_leaves(piece);
        let can_compare = content.pieces.can_compare(content.isolated.len() + 1);
        let Some(active) = content.pieces.active_mut(piece) else { return };
        if active.leaves == Leaves::Known && needs_leaves {
            // The leaves came while it was checked: they tell which block it was.
            return;
        }
        self.hash_failures += 1;
        active.failed(if can_compare { digests } else { &[] });
        let contributors = active.contributors();
        content.isolated.insert(piece);
        if self.suspicion.len() < MAX_SUSPECTS {
            for suspect in &contributors {
                *self.suspicion.entry(suspect.clone()).or_default() += 1;
            }
        }
        self.fetch_again(ctx, piece);
        if let [culprit] = &contributors[..] {
            self.ban(ctx, culprit, format!("sent wrong bytes: piece {piece}"));
        }
    }

    /// A failed piece, all of which is here, is fetched again: what known liars sent of it from others, or else what one
    /// peer sent only, or else all of it from one peer.
    fn fetch_again(&mut self, ctx: &mut Context<'_>, piece: u32) {
        let active = self.content.as_ref().and_then(|content| content.pieces.active(piece));
        let Some((active, isolation)) = active.and_then(|active| Some((active, active.isolated.as_ref()?))) else {
            return;
        };
        let of_liars = active.received().filter(|(_, from)| ctx.banned.contains(&***from));
        let of_liars: Vec<u32> = of_liars.map(|(at, _)| at).collect();
        let doubtful = if of_liars.is_empty() { active.unconfirmed() } else { Some(of_liars.clone()) };
        let since = if let Turn::Later(since) = isolation.turn { since } else { ctx.now };
        let is_patient = ctx.now.saturating_duration_since(since) < LATER && of_liars.is_empty();
        match doubtful.filter(|blocks| self.others_can_deliver(ctx, piece, blocks)) {
            None => self.assign_sole(ctx, piece),
            Some(_) if is_patient && !self.may_compare(piece) => self.set_turn(piece, |_| Turn::Later(since)),
            Some(blocks) => self.fetch_from_others(piece, &blocks),
        }
    }

    /// Whether there is another peer for each of these blocks of a piece that failed.
    fn others_can_deliver(&self, ctx: &Context<'_>, piece: u32, blocks: &[u32]) -> bool {
        let isolation = self.content.as_ref().and_then(|content| content.pieces.active(piece)?.isolated.as_ref());
        let Some(isolation) = isolation.filter(|isolation| isolation.sole().is_none()) else { return false };
        let able: Vec<&Peer> = self.able(ctx, piece).take(MAX_COPIES + 1).collect();
        let least = if isolation.turn == Turn::Others { 1 } else { COMPARED_LEAST };
        let has_other = |block: &u32| able.iter().any(|peer| !isolation.was_sent(*block, &peer.identity));
        able.len() > MAX_COPIES || able.len() >= least && blocks.iter().all(has_other)
    }

    /// Whether a piece can be compared beside those that are. The first ones tell who lied in the others.
    fn may_compare(&self, piece: u32) -> bool {
        let Some(content) = &self.content else { return false };
        let is_compared = |piece: &u32| {
            let active = content.pieces.active(*piece);
            active.and_then(|active| active.isolated.as_ref()).is_some_and(|isolation| isolation.turn == Turn::Others)
        };
        let others = content.isolated.iter().filter(|other| **other != piece && is_compared(other));
        let blocks: u32 = others.map(|other| content.pieces.blocks_in(*other)).sum();
        blocks == 0 || (blocks + content.pieces.blocks_in(piece)) as usize <= COMPARED_PER_PEER * self.peers.len()
    }

    fn set_turn(&mut self, piece: u32, turn: impl Fn(Turn) -> Turn) {
        let active = self.content.as_mut().and_then(|content| content.pieces.active_mut(piece));
        if let Some(isolation) = active.and_then(|active| active.isolated.as_mut()) {
            isolation.turn = turn(isolation.turn);
        }
    }

    /// Peers that may be asked for a piece, were it not isolated.
    fn able(&self, ctx: &Context<'_>, piece: u32) -> impl Iterator<Item = &Peer> {
        let (now, needs_reserve) = (ctx.now, self.needs_reserve(ctx, piece));
        self.peers.values().filter(move |peer| (needs_reserve || !peer.is_reserve()) && peer.serves(now, piece))
    }

    /// Has blocks of a failed piece fetched from others than those that sent them.
    fn fetch_from_others(&mut self, piece: u32, blocks: &[u32]) {
        self.set_turn(piece, |_| Turn::Others);
        let Some(content) = &self.content else { return };
        let numbers: Vec<u32> = blocks.iter().map(|block| content.pieces.number(piece, *block)).collect();
        self.throw_away(&numbers);
    }

    /// Received blocks are missing again, since they are wrong or may be.
    fn throw_away(&mut self, numbers: &[u32]) {
        let Some(content) = &mut self.content else { return };
        for number in numbers {
            let (piece, block) = content.pieces.place(*number);
            let bytes = u64::from(content.pieces.span(piece, block).len);
            self.wasted.corrupt += bytes;
            self.useful = self.useful.saturating_sub(bytes);
            content.pieces.set_missing(*number);
        }
        self.readers.missing_again();
        self.dirty.all = true;
    }

    /// What a liar sent of pieces that are not complete is fetched again.
    pub(super) fn throw_away_of(&mut self, liar: &PeerIdentity) {
        let Some(content) = &self.content else { return };
        let numbers = content.pieces.received_from(liar);
        let pieces: BTreeSet<u32> = numbers.iter().map(|number| content.pieces.place(*number).0).collect();
        for piece in pieces {
            self.set_turn(piece, |turn| if let Turn::Later(_) = turn { Turn::Others } else { turn });
        }
        self.throw_away(&numbers);
    }

    /// Chooses the peer that an isolated piece is fetched from next, and starts it anew.
    fn assign_sole(&mut self, ctx: &mut Context<'_>, piece: u32) {
        let able: BTreeSet<ConnId> = self.able(ctx, piece).map(|peer| peer.conn).collect();
        let Some(content) = &mut self.content else { return };
        // Whoever has another piece to deliver alone would take the longer for this one.
        let sole_of = |piece: &u32| content.pieces.active(*piece)?.isolated.as_ref()?.sole();
        let others = content.isolated.iter().filter(|other| **other != piece);
        let busy: BTreeSet<ConnId> = others.filter_map(sole_of).collect();
        let mut asked: Vec<(ConnId, u32)> = Vec::new();
        for block in 0..content.pieces.blocks_in(piece) {
            let number = content.pieces.number(piece, block);
            asked.extend(content.pieces.asked(number).map(|conn| (conn, number)));
        }
        let received = content.pieces.received_blocks(piece);
        let Some(isolation) = content.pieces.active_mut(piece).and_then(|active| active.isolated.as_mut()) else {
            return;
        };
        isolation.tried.extend(isolation.sole());
        if able.iter().all(|conn| isolation.tried.contains(conn)) {
            isolation.tried.clear();
        }
        let able = self.peers.values().filter(|peer| able.contains(&peer.conn));
        let untried = able.filter(|peer| !isolation.tried.contains(&peer.conn));
        let best = untried.max_by_key(|peer| {
            let suspicion = self.suspicion.get(&peer.identity).copied().unwrap_or(0);
            // The bits of positive floats are in the order of the floats.
            let eta = Reverse(peer.flow.eta(ctx.now, GUESSED_RATE).to_bits());
            (!busy.contains(&peer.conn), suspicion, eta)
        });
        isolation.turn = best.map_or(Turn::Nobody, |peer| Turn::One(peer.conn, ctx.now));
        for (conn, number) in asked {
            self.cancel(ctx, conn, number);
        }
        self.throw_away(&received);
    }

    /// A peer cannot go on with the isolated pieces that it was to deliver: others get their turn.
    pub(super) fn reassign_isolated_of(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        let Some(content) = &self.content else { return };
        let is_its = |piece: &u32| {
            // What is being checked stays as it is: the outcome is about what this peer sent.
            let active = content.pieces.active(*piece).filter(|active| active.checking.is_none());
            active.and_then(|active| active.isolated.as_ref()?.sole()) == Some(conn)
        };
        let peer = self.peers.get(&conn);
        let stuck = |piece: &u32| !peer.is_some_and(|peer| peer.serves(ctx.now, *piece));
        let pieces: Vec<_> = content.isolated.iter().copied().filter(is_its).filter(stuck).collect();
        for piece in pieces {
            self.assign_sole(ctx, piece);
        }
    }

    /// Isolated pieces whose peer takes too long, or that have none, get the next one.
    pub(super) fn expire_isolated(&mut self, ctx: &mut Context<'_>) {
        let Some(content) = &self.content else { return };
        let stuck = |piece: &u32| {
            let active = content.pieces.active(*piece).filter(|active| active.checking.is_none());
            match active.and_then(|active| active.isolated.as_ref()).map(|isolation| isolation.turn) {
                Some(Turn::Nobody) => true,
                Some(Turn::Others) => !self.others_can_deliver(ctx, *piece, &content.pieces.awaited_blocks(*piece)),
                Some(Turn::One(conn, since)) => self.takes_too_long(ctx, conn, since, *piece),
                Some(Turn::Later(_)) | None => false,
            }
        };
        let pieces: Vec<_> = content.isolated.iter().copied().filter(stuck).collect();
        for piece in pieces {
            self.assign_sole(ctx, piece);
        }
        self.compare_next(ctx);
    }

    /// Pieces that wait for others to tell who lied get their turn, if it is time.
    pub(super) fn compare_next(&mut self, ctx: &mut Context<'_>) {
        let Some(content) = &self.content else { return };
        let since = |piece: &u32| match content.pieces.active(*piece)?.isolated.as_ref()?.turn {
            Turn::Later(since) => Some((since, *piece)),
            _ => None,
        };
        let mut waiting: Vec<(Instant, u32)> = content.isolated.iter().filter_map(since).collect();
        waiting.sort_unstable();
        for (_, piece) in waiting {
            self.fetch_again(ctx, piece);
        }
    }

    /// Whether a peer had a piece to itself for longer than it should need.
    fn takes_too_long(&self, ctx: &Context<'_>, conn: ConnId, since: Instant, piece: u32) -> bool {
        let (Some(content), Some(peer)) = (&self.content, self.peers.get(&conn)) else { return true };
        let rate = peer.flow.rate(ctx.now).unwrap_or(100e3).max(1e3);
        let bound_s = f64::from(content.metainfo.layout().piece_len(PieceIndex(piece))) / rate * 3.0;
        peer.flow.stalls > 0
            || ctx.now.saturating_duration_since(since) > SOLE_LEAST + Duration::from_secs_f64(bound_s.min(600.0))
    }
}
