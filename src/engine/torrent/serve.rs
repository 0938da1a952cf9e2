//! What peers ask of us: blocks, hashes, and the right to ask.

use super::Torrent;
use super::messages::Violation;
use crate::engine::Output;
use crate::engine::choker::Applicant;
use crate::engine::manager::Context;
use crate::engine::scheduling::{MIN_PIPELINE, PIPELINE_S};
use crate::metainfo::Form;
use crate::types::{BLOCK_LEN, BlockSpan, ConnId};
use crate::wire::{HashRequest, Message};

/// Bytes that one request may ask for. Everybody asks for 16 KiB.
const MAX_REQUEST_LEN: u32 = 2 * BLOCK_LEN;
/// Bytes a second that a peer should get at least that may request.
const SLOT_RATE: f64 = 8e3;
/// Hashes that one request may ask for (BEP 52).
const MAX_HASHES: u32 = 512;
/// Layers of a tree; more cannot be asked for.
const MAX_LAYERS: u32 = 48;

impl Torrent {
    /// A peer asks for a block. With the fast extension it gets exactly one answer, unless the connection ends.
    pub(super) fn requested(&mut self, ctx: &mut Context<'_>, conn: ConnId, span: BlockSpan) -> Result<(), Violation> {
        let Some(peer) = self.peers.get_mut(&conn) else { return Ok(()) };
        if span.len == 0 || span.len > MAX_REQUEST_LEN {
            return Err(format!("expected requests of 1 to {MAX_REQUEST_LEN} bytes, got {}", span.len));
        }
        let held = self.content.as_ref().is_some_and(|content| content.pieces.holds(span));
        let by_allowance = !peer.unchoked && peer.upload.allowed.contains(&span.piece.0) && peer.upload.allowance > 0;
        let accepted = !ctx.config.no_upload
            && held
            && (peer.unchoked || by_allowance)
            && peer.upload.push(span, ctx.config.upload_queue as usize);
        if accepted {
            peer.upload.allowance -= u32::from(by_allowance);
            self.pump(ctx, conn);
        } else if peer.fast {
            peer.send(ctx.now, ctx.out, Message::Reject(span));
        }
        Ok(())
    }

