//! The metainfo, to and from peers: `knot_metainfo`, with the messages of BEP 9.

use std::sync::Arc;

use bytes::Bytes;

use super::Torrent;
use super::messages::Violation;
use crate::engine::fetch_metainfo::Fetched;
use crate::engine::manager::Context;
use crate::engine::{DisconnectReason, Output};
use crate::types::ConnId;
use crate::wire::{METADATA_PIECE_LEN, Message, MetadataMessage};

impl Torrent {
    /// A peer says that it has the metainfo, and how large it is.
    pub(super) fn metainfo_offered(
        &mut self,
        ctx: &mut Context<'_>,
        conn: ConnId,
        size: Option<u64>,
    ) -> Result<(), Violation> {
        let Some(peer) = self.peers.get_mut(&conn) else { return Ok(()) };
        peer.metainfo_size = size.or(peer.metainfo_size);
        if let (Some(search), Some(size)) = (&mut self.search, peer.metainfo_size)
            && peer.metainfo_id != 0
        {
            search.offer(conn, size)?;
            self.request_metainfo(ctx);
        }
        Ok(())
    }

    pub(super) fn request_metainfo(&mut self, ctx: &mut Context<'_>) {
        let Some(search) = &mut self.search else { return };
        search.expire(ctx.now, ctx.config.metainfo_timeout);
        for (conn, piece) in search.requests(ctx.now) {
            if let Some(peer) = self.peers.get_mut(&conn) {
                let payload = MetadataMessage::Request { piece }.encode();
                let id = peer.metainfo_id;
                peer.send(ctx.now, ctx.out, Message::Extended { id, payload });
            }
        }
    }

    pub(super) fn metainfo_message(
        &mut self,
        ctx: &mut Context<'_>,
        conn: ConnId,
        payload: &Bytes,
    ) -> Result<(), Violation> {
        match MetadataMessage::decode(payload).map_err(|error| error.to_string())? {
            None => {}
            Some(MetadataMessage::Request { piece }) => self.serve_metainfo(ctx, conn, piece),
            Some(MetadataMessage::Reject { .. }) => {
                if let Some(search) = &mut self.search {
                    search.refused(ctx.now, conn);
                }
                self.request_metainfo(ctx);
            }
            Some(MetadataMessage::Data { piece, total_size, data }) => {
                self.metainfo_piece(ctx, conn, piece, total_size, data);
            }
        }
        Ok(())
    }

    fn metainfo_piece(&mut self, ctx: &mut Context<'_>, conn: ConnId, piece: u32, total_size: u64, data: Bytes) {
        let Some(search) = &mut self.search else { return };
        match search.data(ctx.now, conn, piece, total_size, data) {
            Fetched::Waiting => self.request_metainfo(ctx),
            Fetched::Done(metainfo) => {
                self.search = None;
                let metainfo = Arc::new(*metainfo);
                ctx.out.push_back(Output::MetainfoFetched { torrent: self.key, metainfo });
            }
            Fetched::Wrong(what) => {
                self.hash_failures += 1;
                match self.peers.get(&conn).map(|peer| peer.identity.clone()) {
                    Some(identity) => self.ban(ctx, &identity, format!("sent a wrong metainfo: {what}")),
                    None => self.leave(ctx, conn, Some(DisconnectReason::Protocol(what))),
                }
                self.request_metainfo(ctx);
            }
        }
    }

    /// Sends a piece of the metainfo. A peer gets all of it a few times, then is refused.
    fn serve_metainfo(&mut self, ctx: &mut Context<'_>, conn: ConnId, piece: u32) {
        let Some(peer) = self.peers.get_mut(&conn).filter(|peer| peer.metainfo_id != 0) else { return };
        let bytes = self.content.as_ref().map(|content| content.metainfo.bytes().clone()).unwrap_or_default();
        let start = u64::from(piece) * u64::from(METADATA_PIECE_LEN);
        let pieces = (bytes.len() as u32).div_ceil(METADATA_PIECE_LEN);
        let answer = if start < bytes.len() as u64 && peer.metainfo_served < pieces.saturating_mul(4) {
            peer.metainfo_served += 1;
            let end = bytes.len().min(start as usize + METADATA_PIECE_LEN as usize);
            let data = bytes.slice(start as usize..end);
            MetadataMessage::Data { piece, total_size: bytes.len() as u64, data }
        } else {
            MetadataMessage::Reject { piece }
        };
        let id = peer.metainfo_id;
        peer.send(ctx.now, ctx.out, Message::Extended { id, payload: answer.encode() });
    }
}
