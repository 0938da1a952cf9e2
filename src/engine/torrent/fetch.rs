//! What to ask of whom, block by block.
//!
//! A peer with room in its queue gets the first missing block, in order of urgency, that it should take. It should
//! not take a block which another peer would deliver earlier: neither the first one, nor one so few blocks further on
//! that the others get there before this peer's answer would arrive. So a piece is striped over all peers by estimated
//! arrival, and a slow peer works further ahead instead of holding up a read.

use std::collections::BTreeSet;

use super::order::Place;
use super::pick::{Idle, Pick};
use super::ranking::Estimate;
use super::{Content, Dirty, Torrent};
use crate::engine::manager::Context;
use crate::engine::peer::Peer;
use crate::engine::pieces::{BlockState, Leaves, Turn};
use crate::engine::readers::Agenda;
use crate::engine::scheduling::{ENOUGH_UNNEEDED, WORTH_IT};
use crate::engine::{DisconnectReason, Output};
use crate::types::{BlockSpan, ConnId};
use crate::wire::Message;

/// Whose turn it is to request while a limit makes torrents wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pace {
    #[default]
    Free,
    Waiting,
    Turn,
}

impl Torrent {
    /// Fills the queues that have room, if anything has changed that may matter.
    pub(in crate::engine) fn schedule(&mut self, ctx: &mut Context<'_>) {
        self.fill_queues(ctx);
        if self.pace == Pace::Turn {
            self.pace = Pace::Free;
        }
    }

    fn fill_queues(&mut self, ctx: &mut Context<'_>) {
        let Dirty { mut peers, opened, all } = std::mem::take(&mut self.dirty);
        if peers.is_empty() && opened.is_empty() && !all {
            return;
        }
        for conn in &peers {
            self.rerank(ctx, *conn, WORTH_IT);
        }
        peers.extend(opened);
        // Most blocks come from peers that are asked for another one later.
        if !all && !peers.iter().any(|conn| self.ranking.is_open(*conn)) {
            return;
        }
        if self.hold.is_some_and(|until| ctx.now < until) {
            return;
        }
        let Some(content) = &self.content else { return };
        let mut agenda = self.readers.take_agenda(ctx.now, &content.pieces);
        let is_idle = agenda.is_empty() && (!self.prefetch.is_bulk() || content.pieces.is_complete());
        if !is_idle && self.may_request(ctx) {
            let sole = peers.first().copied().filter(|_| !all && peers.len() == 1);
            self.fill(ctx, &mut agenda, sole);
        }
        self.readers.put_agenda(agenda);
    }

    /// Fills the queues of all peers, or of one.
    fn fill(&mut self, ctx: &mut Context<'_>, agenda: &mut Agenda, sole: Option<ConnId>) {
        let swarm = self.estimate(ctx);
        self.purpose = self.purpose.max(self.readers.purpose(ctx.now));
        let (mut after, mut unneeded) = (None, 0);
        // Whoever would answer first takes the first block.
        while unneeded < ENOUGH_UNNEEDED && self.may_request(ctx) {
            if sole.is_none() {
                after = self.ranking.next_open(ctx.now, after);
            }
            let next = sole.filter(|conn| self.ranking.is_open(*conn)).or(after.map(Place::conn));
            let Some(conn) = next else { break };
            match self.pick_for(ctx, conn, swarm, agenda) {
                Ok(pick) => self.request(ctx, conn, pick, agenda),
                Err(_) if sole.is_some() => break,
                Err(Idle::OthersFirst) => unneeded += 1,
                Err(Idle::Other) => {}
            }
        }
    }

    /// The block that a peer with room in its queue should be asked for next.
    fn pick_for(&self, ctx: &mut Context<'_>, conn: ConnId, swarm: Estimate, agenda: &Agenda) -> Result<Pick, Idle> {
        let peer = self.peers.get(&conn).filter(|peer| self.is_asked(ctx, peer)).ok_or(Idle::Other)?;
        self.pick(ctx, peer, swarm, agenda)
    }

