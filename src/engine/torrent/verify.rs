//! From received to verified: verdicts of storage, leaf hashes, and who is to blame.
//!
//! A block that fails its leaf hash is the fault of who sent it. A piece that fails as a whole proves something only
//! if one peer sent all of it. Otherwise the piece is *isolated*: fetched again from one peer at a time, so that the
//! next failure is proof: from whoever has no other such piece to deliver, and of these from whoever contributed to
//! failed pieces most often. Once it succeeds, storage tells which blocks had been wrong, and whoever sent those is
//! known as well. Honest peers are never banned by this: what they send alone does not fail, and what they sent is what
//! it turns out to be.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Content, Torrent};
use crate::engine::manager::Context;
use crate::engine::peer::Peer;
use crate::engine::pieces::{Isolation, Leaves};
use crate::engine::scheduling::GUESSED_RATE;
use crate::engine::{Output, PieceOutcome, Prefetch, ReadError, Verdict};
use crate::types::{AttemptId, BlockSpan, ConnId, PieceIndex};
use crate::wire::Message;

/// After a failure of storage nothing is requested for so long.
const STORAGE_HOLD: Duration = Duration::from_secs(1);
/// Times that a peer may take for an isolated piece: as long as this, and a multiple of what its rate says.
const SOLE_LEAST: Duration = Duration::from_secs(8);
/// Peers under suspicion that are remembered.
const MAX_SUSPECTS: usize = 1024;

impl Torrent {
    /// Storage has a block, or not.
    pub(in crate::engine) fn stored(&mut self, ctx: &mut Context<'_>, span: BlockSpan, conn: ConnId, verdict: Verdict) {
        let Some(content) = &mut self.content else { return };
        if !content.metainfo.layout().is_block(span) {
            return;
        }
        let piece = span.piece.0;
        let number = content.pieces.number(piece, span.block().0);
        if !content.pieces.awaits_verdict(number, conn) {
            return;
        }
        match verdict {
            Verdict::Verified => {
                self.verified(ctx, number);
                // Another file with the same root may have verified it; the other blocks of the piece wait for a check.
                self.check_if_settled(ctx, piece);
            }
            Verdict::Unverified => self.unverified(ctx, piece, number),
            Verdict::Corrupt => {
                self.blame_block(ctx, span);
                self.retire(piece);
            }
            Verdict::Inconsistent => self.refuse(ctx, piece),
            Verdict::Failed => {
                self.unstored(ctx, &[span]);
                self.retire(piece);
            }
        }
    }

    fn unverified(&mut self, ctx: &mut Context<'_>, piece: u32, number: u32) {
        let Some(content) = &mut self.content else { return };
        let knew = content.pieces.settled(number);
        self.readers.arrived(ctx.now, piece);
        let needs_leaves = content.needs_leaves(piece);
        match content.pieces.active(piece).map(|active| &active.leaves) {
            Some(Leaves::Known) if needs_leaves && !knew => self.check_settled(ctx, piece),
            Some(Leaves::Known) if needs_leaves => {
                // Storage was given the leaves before this block, and does not remember them.
                content.pieces.forget_leaves(piece);
                self.ask_leaves(ctx, piece, None);
            }
            // Forgotten with a piece that storage gave up, while this block was on its way.
            Some(Leaves::Unknown) => self.ask_leaves(ctx, piece, None),
            _ => self.check_if_settled(ctx, piece),
        }
    }

    /// Has storage check what it holds of a piece, once it holds all of it.
    pub(super) fn check_if_settled(&mut self, ctx: &mut Context<'_>, piece: u32) {
        if self.content.as_ref().is_some_and(|content| content.pieces.is_settled(piece)) {
            self.check_settled(ctx, piece);
        }
    }

    /// Has storage check the blocks that it holds unverified.
    pub(super) fn check_settled(&mut self, ctx: &mut Context<'_>, piece: u32) {
        let Some(content) = &mut self.content else { return };
        let blocks = content.pieces.settled_blocks(piece);
        let Some(active) = content.pieces.active_mut(piece) else { return };
        if blocks.is_empty() || active.checking.is_some() {
            return;
        }
        active.checking = Some(blocks.clone());
        ctx.out.push_back(Output::CheckPiece { torrent: self.key, piece: PieceIndex(piece), blocks });
    }

