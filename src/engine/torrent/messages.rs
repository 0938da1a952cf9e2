//! What peers say.

use bytes::Bytes;

use super::Torrent;
use crate::engine::DisconnectReason;
use crate::engine::manager::Context;
use crate::engine::peer::Owned;
use crate::types::{Bitfield, BlockSpan, ConnId, PieceIndex};
use crate::wire::Message;

/// Pieces of one peer that are noted as requestable while choked.
const MAX_ALLOWED: usize = 64;

/// Why a message ends the connection.
pub(super) type Violation = String;

impl Torrent {
    /// A message other than a block.
    pub(in crate::engine) fn message(&mut self, ctx: &mut Context<'_>, conn: ConnId, message: Message) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        peer.heard = ctx.now;
        let inventory = matches!(message, Message::Bitfield(_) | Message::HaveAll | Message::HaveNone);
        // The extension handshake may come before the inventory.
        let silent = matches!(message, Message::KeepAlive | Message::Extended { .. } | Message::Port(_));
        // aria2 sends a bitfield in place of many `have` messages.
        let late = inventory && peer.spoke && !matches!(message, Message::Bitfield(_));
        peer.spoke |= !silent;
        let fast_only = matches!(
            message,
            Message::HaveAll | Message::HaveNone | Message::Reject(_) | Message::AllowedFast(_) | Message::Suggest(_)
        );
        let result = if late {
            Err("expected an inventory as the first message only".to_owned())
        } else if fast_only && !peer.fast {
            Err("expected no message of the fast extension, which was not agreed on".to_owned())
        } else {
            self.dispatch(ctx, conn, message)
        };
        if let Err(violation) = result {
            self.leave(ctx, conn, Some(DisconnectReason::Protocol(violation)));
        }
    }

    fn dispatch(&mut self, ctx: &mut Context<'_>, conn: ConnId, message: Message) -> Result<(), Violation> {
        match message {
            Message::KeepAlive | Message::Port(_) | Message::Suggest(_) => Ok(()),
            Message::Choke => {
                self.choked(ctx, conn);
                Ok(())
            }
            Message::Unchoke => {
                self.unchoked(ctx, conn);
                Ok(())
            }
            Message::Interested => {
                self.interest(ctx, conn, true);
                Ok(())
            }
            Message::NotInterested => {
                self.interest(ctx, conn, false);
                Ok(())
            }
            Message::Have(piece) => self.has_piece(ctx, conn, piece),
            Message::Bitfield(bytes) => self.has_bitfield(ctx, conn, bytes),
            Message::HaveAll => self.has_all(ctx, conn),
            Message::HaveNone => Ok(()),
            Message::Request(span) => self.requested(ctx, conn, span),
            Message::Cancel(span) => {
                self.request_cancelled(ctx, conn, span);
                Ok(())
            }
            Message::Reject(span) => {
                self.rejected(ctx, conn, span);
                Ok(())
            }
            Message::AllowedFast(piece) => self.allowed(conn, piece),
            Message::Extended { id, payload } => self.extended(ctx, conn, id, payload),
            Message::HashRequest(request) => {
                self.hashes_requested(ctx, conn, request);
                Ok(())
            }
            Message::Hashes { request, hashes } => {
                self.hashes(ctx, conn, &request, &hashes);
                Ok(())
            }
            Message::HashReject(request) => {
                self.hashes_rejected(ctx, conn, &request);
                Ok(())
            }
        }
    }

    fn unchoked(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        peer.chokes_us = false;
        peer.flow.progress = Some(ctx.now);
        self.dirty.peers.insert(conn);
    }

    /// The peer stops to answer. With the fast extension it rejects what it drops; without, everything is dropped.
    fn choked(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        peer.chokes_us = true;
        self.dirty.peers.insert(conn);
        if !peer.fast {
            for request in peer.flow.bury_all(ctx.now) {
                ctx.limits.download.refund(request.span.len);
                self.release(conn, request.number);
            }
        }
        self.reassign_isolated_of(ctx, conn);
    }

