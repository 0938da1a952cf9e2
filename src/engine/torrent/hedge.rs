//! Second copies: what a read is blocked on is asked of another peer, too, if that brings it clearly earlier.

use std::time::Duration;

use super::Torrent;
use crate::engine::manager::Context;
use crate::engine::peer::Peer;
use crate::engine::scheduling::{
    HEDGE_COMMON, HEDGE_LOOKS, HEDGE_LOOKS_SOLE, HEDGE_PEERS, HEDGE_QUEUE, HEDGE_SHARE, HEDGE_START, HEDGE_TIMES,
    HEDGE_TIMES_LATE, HEDGE_TIMES_STRANGER, MIN_GAIN_S, SOON_S,
};
use crate::types::{BlockSpan, ConnId};
use crate::wire::Message;

/// A block that may be worth a second copy.
struct Late {
    number: u32,
    /// A read is blocked on it.
    is_blocked: bool,
    /// Its reader waits for nothing else.
    is_sole: bool,
}

impl Torrent {
    /// Asks a second peer for blocks that reads are blocked on, where that brings them earlier and the budget allows.
    pub(super) fn hedge(&mut self, ctx: &mut Context<'_>) {
        self.estimate(ctx);
        for Late { number, is_blocked, is_sole } in self.late(ctx) {
            let Some((conn, span)) = self.second_peer(ctx, number, is_blocked) else { continue };
            let budget = HEDGE_START + (self.useful as f64 * HEDGE_SHARE) as u64;
            // A part is kept for those who wait for nothing else.
            let budget = if is_sole { budget } else { (budget as f64 * HEDGE_COMMON) as u64 };
            if self.hedged + u64::from(span.len) > budget || !ctx.limits.download.is_ready(ctx.now) {
                return;
            }
            ctx.limits.download.spend(span.len);
            self.hedged += u64::from(span.len);
            if let (Some(content), Some(peer)) = (&mut self.content, self.peers.get_mut(&conn)) {
                let due = peer.flow.sent(ctx.now, number, span, false);
                content.pieces.requested(number, conn, due);
                peer.send(ctx.now, ctx.out, Message::Request(span));
            }
            self.rerank(ctx, conn, 1.0);
        }
    }

    /// Blocks of readers that wait for nothing else; then those that are late, or asked of a peer that takes far longer
    /// than the best one, and that a read is blocked on; and late ones that a reader gets to soon. First those that were
    /// due first.
    fn late(&self, ctx: &Context<'_>) -> Vec<Late> {
        let (Some(content), Some((best_s, _))) = (&self.content, self.ranking.iter(ctx.now).next()) else {
            return Vec::new();
        };
        let pieces = &content.pieces;
        let sole = self.readers.sole_on_their_way(pieces, HEDGE_LOOKS_SOLE);
        let mut blocks: Vec<Late> =
            sole.into_iter().map(|number| Late { number, is_blocked: true, is_sole: true }).collect();
        let far = ctx.now + Duration::from_secs_f64((best_s * HEDGE_TIMES).min(3600.0));
        let soon = std::cell::LazyCell::new(|| self.readers.needed_within(ctx.now, SOON_S, pieces));
        for (due, number) in pieces.due_before_or_after(ctx.now, far).take(HEDGE_LOOKS) {
            let (piece, block) = pieces.place(number);
            let is_soon = || soon.iter().any(|extent| extent.wanted_in(piece, pieces).contains(&block));
            let is_blocked = self.readers.wait_for(piece, block, pieces);
            if is_blocked || due < ctx.now && is_soon() {
                blocks.push(Late { number, is_blocked, is_sole: false });
            }
        }
        blocks
    }

    /// A peer that would deliver a requested block clearly earlier than the one that was asked.
    fn second_peer(&self, ctx: &Context<'_>, number: u32, is_blocked: bool) -> Option<(ConnId, BlockSpan)> {
        let content = self.content.as_ref()?;
        let mut asked = content.pieces.asked(number);
        let (first, None) = (asked.next()?, asked.next()) else { return None };
        let holder = self.peers.get(&first)?;
        let request = holder.flow.find(number)?;
        let left = request.due.saturating_duration_since(ctx.now);
        let overdue = ctx.now.saturating_duration_since(request.due);
        if !is_blocked && overdue.is_zero() {
            return None;
        }
        let piece = request.span.piece.0;
        let able = |peer: &&Peer| {
            peer.conn != first
                && peer.flow.stalls == 0
                && !peer.flow.knows(number)
                && self.queue_has_room(ctx, peer, HEDGE_QUEUE)
                && self.may_ask(ctx, content, peer, piece)
                && content.may_deliver(content.pieces.place(number), peer)
        };
        // An overdue answer is expected to take as long again as it is late, and one of a stranger as long as it took.
        let (expected, times) = if holder.flow.delay_s().is_none() {
            (ctx.now.saturating_duration_since(request.sent), HEDGE_TIMES_LATE)
        } else if overdue.is_zero() {
            (left, HEDGE_TIMES)
        } else {
            (overdue.max(Duration::from_millis(50)), HEDGE_TIMES_LATE)
        };
        let expected_s = Some(expected.as_secs_f64()).filter(|expected_s| *expected_s > MIN_GAIN_S)?;
        let first_ones = self.ranking.iter(ctx.now).take(HEDGE_PEERS);
        let mut first_ones = first_ones.take_while(|(eta_s, _)| eta_s * HEDGE_TIMES_LATE < expected_s);
        let best = first_ones.find(|(eta_s, conn)| {
            let peer = self.peers.get(conn).filter(|peer| {
                let times = if peer.flow.delay_s().is_some() { times } else { HEDGE_TIMES_STRANGER };
                eta_s * times < expected_s
            });
            peer.filter(able).is_some()
        });
        best.map(|(_, conn)| (conn, request.span))
    }
}
