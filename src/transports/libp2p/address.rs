//! What knot asks of multiaddrs.

use std::net::{IpAddr, SocketAddr};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// The peer id in the last component.
pub fn peer_of(addr: &Multiaddr) -> Option<PeerId> {
    match addr.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// The address without a peer id in its last component.
pub fn without_peer(addr: &Multiaddr) -> Multiaddr {
    let mut addr = addr.clone();
    if peer_of(&addr).is_some() {
        addr.pop();
    }
    addr
}

/// Whether the address is reached over TCP, which carries bulk data faster than QUIC does here.
pub fn is_tcp(addr: &Multiaddr) -> bool {
    addr.iter().any(|part| matches!(part, Protocol::Tcp(_)))
}

/// The socket of a plain TCP address.
pub fn tcp_socket(addr: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = addr.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// Whether the address is of this machine only.
pub fn is_loopback(addr: &Multiaddr) -> bool {
    addr.iter().any(|part| match part {
        Protocol::Ip4(ip) => ip.is_loopback(),
        Protocol::Ip6(ip) => ip.is_loopback(),
        _ => false,
    })
}

/// Whether the address is an IPv6 one that means something only together with a network interface.
pub fn is_link_local(addr: &Multiaddr) -> bool {
    addr.iter().any(|part| matches!(part, Protocol::Ip6(ip) if ip.is_unicast_link_local()))
}

/// An address to listen on: a multiaddr, or `IP:PORT` for TCP.
///
/// # Errors
/// What was expected, where `text` is neither.
pub fn parse_listen(text: &str) -> Result<Multiaddr, String> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok(Multiaddr::from(socket.ip()).with(Protocol::Tcp(socket.port())));
    }
    text.parse().map_err(|error| {
        format!("expected an address to listen on (/ip4/0.0.0.0/tcp/4001 or 0.0.0.0:4001), got {text:?}: {error}")
    })
}

/// Replaces a host name in the first component by an address of that host.
///
/// # Errors
/// When the name has no address of the wanted kind.
pub async fn resolve(addr: Multiaddr) -> Result<Multiaddr, String> {
    let (name, wanted): (_, fn(&IpAddr) -> bool) = match addr.iter().next() {
        Some(Protocol::Dns(name)) => (name.into_owned(), |_| true),
        Some(Protocol::Dns4(name)) => (name.into_owned(), IpAddr::is_ipv4),
        Some(Protocol::Dns6(name)) => (name.into_owned(), IpAddr::is_ipv6),
        _ => return Ok(addr),
    };
    let found = tokio::net::lookup_host((name.as_str(), 0)).await;
    let mut found = found.map_err(|error| format!("cannot resolve {name}: {error}"))?.map(|socket| socket.ip());
    let ip = found.find(wanted).ok_or_else(|| format!("{name} has no address of the wanted kind"))?;
    Ok(addr.replace(0, |_| Some(ip.into())).unwrap_or(addr))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_ids_come_off_and_sockets_become_multiaddrs() {
        let peer = PeerId::random();
        let addr: Multiaddr = format!("/ip4/127.0.0.1/tcp/4001/p2p/{peer}").parse().unwrap();
        assert_eq!(peer_of(&addr), Some(peer));
        assert_eq!(without_peer(&addr).to_string(), "/ip4/127.0.0.1/tcp/4001");
        assert!(is_tcp(&addr) && is_loopback(&addr));
        assert!(is_link_local(&"/ip6/fe80::1/tcp/1".parse().unwrap()) && !is_link_local(&addr));
        assert_eq!(tcp_socket(&addr), Some(([127, 0, 0, 1], 4001).into()));
        assert_eq!(tcp_socket(&"/ip4/127.0.0.1/udp/1/quic-v1".parse().unwrap()), None);
        assert_eq!(parse_listen("[::1]:7").map(|addr| addr.to_string()), Ok("/ip6/::1/tcp/7".to_owned()));
        assert_eq!(parse_listen("/ip4/0.0.0.0/udp/0/quic-v1").map(|addr| is_tcp(&addr)), Ok(false));
        assert!(parse_listen("localhost").unwrap_err().contains("expected an address to listen on"));
    }

    #[tokio::test]
    async fn names_are_replaced_by_addresses() {
        let addr: Multiaddr = "/dns4/localhost/tcp/4001".parse().unwrap();
        assert_eq!(resolve(addr).await.map(|addr| addr.to_string()), Ok("/ip4/127.0.0.1/tcp/4001".to_owned()));
        let plain: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
        assert_eq!(resolve(plain.clone()).await, Ok(plain));
    }
}
