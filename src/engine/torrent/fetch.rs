//! What to ask of whom, block by block.
//!
//! A peer with room in its queue gets the first missing block, in order of urgency, that it should take. It should
//! not take a block which another peer would deliver earlier: neither the first one, nor one so few blocks further on
//! that the others get there before this peer's answer would arrive. So a piece is striped over all peers by estimated
//! arrival, and a slow peer works further ahead instead of holding up a read.

use std::cell::Cell;
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeSet, BinaryHeap, VecDeque};

use super::ranking::Estimate;
use super::{Content, Torrent};
use crate::engine::flow::Purpose;
use crate::engine::manager::Context;
use crate::engine::peer::Peer;
use crate::engine::pieces::{BlockState, Leaves};
use crate::engine::readers::Urgency;
use crate::engine::scheduling::{BLOCKED_EXTRA, ENOUGH_UNNEEDED, MAX_LOOKS, SLACK, SLACK_S};
use crate::engine::{DisconnectReason, Output, Prefetch};
use crate::types::{BLOCK_LEN, BlockSpan, ConnId, ReaderId};
use crate::wire::Message;

/// Whose turn it is to request while a limit makes torrents wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pace {
    #[default]
    Free,
    Waiting,
    Turn,
}

/// Under which circumstances a queue is filled.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// A read waits.
    blocked: bool,
    purpose: Purpose,
    /// Only if there is enough room: the effort is not spent for every single block of a deep queue.
    worth_it: bool,
}

/// Peers that may take a block, whoever would deliver it first before the others.
struct Turns {
    /// Not asked yet.
    waiting: VecDeque<(u64, ConnId)>,
    /// Took a block, and may take another.
    again: BinaryHeap<Reverse<(u64, ConnId)>>,
}

impl Turns {
    /// Of peers in the order in which they would deliver.
    fn of(order: impl Iterator<Item = (f64, ConnId)>) -> Self {
        // The bits of positive floats are in the order of the floats.
        Self { waiting: order.map(|(eta, conn)| (eta.to_bits(), conn)).collect(), again: BinaryHeap::new() }
    }

    /// Whose turn it is, and whether it is its first.
    fn next(&mut self) -> Option<(ConnId, bool)> {
        let is_again = match (self.waiting.front(), self.again.peek()) {
            (Some(first), Some(Reverse(second))) => second < first,
            (first, _) => first.is_none(),
        };
        if is_again {
            return self.again.pop().map(|Reverse((_, conn))| (conn, false));
        }
        self.waiting.pop_front().map(|(_, conn)| (conn, true))
    }

    fn again(&mut self, conn: ConnId, eta_s: Option<f64>) {
        self.again.extend(eta_s.map(|eta| Reverse((eta.to_bits(), conn))));
    }
}

/// A block to ask for.
#[derive(Clone, Copy, Debug)]
struct Pick {
    piece: u32,
    block: u32,
    reader: Option<(ReaderId, bool)>,
}

