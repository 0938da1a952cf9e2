//! Requests ahead of readers give way to a read that is blocked.
//!
//! A peer answers in order, so a block that is asked of it comes after all that it was asked before. Where those are
//! blocks that nobody waits for yet they are taken back and asked for again behind the read. And what a slow peer was
//! to deliver some time ahead of another reader is taken back where a quicker one has it for the read. So a seek costs
//! about a round trip, however much else is being fetched.

use std::collections::BTreeMap;

use super::{Content, Torrent};
use crate::engine::manager::Context;
use crate::engine::peer::Peer;
use crate::engine::scheduling::{WAY_BLOCKS, WAY_GAIN, WAY_GAIN_S, WAY_PEERS};
use crate::types::{BLOCK_LEN, ConnId, ReadId};

/// A peer that requests could be taken back from.
struct Clearable {
    conn: ConnId,
    /// Seconds until it would deliver another block without them, and those for one more.
    eta_s: f64,
    block_s: f64,
    /// Blocks that could be taken back.
    deferrable: Vec<u32>,
}

impl Torrent {
    /// Takes requests back that would hold up a read.
    pub(super) fn make_way(&mut self, ctx: &mut Context<'_>, read: ReadId) {
        let swarm = self.estimate(ctx);
        self.take_back(ctx, read);
        self.clear_queues(ctx, swarm.guess, read);
    }

    /// Takes blocks of a read back from peers that were to deliver them later than others would now.
    fn take_back(&mut self, ctx: &mut Context<'_>, read: ReadId) {
        let Some(content) = &self.content else { return };
        let late = |number: &u32| {
            let (piece, _) = content.pieces.place(*number);
            let mut asked = content.pieces.asked(*number);
            let (holder, None) = (asked.next()?, asked.next()) else { return None };
            let flow = &self.peers.get(&holder)?.flow;
            let request = flow.deferrable(ctx.now).find(|request| request.number == *number)?;
            let left_s = request.due.saturating_duration_since(ctx.now).as_secs_f64();
            let quicker = self.ranking.iter(ctx.now).take_while(|(eta, _)| eta * WAY_GAIN + WAY_GAIN_S < left_s);
            let able = |conn: ConnId| {
                let peer = self.peers.get(&conn).filter(|peer| conn != holder && peer.flow.stalls == 0);
                peer.is_some_and(|peer| !peer.flow.knows(*number) && self.may_ask(ctx, content, peer, piece))
            };
            quicker.map(|(_, conn)| conn).any(able).then_some((holder, *number))
        };
        let asked = self.readers.asked_of(read, &content.pieces, WAY_BLOCKS);
        let late: Vec<_> = asked.iter().filter_map(late).collect();
        for (conn, number) in late {
            self.cancel(ctx, conn, number);
        }
    }

    /// Takes requests back that would hold up the blocks of `read` which nobody was asked for.
    fn clear_queues(&mut self, ctx: &mut Context<'_>, guess: f64, read: ReadId) {
        let Some(content) = &self.content else { return };
        let blocks = self.readers.unasked_of(read, &content.pieces, WAY_BLOCKS);
        let Some(quickest) = self.ranking.iter(ctx.now).next().filter(|_| !blocks.is_empty()) else { return };
        let mut clearable = self.clearable(ctx, content, quickest.0, guess);
        let mut cleared: BTreeMap<ConnId, Vec<u32>> = BTreeMap::new();
        for (piece, _) in blocks {
            let able = |conn: &ConnId| {
                let peer = self.peers.get(conn).filter(|peer| peer.flow.stalls == 0);
                peer.is_some_and(|peer| self.may_ask(ctx, content, peer, piece))
            };
            let as_it_is =
                self.ranking.iter(ctx.now).find(|(_, conn)| able(conn)).map_or(f64::INFINITY, |(eta, _)| eta);
            let best = clearable.iter_mut().filter(|peer| able(&peer.conn));
            let Some(best) = best.min_by(|a, b| a.eta_s.total_cmp(&b.eta_s)) else { break };
            if best.eta_s * WAY_GAIN + WAY_GAIN_S > as_it_is {
                break;
            }
            best.eta_s += best.block_s;
            cleared.entry(best.conn).or_insert_with(|| std::mem::take(&mut best.deferrable));
        }
        for (conn, number) in cleared.into_iter().flat_map(|(conn, all)| all.into_iter().map(move |it| (conn, it))) {
            self.cancel(ctx, conn, number);
        }
    }

    /// Peers that would deliver a block clearly earlier than in `quickest_s` seconds if they were asked for nothing
    /// ahead.
    fn clearable(&self, ctx: &Context<'_>, content: &Content, quickest_s: f64, guess: f64) -> Vec<Clearable> {
        let ahead = |peer: &&Peer| peer.flow.requests().any(|request| request.ahead);
        let first_ones = self.ranking.iter(ctx.now).take(WAY_PEERS).filter_map(|(_, conn)| self.peers.get(&conn));
        let peers = first_ones.filter(|peer| peer.flow.stalls == 0).filter(ahead);
        let clearable = peers.filter_map(|peer| {
            let block_s = f64::from(BLOCK_LEN) / peer.flow.rate(ctx.now).unwrap_or(guess).max(1.0);
            let least_s = peer.flow.eta_without(ctx.now, guess, peer.flow.in_flight());
            if least_s * WAY_GAIN + WAY_GAIN_S > quickest_s {
                return None;
            }
            let deferrable = peer.flow.deferrable(ctx.now).filter(|request| {
                !self.readers.wait_for(request.span.piece.0, request.span.block().0, &content.pieces)
            });
            let deferrable: Vec<u32> = deferrable.map(|request| request.number).collect();
            let eta_s = peer.flow.eta_without(ctx.now, guess, deferrable.len());
            (!deferrable.is_empty()).then_some(Clearable { conn: peer.conn, eta_s, block_s, deferrable })
        });
        clearable.collect()
    }
}