    /// Whether the limit lets this torrent request now. If not it waits for its turn, behind others that wait.
    fn may_request(&mut self, ctx: &mut Context<'_>) -> bool {
        if !ctx.limits.download.is_limited() {
            return true;
        }
        let others = self.pace == Pace::Free && !ctx.limits.requesters.is_empty();
        if self.pace != Pace::Waiting && !others && ctx.limits.download.is_ready(ctx.now) {
            return true;
        }
        if self.pace != Pace::Waiting {
            self.pace = Pace::Waiting;
            ctx.limits.requesters.push_back(self.key);
        }
        false
    }

    /// The limit lets this torrent request again.
    pub(in crate::engine) fn take_turn(&mut self) {
        self.pace = Pace::Turn;
        self.dirty.all = true;
    }

    /// Whether a peer is asked for anything, if its queue has room: for more than when it was ranked.
    fn is_asked(&self, ctx: &Context<'_>, peer: &Peer) -> bool {
        let has_use = peer.useful > 0 && (!peer.chokes_us || !peer.allowed.is_empty());
        has_use && (!peer.is_reserve() || self.calls_reserve(ctx)) && self.queue_has_room(ctx, peer, 1.0)
    }

    /// Whether a peer may be asked for blocks of a piece.
    pub(super) fn may_ask(&self, ctx: &Context<'_>, content: &Content, peer: &Peer, piece: u32) -> bool {
        let isolation = content.pieces.active(piece).and_then(|active| active.isolated.as_ref());
        let may = match isolation.map(|isolation| isolation.turn) {
            Some(Turn::One(sole, _)) => sole == peer.conn,
            Some(Turn::Nobody | Turn::Later(_)) => false,
            Some(Turn::Others) | None => !peer.is_reserve() || self.needs_reserve(ctx, piece),
        };
        may && peer.serves(ctx.now, piece)
    }

    /// Asks a peer for a block; before the first one of a piece for its leaf hashes, so that they arrive first.
    fn request(&mut self, ctx: &mut Context<'_>, conn: ConnId, pick: Pick, agenda: &mut Agenda) {
        let Some(content) = &mut self.content else { return };
        let (piece, block) = (pick.piece, pick.block);
        let needs_leaves = content.needs_leaves(piece);
        let active = content.pieces.activate(piece, needs_leaves);
        let leaves = active.leaves.clone();
        content.availability.started(piece);
        match leaves {
            Leaves::Unknown => self.ask_leaves(ctx, piece, Some(conn)),
            Leaves::Asked if pick.blocked => self.ask_leaves_of_quicker(ctx, piece, conn),
            _ => {}
        }
        let (Some(content), Some(peer)) = (&mut self.content, self.peers.get_mut(&conn)) else { return };
        let (number, span) = (content.pieces.number(piece, block), content.pieces.span(piece, block));
        let due = peer.flow.sent(ctx.now, number, span, !pick.blocked);
        content.pieces.requested(number, conn, due);
        ctx.limits.download.spend(span.len);
        peer.send(ctx.now, ctx.out, Message::Request(span));
        if let Some(lane) = pick.lane {
            self.readers.served(lane, agenda, &content.pieces);
        }
        self.rerank(ctx, conn, 1.0);
    }

    /// A request to a peer is over without its block.
    pub(super) fn release(&mut self, conn: ConnId, number: u32) {
        let Some(content) = &mut self.content else { return };
        let (piece, _) = content.pieces.place(number);
        if content.pieces.unrequested(number, conn) {
            self.readers.missing_again();
            self.dirty.all = true;
            self.retire(piece);
        }
    }

    /// Drops the bookkeeping of a piece that is at rest.
    pub(super) fn retire(&mut self, piece: u32) {
        let Some(content) = &mut self.content else { return };
        content.pieces.retire(piece);
        if content.pieces.active(piece).is_none() {
            content.leaf_jobs.remove(&piece);
            content.isolated.remove(&piece);
            if !content.pieces.has(piece) {
                content.availability.missing(piece);
            }
        }
    }

