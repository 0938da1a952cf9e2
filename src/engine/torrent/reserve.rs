//! Web seeds, the peers of last resort: whoever pays for a server would rather have peers give.
//!
//! They are called when something is wanted and other peers have brought nothing of it for a while, and then asked
//! only for pieces that no other peer delivers. When they have not been needed for a while they are let go.

use std::time::{Duration, Instant};

use super::Torrent;
use crate::engine::manager::Context;
use crate::engine::peer::Peer;
use crate::engine::{DisconnectReason, Output};
use crate::types::{ConnId, PeerAddr, PeerIdentity};

/// How long other peers may bring nothing.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a call lasts without hunger and without a block from a web seed.
const CALL: Duration = Duration::from_secs(30);
/// Web seeds at once.
const MAX_RESERVES: usize = 4;
/// Bytes a second of all peers that have a piece, below which they do not deliver it.
const LEAST_RATE: f64 = 32.0 * 1024.0;

/// How long a peer that stalled is not tried in place of a web seed, for each time.
const TRIAL: Duration = Duration::from_secs(10);

/// When web seeds are asked.
#[derive(Debug)]
pub(super) struct Reserve {
    /// Whether there are any.
    pub(super) is_known: bool,
    /// Since when there has been no other peer.
    alone: Option<Instant>,
    /// The last time that other peers brought something, or nothing was wanted.
    fed: Instant,
    /// Until when they may be asked.
    called: Option<Instant>,
}

impl Reserve {
    pub(super) fn new(now: Instant) -> Self {
        Self { is_known: false, alone: Some(now), fed: now, called: None }
    }

    /// A block came, from a web seed or from another peer.
    pub(super) fn delivered(&mut self, now: Instant, by_reserve: bool) {
        if !by_reserve {
            self.fed = now;
        } else if self.called.is_some() {
            self.called = Some(now + CALL);
        }
    }

    fn is_called(&self, now: Instant) -> bool {
        self.called.is_some_and(|until| now < until)
    }
}

impl Torrent {
    /// Whether a peer may be asked now, as far as it matters whether it is a web seed.
    pub(super) fn is_free(&self, now: Instant, peer: &Peer) -> bool {
        !peer.is_reserve() || self.reserve.is_called(now)
    }

    /// Whether web seeds may be asked at all: they are called, and the others do not deliver everything.
    pub(super) fn calls_reserve(&self, ctx: &Context<'_>) -> bool {
        self.reserve.is_called(ctx.now) && !self.delivers(ctx, |peer| peer.serves_all(ctx.now))
    }

    /// Whether a web seed may be asked for `piece`.
    pub(super) fn needs_reserve(&self, ctx: &Context<'_>, piece: u32) -> bool {
        self.reserve.is_called(ctx.now) && !self.delivers(ctx, |peer| peer.serves(ctx.now, piece))
    }

    /// Whether those of the other peers that `have` something deliver it.
    fn delivers(&self, ctx: &Context<'_>, have: impl Fn(&Peer) -> bool) -> bool {
        let mut rate = 0.0;
        for peer in self.peers.values().filter(|peer| !peer.is_reserve() && !peer.chokes_us && have(peer)) {
            let rests = peer.flow.progress.map(|at| ctx.now.saturating_duration_since(at));
            let may_try = peer.flow.stalls == 0 || rests.is_none_or(|rests| rests > TRIAL * peer.flow.stalls.min(30));
            // Whoever has nothing to do gets the chance, now and then even one that did not answer.
            if peer.flow.in_flight() == 0 && may_try {
                return true;
            }
            if peer.flow.stalls == 0 {
                let Some(measured) = peer.flow.rate(ctx.now) else { return true };
                rate += measured;
            }
        }
        rate >= LEAST_RATE
    }

    /// Calls web seeds when they are needed, and lets them go when they are not.
    pub(super) fn tend_reserve(&mut self, ctx: &mut Context<'_>) {
        if !self.reserve.is_known || self.content.is_none() {
            return;
        }
        let now = ctx.now;
        let others = self.peers.values().any(|peer| !peer.is_reserve());
        self.reserve.alone = if others { None } else { self.reserve.alone.or(Some(now)) };
        let wait = self.readers.longest_wait(now);
        let wants = wait.is_some() || (self.prefetch.is_bulk() && !self.is_complete());
        if !wants {
            self.reserve.fed = now;
        }
        let too_long = |since: Instant| now.saturating_duration_since(since) >= PATIENCE;
        let is_starved = too_long(self.reserve.fed) || self.reserve.alone.is_some_and(too_long);
        if wants && (is_starved || wait.is_some_and(|wait| wait >= PATIENCE)) {
            self.reserve.called = Some(now + CALL);
            self.dirty.all = true;
        }
        if self.reserve.is_called(now) {
            self.dial_reserve(ctx);
        } else {
            self.reserve.called = None;
            self.dismiss_reserve(ctx);
        }
    }

    fn dial_reserve(&mut self, ctx: &mut Context<'_>) {
        let connected: Vec<_> = self.peers.values().filter(|peer| peer.is_reserve()).map(|peer| &peer.addr).collect();
        let banned = &*ctx.banned;
        let unwanted = |addr: &PeerAddr, identity: Option<&PeerIdentity>| {
            let is_web = matches!(addr, PeerAddr::Web(_));
            !is_web || connected.contains(&addr) || identity.is_some_and(|identity| banned.contains(identity))
        };
        let room = MAX_RESERVES.saturating_sub(connected.len());
        for addr in self.candidates.dial(ctx.now, room, true, unwanted) {
            ctx.out.push_back(Output::Connect { torrent: self.key, addr });
        }
    }

    fn dismiss_reserve(&mut self, ctx: &mut Context<'_>) {
        let idle = self.peers.values().filter(|peer| peer.is_reserve() && peer.flow.in_flight() == 0);
        let idle: Vec<ConnId> = idle.map(|peer| peer.conn).collect();
        for conn in idle {
            self.leave(ctx, conn, Some(DisconnectReason::NoUse));
        }
    }
}
