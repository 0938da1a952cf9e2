//! What storage has and loses by itself, without peers.

use super::Torrent;
use crate::engine::manager::Context;
use crate::types::{BlockSpan, PieceIndex};
use crate::wire::Message;

/// Pieces whose leaf hashes are asked for at the same time though nobody reads them.
const MAX_LEAVES_WANTED: usize = 256;

impl Torrent {
    /// Storage has blocks that came another way than from peers.
    pub(in crate::engine) fn found_here(&mut self, ctx: &mut Context<'_>, blocks: &[BlockSpan]) {
        for span in blocks {
            let Some(content) = &self.content else { return };
            if content.metainfo.layout().is_block(*span) {
                self.verified(ctx, content.pieces.number(span.piece.0, span.block().0));
                self.check_if_settled(ctx, span.piece.0);
            }
        }
    }

    /// Asks for the leaf hashes of pieces that nobody reads.
    pub(in crate::engine) fn fetch_leaves(&mut self, ctx: &mut Context<'_>, pieces: &[PieceIndex]) {
        for piece in pieces {
            let Some(content) = &mut self.content else { return };
            let is_asked = content.leaf_jobs.contains_key(&piece.0);
            if piece.0 >= content.metainfo.piece_count()
                || is_asked
                || content.leaf_jobs.len() >= MAX_LEAVES_WANTED
                || !content.needs_leaves(piece.0)
            {
                continue;
            }
            content.leaf_jobs.entry(piece.0).or_default().wanted = true;
            self.ask_leaves(ctx, piece.0, None);
        }
    }

    /// Storage gave up a piece. What it was given of it and has not answered for is gone as well.
    pub(in crate::engine) fn lost(&mut self, ctx: &mut Context<'_>, piece: u32) {
        let Some(content) = &mut self.content else { return };
        let had = content.pieces.has(piece);
        if let Some(active) = content.pieces.active_mut(piece) {
            active.checking = None;
        }
        for number in content.pieces.received_blocks(piece) {
            content.pieces.set_missing(number);
        }
        let mut lost = Vec::new();
        for block in 0..content.pieces.blocks_in(piece) {
            let number = content.pieces.number(piece, block);
            if content.pieces.set_missing(number) {
                lost.push(block);
            }
        }
        for block in lost {
            self.readers.lost(piece, block, &content.pieces);
        }
        content.pieces.forget_leaves_unless_asked(piece);
        if !content.pieces.has(piece) {
            content.availability.missing(piece);
        }
        self.retire(piece);
        self.dirty.all = true;
        if !had || self.content.as_ref().is_some_and(|content| content.pieces.has(piece)) {
            return;
        }
        let mut conns = Vec::new();
        for peer in self.peers.values_mut() {
            if peer.dont_have_id != 0 {
                let payload = piece.to_be_bytes().to_vec().into();
                let id = peer.dont_have_id;
                peer.send(ctx.now, ctx.out, Message::Extended { id, payload });
            }
            if peer.has(piece) {
                peer.useful += 1;
                conns.push(peer.conn);
            }
        }
        for conn in conns {
            self.update_interest(ctx, conn);
        }
    }
}
