//! What time itself brings: time-outs, rounds, silence.

use std::time::{Duration, Instant};

use super::Torrent;
use crate::engine::DisconnectReason;
use crate::engine::choker::ROUND;
use crate::engine::manager::Context;
use crate::engine::scheduling::WORTH_IT;
use crate::types::ConnId;
use crate::wire::Message;

/// Between two looks while a read waits: how late a second copy may be asked for.
const WAITING: Duration = Duration::from_millis(25);
/// Between two looks while requests are in flight.
const BUSY: Duration = Duration::from_millis(200);
const IDLE: Duration = Duration::from_secs(1);
/// Between two looks at whom to tell of others: each is told once a minute.
const GOSSIP: Duration = Duration::from_secs(1);
/// A look that comes so late: the machine slept, or the clock jumped. Nobody is to blame for what did not come.
const LOST: Duration = Duration::from_secs(10);
/// Between two keep-alives of a connection that says nothing else.
const KEEP_ALIVE: Duration = Duration::from_secs(100);
/// A peer is gone when it was silent for this long.
const SILENCE: Duration = Duration::from_secs(240);
/// Peers that have everything and are kept by one that has everything: storage may give up something any time.
const MAX_IDLE_SEEDS: usize = 8;

impl Torrent {
    /// When [`Torrent::duties`] are to be done next.
    pub(in crate::engine) fn next_duty(&self) -> Instant {
        self.ranking.next_opening().map_or(self.next_duty, |opening| opening.min(self.next_duty))
    }

    /// A read began to wait, which wants a closer look than idleness.
    pub(super) fn wake_duties(&mut self, now: Instant) {
        self.next_duty = self.next_duty.min(now + WAITING);
    }

    pub(in crate::engine) fn duties(&mut self, ctx: &mut Context<'_>) {
        while let Some(conn) = self.ranking.take_opening(ctx.now) {
            self.dirty.opened.push(conn);
        }
        if ctx.now < self.next_duty {
            return;
        }
        if ctx.now.saturating_duration_since(self.next_duty) > LOST {
            self.forgive(ctx.now);
        }
        self.expire_reads(ctx);
        if self.readers.waiting_reads() > 0 && self.is_time_to_reconsider(ctx.now) {
            self.dirty.all = true;
        }
        self.hedge(ctx);
        if self.hold.is_some_and(|until| ctx.now >= until) {
            self.hold = None;
            self.dirty.all = true;
        }
        if ctx.now >= self.next_housekeeping {
            self.next_housekeeping = ctx.now + BUSY;
            self.check_stalls(ctx);
            if self.awaits_leaves() {
                self.expire_hashes(ctx);
            }
            self.expire_isolated(ctx);
            self.request_metainfo(ctx);
            self.dial(ctx);
            self.tend_reserve(ctx);
            self.hear_late(ctx);
            self.dirty.all |= self.prefetch.is_bulk();
        }
        if ctx.now >= self.next_gossip {
            self.next_gossip = ctx.now + GOSSIP;
            self.expire_hashes(ctx);
            self.tend_connections(ctx);
            self.gossip(ctx);
        }
        if ctx.now >= self.next_round {
            self.next_round = ctx.now + ROUND;
            self.choke_round(ctx);
            self.tell_completion(ctx);
        }
        let is_busy = || self.search.is_some() || self.peers.values().any(|peer| peer.flow.in_flight() > 0);
        let pace = if self.readers.waiting_reads() > 0 {
            WAITING
        } else if is_busy() {
            BUSY
        } else {
            IDLE
        };
        let next = ctx.now + pace;
        self.next_duty = self.readers.next_expiry().map_or(next, |expiry| next.min(expiry.max(ctx.now)));
    }

    /// Time was lost: whatever is waited for has all its time again.
    fn forgive(&mut self, now: Instant) {
        self.readers.forgive(now);
        for peer in self.peers.values_mut() {
            peer.heard = now;
            peer.flow.progress = peer.flow.progress.map(|_| now);
        }
    }

    /// Peers that leave requests unanswered: what they hold goes to others that can take it.
    fn check_stalls(&mut self, ctx: &mut Context<'_>) {
        let stalled: Vec<ConnId> =
            self.peers.values().filter(|peer| peer.flow.is_stalled(ctx.now)).map(|peer| peer.conn).collect();
        for conn in stalled {
            let Some(peer) = self.peers.get_mut(&conn) else { continue };
            peer.flow.stalls += 1;
            peer.flow.progress = Some(ctx.now);
            self.rerank(ctx, conn, WORTH_IT);
            let Some(peer) = self.peers.get(&conn) else { continue };
            let requests: Vec<_> = peer.flow.requests().map(|request| (request.number, request.span.piece.0)).collect();
            for (number, piece) in requests {
                let able = |other: &&super::Peer| {
                    let is_other = other.conn != conn && other.flow.stalls == 0;
                    is_other && self.is_free(ctx.now, other) && other.serves(ctx.now, piece)
                };
                if self.peers.values().any(|other| able(&other)) {
                    self.cancel(ctx, conn, number);
                }
            }
        }
    }

    /// Keep-alives out, silence in, and no more seeds than can be of use.
    fn tend_connections(&mut self, ctx: &mut Context<'_>) {
        let complete = self.is_complete();
        let mut idle_seeds = 0;
        let mut over: Vec<(ConnId, DisconnectReason)> = Vec::new();
        for peer in self.peers.values_mut() {
            let idle_seed = complete && (peer.is_seed() || peer.upload_only);
            idle_seeds += usize::from(idle_seed);
            peer.flow.expire_tombstones(ctx.now);
            let silent = ctx.now.saturating_duration_since(peer.heard);
            if silent > SILENCE {
                over.push((peer.conn, DisconnectReason::Silent(silent)));
            } else if idle_seed && idle_seeds > MAX_IDLE_SEEDS {
                over.push((peer.conn, DisconnectReason::NoUse));
            } else if ctx.now.saturating_duration_since(peer.sent) > KEEP_ALIVE {
                peer.send(ctx.now, ctx.out, Message::KeepAlive);
            }
        }
        for (conn, reason) in over {
            self.leave(ctx, conn, Some(reason));
        }
    }
}
