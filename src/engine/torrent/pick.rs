//! The block that a peer should be asked for.

use std::cell::Cell;

use super::ranking::Estimate;
use super::{Content, Torrent};
use crate::engine::Prefetch;
use crate::engine::manager::Context;
use crate::engine::peer::Peer;
use crate::engine::readers::{Agenda, Lane, Urgency};
use crate::engine::scheduling::{IN_TIME, MAX_LOOKS, MAX_STRETCH, SLACK, SLACK_S};
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

/// The best other peer for a piece.
#[derive(Clone, Copy, Debug)]
struct Rival {
    /// `None`: for any, it has all of them.
    piece: Option<u32>,
    /// Seconds until it would deliver a block; infinite if nobody else would.
    eta_s: f64,
}

/// Where the search is in a lane ahead of a reader.
#[derive(Clone, Copy, Debug)]
struct Head {
    urgency: Urgency,
    at: usize,
    place: (u32, u32),
    /// It is known to be missing, and the peer may be asked for it.
    is_found: bool,
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
    /// Blocks that are left to others, and not passed over yet.
    left_over: u32,
    /// The piece that was looked at last, and whether the peer may be asked for it.
    usable: Cell<(u32, bool)>,
    /// The best other peer.
    rival: Option<Rival>,
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

    /// The next one of a lane of which nothing was looked at before.
    fn first(&mut self, at: usize, from: (u32, u32)) -> Option<(u32, u32)> {
        let lane = self.lane(at);
        let first = self.next(lane, from);
        if first.is_none() && !lane.is_done() {
            self.idle = Idle::Other;
        }
        first
    }

    /// A block that a read is blocked on.
    fn in_reads(&mut self, agenda: &Agenda) -> Option<Pick> {
        for at in agenda.blocked() {
            if let Some(pick) = self.in_read(at) {
                return Some(pick);
            }
            // All the rest is for others, too.
            let rest = agenda.missing().saturating_sub(self.passed_over);
            if self.left_over > rest && self.content.isolated.is_empty() && self.knows_rival(u32::MAX) {
                self.passed_over += rest;
                break;
            }
        }
        None
    }

    /// A block of a lane that a read is blocked on.
    fn in_read(&mut self, at: usize) -> Option<Pick> {
        let mut place = self.first(at, self.lane(at).start())?;
        while self.looks_left > 0 {
            // What is left to others of one lane need not be looked at in the next one.
            if self.left_over == 0 || !self.knows_rival(place.0) {
                match self.judge(place, 0.0) {
                    Verdict::Take => {
                        return Some(Pick { piece: place.0, block: place.1, lane: Some(at), blocked: true });
                    }
                    Verdict::PassOver(most) => self.left_over = most,
                }
            }
            let (passed, next) = self.lane(at).pass_over(place, self.left_over, u32::MAX, &self.content.pieces);
            self.passed_over += passed;
            self.left_over = self.left_over.saturating_sub(passed);
            place = self.next(self.lane(at), next)?;
        }
        None
    }

    /// A block ahead of readers, in the order in which they get there.
    fn ahead(&mut self, lanes: &[(usize, f64)]) -> Option<Pick> {
        let heads = lanes.iter().map(|(at, rate)| self.head(*at, self.lane(*at).start(), *rate));
        let mut heads: Vec<Head> = heads.filter(|head| !self.lane(head.at).is_done()).collect();
        // So many times as many blocks as are missing were wanted where it looked last.
        let mut wanted_per_missing = 1.0;
        while self.looks_left > 0 {
            let soonest = |a: &usize, b: &usize| heads[*a].urgency.deadline_s.total_cmp(&heads[*b].urgency.deadline_s);
            let first = (0..heads.len()).min_by(soonest)?;
            let Head { urgency, at, place, is_found } = heads[first];
            if !is_found {
                match self.first(at, place) {
                    Some(place) => heads[first] = Head { is_found: true, ..self.head(at, place, urgency.rate) },
                    None => drop(heads.swap_remove(first)),
                }
                continue;
            }
            let most = match self.judge(place, urgency.deadline_s) {
                Verdict::Take => return Some(Pick { piece: place.0, block: place.1, lane: Some(at), blocked: false }),
                Verdict::PassOver(most) => most,
            };
            // No further than to what this peer delivers in time.
            let wanted = f64::from(most) * wanted_per_missing;
            let until_s = horizon_s(&mut heads, wanted).min(self.eta_s * IN_TIME).max(urgency.deadline_s);
            let mut left = most;
            heads.retain_mut(|head| self.pass_over_until(head, until_s, &mut left));
            wanted_per_missing = (wanted / f64::from((most - left).max(1))).min(MAX_STRETCH);
        }
        None
    }

