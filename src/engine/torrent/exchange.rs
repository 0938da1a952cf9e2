//! The metainfo, to and from peers: `knot_metainfo` and `ut_metadata`, with the messages of BEP 9.

use std::sync::Arc;

use bytes::Bytes;

use super::Torrent;
use super::messages::Violation;
use crate::engine::fetch_metainfo::{Carrier, Fetched, PieceAsk};
use crate::engine::manager::Context;
use crate::engine::peer::Peer;
use crate::engine::{DisconnectReason, Output};
use crate::metainfo::{HashRange, Metainfo};
use crate::types::{ConnId, PeerAddr, SwarmId};
use crate::wire::{HashRequest, METADATA_PIECE_LEN, Message, MetadataMessage};

/// How often a peer may have the whole metainfo.
const SERVINGS: u32 = 4;

impl Torrent {
    /// A peer says that it has the metainfo, and how large it is.
    pub(super) fn metainfo_offered(
        &mut self,
        ctx: &mut Context<'_>,
        conn: ConnId,
        carrier: Carrier,
        size: Option<u64>,
    ) -> Result<(), Violation> {
        let named = self.peers.get(&conn).is_some_and(|peer| peer.carrier_id(carrier) != 0);
        if let (Some(search), Some(size), true) = (&mut self.search, size, named) {
            search.offer(conn, carrier, size)?;
            self.request_metainfo(ctx);
        }
        Ok(())
    }

    pub(super) fn request_metainfo(&mut self, ctx: &mut Context<'_>) {
        let Some(search) = &mut self.search else { return };
        search.expire(ctx.now, ctx.config.metainfo_timeout);
        for PieceAsk { conn, carrier, piece } in search.requests(ctx.now, ctx.config.metainfo_timeout) {
            if let Some(peer) = self.peers.get_mut(&conn) {
                let payload = MetadataMessage::Request { piece }.encode();
                let id = peer.carrier_id(carrier);
                peer.send(ctx.now, ctx.out, Message::Extended { id, payload });
            }
        }
        self.request_layers(ctx);
    }

    /// Asks for piece hashes that the `info` does not have.
    fn request_layers(&mut self, ctx: &mut Context<'_>) {
        self.change_to_v2(ctx);
        let Some(layers) = self.search.as_mut().and_then(|search| search.layers.as_mut()) else { return };
        let able = self.peers.values().filter(|peer| peer.speaks_hashes_of(layers.metainfo()));
        let able: Vec<_> = able.map(|peer| peer.conn).collect();
        if let Some(metainfo) = layers.given_up(ctx.now, &able) {
            return self.metainfo_found(ctx, metainfo);
        }
        for (conn, range) in layers.requests(ctx.now, &able) {
            if let Some(peer) = self.peers.get_mut(&conn) {
                let HashRange { root, base_layer, index, length, proof_layers } = range;
                let request = HashRequest { root, base_layer, index, length, proof_layers };
                peer.send(ctx.now, ctx.out, Message::HashRequest(request));
            }
        }
    }

    /// The torrent turned out to be hybrid: peers are looked for in its v2 swarm, too.
    fn change_to_v2(&mut self, ctx: &mut Context<'_>) {
        let Some(layers) = self.search.as_mut().and_then(|search| search.layers.as_mut()) else { return };
        let Some(swarm) = layers.hybrid_news() else { return };
        ctx.out.push_back(Output::HybridFound { torrent: self.key, swarm });
        let v1 = layers.metainfo().info_hash().swarm_id();
        if self.dial_anew_for_v2(ctx, v1)
            && let Some(layers) = self.search.as_mut().and_then(|search| search.layers.as_mut())
        {
            layers.be_patient();
        }
    }

    /// Peers of the v1 swarm of a hybrid torrent cannot be asked for hashes: those who say that they know v2 are dialled
    /// anew, now that it is known what to change to. Whether there are any.
    pub(super) fn dial_anew_for_v2(&mut self, ctx: &mut Context<'_>, v1: SwarmId) -> bool {
        let changes = |peer: &&Peer| {
            peer.outgoing && peer.offers_hashes && peer.swarm == v1 && matches!(peer.addr, PeerAddr::Socket(_))
        };
        let changing: Vec<_> = self.peers.values().filter(changes).map(|peer| (peer.conn, peer.addr.clone())).collect();
        for (conn, addr) in &changing {
            self.leave(ctx, *conn, Some(DisconnectReason::Upgrade));
            self.candidates.dial_again(addr);
        }
        !changing.is_empty()
    }