/// Why a peer is asked for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idle {
    /// It could have taken something of every reader, but others would deliver all of it earlier. So it is for peers
    /// that would deliver still later.
    OthersFirst,
    Other,
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
        if self.dirty.peers.is_empty() && !self.dirty.all {
            return;
        }
        let peers = std::mem::take(&mut self.dirty.peers);
        let all = std::mem::take(&mut self.dirty.all);
        if self.hold.is_some_and(|until| ctx.now < until) {
            return;
        }
        let Some(content) = &self.content else { return };
        let blocked = self.readers.lanes(&content.pieces).iter().any(|lane| lane.is_blocked());
        if self.readers.current_lanes().is_empty() && (!self.prefetch.is_bulk() || content.pieces.is_complete()) {
            return;
        }
        if !self.may_request(ctx) {
            return;
        }
        let swarm = self.estimate(ctx);
        let room = Room { blocked, purpose: self.readers.purpose(ctx.now), worth_it: true };
        // Whoever would answer first takes the first block.
        let mut turns = if all { Turns::of(self.ranking.iter()) } else { Turns::of(self.places_of(&peers)) };
        let mut unneeded = 0;
        while let Some((conn, is_first)) = turns.next() {
            let room = Room { worth_it: is_first, ..room };
            let Some(peer) = self.peers.get(&conn).filter(|peer| self.has_room(ctx, peer, room)) else { continue };
            match self.pick(ctx, peer, swarm) {
                Ok(pick) => {
                    self.request(ctx, conn, pick);
                    if let Some(content) = &self.content {
                        self.readers.lanes(&content.pieces);
                    }
                    turns.again(conn, self.ranking.eta_s(conn));
                }
                Err(_) if self.readers.current_lanes().is_empty() && !self.prefetch.is_bulk() => break,
                Err(Idle::OthersFirst) => unneeded += 1,
                Err(Idle::Other) => {}
            }
            if unneeded >= ENOUGH_UNNEEDED || !self.may_request(ctx) {
                break;
            }
        }
    }

    /// The places of some peers, in their order.
    fn places_of(&self, peers: &BTreeSet<ConnId>) -> impl Iterator<Item = (f64, ConnId)> + use<> {
        let mut places: Vec<_> = peers.iter().filter_map(|conn| Some((self.ranking.eta_s(*conn)?, *conn))).collect();
        places.sort_by(|a, b| a.0.total_cmp(&b.0));
        places.into_iter()
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

    /// Whether a peer's queue has room.
    fn has_room(&self, ctx: &Context<'_>, peer: &Peer, room: Room) -> bool {
        if peer.chokes_us && peer.allowed.is_empty() || peer.useful == 0 {
            return false;
        }
        if peer.is_reserve() && !self.calls_reserve(ctx) {
            return false;
        }
        let cap = ctx.config.max_requests;
        let depth = peer.flow.depth(ctx.now, room.purpose, cap, self.peers.len());
        let in_flight = peer.flow.in_flight() as u32;
        let proven = peer.flow.delay_s().is_some() || self.peers.len() == 1;
        if room.blocked && proven && peer.flow.stalls == 0 {
            let extra = if room.purpose == Purpose::Contended { 0 } else { BLOCKED_EXTRA };
            return in_flight < (depth + extra).min(peer.flow.limit(cap));
        }
        let free = depth.saturating_sub(in_flight);
        if room.worth_it { free > depth / 8 } else { free > 0 }
    }

    /// Whether a peer may be asked for blocks of a piece.
    pub(super) fn may_ask(&self, ctx: &Context<'_>, content: &Content, peer: &Peer, piece: u32) -> bool {
        let sole = content.pieces.active(piece).and_then(|active| active.isolated.as_ref());
        let may = match sole {
            Some(isolation) => isolation.sole.is_some_and(|(conn, _)| conn == peer.conn),
            None => !peer.is_reserve() || self.needs_reserve(ctx, piece),
        };
        may && peer.serves(ctx.now, piece)
    }

    /// The block that a peer should be asked for next.
    fn pick(&self, ctx: &mut Context<'_>, peer: &Peer, swarm: Estimate) -> Result<Pick, Idle> {
        let content = self.content.as_ref().ok_or(Idle::Other)?;
        self.pick_for_readers(ctx, content, peer, swarm).or_else(|idle| match self.prefetch {
            Prefetch::None | Prefetch::Window => Err(idle),
            Prefetch::File | Prefetch::All => self.pick_rarest(ctx, content, peer).ok_or(Idle::Other),
        })
    }

    fn pick_for_readers(
        &self,
        ctx: &Context<'_>,
        content: &Content,
        peer: &Peer,
        swarm: Estimate,
    ) -> Result<Pick, Idle> {
        let (pieces, lanes) = (&content.pieces, self.readers.current_lanes());
        let piece_length = pieces.layout().piece_length();
        let last_piece = Cell::new((u32::MAX, false));
        let usable = |piece| {
            if last_piece.get().0 != piece {
                last_piece.set((piece, self.may_ask(ctx, content, peer, piece)));
            }
            last_piece.get().1
        };
        let urgency = |lane: usize, place| self.readers.urgency(ctx.now, &lanes[lane], place, piece_length);
        let mut heads: Vec<(Urgency, usize, (u32, u32))> = (0..lanes.len())
            .filter_map(|at| Some((at, lanes[at].next(lanes[at].start(), pieces, usable)?)))
            .map(|(at, place)| (urgency(at, place), at, place))
            .collect();
        let mut idle = if heads.len() == lanes.len() { Idle::OthersFirst } else { Idle::Other };
        let eta = peer.flow.eta(ctx.now, swarm.guess);
        let mut rival: Option<(u32, f64)> = None;
        let mut passed_over = 0;
        for _ in 0..MAX_LOOKS {
            let soonest = |a: &usize, b: &usize| heads[*a].0.partial_cmp(&heads[*b].0).unwrap_or(Ordering::Equal);
            let first = (0..heads.len()).min_by(soonest).ok_or(idle)?;
            let (urgent, at, (piece, block)) = heads[first];
            let other = match rival {
                Some((same, other)) if same == piece => other,
                _ => self.best_other(ctx, content, peer, piece),
            };
            rival = Some((piece, other));
            // The last block of a piece that verifies as a whole decides when the others are of use.
            let awaited = pieces.needs_whole(piece) && self.readers.wait_for(piece, block, pieces);
            let slack = if awaited { 1.0 } else { SLACK };
            let others_get_there = other * slack + SLACK_S + f64::from(passed_over) * f64::from(BLOCK_LEN) / swarm.rate;
            let in_time = eta * 1.5 < urgent.deadline_s && !awaited;
            let is_useful = in_time || eta <= others_get_there;
            if is_useful {
                if !peer.flow.knows_tombstone(pieces.number(piece, block)) {
                    let reader = Some((lanes[at].reader, lanes[at].is_blocked()));
                    return Ok(Pick { piece, block, reader });
                }
                idle = Idle::Other;
            }
            // On to the first block that it may be of use for.
            let most = if is_useful { 1 } else { ((eta - others_get_there) * swarm.rate / f64::from(BLOCK_LEN)).ceil() as u32 };
            let next_head = (0..heads.len()).filter(|head| *head != first).min_by(soonest);
            let latest = next_head.map_or(eta * 1.5, |head| heads[head].0.deadline_s.min(eta * 1.5));
            let until = urgent.blocks_until(latest, self.readers.consumption(ctx.now, lanes[at].reader));
            let (passed, place) = lanes[at].pass_over((piece, block), most, block.saturating_add(until), pieces);
            passed_over += passed;
            match lanes[at].next(place, pieces, usable) {
                Some(place) => heads[first] = (urgency(at, place), at, place),
                None => drop(heads.swap_remove(first)),
            }
        }
        Err(idle)
    }

    /// When the best other peer would deliver a block of `piece`; infinite if nobody else would.
    fn best_other(&self, ctx: &Context<'_>, content: &Content, peer: &Peer, piece: u32) -> f64 {
        let others = self.ranking.iter().filter(|(_, conn)| *conn != peer.conn);
        let mut able = others.filter(|(_, conn)| {
            let other = self.peers.get(conn).filter(|other| other.flow.stalls == 0);
            other.is_some_and(|other| self.may_ask(ctx, content, other, piece))
        });
        able.next().map_or(f64::INFINITY, |(eta, _)| eta)
    }

    /// A block that nobody reads: first of pieces that were begun, then of the rarest.
    fn pick_rarest(&self, ctx: &mut Context<'_>, content: &Content, peer: &Peer) -> Option<Pick> {
        let pieces = &content.pieces;
        let fresh = |piece: u32, block: u32| !peer.flow.knows_tombstone(pieces.number(piece, block));
        let chosen = |piece: u32| self.prefetch == Prefetch::All || content.availability.is_to_come(piece);
        // What is begun is of a file that was opened: else nobody would have read it.
        let begun = pieces.open().filter(|piece| self.may_ask(ctx, content, peer, *piece));
        let mut begun = begun.filter_map(|piece| Some((piece, pieces.next_missing(piece, 0, u32::MAX)?)));
        if let Some((piece, block)) = begun.find(|(piece, block)| fresh(*piece, *block)) {
            return Some(Pick { piece, block, reader: None });
        }
        let mut rng = ctx.rng.clone();
        ctx.rng.next();
        let wanted = |piece| chosen(piece) && self.may_ask(ctx, content, peer, piece) && pieces.active(piece).is_none();
        let few = match &peer.owned {
            crate::engine::peer::Owned::Some(bits) => Some(bits),
            _ => None,
        };
        let rarest = content.availability.rarest(&mut rng, wanted);
        let piece = rarest.or_else(|| content.availability.any_of(few?, wanted))?;
        let block = pieces.next_missing(piece, 0, u32::MAX).filter(|block| fresh(piece, *block))?;
        Some(Pick { piece, block, reader: None })
    }

    /// Asks a peer for a block; before the first one of a piece for its leaf hashes, so that they arrive first.
    fn request(&mut self, ctx: &mut Context<'_>, conn: ConnId, pick: Pick) {
        let Some(content) = &mut self.content else { return };
        let (piece, block) = (pick.piece, pick.block);
        let needs_leaves = content.needs_leaves(piece);
        let active = content.pieces.activate(piece, needs_leaves);
        let unknown = active.leaves == Leaves::Unknown;
        content.availability.started(piece);
        if unknown {
            self.ask_leaves(ctx, piece, Some(conn));
        }
        let (Some(content), Some(peer)) = (&mut self.content, self.peers.get_mut(&conn)) else { return };
        let (number, span) = (content.pieces.number(piece, block), content.pieces.span(piece, block));
        content.pieces.requested(number, conn);
        let ahead = pick.reader.is_none_or(|(_, blocked)| !blocked);
        peer.flow.sent(ctx.now, number, span, ahead);
        ctx.limits.download.spend(span.len);
        peer.send(ctx.now, ctx.out, Message::Request(span));
        self.rerank(ctx.now, conn);
        if let Some((reader, blocked)) = pick.reader {
            self.readers.served(reader, blocked);
        }
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
            self.rerank(ctx.now, conn);
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
        self.rerank(ctx.now, conn);
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
        // A late answer to a request that was given up is as good as any, unless one peer only may deliver.
        let allowed = content.pieces.active(span.piece.0).and_then(|active| active.isolated.as_ref());
        let allowed = allowed.is_none_or(|isolation| isolation.sole.is_some_and(|(sole, _)| sole == conn));
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