    /// A peer no longer wants a block. What is on its way already is sent.
    pub(super) fn request_cancelled(&mut self, ctx: &mut Context<'_>, conn: ConnId, span: BlockSpan) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        if peer.upload.cancel(span) && peer.fast {
            peer.send(ctx.now, ctx.out, Message::Reject(span));
        }
    }

    /// Has storage read what a peer waits for, a bounded number of blocks at a time; by turns where a limit applies.
    fn pump(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        if !ctx.limits.upload.is_limited() {
            while self.send_next(ctx, conn) {}
            return;
        }
        if let Some(peer) = self.peers.get_mut(&conn)
            && !std::mem::replace(&mut peer.upload.waits_for_turn, true)
        {
            ctx.limits.senders.push_back((self.key, conn));
        }
    }

    /// It is this peer's turn under the limit: one block, then it waits for the next turn.
    pub(in crate::engine) fn send_in_turn(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        peer.upload.waits_for_turn = false;
        if self.send_next(ctx, conn) {
            self.pump(ctx, conn);
        }
    }

    /// Has storage read the next block for a peer. False if nothing is to be read now.
    fn send_next(&mut self, ctx: &mut Context<'_>, conn: ConnId) -> bool {
        let (Some(content), Some(peer)) = (&self.content, self.peers.get_mut(&conn)) else { return false };
        // What is on its way cannot be cancelled: no more of it than the peer takes in a moment.
        let pipeline = (peer.up.per_second(ctx.now) * PIPELINE_S / f64::from(BLOCK_LEN)) as usize;
        let pipeline = pipeline.max(MIN_PIPELINE).min(ctx.config.send_pipeline);
        let Some(span) = peer.upload.start(pipeline) else { return false };
        if content.pieces.holds(span) {
            peer.sent = ctx.now;
            ctx.limits.upload.spend(span.len);
            ctx.out.push_back(Output::SendBlock { conn, span });
            return true;
        }
        // Lost since it was asked for.
        peer.upload.finish(span);
        if peer.fast {
            peer.send(ctx.now, ctx.out, Message::Reject(span));
        }
        true
    }

    /// A block has left for the socket.
    pub(in crate::engine) fn block_sent(&mut self, ctx: &mut Context<'_>, conn: ConnId, span: BlockSpan) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        if peer.upload.finish(span) {
            let bytes = u64::from(span.len);
            peer.uploaded += bytes;
            peer.up.add(ctx.now, bytes);
            peer.sent = ctx.now;
            self.uploaded += bytes;
            self.up.add(ctx.now, bytes);
        }
        self.pump(ctx, conn);
    }

    /// Storage could not read a block.
    pub(in crate::engine) fn block_unreadable(&mut self, ctx: &mut Context<'_>, conn: ConnId, span: BlockSpan) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        if peer.upload.finish(span) {
            ctx.limits.upload.refund(span.len);
            if peer.fast {
                peer.send(ctx.now, ctx.out, Message::Reject(span));
            }
        }
        self.pump(ctx, conn);
    }

    /// A peer wants something, or no longer. Whoever comes while there is room need not wait for the next round.
    pub(super) fn interest(&mut self, ctx: &mut Context<'_>, conn: ConnId, interested: bool) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        peer.is_interested = interested;
        if interested {
            self.unchoke_waiting(ctx);
        } else {
            // Whoever wants nothing now may want something in a moment: it stays unchoked until another needs the place.
            self.dirty.peers.insert(conn);
        }
    }

    /// Peers that may request at once: fewer where a limit leaves little for each.
    fn slots(ctx: &Context<'_>) -> usize {
        let afforded = (ctx.limits.upload.rate() / SLOT_RATE).max(2.0) as usize;
        ctx.config.upload_slots.min(afforded)
    }

    /// Unchokes peers that wait while there is room.
    pub(super) fn unchoke_waiting(&mut self, ctx: &mut Context<'_>) {
        if ctx.config.no_upload {
            return;
        }
        let wanting = self.peers.values().filter(|peer| peer.is_interested);
        let (served, waiting): (Vec<_>, Vec<_>) = wanting.partition(|peer| peer.unchoked);
        let room = (Self::slots(ctx) + 1).saturating_sub(served.len());
        let chosen: Vec<_> = waiting.iter().take(room).map(|peer| peer.conn).collect();
        for conn in chosen {
            self.set_unchoked(ctx, conn, true);
        }
    }

    /// Decides anew who may request.
    pub(super) fn choke_round(&mut self, ctx: &mut Context<'_>) {
        if ctx.config.no_upload {
            return;
        }
        let seeding = self.is_complete();
        let now = ctx.now;
        let applicants: Vec<_> = self
            .peers
            .values()
            .filter(|peer| peer.is_interested)
            .map(|peer| Applicant {
                conn: peer.conn,
                unchoked: peer.unchoked,
                since: peer.choke_changed,
                rate: if peer.flow.stalls > 0 { 0.0 } else { peer.down.per_second(now) },
            })
            .collect();
        let slots = Self::slots(ctx);
        let chosen = self.choker.decide(now, ctx.rng, &applicants, slots, seeding);
        // Without competition nobody is choked: an idle peer asks without a round trip.
        let contested = applicants.len() > slots + 1;
        let choke: Vec<_> = self
            .peers
            .values()
            .filter(|peer| peer.unchoked && contested && !chosen.contains(&peer.conn))
            .map(|peer| peer.conn)
            .collect();
        for conn in choke {
            self.set_unchoked(ctx, conn, false);
        }
        for conn in chosen {
            self.set_unchoked(ctx, conn, true);
        }
    }

    fn set_unchoked(&mut self, ctx: &mut Context<'_>, conn: ConnId, unchoked: bool) {
        let Some(peer) = self.peers.get_mut(&conn).filter(|peer| peer.unchoked != unchoked) else { return };
        peer.unchoked = unchoked;
        peer.choke_changed = Some(ctx.now);
        if unchoked {
            peer.send(ctx.now, ctx.out, Message::Unchoke);
            return;
        }
        peer.send(ctx.now, ctx.out, Message::Choke);
        for span in peer.upload.choke(peer.fast) {
            if peer.fast {
                peer.send(ctx.now, ctx.out, Message::Reject(span));
            }
        }
    }

    /// A peer asks for hashes: storage answers what makes sense, at a bounded rate.
    pub(super) fn hashes_requested(&mut self, ctx: &mut Context<'_>, conn: ConnId, request: HashRequest) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        let sensible = request.length.is_power_of_two()
            && (2..=MAX_HASHES).contains(&request.length)
            && request.index.is_multiple_of(request.length)
            && request.base_layer <= MAX_LAYERS
            && request.proof_layers <= MAX_LAYERS;
        // In the v1 swarm of a hybrid torrent there are no trees.
        let has_trees = self.content.as_ref().is_some_and(|c| peer.hashes || c.metainfo.form() != Form::Hybrid);
        if sensible && has_trees && peer.may_ask_hashes(ctx.now) {
            peer.sent = ctx.now;
            ctx.out.push_back(Output::SendHashes { conn, request });
        } else {
            peer.send(ctx.now, ctx.out, Message::HashReject(request));
        }
    }
}