    /// Gives a request up; the peer hears it.
    pub(super) fn cancel(&mut self, ctx: &mut Context<'_>, conn: ConnId, number: u32) {
        let (Some(content), Some(peer)) = (&self.content, self.peers.get_mut(&conn)) else { return };
        let (piece, block) = content.pieces.place(number);
        if peer.flow.bury(ctx.now, number) {
            let span = content.pieces.span(piece, block);
            peer.send(ctx.now, ctx.out, Message::Cancel(span));
            self.dirty.peers.insert(conn);
            self.release(conn, number);
        }
    }

    /// Cancels what nobody wants any more.
    pub(super) fn cancel_unwanted(&mut self, ctx: &mut Context<'_>) {
        let Some(content) = &self.content else { return };
        if self.prefetch.is_bulk() {
            return;
        }
        let mut checked: BTreeSet<u32> = BTreeSet::new();
        let mut unwanted = Vec::new();
        for peer in self.peers.values() {
            for request in peer.flow.requests() {
                let (piece, block) = (request.span.piece.0, request.span.block().0);
                let wanted = checked.contains(&request.number) || self.readers.want(piece, block, &content.pieces);
                if wanted {
                    checked.insert(request.number);
                } else {
                    unwanted.push((peer.conn, request.number));
                }
            }
        }
        for (conn, number) in unwanted {
            self.cancel(ctx, conn, number);
        }
    }

    /// A block came: to storage with it, if it was asked for and is still missing.
    pub(in crate::engine) fn block(&mut self, ctx: &mut Context<'_>, conn: ConnId, span: BlockSpan) {
        use crate::engine::flow::Answered;
        let (Some(content), Some(peer)) = (&mut self.content, self.peers.get_mut(&conn)) else {
            ctx.out.push_back(Output::Discard { span });
            return;
        };
        let bytes = u64::from(span.len);
        (peer.heard, peer.downloaded, self.downloaded) = (ctx.now, peer.downloaded + bytes, self.downloaded + bytes);
        peer.down.add(ctx.now, bytes);
        self.down.add(ctx.now, bytes);
        self.reserve.delivered(ctx.now, peer.is_reserve());
        let is_block = content.metainfo.layout().is_block(span);
        let number = if is_block { content.pieces.number(span.piece.0, span.block().0) } else { 0 };
        let answered = if is_block { peer.flow.arrived(ctx.now, number, span.len) } else { Answered::Unknown };
        self.dirty.peers.insert(conn);
        let (Some(content), Some(peer)) = (&mut self.content, self.peers.get(&conn)) else { return };
        if answered == Answered::Unknown {
            self.wasted.unasked += bytes;
            ctx.out.push_back(Output::Discard { span });
            if !is_block || !peer.flow.forgetful {
                let reason = format!("sent {} bytes at {} of piece {}, unasked", span.len, span.begin, span.piece.0);
                self.leave(ctx, conn, Some(DisconnectReason::Protocol(reason)));
            }
            return;
        }
        // A late answer to a request that was given up is as good as any, unless others are to deliver.
        let allowed = content.may_deliver(content.pieces.place(number), peer);
        content.pieces.unrequested(number, conn);
        let wanted = matches!(content.pieces.state(number), BlockState::Missing | BlockState::Requested);
        if !wanted || !allowed {
            self.wasted.duplicate += bytes;
            ctx.out.push_back(Output::Discard { span });
            self.readers.missing_again();
            return;
        }
        let needs_leaves = content.needs_leaves(span.piece.0);
        content.pieces.activate(span.piece.0, needs_leaves);
        content.availability.started(span.piece.0);
        content.pieces.received(number, conn, peer.identity.clone());
        self.useful += bytes;
        ctx.out.push_back(Output::Store { torrent: self.key, conn, span });
        let others: Vec<_> = content.pieces.asked(number).collect();
        for other in others {
            self.cancel(ctx, other, number);
        }
    }
}
