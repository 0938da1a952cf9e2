//! Addresses of a torrent's peers, and which to dial when.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::types::{ConnId, NodeName, PeerAddr, PeerIdentity};

/// An address.
#[derive(Clone, Debug)]
struct Candidate {
    state: State,
    /// Dials in a row that came to nothing.
    failures: u32,
    tried: Option<Instant>,
    /// Who is there, once proven.
    identity: Option<PeerIdentity>,
    /// Only peers have named it.
    gossip: bool,
    /// Of equals the highest is dialled first (BEP 40).
    rank: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Dialing,
    Connected(ConnId),
    /// It is our own: never dialled.
    Ourselves,
}

/// Back-off before the second dial; doubles with each failure.
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
const MAX_BACK_OFF: Duration = Duration::from_secs(300);
/// While somebody waits for peers the back-off is this at most.
const URGENT_BACK_OFF: Duration = Duration::from_secs(4);
/// A dial whose end nobody tells is over after this.
const DIAL_BOUND: Duration = Duration::from_secs(60);

/// All known addresses of a torrent.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidates {
    all: BTreeMap<PeerAddr, Candidate>,
}

impl Candidates {
    /// A source named an address, or a peer did: `gossip`. The worst idle one makes room for it.
    pub(super) fn found(&mut self, addr: PeerAddr, gossip: bool, rank: u32, limit: usize) {
        if let Some(known) = self.all.get_mut(&addr) {
            known.gossip &= gossip;
            return;
        }
        if self.all.len() >= limit {
            let idle = self.all.iter().filter(|(_, one)| one.state == State::Idle);
            let worst = idle.max_by_key(|(_, one)| one.failures).filter(|(_, one)| one.failures > 0);
            let Some(worst) = worst.map(|(addr, _)| addr.clone()) else { return };
            self.all.remove(&worst);
        }
        let identity = identity_in(&addr);
        self.all.insert(addr, Candidate { state: State::Idle, failures: 0, tried: None, identity, gossip, rank });
    }

    /// A peer says that it lost its connection to what it had named: not worth a first try.
    pub(super) fn dropped(&mut self, addr: &PeerAddr) {
        let untried = |one: &Candidate| one.gossip && one.state == State::Idle && one.tried.is_none();
        if self.all.get(addr).is_some_and(untried) {
            self.all.remove(addr);
        }
    }

    /// Forgets what only peers have named; the connections that came of it.
    pub(super) fn forget_gossip(&mut self) -> Vec<ConnId> {
        let gossip = self.all.extract_if(.., |_, one| one.gossip);
        gossip.filter_map(|(_, one)| if let State::Connected(conn) = one.state { Some(conn) } else { None }).collect()
    }

    /// Ranks all addresses anew.
    pub(super) fn rank(&mut self, rank: impl Fn(&PeerAddr) -> u32) {
        for (addr, one) in &mut self.all {
            one.rank = rank(addr);
        }
    }

