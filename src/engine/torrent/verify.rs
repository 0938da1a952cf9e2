//! From received to verified: verdicts of storage, leaf hashes, and who is to blame.
//!
//! A block that fails its leaf hash is the fault of who sent it. A piece that fails as a whole is isolated
//! (`isolation`).

use std::time::Duration;

use super::{Content, Torrent};
use crate::engine::manager::Context;
use crate::engine::pieces::Leaves;
use crate::engine::{Output, PieceOutcome, Prefetch, ReadError, Verdict};
use crate::types::{BlockSpan, ConnId, PieceIndex};
use crate::wire::Message;

/// After a failure of storage nothing is requested for so long.
const STORAGE_HOLD: Duration = Duration::from_secs(1);

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
        let failed_before = active.isolated.is_some();
        ctx.out.push_back(Output::CheckPiece { torrent: self.key, piece: PieceIndex(piece), blocks, failed_before });
    }

    /// Storage has checked a piece.
    pub(in crate::engine) fn piece_checked(&mut self, ctx: &mut Context<'_>, piece: u32, outcome: PieceOutcome) {
        let Some(content) = &mut self.content else { return };
        let checked = content.pieces.active_mut(piece).and_then(|active| active.checking.take());
        let Some(checked) = checked else { return };
        match outcome {
            PieceOutcome::Verified => self.all_verified(ctx, &checked),
            PieceOutcome::VerifiedAfter { digests } => {
                let culprits = content.pieces.active(piece).map(|active| active.culprits(&digests)).unwrap_or_default();
                self.all_verified(ctx, &checked);
                for (culprit, block) in culprits {
                    self.ban(ctx, &culprit, format!("sent wrong bytes: block {} of piece {piece}", block.0));
                }
                self.compare_next(ctx);
            }
            PieceOutcome::Blocks { corrupt } => {
                // Whoever is to blame is known of each block.
                content.isolated.remove(&piece);
                content.pieces.active_mut(piece).map(|active| active.isolated.take());
                let (bad, good): (Vec<_>, Vec<_>) = checked.into_iter().partition(|span| corrupt.contains(span));
                self.all_verified(ctx, &good);
                for span in bad {
                    self.blame_block(ctx, span);
                }
            }
            PieceOutcome::Corrupt { digests } => self.piece_failed(ctx, piece, &digests),
            PieceOutcome::Inconsistent => return self.refuse(ctx, piece),
            PieceOutcome::Failed => self.unstored(ctx, &checked),
        }
        let known = |content: &Content| {
            let leaves = content.pieces.active(piece).map(|active| &active.leaves);
            content.needs_leaves(piece) && leaves == Some(&Leaves::Known)
        };
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
        if let Some(sole) = isolation.and_then(|isolation| isolation.sole())
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
