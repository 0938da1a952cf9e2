//! Who is connected: dialling, introductions, leaving, bans.

use core::net::SocketAddr;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Torrent;
use crate::engine::manager::Context;
use crate::engine::peer::{Owned, Peer};
use crate::engine::scheduling::WORTH_IT;
use crate::engine::{DisconnectReason, Output};
use crate::types::{ConnId, PeerAddr, PeerIdentity, PieceIndex};
use crate::wire::{Handshake, Message};

/// A connection that lasted so long is worth dialling again soon.
const LASTING: Duration = Duration::from_secs(10);
/// Bytes a second above which a connection is not given up for another.
const IN_USE: f64 = 1024.0;
/// An old connection that was silent for so long gives way to a new one of the same peer.
const STALE: Duration = Duration::from_secs(30);
/// Pieces that a new peer may request while choked (BEP 6).
const ALLOWED_FAST: u64 = 10;
/// Pieces told one by one to a peer that was greeted before they were known to be here.
const MAX_NEWS: usize = 1 << 14;

impl Torrent {
    /// A source named an address.
    pub(in crate::engine) fn peer_found(&mut self, ctx: &mut Context<'_>, addr: PeerAddr) {
        self.found(ctx, addr, false);
        self.dial(ctx);
    }

    pub(in crate::engine) fn connect_failed(&mut self, ctx: &mut Context<'_>, addr: &PeerAddr) {
        self.candidates.failed(addr);
        self.dial(ctx);
    }

    /// Dials what is due.
    pub(super) fn dial(&mut self, ctx: &mut Context<'_>) {
        // Many places stay free for peers that come by themselves. Who has everything dials too, though less: others
        // may not be able to reach it.
        let share = if self.is_complete() { 4 } else { 2 };
        let target = (ctx.config.max_peers / share).max(1);
        let dialing = self.candidates.dialing();
        let room = target.saturating_sub(self.peers.len() + dialing);
        let limit = room.min(ctx.config.max_dials.saturating_sub(dialing));
        if limit == 0 {
            return;
        }
        let urgent = self.search.is_some() || self.readers.waiting_reads() > 0;
        if !self.candidates.has_due(ctx.now, urgent) {
            return;
        }
        let banned = &*ctx.banned;
        let identities: BTreeSet<&PeerIdentity> = self.peers.values().map(|peer| &*peer.identity).collect();
        let dialable: BTreeSet<SocketAddr> = self.peers.values().filter_map(Peer::dialable).collect();
        let unwanted = |addr: &PeerAddr, identity: Option<&PeerIdentity>| match addr {
            // Called when nobody else delivers.
            PeerAddr::Web(_) => true,
            // Several peers may share an IP address.
            PeerAddr::Socket(addr) => banned.contains(&PeerIdentity::Ip(addr.ip())) || dialable.contains(addr),
            _ => identity.is_some_and(|identity| banned.contains(identity) || identities.contains(identity)),
        };
        for addr in self.candidates.dial(ctx.now, limit, urgent, unwanted) {
            ctx.out.push_back(Output::Connect { torrent: self.key, addr });
        }
    }

    /// A handshake has completed.
    pub(in crate::engine) fn connected(
        &mut self,
        ctx: &mut Context<'_>,
        conn: ConnId,
        addr: PeerAddr,
        identity: PeerIdentity,
        handshake: &Handshake,
        outgoing: bool,
    ) {
        if handshake.peer_id == ctx.config.peer_id {
            self.candidates.is_ourselves(&addr);
            ctx.disconnect(conn, DisconnectReason::Protocol("this is ourselves".into()));
            return;
        }
        if outgoing {
            self.candidates.connected(&addr, conn, &identity);
        }
        let peer = Peer::new(ctx.now, conn, addr, identity, handshake, outgoing);
        if let Some(reason) = self.refusal(ctx, &peer) {
            self.candidates.disconnected(ctx.now, &peer.addr, conn, false);
            ctx.disconnect(conn, reason);
            return;
        }
        self.peers.insert(conn, peer);
        self.rerank(ctx, conn, WORTH_IT);
        self.greet(ctx, conn);
        self.introduce(ctx, conn);
    }

