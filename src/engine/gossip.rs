//! What one peer and we have told each other of other peers (BEP 11).

use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::address;
use super::peer::Credit;
use super::rng::Rng;
use crate::wire::{PexMessage, PexPeer};

/// Between two messages to one peer.
const INTERVAL: Duration = Duration::from_secs(60);
/// Before the first message: both sides find out first what there is to tell.
const FIRST: Duration = Duration::from_secs(2);
/// Peers in one message, of each kind.
const MAX_NEWS: usize = 50;
/// Messages that one peer may send at once, and a second. More are not even looked at.
const MESSAGES: (f64, f64) = (3.0, 1.0 / 40.0);
/// Addresses that are believed of one peer.
const MAX_NAMED: usize = 400;

/// The exchange of peers with one peer.
#[derive(Debug)]
pub(super) struct Gossip {
    /// Where it is; unknown of peers that are not at an IP address.
    ip: Option<IpAddr>,
    /// It has been told of these.
    told: BTreeSet<SocketAddr>,
    next: Instant,
    credit: Credit,
    /// It has told us of these.
    named: BTreeSet<SocketAddr>,
}

/// What a message of a peer comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) added: Vec<PexPeer>,
    pub(super) dropped: Vec<SocketAddr>,
}

impl Gossip {
    pub(super) fn new(now: Instant, ip: Option<IpAddr>) -> Self {
        let credit = Credit::new(now, MESSAGES);
        Self { ip, told: BTreeSet::new(), next: now + FIRST, credit, named: BTreeSet::new() }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// What to tell the peer, which takes connections at `own`: what changed in `current`, the peers that can be
    /// dialled. Which ones when there are many is left to chance, so that different peers hear of different ones.
    pub(super) fn news(
        &mut self,
        now: Instant,
        rng: &mut Rng,
        current: &BTreeMap<SocketAddr, PexPeer>,
        own: Option<SocketAddr>,
    ) -> Option<PexMessage> {
        let is_new = |addr: &SocketAddr| {
            !self.told.contains(addr) && Some(*addr) != own && address::may_be_named(*addr, self.ip)
        };
        let new: Vec<_> = current.iter().filter(|(addr, _)| is_new(addr)).map(|(_, peer)| *peer).collect();
        let start = rng.below(new.len() as u64) as usize;
        let added: Vec<_> = new.iter().cycle().skip(start).take(new.len().min(MAX_NEWS)).copied().collect();
        let gone = self.told.iter().filter(|addr| !current.contains_key(addr));
        let dropped: Vec<_> = gone.take(MAX_NEWS).copied().collect();
        if added.is_empty() && dropped.is_empty() {
            return None;
        }
        self.told.extend(added.iter().map(|peer| peer.addr));
        self.told.retain(|addr| !dropped.contains(addr));
        self.next = now + INTERVAL;
        Some(PexMessage { added, dropped })
    }

    /// Whether another message of the peer is to be looked at.
    pub(super) fn may_speak(&mut self, now: Instant) -> bool {
        self.credit.take(now)
    }

    /// What of a message is to be believed.
    pub(super) fn heard(&mut self, message: PexMessage) -> Heard {
        let mut heard = Heard::default();
        for peer in message.added {
            let room = self.named.len() < MAX_NAMED;
            if room && address::may_be_named(peer.addr, self.ip) && self.named.insert(peer.addr) {
                heard.added.push(peer);
            }
        }
        heard.dropped.extend(message.dropped.into_iter().filter(|addr| self.named.remove(addr)));
        heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::rng::Rng;
    use proptest::prelude::*;

    fn peer(at: u16) -> PexPeer {
        PexPeer { addr: ([9, 9, (at >> 8) as u8, at as u8], 6881).into(), is_seed: false, is_reachable: true }
    }

    fn all(peers: impl IntoIterator<Item = u16>) -> BTreeMap<SocketAddr, PexPeer> {
        peers.into_iter().map(peer).map(|peer| (peer.addr, peer)).collect()
    }

    proptest! {
        /// Whoever follows the messages knows all others in the end, and hears nothing twice.
        #[test]
        fn messages_add_up(rng: u64, rounds in prop::collection::vec(prop::collection::btree_set(0u16..300, 0..200), 1..5)) {
            let mut now = Instant::now();
            let (mut gossip, mut rng) = (Gossip::new(now, Some([1, 2, 3, 4].into())), Rng::new(rng));
            let own = peer(7).addr;
            let mut known = BTreeSet::new();
            for round in rounds {
                let current = all(round);
                for _ in 0..12 {
                    now += INTERVAL;
                    prop_assert!(gossip.is_due(now));
                    let Some(message) = gossip.news(now, &mut rng, &current, Some(own)) else { break };
                    prop_assert!(!gossip.is_due(now + INTERVAL / 2));
                    prop_assert!(message.added.len() <= MAX_NEWS && message.dropped.len() <= MAX_NEWS);
                    message.added.iter().for_each(|peer| assert!(known.insert(peer.addr)));
                    message.dropped.iter().for_each(|addr| assert!(known.remove(addr)));
                }
                prop_assert_eq!(&known, &current.into_keys().filter(|addr| *addr != own).collect());
            }
        }
    }

    #[test]
    fn floods_are_not_looked_at_and_lists_are_bounded() {
        let now = Instant::now();
        let mut gossip = Gossip::new(now, Some([1, 2, 3, 4].into()));
        assert_eq!((0..100).filter(|_| gossip.may_speak(now)).count(), 3);
        assert_eq!((0..3600).filter(|at| gossip.may_speak(now + Duration::from_secs(*at))).count(), 89);
        let many = PexMessage { added: (0..1000).map(peer).collect(), dropped: Vec::new() };
        assert_eq!(gossip.heard(many.clone()).added.len(), MAX_NAMED);
        assert_eq!(gossip.heard(many), Heard::default());
        let gone = PexMessage { added: Vec::new(), dropped: vec![peer(0).addr, peer(999).addr] };
        assert_eq!(gossip.heard(gone).dropped, [peer(0).addr]);
    }

    #[test]
    fn nobody_is_sent_into_our_network() {
        let now = Instant::now();
        let mut gossip = Gossip::new(now, Some([1, 2, 3, 4].into()));
        let inside = PexPeer { addr: ([127, 0, 0, 1], 22).into(), is_seed: false, is_reachable: true };
        let message = PexMessage { added: vec![inside, peer(1)], dropped: Vec::new() };
        assert_eq!(gossip.heard(message).added, [peer(1)]);
        let current = BTreeMap::from([(inside.addr, inside)]);
        assert_eq!(gossip.news(now, &mut Rng::new(1), &current, None), None);
    }
}