    /// An address turned out to be our own.
    pub(super) fn is_ourselves(&mut self, addr: &PeerAddr) {
        if let Some(one) = self.all.get_mut(addr) {
            one.state = State::Ourselves;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn dialing(&self) -> usize {
        self.all.values().filter(|one| one.state == State::Dialing).count()
    }

    /// Whether there may be addresses to dial.
    pub(super) fn has_due(&self, now: Instant, urgent: bool) -> bool {
        let max = back_off(urgent);
        self.all.values().any(|one| match one.state {
            State::Idle => one.is_due(now, max),
            State::Dialing => true,
            State::Connected(_) | State::Ourselves => false,
        })
    }

    /// Addresses to dial now, `limit` at most, one for each peer; they count as being dialled. `unwanted` peers are
    /// left out.
    pub(super) fn dial(
        &mut self,
        now: Instant,
        limit: usize,
        urgent: bool,
        unwanted: impl Fn(&PeerAddr, Option<&PeerIdentity>) -> bool,
    ) -> Vec<PeerAddr> {
        let max = back_off(urgent);
        for one in self.all.values_mut() {
            let lost = one.state == State::Dialing
                && one.tried.is_some_and(|at| now.saturating_duration_since(at) > DIAL_BOUND);
            if lost {
                (one.state, one.failures) = (State::Idle, one.failures + 1);
            }
        }
        let mut busy: Vec<_> = self.all.values().filter(|one| one.state == State::Dialing).collect();
        let mut due: Vec<_> = self
            .all
            .iter()
            .filter(|(_, one)| one.state == State::Idle && one.is_due(now, max))
            .filter(|(addr, one)| !unwanted(addr, one.identity.as_ref()))
            .collect();
        // Streams over TCP carry more than those over QUIC.
        due.sort_by_key(|(addr, one)| (one.failures, is_quic(addr), Reverse(one.rank), *addr));
        let mut chosen = Vec::new();
        for (addr, one) in due {
            let same = |other: &&Candidate| one.identity.is_some() && other.identity == one.identity;
            if chosen.len() < limit && !busy.iter().any(same) {
                chosen.push(addr.clone());
                busy.push(one);
            }
        }
        for addr in &chosen {
            if let Some(one) = self.all.get_mut(addr) {
                (one.state, one.tried) = (State::Dialing, Some(now));
            }
        }
        chosen
    }

    /// A dial came to nothing.
    pub(super) fn failed(&mut self, addr: &PeerAddr) {
        if let Some(one) = self.all.get_mut(addr).filter(|one| one.state == State::Dialing) {
            (one.state, one.failures) = (State::Idle, one.failures.saturating_add(1));
        }
    }

    /// A dial succeeded.
    pub(super) fn connected(&mut self, addr: &PeerAddr, conn: ConnId, identity: &PeerIdentity) {
        if let Some(one) = self.all.get_mut(addr) {
            one.state = State::Connected(conn);
            // Several peers may share an IP address.
            one.identity = Some(identity.clone()).filter(|identity| !matches!(identity, PeerIdentity::Ip(_)));
        }
    }

    /// An address that was just left is dialled again without a wait.
    pub(super) fn dial_again(&mut self, addr: &PeerAddr) {
        if let Some(one) = self.all.get_mut(addr) {
            one.failures = 0;
        }
    }

    /// A peer that came by itself can be dialled at a known address.
    pub(super) fn reached_by(&mut self, addr: &PeerAddr, conn: ConnId) {
        if let Some(one) = self.all.get_mut(addr).filter(|one| one.state == State::Idle) {
            one.state = State::Connected(conn);
        }
    }

    /// A connection is over. `useful`: it lasted or brought something, so that an early try is worth it.
    pub(super) fn disconnected(&mut self, now: Instant, addr: &PeerAddr, conn: ConnId, useful: bool) {
        if let Some(one) = self.all.get_mut(addr).filter(|one| one.state == State::Connected(conn)) {
            one.failures = if useful { 1 } else { one.failures.saturating_add(1) };
            (one.state, one.tried) = (State::Idle, Some(now));
        }
    }
}

/// How long an address rests at most.
fn back_off(urgent: bool) -> Duration {
    if urgent { URGENT_BACK_OFF } else { MAX_BACK_OFF }
}

impl Candidate {
    fn is_due(&self, now: Instant, max: Duration) -> bool {
        let Some(tried) = self.tried else { return true };
        let wait = FIRST_BACK_OFF.saturating_mul(1 << self.failures.saturating_sub(1).min(16)).min(max);
        self.failures == 0 || now.saturating_duration_since(tried) >= wait
    }
}

fn is_quic(addr: &PeerAddr) -> bool {
    matches!(addr, PeerAddr::Libp2p(text) if text.contains("/quic"))
}

/// The peer that an address promises.
fn identity_in(addr: &PeerAddr) -> Option<PeerIdentity> {
    match addr {
        PeerAddr::Libp2p(text) => {
            let (_, name) = text.rsplit_once("/p2p/")?;
            Some(PeerIdentity::Node(NodeName(name.to_owned())))
        }
        PeerAddr::Memory(port) => Some(PeerIdentity::Memory(*port)),
        PeerAddr::Web(url) => Some(PeerIdentity::Web(url.clone())),
        PeerAddr::Socket(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn addr(text: &str) -> PeerAddr {
        PeerAddr::Libp2p(text.to_owned())
    }

    #[test]
    fn failures_back_off_and_urgency_shortens_it() {
        let (start, mut all) = (Instant::now(), Candidates::default());
        all.found(addr("/a"), false, 0, 10);
        let mut now = start;
        for failures in 1..8u32 {
            assert_eq!(all.dial(now, 9, false, |_, _| false).len(), 1);
            assert!(all.dial(now + 5 * S, 9, false, |_, _| false).is_empty(), "already being dialled");
            all.failed(&addr("/a"));
            let wait = S * (1 << (failures - 1));
            assert!(all.dial(now + wait - S / 10, 9, false, |_, _| false).is_empty());
            now += wait;
        }
        assert_eq!(all.dial(now - 50 * S, 9, true, |_, _| false).len(), 1);
    }

    #[test]
    fn one_address_of_a_peer_at_a_time_and_tcp_first() {
        let (now, mut all) = (Instant::now(), Candidates::default());
        for text in ["/ip4/1.2.3.4/udp/1/quic-v1/p2p/A", "/ip4/1.2.3.4/tcp/1/p2p/A", "/ip4/1.2.3.4/tcp/1/p2p/B"] {
            all.found(addr(text), false, 0, 10);
        }
        let unwanted =
            |_: &PeerAddr, identity: Option<&PeerIdentity>| identity.is_some_and(|one| one.to_string() == "B");
        assert_eq!(all.dial(now, 9, false, unwanted), [addr("/ip4/1.2.3.4/tcp/1/p2p/A")]);
        all.failed(&addr("/ip4/1.2.3.4/tcp/1/p2p/A"));
        assert_eq!(all.dial(now, 9, false, unwanted), [addr("/ip4/1.2.3.4/udp/1/quic-v1/p2p/A")]);
    }

    #[test]
    fn memory_is_bounded_and_failing_addresses_make_room() {
        let (now, mut all) = (Instant::now(), Candidates::default());
        for at in 0..5 {
            all.found(addr(&format!("/{at}")), false, 0, 3);
        }
        assert_eq!(all.len(), 3);
        all.dial(now, 1, false, |_, _| false);
        all.failed(&addr("/0"));
        all.found(addr("/new"), false, 0, 3);
        assert_eq!(all.dial(now, 9, false, |_, _| false), [addr("/1"), addr("/2"), addr("/new")]);
    }
}