    /// Storage has checked a piece.
    pub(in crate::engine) fn piece_checked(&mut self, ctx: &mut Context<'_>, piece: u32, outcome: PieceOutcome) {
        let Some(content) = &mut self.content else { return };
        let checked = content.pieces.active_mut(piece).and_then(|active| active.checking.take());
        let Some(checked) = checked else { return };
        match outcome {
            PieceOutcome::Verified => self.all_verified(ctx, &checked),
            PieceOutcome::VerifiedAfter { wrong } => {
                let culprits = content.pieces.active(piece).map(|active| active.culprits(&wrong)).unwrap_or_default();
                self.all_verified(ctx, &checked);
                for (culprit, block) in culprits {
                    self.ban(ctx, &culprit, format!("sent wrong bytes: block {} of piece {piece}", block.0));
                }
            }
            PieceOutcome::Blocks { corrupt } => {
                let (bad, good): (Vec<_>, Vec<_>) = checked.into_iter().partition(|span| corrupt.contains(span));
                self.all_verified(ctx, &good);
                for span in bad {
                    self.blame_block(ctx, span);
                }
            }
            PieceOutcome::Corrupt { attempt } => self.piece_failed(ctx, piece, &checked, attempt),
            PieceOutcome::Inconsistent => return self.refuse(ctx, piece),
            PieceOutcome::Failed => self.unstored(ctx, &checked),
        }
        let known = |content: &Content| content.pieces.active(piece).is_some_and(|a| a.leaves == Leaves::Known);
        if self.content.as_ref().is_some_and(known) {
            self.check_settled(ctx, piece);
        } else {
            self.check_if_settled(ctx, piece);
        }
        self.retire(piece);
    }

    fn all_verified(&mut self, ctx: &mut Context<'_>, spans: &[BlockSpan]) {
        for span in spans {
            let number = self.content.as_ref().map(|c| c.pieces.number(span.piece.0, span.block().0));
            if let Some(number) = number {
                self.verified(ctx, number);
            }
        }
    }

    /// A block is verified: reads go on, and perhaps others want the piece.
    pub(super) fn verified(&mut self, ctx: &mut Context<'_>, number: u32) {
        let Some(content) = &mut self.content else { return };
        let complete = content.pieces.verified(number);
        let copies: Vec<_> = content.pieces.asked(number).collect();
        for read in self.readers.verified(ctx.now, number) {
            ctx.out.push_back(Output::ReadReady { read });
        }
        for conn in copies {
            self.cancel(ctx, conn, number);
        }
        if complete {
            let piece = self.content.as_ref().map_or(0, |content| content.pieces.place(number).0);
            self.piece_complete(ctx, piece);
        }
    }

    fn piece_complete(&mut self, ctx: &mut Context<'_>, piece: u32) {
        let Some(content) = &mut self.content else { return };
        let isolation = content.pieces.active_mut(piece).and_then(|active| active.isolated.take());
        if let Some((sole, _)) = isolation.and_then(|isolation| isolation.sole)
            && let Some(peer) = self.peers.get(&sole)
        {
            self.suspicion.remove(&peer.identity);
        }
        content.isolated.remove(&piece);
        content.leaf_jobs.remove(&piece);
        content.availability.started(piece);
        let mut conns = Vec::new();
        for peer in self.peers.values_mut() {
            peer.asks.retain(|ask| ask.piece != piece);
            if peer.has(piece) {
                peer.useful = peer.useful.saturating_sub(1);
                conns.push(peer.conn);
            } else {
                peer.send(ctx.now, ctx.out, Message::Have(PieceIndex(piece)));
            }
        }
        for conn in conns {
            self.update_interest(ctx, conn);
        }
        self.retire(piece);
    }

