//! What we say of ourselves, and what peers say of themselves (BEP 10).

use bytes::Bytes;

use super::messages::Violation;
use super::{Content, Torrent};
use crate::engine::fetch_metainfo::Carrier;
use crate::engine::manager::Context;
use crate::metainfo::Form;
use crate::types::{ConnId, PeerAddr};
use crate::wire::{
    EXTENSION_HANDSHAKE_ID, ExtensionHandshake, KNOT_METAINFO, KNOT_METAINFO_ID, KNOT_UPDATE, KNOT_UPDATE_ID, Message,
    UT_METADATA, UT_METADATA_ID, UT_PEX, UT_PEX_ID,
};

/// The extension by which a peer says that it lost a piece (BEP 54).
const DONT_HAVE: &str = "lt_donthave";
/// The number under which we receive it.
const DONT_HAVE_ID: u8 = 3;

impl Content {
    /// What peers may have of the metainfo. Those of a private torrent get it where they got its trackers from.
    pub(super) fn shared(&self, carrier: Carrier) -> Option<&Bytes> {
        let shared = match carrier {
            Carrier::Envelope => Some(&self.envelope),
            Carrier::Info => (self.metainfo.form() != Form::Native).then(|| self.metainfo.info_bytes()),
        };
        shared.filter(|_| !self.metainfo.is_private())
    }
}

impl Torrent {
    /// Says what we can, and what has changed since it was said before.
    pub(super) fn say_extensions(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        let pex = self.may_gossip(ctx);
        // What is not known yet may be asked for when it is.
        let is_open = self.content.is_some();
        let size = |carrier| self.shared(carrier).map(|bytes| bytes.len() as u64);
        let [envelope, info] = [Carrier::Envelope, Carrier::Info].map(size);
        let Some(peer) = self.peers.get_mut(&conn).filter(|peer| peer.extended) else { return };
        let all = [
            (KNOT_METAINFO, KNOT_METAINFO_ID, !is_open || envelope.is_some()),
            (UT_METADATA, UT_METADATA_ID, !is_open || info.is_some()),
            (DONT_HAVE, DONT_HAVE_ID, true),
            (UT_PEX, UT_PEX_ID, pex),
            (KNOT_UPDATE, KNOT_UPDATE_ID, self.meets),
        ];
        let mut ours = ExtensionHandshake {
            client: Some(ctx.config.client.clone()),
            port: ctx.config.listen_port,
            request_queue: Some(ctx.config.upload_queue),
            metadata_size: info,
            metainfo_size: envelope,
            ..ExtensionHandshake::default()
        };
        for (name, id, offered) in all {
            // What was offered before is taken back with a 0.
            if offered || peer.told_extensions {
                ours.extensions.insert(name.to_owned(), if offered { id } else { 0 });
            }
        }
        if let PeerAddr::Socket(addr) = peer.addr {
            ours.your_ip = Some(addr.ip());
        }
        if self.told_complete || peer.told_extensions {
            ours.upload_only = Some(self.told_complete);
        }
        peer.told_extensions = true;
        peer.send(ctx.now, ctx.out, Message::Extended { id: EXTENSION_HANDSHAKE_ID, payload: ours.encode() });
    }

    /// Tells everybody when we have become complete, or no longer are (BEP 21).
    pub(super) fn tell_completion(&mut self, ctx: &mut Context<'_>) {
        let complete = self.is_complete();
        if std::mem::replace(&mut self.told_complete, complete) == complete {
            return;
        }
        let conns: Vec<_> = self.peers.keys().copied().collect();
        for conn in conns {
            self.say_extensions(ctx, conn);
        }
    }

    /// A message of an extension.
    pub(super) fn extended(
        &mut self,
        ctx: &mut Context<'_>,
        conn: ConnId,
        id: u8,
        payload: Bytes,
    ) -> Result<(), Violation> {
        match id {
            EXTENSION_HANDSHAKE_ID => self.extension_handshake(ctx, conn, &payload),
            KNOT_METAINFO_ID => self.metainfo_message(ctx, conn, Carrier::Envelope, &payload),
            UT_METADATA_ID => self.metainfo_message(ctx, conn, Carrier::Info, &payload),
            UT_PEX_ID => self.gossip_heard(ctx, conn, &payload),
            KNOT_UPDATE_ID => self.update_message(ctx, conn, &payload),
            DONT_HAVE_ID => match <[u8; 4]>::try_from(&payload[..]) {
                Ok(piece) => self.lost_piece(ctx, conn, u32::from_be_bytes(piece)),
                Err(_) => Err(format!("expected 4 bytes in {DONT_HAVE}, got {}", payload.len())),
            },
            // An extension that we did not name: BEP 10 says to ignore it.
            _ => Ok(()),
        }
    }

    fn extension_handshake(&mut self, ctx: &mut Context<'_>, conn: ConnId, payload: &[u8]) -> Result<(), Violation> {
        let theirs = ExtensionHandshake::decode(payload).map_err(|error| error.to_string())?;
        let Some(peer) = self.peers.get_mut(&conn) else { return Ok(()) };
        for (name, number) in [
            (KNOT_METAINFO, &mut peer.metainfo_id),
            (UT_METADATA, &mut peer.metadata_id),
            (DONT_HAVE, &mut peer.dont_have_id),
            (UT_PEX, &mut peer.pex_id),
            (KNOT_UPDATE, &mut peer.update_id),
        ] {
            if let Some(id) = theirs.extensions.get(name) {
                *number = *id;
            }
        }
        if let Some(requests) = theirs.request_queue {
            peer.flow.set_peer_queue(requests);
        }
        if let Some(client) = theirs.client {
            peer.client = client;
        }
        peer.upload_only = theirs.upload_only.unwrap_or(peer.upload_only);
        if let Some(ip) = theirs.your_ip {
            self.seen_at(ctx, conn, ip);
        }
        if let Some(port) = theirs.port {
            self.listens_at(ctx, conn, port);
        }
        self.metainfo_offered(ctx, conn, Carrier::Envelope, theirs.metainfo_size)?;
        self.metainfo_offered(ctx, conn, Carrier::Info, theirs.metadata_size)?;
        self.met(ctx, conn);
        self.dirty.peers.insert(conn);
        Ok(())
    }
}
