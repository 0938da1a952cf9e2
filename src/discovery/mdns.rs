//! Nodes on the local network, by multicast DNS.
//!
//! An answer says that a node is there, not what it serves. Local nodes are few, so each is named as a peer of every
//! swarm that was joined; the handshake tells the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use libp2p::mdns::Event;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::mpsc;

use super::wanted::Wanted;
use super::{Found, JoinOptions, Source, address};
use crate::types::SwarmId;

const NAME: &str = "mdns";
/// Nodes that are kept.
const MAX_NODES: usize = 256;
/// Addresses that are kept of a node.
const MAX_ADDRESSES: usize = 8;

/// Makes the source, and the driver that works for it beside the behaviour of the node `local`.
pub fn source(local: PeerId, found: mpsc::Sender<Found>) -> (MdnsSource, MdnsDriver) {
    let wanted = Arc::new(Wanted::default());
    wanted.set_state("no nodes on the local network yet".to_owned());
    let driver = MdnsDriver { local, wanted: wanted.clone(), found, nodes: BTreeMap::new(), served: BTreeSet::new() };
    (MdnsSource { wanted }, driver)
}

/// Asks for local peers.
pub struct MdnsSource {
    wanted: Arc<Wanted>,
}

impl MdnsSource {
    /// Shows why the source does nothing.
    pub fn fail(&self, reason: &str) {
        self.wanted.set_state(format!("off: {reason}"));
    }
}

impl Source for MdnsSource {
    fn name(&self) -> &'static str {
        NAME
    }

    fn join(&self, swarm: SwarmId, options: &JoinOptions) {
        self.wanted.join(swarm, options);
    }

    fn leave(&self, swarm: SwarmId) {
        self.wanted.leave(swarm);
    }

    fn state(&self) -> String {
        self.wanted.state()
    }
}

/// Names them.
pub struct MdnsDriver {
    local: PeerId,
    wanted: Arc<Wanted>,
    found: mpsc::Sender<Found>,
    nodes: BTreeMap<PeerId, BTreeSet<Multiaddr>>,
    /// Swarms for which the known nodes have been named.
    served: BTreeSet<SwarmId>,
}

impl MdnsDriver {
    /// Waits until [`MdnsDriver::drive`] has something to do. Safe to cancel.
    pub async fn changed(&self) {
        self.wanted.changed().await;
    }

    /// Names the known nodes for swarms that have been joined since, or could not be served before.
    pub fn drive(&mut self) {
        let mut wanted = self.wanted.swarms();
        wanted.retain(|swarm| {
            self.served.contains(swarm) || self.nodes.iter().all(|(peer, addrs)| self.report(*swarm, *peer, addrs))
        });
        self.served = wanted;
    }

    /// Takes an event of the behaviour. Returns addresses of nodes that it brought.
    pub fn handle(&mut self, event: Event) -> Vec<(PeerId, Multiaddr)> {
        match event {
            Event::Discovered(found) => self.discovered(found),
            Event::Expired(gone) => {
                for (peer, addr) in gone {
                    if let Some(addrs) = self.nodes.get_mut(&peer) {
                        addrs.remove(&addr);
                    }
                }
                self.nodes.retain(|_, addrs| !addrs.is_empty());
                self.report_state();
                Vec::new()
            }
        }
    }

    fn discovered(&mut self, found: Vec<(PeerId, Multiaddr)>) -> Vec<(PeerId, Multiaddr)> {
        let mut learned = Vec::new();
        for (peer, addr) in found {
            let room = self.nodes.len() < MAX_NODES || self.nodes.contains_key(&peer);
            if peer == self.local || !room {
                continue;
            }
            let addrs = self.nodes.entry(peer).or_default();
            if addrs.len() < MAX_ADDRESSES && addrs.insert(addr.clone()) {
                learned.push((peer, addr));
            }
        }
        let peers: BTreeSet<_> = learned.iter().map(|(peer, _)| *peer).collect();
        let mut served = std::mem::take(&mut self.served);
        served.retain(|swarm| peers.iter().all(|peer| self.report(*swarm, *peer, &self.nodes[peer])));
        self.served = served;
        self.report_state();
        learned
    }

    /// False if the channel is full: the swarm then counts as not served, and the next drive names its nodes again.
    fn report(&self, swarm: SwarmId, peer: PeerId, addrs: &BTreeSet<Multiaddr>) -> bool {
        let found = address::best(peer, addrs).map(|addr| Found { swarm, addr, source: NAME });
        found.is_none_or(|found| self.found.try_send(found).is_ok())
    }

    fn report_state(&self) {
        self.wanted.set_state(format!("{} nodes on the local network", self.nodes.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn local_nodes_are_named_for_every_swarm_whenever_it_was_joined() {
        let (local, peer) = (PeerId::random(), PeerId::random());
        let (found, mut finds) = mpsc::channel(16);
        let (source, mut driver) = source(local, found);
        let (early, late) = (SwarmId([1; 20]), SwarmId([2; 20]));
        source.join(early, &JoinOptions::default());
        driver.drive();
        let answer = vec![
            (peer, addr("/ip4/192.0.2.1/udp/1/quic-v1")),
            (peer, addr("/ip4/192.0.2.1/tcp/1")),
            (local, addr("/ip4/192.0.2.2/tcp/1")),
        ];
        assert_eq!(driver.handle(Event::Discovered(answer.clone())), answer[..2]);
        let expected = |swarm| {
            let addr = format!("/ip4/192.0.2.1/tcp/1/p2p/{peer}").parse().unwrap();
            Ok(Found { swarm, addr, source: "mdns" })
        };
        assert_eq!(finds.try_recv(), expected(early));
        source.join(late, &JoinOptions::default());
        driver.drive();
        assert_eq!(finds.try_recv(), expected(late));
        assert!(finds.try_recv().is_err());
        assert!(source.state().starts_with("1 nodes"));

        driver.handle(Event::Expired(answer));
        source.leave(late);
        driver.drive();
        source.join(late, &JoinOptions::default());
        driver.drive();
        assert!(finds.try_recv().is_err(), "a node that is gone is not named");
    }

    #[test]
    fn a_crowd_is_bounded() {
        let (found, _finds) = mpsc::channel(1);
        let (source, mut driver) = source(PeerId::random(), found);
        source.join(SwarmId([1; 20]), &JoinOptions::default());
        driver.drive();
        let crowd = (0..MAX_NODES + 10).map(|_| (PeerId::random(), addr("/ip4/192.0.2.1/tcp/1"))).collect();
        assert_eq!(driver.handle(Event::Discovered(crowd)).len(), MAX_NODES);
    }
}