    /// A block failed its leaf hash: whoever sent it is corrupt.
    fn blame_block(&mut self, ctx: &mut Context<'_>, span: BlockSpan) {
        let Some(content) = &mut self.content else { return };
        let number = content.pieces.number(span.piece.0, span.block().0);
        let culprit = content.pieces.deliverer(number);
        content.pieces.set_missing(number);
        self.wasted.corrupt += u64::from(span.len);
        self.useful = self.useful.saturating_sub(u64::from(span.len));
        self.hash_failures += 1;
        self.readers.missing_again();
        self.dirty.all = true;
        if let Some(identity) = culprit {
            let reason = format!("sent wrong bytes: block {} of piece {}", span.block().0, span.piece.0);
            self.ban(ctx, &identity, reason);
        }
    }

    /// A piece failed as a whole.
    fn piece_failed(&mut self, ctx: &mut Context<'_>, piece: u32, checked: &[BlockSpan], attempt: AttemptId) {
        let Some(content) = &mut self.content else { return };
        let needs_leaves = content.needs_leaves(piece);
        let Some(active) = content.pieces.active_mut(piece) else { return };
        if active.leaves == Leaves::Known && needs_leaves {
            // The leaves came while it was checked: they tell which block it was.
            return;
        }
        active.remember_failure(attempt);
        let contributors = active.contributors();
        let bytes: u64 = checked.iter().map(|span| u64::from(span.len)).sum();
        self.hash_failures += 1;
        self.wasted.corrupt += bytes;
        self.useful = self.useful.saturating_sub(bytes);
        for number in content.pieces.received_blocks(piece) {
            content.pieces.set_missing(number);
        }
        self.readers.missing_again();
        self.dirty.all = true;
        if let [culprit] = &contributors[..] {
            self.ban(ctx, &culprit.clone(), format!("sent wrong bytes: piece {piece}"));
        } else if self.suspicion.len() < MAX_SUSPECTS {
            for suspect in contributors {
                *self.suspicion.entry(suspect).or_default() += 1;
            }
        }
        if let Some(content) = &mut self.content {
            content.isolated.insert(piece);
            if let Some(active) = content.pieces.active_mut(piece) {
                active.isolated.get_or_insert_with(Isolation::default);
            }
        }
        self.assign_sole(ctx, piece);
    }

    /// Chooses the peer that an isolated piece is fetched from next, and starts it anew.
    fn assign_sole(&mut self, ctx: &mut Context<'_>, piece: u32) {
        let needs_reserve = self.needs_reserve(ctx, piece);
        let may_ask = |peer: &&Peer| (needs_reserve || !peer.is_reserve()) && peer.serves(ctx.now, piece);
        let may_ask: BTreeSet<ConnId> = self.peers.values().filter(may_ask).map(|peer| peer.conn).collect();
        let Some(content) = &mut self.content else { return };
        // Whoever has another piece to deliver alone would take the longer for this one.
        let sole_of = |piece: &u32| content.pieces.active(*piece)?.isolated.as_ref()?.sole.map(|(conn, _)| conn);
        let others = content.isolated.iter().filter(|other| **other != piece);
        let busy: BTreeSet<ConnId> = others.filter_map(sole_of).collect();
        let mut asked: Vec<(ConnId, u32)> = Vec::new();
        for block in 0..content.pieces.blocks_in(piece) {
            let number = content.pieces.number(piece, block);
            asked.extend(content.pieces.asked(number).map(|conn| (conn, number)));
        }
        for number in content.pieces.received_blocks(piece) {
            content.pieces.set_missing(number);
        }
        let Some(isolation) = content.pieces.active_mut(piece).and_then(|active| active.isolated.as_mut()) else {
            return;
        };
        isolation.tried.extend(isolation.sole.take().map(|(conn, _)| conn));
        let able: Vec<_> = self.peers.values().filter(|peer| may_ask.contains(&peer.conn)).collect();
        if able.iter().all(|peer| isolation.tried.contains(&peer.conn)) {
            isolation.tried.clear();
        }
        let untried = able.into_iter().filter(|peer| !isolation.tried.contains(&peer.conn));
        let best = untried.max_by_key(|peer| {
            let suspicion = self.suspicion.get(&peer.identity).copied().unwrap_or(0);
            // The bits of positive floats are in the order of the floats.
            let eta = Reverse(peer.flow.eta(ctx.now, GUESSED_RATE).to_bits());
            (!busy.contains(&peer.conn), suspicion, eta)
        });
        isolation.sole = best.map(|peer| (peer.conn, ctx.now));
        for (conn, number) in asked {
            self.cancel(ctx, conn, number);
        }
        self.readers.missing_again();
        self.dirty.all = true;
    }

