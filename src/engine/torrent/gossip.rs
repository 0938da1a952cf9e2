//! Peers from peers, and to them (BEP 11); where we are, as peers see it.

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;

use super::Torrent;
use super::messages::Violation;
use crate::engine::address;
use crate::engine::manager::Context;
use crate::engine::peer::Peer;
use crate::types::{ConnId, PeerAddr};
use crate::wire::{Message, PexMessage, PexPeer};

impl Torrent {
    /// Whether peers may be exchanged: those of a private torrent come from its trackers alone (BEP 27).
    pub(super) fn may_gossip(&self, ctx: &Context<'_>) -> bool {
        ctx.config.pex && self.content.as_ref().is_none_or(|content| !content.metainfo.is_private())
    }

    /// Tells peers who else is here.
    pub(super) fn gossip(&mut self, ctx: &mut Context<'_>) {
        let is_due = |peer: &Peer| peer.pex_id != 0 && peer.gossip.is_due(ctx.now);
        // While the metainfo is not known, the torrent may be a private one.
        if self.content.is_none() || !self.may_gossip(ctx) || !self.peers.values().any(is_due) {
            return;
        }
        let named = |peer: &Peer| {
            let addr = peer.dialable()?;
            let is_seed = peer.is_seed() || peer.upload_only;
            Some((addr, PexPeer { addr, is_seed, is_reachable: peer.outgoing }))
        };
        let current: BTreeMap<SocketAddr, PexPeer> = self.peers.values().filter_map(named).collect();
        for peer in self.peers.values_mut().filter(|peer| peer.pex_id != 0 && peer.gossip.is_due(ctx.now)) {
            let own = peer.dialable();
            if let Some(message) = peer.gossip.news(ctx.now, ctx.rng, &current, own) {
                let id = peer.pex_id;
                peer.send(ctx.now, ctx.out, Message::Extended { id, payload: message.encode() });
            }
        }
    }

    /// A peer names others.
    pub(super) fn gossip_heard(
        &mut self,
        ctx: &mut Context<'_>,
        conn: ConnId,
        payload: &[u8],
    ) -> Result<(), Violation> {
        if !self.may_gossip(ctx) {
            return Ok(());
        }
        let Some(peer) = self.peers.get_mut(&conn) else { return Ok(()) };
        if !peer.gossip.may_speak(ctx.now) {
            return Ok(());
        }
        let heard = peer.gossip.heard(PexMessage::decode(payload).map_err(|error| error.to_string())?);
        let complete = self.is_complete();
        // Who has everything has no use for others that have.
        for named in heard.added.into_iter().filter(|named| !(complete && named.is_seed)) {
            self.found(ctx, PeerAddr::Socket(named.addr), true);
        }
        for addr in heard.dropped {
            self.candidates.dropped(&PeerAddr::Socket(addr));
        }
        self.dial(ctx);
        Ok(())
    }

    /// An address to dial, from a source or from a peer.
    pub(super) fn found(&mut self, ctx: &Context<'_>, addr: PeerAddr, gossip: bool) {
        let rank = self.rank(ctx, &addr);
        self.reserve.is_known |= matches!(addr, PeerAddr::Web(_));
        self.candidates.found(addr, gossip, rank, ctx.config.max_candidates);
    }

    /// The priority of a peer (BEP 40); 0 while it is not known how others see us.
    pub(super) fn rank(&self, ctx: &Context<'_>, addr: &PeerAddr) -> u32 {
        let PeerAddr::Socket(theirs) = addr else { return 0 };
        let seen = self.seen_at[usize::from(theirs.is_ipv6())];
        let ours = seen.map(|ip| SocketAddr::new(ip, ctx.config.listen_port.unwrap_or_default()));
        ours.and_then(|ours| address::priority(ours, *theirs)).unwrap_or(0)
    }

    /// A peer says where it sees us. What most peers say counts.
    pub(super) fn seen_at(&mut self, ctx: &Context<'_>, conn: ConnId, ip: IpAddr) {
        let ip = ip.to_canonical();
        let Some(peer) = self.peers.get_mut(&conn).filter(|peer| peer.sees_us_at != Some(ip)) else { return };
        peer.sees_us_at = Some(ip);
        let mut votes: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for seen in self.peers.values().filter_map(|peer| peer.sees_us_at) {
            *votes.entry(seen).or_default() += 1;
        }
        let before = self.seen_at;
        for (family, at) in self.seen_at.iter_mut().enumerate() {
            let votes = votes.iter().filter(|(ip, _)| usize::from(ip.is_ipv6()) == family);
            *at = votes.max_by_key(|(_, count)| **count).map(|(ip, _)| *ip).or(*at);
        }
        if self.seen_at != before {
            let mut candidates = std::mem::take(&mut self.candidates);
            candidates.rank(|addr| self.rank(ctx, addr));
            self.candidates = candidates;
        }
    }

    /// A peer that came by itself says on which port it takes connections: it can be dialled when it is gone.
    pub(super) fn listens_at(&mut self, ctx: &Context<'_>, conn: ConnId, port: u16) {
        let Some(peer) = self.peers.get_mut(&conn).filter(|peer| !peer.outgoing) else { return };
        let PeerAddr::Socket(from) = peer.addr else { return };
        let addr = SocketAddr::new(from.ip().to_canonical(), port);
        if peer.listens.is_some() || port == 0 {
            return;
        }
        peer.listens = Some(addr);
        let addr = PeerAddr::Socket(addr);
        self.found(ctx, addr.clone(), false);
        self.candidates.reached_by(&addr, conn);
    }
}