    fn has_piece(&mut self, ctx: &mut Context<'_>, conn: ConnId, piece: PieceIndex) -> Result<(), Violation> {
        let Some(peer) = self.peers.get_mut(&conn) else { return Ok(()) };
        let Some(content) = &mut self.content else {
            return if peer.early_have(piece) { Ok(()) } else { Err("too many haves without a bitfield".into()) };
        };
        let count = content.metainfo.piece_count();
        if piece.0 >= count {
            return Err(format!("expected a have of one of {count} pieces, got {}", piece.0));
        }
        let Owned::Some(bits) = &mut peer.owned else { return Ok(()) };
        if !bits.insert(piece.0) {
            return Ok(());
        }
        content.availability.add(piece.0);
        if !content.pieces.has(piece.0) {
            peer.useful += 1;
        }
        if bits.is_full() {
            for piece in bits.iter() {
                content.availability.remove(piece);
            }
            content.availability.add_seed();
            peer.owned = Owned::All;
        }
        self.update_interest(ctx, conn);
        self.dirty.peers.insert(conn);
        Ok(())
    }

    fn has_bitfield(&mut self, ctx: &mut Context<'_>, conn: ConnId, bytes: Bytes) -> Result<(), Violation> {
        let Some(peer) = self.peers.get_mut(&conn) else { return Ok(()) };
        match (&mut self.content, &mut peer.owned) {
            (Some(content), Owned::Some(before)) => {
                let bits = Bitfield::from_bytes(&bytes, content.metainfo.piece_count()).map_err(|e| e.to_string())?;
                before.iter().for_each(|piece| content.availability.remove(piece));
                peer.set_owned(bits);
                match &peer.owned {
                    Owned::All => content.availability.add_seed(),
                    Owned::Some(bits) => bits.iter().for_each(|piece| content.availability.add(piece)),
                    Owned::Early { .. } => {}
                }
            }
            (None, Owned::Early { bitfield, .. }) => *bitfield = Some(bytes),
            _ => {}
        }
        self.recount(ctx, conn);
        Ok(())
    }

    fn has_all(&mut self, ctx: &mut Context<'_>, conn: ConnId) -> Result<(), Violation> {
        let Some(peer) = self.peers.get_mut(&conn) else { return Ok(()) };
        match (&mut self.content, &mut peer.owned) {
            (Some(content), owned @ Owned::Some(_)) => {
                *owned = Owned::All;
                content.availability.add_seed();
            }
            (None, Owned::Early { all, .. }) => *all = true,
            _ => {}
        }
        self.recount(ctx, conn);
        Ok(())
    }

    /// The peer lost a piece (BEP 54).
    pub(super) fn lost_piece(&mut self, ctx: &mut Context<'_>, conn: ConnId, piece: u32) -> Result<(), Violation> {
        let (Some(peer), Some(content)) = (self.peers.get_mut(&conn), &mut self.content) else { return Ok(()) };
        if piece >= content.metainfo.piece_count() || !peer.has(piece) {
            return Ok(());
        }
        if let Owned::All = peer.owned {
            let all = Bitfield::full(content.metainfo.piece_count());
            content.availability.remove_seed();
            all.iter().for_each(|piece| content.availability.add(piece));
            peer.owned = Owned::Some(all);
        }
        if let Owned::Some(bits) = &mut peer.owned {
            bits.remove(piece);
            content.availability.remove(piece);
        }
        if !content.pieces.has(piece) {
            peer.useful = peer.useful.saturating_sub(1);
        }
        self.update_interest(ctx, conn);
        Ok(())
    }

    fn allowed(&mut self, conn: ConnId, piece: PieceIndex) -> Result<(), Violation> {
        let Some(peer) = self.peers.get_mut(&conn) else { return Ok(()) };
        let known = self.content.as_ref().is_none_or(|content| piece.0 < content.metainfo.piece_count());
        if !known {
            return Err(format!("expected an existing piece as allowed fast, got {}", piece.0));
        }
        if peer.allowed.len() < MAX_ALLOWED {
            peer.allowed.insert(piece.0);
            self.dirty.peers.insert(conn);
        }
        Ok(())
    }

    /// The peer will not answer a request.
    fn rejected(&mut self, ctx: &mut Context<'_>, conn: ConnId, span: BlockSpan) {
        use crate::engine::flow::Answered;
        let (Some(content), Some(peer)) = (&self.content, self.peers.get_mut(&conn)) else { return };
        if !content.metainfo.layout().is_block(span) {
            return;
        }
        let number = content.pieces.number(span.piece.0, span.block().0);
        let answered = peer.flow.rejected(ctx.now, number);
        if answered != Answered::Unknown {
            ctx.limits.download.refund(span.len);
        }
        if answered == Answered::Request {
            if !peer.chokes_us || peer.allowed.contains(&span.piece.0) {
                peer.refused(ctx.now, span.piece.0);
            }
            self.release(conn, number);
            self.reassign_isolated_of(ctx, conn);
        }
        self.dirty.peers.insert(conn);
    }
}