    /// A peer cannot go on with the isolated pieces that it was to deliver: others get their turn.
    pub(super) fn reassign_isolated_of(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        let Some(content) = &self.content else { return };
        let sole_of = |piece: &u32| {
            let isolation = content.pieces.active(*piece)?.isolated.as_ref()?;
            isolation.sole.filter(|(sole, _)| *sole == conn)
        };
        let peer = self.peers.get(&conn);
        let stuck = |piece: &u32| !peer.is_some_and(|peer| peer.serves(ctx.now, *piece));
        let pieces: Vec<_> =
            content.isolated.iter().copied().filter(|piece| sole_of(piece).is_some() && stuck(piece)).collect();
        for piece in pieces {
            self.assign_sole(ctx, piece);
        }
    }

    /// Isolated pieces whose peer takes too long, or that have none, get the next one.
    pub(super) fn expire_isolated(&mut self, ctx: &mut Context<'_>) {
        let Some(content) = &self.content else { return };
        let too_long = |conn: ConnId, since: Instant, piece: u32| {
            let Some(peer) = self.peers.get(&conn) else { return true };
            let rate = peer.flow.rate(ctx.now).unwrap_or(100e3).max(1e3);
            let bound = f64::from(content.metainfo.layout().piece_len(PieceIndex(piece))) / rate * 3.0;
            ctx.now.saturating_duration_since(since) > SOLE_LEAST + Duration::from_secs_f64(bound.min(600.0))
                || peer.flow.stalls > 0
        };
        let stuck = |piece: &u32| {
            let active = content.pieces.active(*piece);
            let checking = active.is_some_and(|active| active.checking.is_some());
            let sole = active.and_then(|active| active.isolated.as_ref()).and_then(|isolation| isolation.sole);
            !checking && sole.is_none_or(|(conn, since)| too_long(conn, since, *piece))
        };
        let pieces: Vec<_> = content.isolated.iter().copied().filter(stuck).collect();
        for piece in pieces {
            self.assign_sole(ctx, piece);
        }
    }

    /// A hybrid torrent is of one content by its v1 hashes and of another by those of v2. Whoever sent it sent what the
    /// publisher asks for. Nothing more is fetched, and reads that would have to wait fail.
    fn refuse(&mut self, ctx: &mut Context<'_>, piece: u32) {
        self.is_refused = true;
        for number in self.content.iter().flat_map(|content| content.pieces.received_blocks(piece)).collect::<Vec<_>>()
        {
            if let Some(content) = &mut self.content {
                content.pieces.set_missing(number);
            }
        }
        for read in self.readers.read_ids() {
            self.readers.drop_read(read);
            ctx.out.push_back(Output::ReadFailed { read, reason: ReadError::Inconsistent });
        }
        self.set_prefetch(ctx, Prefetch::None);
        self.retire(piece);
    }

    /// Storage could not keep blocks.
    fn unstored(&mut self, ctx: &mut Context<'_>, spans: &[BlockSpan]) {
        let Some(content) = &mut self.content else { return };
        for span in spans {
            content.pieces.set_missing(content.pieces.number(span.piece.0, span.block().0));
            self.wasted.unstored += u64::from(span.len);
        }
        self.readers.missing_again();
        self.hold = Some(ctx.now + STORAGE_HOLD);
        self.dirty.all = true;
    }
}
