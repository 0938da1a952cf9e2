//! Which of a peer's addresses to name.

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use crate::types::PeerAddr;

/// The address to report for `peer`, with its id: one that other machines reach before a loopback one, TCP before
/// QUIC. One is enough, since the transport knows the others too and dials them together.
pub(super) fn best<'a>(peer: PeerId, addrs: impl IntoIterator<Item = &'a Multiaddr>) -> Option<PeerAddr> {
    let best = addrs.into_iter().min_by_key(|addr| (is_loopback(addr), !is_tcp(addr)))?;
    let with_peer = best.clone().with_p2p(peer).ok()?;
    Some(PeerAddr::Libp2p(with_peer.to_string()))
}

fn is_tcp(addr: &Multiaddr) -> bool {
    addr.iter().any(|part| matches!(part, Protocol::Tcp(_)))
}

fn is_loopback(addr: &Multiaddr) -> bool {
    addr.iter().any(|part| match part {
        Protocol::Ip4(ip) => ip.is_loopback(),
        Protocol::Ip6(ip) => ip.is_loopback(),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reachable_tcp_comes_first() {
        let peer = PeerId::random();
        let addrs: Vec<Multiaddr> = ["/ip4/127.0.0.1/tcp/1", "/ip4/192.0.2.1/udp/1/quic-v1", "/ip4/192.0.2.1/tcp/1"]
            .map(|addr| addr.parse().unwrap())
            .into();
        let best = |addrs: &[Multiaddr]| best(peer, addrs).map(|addr| addr.to_string());
        assert_eq!(best(&addrs), Some(format!("/ip4/192.0.2.1/tcp/1/p2p/{peer}")));
        assert_eq!(best(&addrs[..2]), Some(format!("/ip4/192.0.2.1/udp/1/quic-v1/p2p/{peer}")));
        assert_eq!(best(&[]), None);
        let of_another = addrs[0].clone().with_p2p(PeerId::random()).unwrap();
        assert_eq!(best(&[of_another]), None, "an address that names another peer is no address of this one");
    }
}
