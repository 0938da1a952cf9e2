//! The block that a peer should be asked for.

use std::cell::Cell;
use std::cmp::Ordering;

use super::ranking::Estimate;
use super::{Content, Torrent};
use crate::engine::Prefetch;
use crate::engine::manager::Context;
use crate::engine::peer::Peer;
use crate::engine::readers::{Agenda, Lane, Urgency};
use crate::engine::scheduling::{MAX_LOOKS, SLACK, SLACK_S};
use crate::types::BLOCK_LEN;

/// A block to ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pick {
    pub(super) piece: u32,
    pub(super) block: u32,
    /// For whom; nobody reads it otherwise.
    pub(super) lane: Option<usize>,
    /// A read is blocked on it.
    pub(super) blocked: bool,
}

/// Why a peer is asked for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Idle {
    /// It could have taken something of every reader, but others would deliver all of it earlier. So it is for peers
    /// that would deliver still later.
    OthersFirst,
    Other,
}

/// What becomes of a block that was looked at for a peer.
enum Verdict {
    Take,
    /// This one and so many more are for others.
    PassOver(u32),
}

/// Looks for a block for one peer: the first one that no other peer would deliver earlier.
struct Search<'a> {
    torrent: &'a Torrent,
    ctx: &'a Context<'a>,
    content: &'a Content,
    peer: &'a Peer,
    /// Seconds until the peer would deliver another block.
    eta_s: f64,
    /// Blocks a second that all peers deliver.
    pace: f64,
    /// Blocks that are left to others, which they deliver first.
    passed_over: u32,
    /// The piece that was looked at last, and whether the peer may be asked for it.
    usable: Cell<(u32, bool)>,
    /// That piece, and seconds until the best other peer would deliver a block of it.
    rival: Option<(u32, f64)>,
    looks_left: u32,
    idle: Idle,
}

impl Search<'_> {
    fn lane(&self, at: usize) -> &Lane {
        &self.torrent.readers.current_lanes()[at]
    }

    /// The next block of a lane that the peer may be asked for.
    fn next(&self, lane: &Lane, from: (u32, u32)) -> Option<(u32, u32)> {
        lane.next(from, &self.content.pieces, |piece| {
            if self.usable.get().0 != piece {
                self.usable.set((piece, self.torrent.may_ask(self.ctx, self.content, self.peer, piece)));
            }
            self.usable.get().1
        })
    }

    /// The first one of a lane.
    fn first(&mut self, at: usize) -> Option<(u32, u32)> {
        let lane = self.lane(at);
        let first = self.next(lane, lane.start());
        if first.is_none() && !lane.is_done() {
            self.idle = Idle::Other;
        }
        first
    }

    /// A block of a lane that a read is blocked on.
    fn in_read(&mut self, at: usize) -> Option<Pick> {
        let mut place = self.first(at)?;
        while self.looks_left > 0 {
            let most = match self.judge(place, 0.0) {
                Verdict::Take => return Some(Pick { piece: place.0, block: place.1, lane: Some(at), blocked: true }),
                Verdict::PassOver(most) => most,
            };
            let (passed, next) = self.lane(at).pass_over(place, most, u32::MAX, &self.content.pieces);
            self.passed_over += passed;
            place = self.next(self.lane(at), next)?;
        }
        None
    }

    /// A block ahead of readers, in the order in which they get there.
    fn ahead(&mut self, lanes: &[(usize, f64)]) -> Option<Pick> {
        let piece_length = self.content.pieces.layout().piece_length();
        let mut heads: Vec<(Urgency, usize, (u32, u32))> = Vec::with_capacity(lanes.len());
        for (at, rate) in lanes {
            let place = self.first(*at);
            heads.extend(place.map(|place| (Urgency::of(self.lane(*at), place, *rate, piece_length), *at, place)));
        }
        while self.looks_left > 0 {
            let soonest = |a: &usize, b: &usize| {
                heads[*a].0.deadline_s.partial_cmp(&heads[*b].0.deadline_s).unwrap_or(Ordering::Equal)
            };
            let first = (0..heads.len()).min_by(soonest)?;
            let second = (0..heads.len()).filter(|head| *head != first).min_by(soonest);
            let (urgent, at, place) = heads[first];
            let most = match self.judge(place, urgent.deadline_s) {
                Verdict::Take => return Some(Pick { piece: place.0, block: place.1, lane: Some(at), blocked: false }),
                Verdict::PassOver(most) => most,
            };
            // No further than to what another reader needs sooner, or to what this peer delivers in time.
            let in_time_s = self.eta_s * 1.5;
            let latest_s = second.map_or(in_time_s, |second| heads[second].0.deadline_s.min(in_time_s));
            let until = place.1.saturating_add(urgent.blocks_until(latest_s));
            let (passed, next) = self.lane(at).pass_over(place, most, until, &self.content.pieces);
            self.passed_over += passed;
            match self.next(self.lane(at), next) {
                Some(place) => heads[first] = (Urgency::of(self.lane(at), place, urgent.rate, piece_length), at, place),
                None => drop(heads.swap_remove(first)),
            }
        }
        None
    }

    /// Whether a block which is needed in so many seconds is for this peer.
    fn judge(&mut self, (piece, block): (u32, u32), deadline_s: f64) -> Verdict {
        self.looks_left -= 1;
        let pieces = &self.content.pieces;
        let other_s = match self.rival {
            Some((same, other_s)) if same == piece => other_s,
            _ => self.torrent.best_other(self.ctx, self.content, self.peer, piece),
        };
        self.rival = Some((piece, other_s));
        // The last block of a piece that verifies as a whole decides when the others are of use.
        let awaited = pieces.needs_whole(piece) && self.torrent.readers.wait_for(piece, block, pieces);
        let slack = if awaited { 1.0 } else { SLACK };
        let others_get_there_s = other_s * slack + SLACK_S + f64::from(self.passed_over) / self.pace;
        let in_time = self.eta_s * 1.5 < deadline_s && !awaited;
        if !in_time && self.eta_s > others_get_there_s {
            return Verdict::PassOver(((self.eta_s - others_get_there_s) * self.pace).ceil() as u32);
        }
        if self.peer.flow.knows_tombstone(pieces.number(piece, block)) {
            self.idle = Idle::Other;
            return Verdict::PassOver(1);
        }
        Verdict::Take
    }
}

