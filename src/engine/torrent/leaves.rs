//! Leaf hashes of pieces, from peers (BEP 52): with them single blocks can be verified.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Content, Torrent};
use crate::engine::Output;
use crate::engine::manager::Context;
use crate::engine::peer::{HashAsk, Peer};
use crate::engine::pieces::Leaves;
use crate::engine::scheduling::{GUESSED_RATE, HASH_TIMEOUT, LEAVES_GAIN, PATIENCE, PATIENCE_TIMES};
use crate::metainfo::LeafRequest;
use crate::types::{BLOCK_LEN, ConnId, PieceIndex};
use crate::wire::{HashRequest, Message};

/// How long an answer of a peer is waited for before another one is asked, too.
fn patience(peer: &Peer) -> Duration {
    let Some(delay_s) = peer.flow.delay_s() else { return PATIENCE * 2 };
    (PATIENCE + Duration::from_secs_f64(delay_s * PATIENCE_TIMES)).min(HASH_TIMEOUT)
}

/// The leaf hashes of one piece, on their way.
#[derive(Debug, Default)]
pub(super) struct LeafJob {
    /// Wanted for their own sake.
    pub(super) wanted: bool,
    parts: Vec<(LeafRequest, Option<Vec<[u8; 32]>>)>,
    /// Another peer was asked, too.
    hedged: bool,
    /// Peers that do not tell.
    tried: BTreeSet<ConnId>,
}

impl Content {
    /// Whether single blocks of a piece can be verified, with hashes that peers have to tell.
    pub(super) fn needs_leaves(&self, piece: u32) -> bool {
        self.metainfo.verifies_blocks() && self.metainfo.leaf_count(PieceIndex(piece)) > 1
    }
}

impl Torrent {
    /// Asks for the leaf hashes of an active piece. Nobody to ask: it is checked as a whole.
    pub(super) fn ask_leaves(&mut self, ctx: &mut Context<'_>, piece: u32, prefer: Option<ConnId>) {
        let Some(content) = &mut self.content else { return };
        let job = content.leaf_jobs.entry(piece).or_default();
        if job.parts.is_empty() {
            let requests = content.metainfo.leaf_requests(PieceIndex(piece));
            job.parts = requests.into_iter().map(|request| (request, None)).collect();
        }
        let able = self.peers.values().filter(|p| p.hashes && p.has(piece) && !job.tried.contains(&p.conn));
        let best = able.min_by(|a, b| {
            let key = |p: &crate::engine::peer::Peer| (p.flow.stalls, Some(p.conn) != prefer, p.asks.len());
            key(a).cmp(&key(b))
        });
        let Some(conn) = best.map(|peer| peer.conn).filter(|_| !job.parts.is_empty()) else {
            content.leaf_jobs.remove(&piece);
            if let Some(active) = content.pieces.active_mut(piece) {
                active.leaves = Leaves::Unavailable;
            }
            self.readers.missing_again();
            self.dirty.all = true;
            self.check_if_settled(ctx, piece);
            return;
        };
        if let Some(active) = content.pieces.active_mut(piece) {
            active.leaves = Leaves::Asked;
        }
        self.send_asks(ctx, piece, conn);
    }

    /// Asks a peer for the leaf hashes of a piece that have not come.
    fn send_asks(&mut self, ctx: &mut Context<'_>, piece: u32, conn: ConnId) {
        let job = self.content.as_ref().and_then(|content| content.leaf_jobs.get(&piece));
        let (Some(job), Some(peer)) = (job, self.peers.get_mut(&conn)) else { return };
        for (leaves, _) in job.parts.iter().filter(|(_, got)| got.is_none()) {
            // Behind what is being sent to us already.
            let eta_s = peer.flow.eta(ctx.now, GUESSED_RATE);
            let due = ctx.now + Duration::from_secs_f64(eta_s.min(3600.0));
            let ask = HashAsk { piece, leaves: *leaves, sent: ctx.now, due };
            peer.asks.push(ask);
            peer.send(ctx.now, ctx.out, Message::HashRequest(ask.wire()));
        }
    }

    /// A read is blocked on a block that `conn` is about to be asked for: if the leaf hashes were asked of slower ones it
    /// is asked for them, too.
    pub(super) fn ask_leaves_of_quicker(&mut self, ctx: &mut Context<'_>, piece: u32, conn: ConnId) {
        let Some(content) = &mut self.content else { return };
        let Some(job) = content.leaf_jobs.get_mut(&piece).filter(|job| !job.hedged && !job.tried.contains(&conn))
        else {
            return;
        };
        let Some(quick) = self.peers.get(&conn).filter(|peer| peer.hashes) else { return };
        let by = ctx.now + Duration::from_secs_f64(quick.flow.eta(ctx.now, GUESSED_RATE).min(3600.0));
        let mut asks = self.peers.values().flat_map(|peer| peer.asks.iter()).filter(|ask| ask.piece == piece);
        if asks.all(|ask| ask.due > by + LEAVES_GAIN) {
            job.hedged = true;
            self.send_asks(ctx, piece, conn);
        }
    }