    /// Why a connection is not wanted. May close an older one instead.
    fn refusal(&mut self, ctx: &mut Context<'_>, new: &Peer) -> Option<DisconnectReason> {
        let proven = !matches!(*new.identity, PeerIdentity::Ip(_));
        let same = |old: &&Peer| old.identity == new.identity && (proven || old.wire_id == new.wire_id);
        let older: Vec<_> = self.peers.values().filter(same).map(|old| (old.conn, old.outgoing, old.heard)).collect();
        for (conn, outgoing, heard) in &older {
            let stale = ctx.now.saturating_duration_since(*heard) > STALE;
            // Both ends see crossing connections and must drop the same one: the one that the lower id dialled.
            // Of two in one direction only the dialler can tell which came first, so it is the one to choose.
            let keep_new = match (outgoing, new.outgoing) {
                _ if stale => true,
                (true, true) => false,
                (false, false) => older.len() < 2,
                (_, new_outgoing) => new_outgoing == (ctx.config.peer_id > new.wire_id),
            };
            if !keep_new {
                return Some(DisconnectReason::Duplicate);
            }
            if stale || *outgoing != new.outgoing {
                self.leave(ctx, *conn, Some(DisconnectReason::Duplicate));
            }
        }
        let from_there = self.peers.values().filter(|old| old.identity == new.identity).count();
        let crowded = !proven && from_there >= ctx.config.max_peers_per_ip;
        let full = self.peers.len() >= ctx.config.max_peers && !new.is_reserve();
        if crowded || full && !self.make_room(ctx, new) {
            return Some(DisconnectReason::TooMany);
        }
        None
    }

    /// Closes the connection of the lowest priority, if the new one has a higher one (BEP 40): so everybody keeps the
    /// same ones, and whom a newcomer displaces is not for it to choose. Peers in use stay, and so do those that no
    /// priority is defined for.
    fn make_room(&mut self, ctx: &mut Context<'_>, new: &Peer) -> bool {
        let rank = |peer: &Peer| match peer.addr {
            PeerAddr::Socket(_) => self.rank(ctx, &peer.dialable().map_or(peer.addr.clone(), PeerAddr::Socket)),
            PeerAddr::Libp2p(_) | PeerAddr::Web(_) | PeerAddr::Memory(_) => u32::MAX,
        };
        let in_use = |peer: &&Peer| {
            peer.flow.in_flight() > 0 || peer.down.per_second(ctx.now).max(peer.up.per_second(ctx.now)) > IN_USE
        };
        let idle = self.peers.values().filter(|peer| !in_use(peer));
        let lowest = idle.map(|peer| (rank(peer), peer.conn)).min();
        let Some((_, conn)) = lowest.filter(|(lowest, _)| *lowest < rank(new)) else { return false };
        self.leave(ctx, conn, Some(DisconnectReason::TooMany));
        true
    }

    /// Says what we can; what we have comes with it, or later when the metainfo is known.
    fn greet(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        let have = self.content.as_ref().map(|content| content.pieces.have());
        let inventory = match have {
            Some(have) if peer.fast && have.is_full() => Some(Message::HaveAll),
            Some(have) if !have.is_empty() => Some(Message::Bitfield(have.as_bytes().to_vec().into())),
            _ if peer.fast => Some(Message::HaveNone),
            _ => None,
        };
        peer.told_inventory = have.is_some();
        if let Some(message) = inventory {
            peer.send(ctx.now, ctx.out, message);
        }
        self.say_extensions(ctx, conn);
    }

    /// Once the metainfo is known: what the peer has counts, and it hears what has changed since the greeting.
    pub(super) fn introduce(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        let Some(content) = &mut self.content else { return };
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        if let Err(error) = peer.settle(content.metainfo.piece_count()) {
            self.leave(ctx, conn, Some(DisconnectReason::Protocol(error.to_string())));
            return;
        }
        peer.hashes = peer.speaks_hashes_of(&content.metainfo);
        if !std::mem::replace(&mut peer.told_inventory, true) {
            for piece in content.pieces.have().iter().take(MAX_NEWS) {
                peer.send(ctx.now, ctx.out, Message::Have(PieceIndex(piece)));
            }
        }
        match &peer.owned {
            Owned::All => content.availability.add_seed(),
            Owned::Some(bits) => bits.iter().for_each(|piece| content.availability.add(piece)),
            Owned::Early { .. } => {}
        }
        self.allow_fast(ctx, conn);
        self.recount(ctx, conn);
    }