impl Torrent {
    /// The block that a peer should be asked for next.
    pub(super) fn pick(
        &self,
        ctx: &mut Context<'_>,
        peer: &Peer,
        swarm: Estimate,
        agenda: &Agenda,
    ) -> Result<Pick, Idle> {
        let content = self.content.as_ref().ok_or(Idle::Other)?;
        let mut search = Search {
            torrent: self,
            ctx,
            content,
            peer,
            eta_s: peer.flow.eta(ctx.now, swarm.guess),
            pace: swarm.rate / f64::from(BLOCK_LEN),
            passed_over: 0,
            usable: Cell::new((u32::MAX, false)),
            rival: None,
            looks_left: MAX_LOOKS,
            idle: Idle::OthersFirst,
        };
        let blocked = agenda.blocked().find_map(|lane| search.in_read(lane));
        let pick = blocked.or_else(|| search.ahead(agenda.ahead())).ok_or(search.idle);
        pick.or_else(|idle| match self.prefetch {
            Prefetch::None | Prefetch::Window => Err(idle),
            Prefetch::File | Prefetch::All => self.pick_rarest(ctx, content, peer).ok_or(Idle::Other),
        })
    }

    /// When the best other peer would deliver a block of `piece`; infinite if nobody else would.
    fn best_other(&self, ctx: &Context<'_>, content: &Content, peer: &Peer, piece: u32) -> f64 {
        let others = self.ranking.iter().filter(|(_, conn)| *conn != peer.conn);
        let mut able = others.filter(|(_, conn)| {
            let other = self.peers.get(conn).filter(|other| other.flow.stalls == 0);
            other.is_some_and(|other| self.may_ask(ctx, content, other, piece))
        });
        able.next().map_or(f64::INFINITY, |(eta, _)| eta)
    }

    /// A block that nobody reads: first of pieces that were begun, then of the rarest.
    fn pick_rarest(&self, ctx: &mut Context<'_>, content: &Content, peer: &Peer) -> Option<Pick> {
        let pieces = &content.pieces;
        let fresh = |piece: u32, block: u32| !peer.flow.knows_tombstone(pieces.number(piece, block));
        let chosen = |piece: u32| self.prefetch == Prefetch::All || content.availability.is_to_come(piece);
        // What is begun is of a file that was opened: else nobody would have read it.
        let begun = pieces.open().filter(|piece| self.may_ask(ctx, content, peer, *piece));
        let mut begun = begun.filter_map(|piece| Some((piece, pieces.next_missing(piece, 0, u32::MAX)?)));
        if let Some((piece, block)) = begun.find(|(piece, block)| fresh(*piece, *block)) {
            return Some(Pick { piece, block, lane: None, blocked: false });
        }
        let mut rng = ctx.rng.clone();
        ctx.rng.next();
        let wanted = |piece| chosen(piece) && self.may_ask(ctx, content, peer, piece) && pieces.active(piece).is_none();
        let few = match &peer.owned {
            crate::engine::peer::Owned::Some(bits) => Some(bits),
            _ => None,
        };
        let rarest = content.availability.rarest(&mut rng, wanted);
        let piece = rarest.or_else(|| content.availability.any_of(few?, wanted))?;
        let block = pieces.next_missing(piece, 0, u32::MAX).filter(|block| fresh(piece, *block))?;
        Some(Pick { piece, block, lane: None, blocked: false })
    }
}