    fn head(&self, at: usize, place: (u32, u32), rate: f64) -> Head {
        let piece_length = self.content.pieces.layout().piece_length();
        Head { urgency: Urgency::of(self.lane(at), place, rate, piece_length), at, place, is_found: false }
    }

    /// Passes over what a lane has before its reader gets to what it needs in `until_s`, `left` blocks at most. False if
    /// the lane has no more.
    fn pass_over_until(&mut self, head: &mut Head, until_s: f64, left: &mut u32) -> bool {
        while *left > 0 && head.urgency.deadline_s <= until_s {
            let until = head.place.1.saturating_add(head.urgency.blocks_until(until_s).max(1));
            let (passed, next) = self.lane(head.at).pass_over(head.place, *left, until, &self.content.pieces);
            self.passed_over += passed;
            *left = left.saturating_sub(passed);
            let Some(place) = self.next(self.lane(head.at), next) else { return false };
            *head = Head { is_found: true, ..self.head(head.at, place, head.urgency.rate) };
        }
        true
    }

    /// Whether it is known who is best for a piece.
    fn knows_rival(&self, piece: u32) -> bool {
        let is_rival = |rival: &Rival| rival.piece.is_none_or(|same| same == piece);
        self.rival.as_ref().is_some_and(is_rival) && !self.content.isolated.contains(&piece)
    }

    /// Whether a block which is needed in so many seconds is for this peer.
    fn judge(&mut self, (piece, block): (u32, u32), deadline_s: f64) -> Verdict {
        self.looks_left -= 1;
        let pieces = &self.content.pieces;
        if !self.content.may_deliver((piece, block), self.peer) {
            self.idle = Idle::Other;
            return Verdict::PassOver(1);
        }
        let rival = match self.rival {
            Some(rival) if self.knows_rival(piece) => rival,
            _ => self.torrent.best_other(self.ctx, self.content, self.peer, (piece, block)),
        };
        self.rival = Some(rival);
        // The last block of a piece that verifies as a whole decides when the others are of use.
        let awaited = pieces.needs_whole(piece) && self.torrent.readers.wait_for(piece, block, pieces);
        let slack = if awaited { 1.0 } else { SLACK };
        let others_get_there_s = rival.eta_s * slack + SLACK_S + f64::from(self.passed_over) / self.pace;
        let in_time = self.eta_s * IN_TIME < deadline_s && !awaited;
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

/// In how many seconds readers get to so many blocks.
fn horizon_s(heads: &mut [Head], blocks: f64) -> f64 {
    heads.sort_unstable_by(|a, b| a.urgency.deadline_s.total_cmp(&b.urgency.deadline_s));
    let (mut pace, mut at_s, mut left) = (0.0, 0.0, blocks);
    for head in heads.iter() {
        let gap_s = head.urgency.deadline_s - at_s;
        if pace * gap_s >= left {
            break;
        }
        left -= pace * gap_s;
        at_s = head.urgency.deadline_s;
        pace += head.urgency.blocks_per_s();
    }
    at_s + left / pace
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
            left_over: 0,
            usable: Cell::new((u32::MAX, false)),
            rival: None,
            looks_left: MAX_LOOKS,
            idle: Idle::OthersFirst,
        };
        let pick = search.in_reads(agenda).or_else(|| search.ahead(agenda.ahead())).ok_or(search.idle);
        pick.or_else(|idle| match self.prefetch {
            Prefetch::None | Prefetch::Window => Err(idle),
            Prefetch::File | Prefetch::All => self.pick_rarest(ctx, content, peer).ok_or(Idle::Other),
        })
    }

    /// The peer that would deliver a block first of all others.
    fn best_other(&self, ctx: &Context<'_>, content: &Content, peer: &Peer, (piece, block): (u32, u32)) -> Rival {
        let is_isolated = content.isolated.contains(&piece);
        let others = self.ranking.iter(ctx.now).filter(|(_, conn)| *conn != peer.conn);
        let mut able = others.filter_map(|(eta_s, conn)| {
            let other = self.peers.get(&conn).filter(|other| other.flow.stalls == 0)?;
            let has_all = other.serves_all(ctx.now) && !other.is_reserve() && !is_isolated;
            let may = has_all || self.may_ask(ctx, content, other, piece) && content.may_deliver((piece, block), other);
            may.then_some(Rival { piece: Some(piece).filter(|_| !has_all), eta_s })
        });
        able.next().unwrap_or(Rival { piece: Some(piece), eta_s: f64::INFINITY })
    }

    /// A block that nobody reads: first of pieces that were begun, then of the rarest.
    fn pick_rarest(&self, ctx: &mut Context<'_>, content: &Content, peer: &Peer) -> Option<Pick> {
        let pieces = &content.pieces;
        let fresh = |piece: u32, block: u32| {
            content.may_deliver((piece, block), peer) && !peer.flow.knows_tombstone(pieces.number(piece, block))
        };
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