    /// Some pieces may be requested while choked, so that a newcomer gets something to trade (BEP 6).
    fn allow_fast(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        let (Some(content), Some(peer)) = (&self.content, self.peers.get_mut(&conn)) else { return };
        if ctx.config.no_upload
            || !peer.fast
            || peer.is_seed()
            || content.pieces.have().is_empty()
            || !peer.upload.allowed.is_empty()
        {
            return;
        }
        let count = u64::from(content.metainfo.piece_count());
        for _ in 0..ALLOWED_FAST.min(count) {
            let piece = ctx.rng.below(count) as u32;
            if content.pieces.has(piece) && !peer.has(piece) && peer.upload.allowed.insert(piece) {
                peer.upload.allowance += content.pieces.blocks_in(piece);
                peer.send(ctx.now, ctx.out, Message::AllowedFast(PieceIndex(piece)));
            }
        }
    }

    /// Counts anew what a peer has and we lack.
    pub(super) fn recount(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        let (Some(content), Some(peer)) = (&self.content, self.peers.get_mut(&conn)) else { return };
        let have = content.pieces.have();
        peer.useful = match &peer.owned {
            Owned::All => have.len() - have.count(),
            Owned::Some(bits) => bits.iter().filter(|piece| !have.contains(*piece)).count() as u32,
            Owned::Early { .. } => 0,
        };
        self.update_interest(ctx, conn);
        self.dirty.peers.insert(conn);
    }

    /// Tells a peer whether it has something that we lack. Not only what is read counts: it takes a round trip to be
    /// unchoked, which a first read should not wait for.
    pub(super) fn update_interest(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        let interested = peer.useful > 0;
        if interested != peer.we_are_interested {
            peer.we_are_interested = interested;
            let message = if interested { Message::Interested } else { Message::NotInterested };
            peer.send(ctx.now, ctx.out, message);
        }
    }

    /// A connection is over.
    pub(in crate::engine) fn disconnected(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        self.leave(ctx, conn, None);
        self.dial(ctx);
    }

    /// Forgets a peer; closes its connection if there is a reason to.
    pub(super) fn leave(&mut self, ctx: &mut Context<'_>, conn: ConnId, reason: Option<DisconnectReason>) {
        let Some(mut peer) = self.peers.remove(&conn) else { return };
        self.ranking.remove(conn);
        let of_use = reason != Some(DisconnectReason::NoUse) || peer.is_reserve();
        if let Some(reason) = reason {
            ctx.disconnect(conn, reason);
        }
        let useful = of_use && (peer.downloaded > 0 || ctx.now.saturating_duration_since(peer.since) > LASTING);
        self.candidates.disconnected(ctx.now, &peer.addr, conn, useful);
        if let Some(addr) = peer.listens {
            self.candidates.disconnected(ctx.now, &PeerAddr::Socket(addr), conn, useful);
        }
        if let Some(search) = &mut self.search {
            search.gone(conn);
        }
        if let Some(content) = &mut self.content {
            match &peer.owned {
                Owned::All => content.availability.remove_seed(),
                Owned::Some(bits) => bits.iter().for_each(|piece| content.availability.remove(piece)),
                Owned::Early { .. } => {}
            }
        }
        for request in peer.flow.bury_all(ctx.now) {
            ctx.limits.download.refund(request.span.len);
            self.release(conn, request.number);
        }
        let asked: Vec<_> = peer.asks.iter().map(|ask| ask.piece).collect();
        for piece in asked {
            self.ask_leaves_elsewhere(ctx, piece, conn);
        }
        self.reassign_isolated_of(ctx, conn);
        self.unchoke_waiting(ctx);
        self.dirty.peers.remove(&conn);
    }

    /// A peer has proven to send wrong bytes: it is closed out of every torrent.
    pub(super) fn ban(&mut self, ctx: &mut Context<'_>, identity: &Arc<PeerIdentity>, reason: String) {
        if ctx.banned.insert((**identity).clone()) {
            ctx.out.push_back(Output::Ban { identity: (**identity).clone(), reason });
        }
        self.suspicion.remove(identity);
        let conns: Vec<_> =
            self.peers.values().filter(|peer| peer.identity == *identity).map(|peer| peer.conn).collect();
        for conn in conns {
            self.leave(ctx, conn, Some(DisconnectReason::Banned));
        }
        self.throw_away_of(identity);
    }
}