    /// Asks another peer, too, where the first one takes long and a read waits for the piece.
    fn hedge_leaves(&mut self, ctx: &mut Context<'_>, piece: u32, first: ConnId) {
        let Some(content) = &mut self.content else { return };
        let waits = self.readers.wait_for_any_of(piece);
        let Some(job) = content.leaf_jobs.get_mut(&piece).filter(|job| waits && !job.hedged) else { return };
        let able = self.peers.values().filter(|peer| {
            let is_other = peer.conn != first && !job.tried.contains(&peer.conn);
            is_other && peer.hashes && peer.has(piece) && peer.flow.stalls == 0
        });
        let quickest = able.min_by_key(|peer| peer.flow.eta(ctx.now, f64::from(BLOCK_LEN)).to_bits());
        let Some(second) = quickest.map(|peer| peer.conn) else { return };
        job.hedged = true;
        self.send_asks(ctx, piece, second);
    }

    /// A peer did not tell the leaf hashes of a piece: others are asked.
    pub(super) fn ask_leaves_elsewhere(&mut self, ctx: &mut Context<'_>, piece: u32, not: ConnId) {
        if let Some(peer) = self.peers.get_mut(&not) {
            peer.asks.retain(|ask| ask.piece != piece);
        }
        let Some(content) = &mut self.content else { return };
        let Some(job) = content.leaf_jobs.get_mut(&piece) else { return };
        if job.tried.insert(not) && (job.wanted || content.pieces.active(piece).is_some()) {
            self.ask_leaves(ctx, piece, None);
        }
    }

    /// The question that a peer's answer is about.
    fn take_ask(&mut self, conn: ConnId, request: &HashRequest) -> Option<HashAsk> {
        let peer = self.peers.get_mut(&conn)?;
        let at = peer.asks.iter().position(|ask| ask.wire() == *request)?;
        Some(peer.asks.remove(at))
    }

    /// Hashes came.
    pub(super) fn hashes(&mut self, ctx: &mut Context<'_>, conn: ConnId, request: &HashRequest, hashes: &[u8]) {
        if self.layer_heard(ctx, conn, request, Some(hashes)) {
            return;
        }
        let Some(ask) = self.take_ask(conn, request) else { return };
        let piece = ask.piece;
        let Some(content) = &mut self.content else { return };
        let Some(job) = content.leaf_jobs.get_mut(&piece) else { return };
        let leaves = match content.metainfo.verify_leaves(PieceIndex(piece), &ask.leaves, hashes) {
            Ok(leaves) => leaves,
            Err(error) => {
                self.hash_failures += 1;
                if let Some(identity) = self.peers.get(&conn).map(|peer| peer.identity.clone()) {
                    self.ban(ctx, &identity, format!("sent wrong hashes: {error}"));
                }
                self.ask_leaves_elsewhere(ctx, piece, conn);
                return;
            }
        };
        if let Some(part) = job.parts.iter_mut().find(|(request, got)| *request == ask.leaves && got.is_none()) {
            part.1 = Some(leaves);
        }
        if job.parts.iter().any(|(_, got)| got.is_none()) {
            return;
        }
        let all: Vec<[u8; 32]> = job.parts.drain(..).filter_map(|(_, got)| got).flatten().collect();
        content.leaf_jobs.remove(&piece);
        content.pieces.set_leaves_known(piece);
        ctx.out.push_back(Output::SetLeaves { torrent: self.key, piece: PieceIndex(piece), leaves: all.into() });
        self.check_settled(ctx, piece);
        self.retire(piece);
    }

    /// A peer will not tell hashes. It may hold piece hashes only: no offence.
    pub(super) fn hashes_rejected(&mut self, ctx: &mut Context<'_>, conn: ConnId, request: &HashRequest) {
        if self.layer_heard(ctx, conn, request, None) {
            return;
        }
        if let Some(ask) = self.take_ask(conn, request) {
            self.ask_leaves_elsewhere(ctx, ask.piece, conn);
        }
    }

    /// Whether leaf hashes of some piece are on their way, or to be asked for.
    pub(super) fn awaits_leaves(&self) -> bool {
        self.content.as_ref().is_some_and(|content| !content.leaf_jobs.is_empty())
    }

    /// Gives up on questions that were not answered in time.
    pub(super) fn expire_hashes(&mut self, ctx: &mut Context<'_>) {
        let age = |ask: &HashAsk| ctx.now.saturating_duration_since(ask.sent);
        let asks = self.peers.values().flat_map(|peer| peer.asks.iter().map(move |ask| (peer, ask)));
        let late: Vec<(ConnId, u32, bool)> = asks
            .filter(|(peer, ask)| age(ask) > patience(peer))
            .map(|(peer, ask)| (peer.conn, ask.piece, age(ask) > HASH_TIMEOUT))
            .collect();
        for (conn, piece, is_over) in late {
            if is_over {
                self.ask_leaves_elsewhere(ctx, piece, conn);
            } else {
                self.hedge_leaves(ctx, piece, conn);
            }
        }
    }
}