    /// Hashes came while the metainfo is searched; `None`: a peer will not tell them. False if nothing is searched.
    pub(super) fn layer_heard(
        &mut self,
        ctx: &mut Context<'_>,
        conn: ConnId,
        request: &HashRequest,
        hashes: Option<&[u8]>,
    ) -> bool {
        let Some(layers) = self.search.as_mut().and_then(|search| search.layers.as_mut()) else { return false };
        let HashRequest { root, base_layer, index, length, proof_layers } = *request;
        let range = HashRange { root, base_layer, index, length, proof_layers };
        let fetched = match hashes {
            Some(hashes) => layers.answered(conn, &range, hashes),
            None => {
                layers.rejected(ctx.now, conn, &range);
                Fetched::Waiting
            }
        };
        self.metainfo_piece(ctx, conn, fetched);
        true
    }

    pub(super) fn metainfo_message(
        &mut self,
        ctx: &mut Context<'_>,
        conn: ConnId,
        carrier: Carrier,
        payload: &Bytes,
    ) -> Result<(), Violation> {
        match MetadataMessage::decode(payload).map_err(|error| error.to_string())? {
            None => {}
            Some(MetadataMessage::Request { piece }) => self.serve_metainfo(ctx, conn, carrier, piece),
            Some(MetadataMessage::Reject { piece }) => {
                if let Some(search) = &mut self.search {
                    search.rejected(ctx.now, conn, carrier, piece);
                }
                self.request_metainfo(ctx);
            }
            Some(MetadataMessage::Data { piece, total_size, data }) => {
                if let Some(search) = &mut self.search {
                    let fetched = search.data(ctx.now, conn, carrier, piece, total_size, data);
                    self.metainfo_piece(ctx, conn, fetched);
                }
            }
        }
        Ok(())
    }

    fn metainfo_piece(&mut self, ctx: &mut Context<'_>, conn: ConnId, fetched: Fetched) {
        match fetched {
            Fetched::Waiting => self.request_metainfo(ctx),
            Fetched::Done(metainfo) => self.metainfo_found(ctx, *metainfo),
            Fetched::Unusable(error) => {
                self.search = None;
                ctx.out.push_back(Output::MetainfoRefused { torrent: self.key, reason: error.to_string() });
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

    fn metainfo_found(&mut self, ctx: &mut Context<'_>, metainfo: Metainfo) {
        self.search = None;
        ctx.out.push_back(Output::MetainfoFetched { torrent: self.key, metainfo: Arc::new(metainfo) });
    }

    /// Sends a piece of the metainfo. A peer gets all of it a few times, at a bounded rate, then is refused.
    fn serve_metainfo(&mut self, ctx: &mut Context<'_>, conn: ConnId, carrier: Carrier, piece: u32) {
        let shared = self.shared(carrier).cloned();
        let Some(peer) = self.peers.get_mut(&conn).filter(|peer| peer.carrier_id(carrier) != 0) else { return };
        let shared = shared.unwrap_or_default();
        let start = u64::from(piece) * u64::from(METADATA_PIECE_LEN);
        let pieces = (shared.len() as u32).div_ceil(METADATA_PIECE_LEN);
        let exists = start < shared.len() as u64;
        let within = peer.metainfo_served < pieces.saturating_mul(SERVINGS);
        let answer = if exists && within && peer.may_ask_metainfo(ctx.now) {
            peer.metainfo_served += 1;
            let end = shared.len().min(start as usize + METADATA_PIECE_LEN as usize);
            MetadataMessage::Data { piece, total_size: shared.len() as u64, data: shared.slice(start as usize..end) }
        } else {
            MetadataMessage::Reject { piece }
        };
        let id = peer.carrier_id(carrier);
        peer.send(ctx.now, ctx.out, Message::Extended { id, payload: answer.encode() });
    }
}
