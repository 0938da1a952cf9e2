//! What a node needs to know to start.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use super::api::ApiError;
use super::handle::usage;
use crate::discovery::dht::DhtConfig;
use crate::discovery::http::LocalAddrs;
use crate::discovery::lsd::LsdConfig;
use crate::transports::mse::{Cipher, Encryption, EncryptionPolicy};
use crate::transports::socket::{DEFAULT_PORT, PortInUse, SocketConfig, UtpPolicy};

/// The file in the store that keeps nodes of the mainline DHT.
const DHT_NODES: &str = "dht-nodes";

/// How a node runs.
#[derive(Clone, Debug, Default)]
pub struct NodeConfig {
    /// The store: cache, index, identity.
    pub store: PathBuf,
    /// Cap of the cache in bytes.
    pub cache_bytes: u64,
    /// Where to listen: multiaddrs for other knots, `IP:PORT` for BitTorrent clients. Where only one kind is given, the
    /// other listens at the same IP addresses; where none is, both do on every interface.
    pub listen: Vec<String>,
    /// The port for BitTorrent clients, where [`NodeConfig::listen`] names none; 6881 or the next that is free if this
    /// does neither.
    pub port: Option<u16>,
    /// When to encrypt streams to BitTorrent clients.
    pub encryption: EncryptionPolicy,
    /// Whether not to use uTP.
    pub no_utp: bool,
    /// Names of the sources of peers that may be used.
    pub discovery: Vec<String>,
    /// Nodes of the private Kademlia network to begin with.
    pub bootstrap: Vec<String>,
    /// Nodes of the mainline DHT to begin with, as host:port; `None` for the well-known ones.
    pub dht_bootstrap: Option<Vec<String>>,
    /// What the node may take of the machine's network.
    pub limits: Limits,
}

/// What a node may take of its machine's network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections of one torrent.
    pub max_peers: Option<usize>,
    /// Payload bytes a second to peers, of all torrents.
    pub upload: Option<u64>,
    /// Payload bytes a second from peers, of all torrents.
    pub download: Option<u64>,
    /// Whether nothing is given to peers.
    pub no_upload: bool,
}

/// [`NodeConfig::listen`], sorted by who listens.
pub(super) struct Listen {
    /// Multiaddrs; none means every interface.
    pub(super) libp2p: Vec<String>,
    pub(super) sockets: SocketConfig,
}

impl NodeConfig {
    /// Whether a source of peers may be used.
    pub(super) fn uses(&self, source: &str) -> bool {
        self.discovery.iter().any(|name| name == source)
    }

    /// Who listens where.
    pub(super) fn listen(&self) -> Result<Listen, ApiError> {
        let (multiaddrs, addrs): (Vec<_>, Vec<_>) = self.listen.iter().partition(|addr| addr.starts_with('/'));
        let mut sockets = Vec::new();
        for text in addrs {
            let mut addr: SocketAddr = text.parse().map_err(|_| expected_address(text))?;
            if addr.port() == 0 {
                addr.set_port(self.port.unwrap_or(0));
            }
            sockets.push(addr);
        }
        let mut libp2p: Vec<String> = multiaddrs.iter().map(|addr| (*addr).clone()).collect();
        let mut port_in_use = PortInUse::Fail;
        if libp2p.is_empty() {
            libp2p.extend(distinct(sockets.iter().map(SocketAddr::ip)).into_iter().map(any_port));
        } else if sockets.is_empty() {
            let port = self.port.unwrap_or(DEFAULT_PORT);
            let ips = distinct(multiaddrs.iter().filter_map(|addr| ip_of(addr)));
            sockets.extend(ips.into_iter().map(|ip| SocketAddr::new(ip, port)));
            port_in_use = self.port_in_use();
        }
        let defaults = SocketConfig::default();
        let need_all = !sockets.is_empty();
        if sockets.is_empty() && libp2p.is_empty() {
            sockets.clone_from(&defaults.listen);
            sockets.iter_mut().for_each(|addr| addr.set_port(self.port.unwrap_or(DEFAULT_PORT)));
            port_in_use = self.port_in_use();
        }
        let dial_from = sockets.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()).collect();
        let sockets = SocketConfig {
            listen: sockets,
            need_all,
            port_in_use,
            dial_from,
            encryption: Encryption { policy: self.encryption, prefer: Cipher::Plaintext },
            utp: if self.no_utp { UtpPolicy::Off } else { UtpPolicy::AfterTcp },
            ..defaults
        };
        Ok(Listen { libp2p, sockets })
    }

    fn port_in_use(&self) -> PortInUse {
        if self.port.is_some() { PortInUse::Fail } else { SocketConfig::default().port_in_use }
    }

    /// How to take part in the mainline DHT, from the addresses that the node has.
    pub(super) fn dht(&self, local: LocalAddrs) -> DhtConfig {
        let defaults = DhtConfig::default();
        DhtConfig {
            bind: local.v4,
            bootstrap: self.dht_bootstrap.clone().unwrap_or_else(|| defaults.bootstrap.clone()),
            nodes_file: Some(self.store.join(DHT_NODES)),
            ..defaults
        }
    }
}

impl Listen {
    /// Where requests to trackers and others come from: where the node listens, if that is not everywhere.
    pub(super) fn local(&self) -> LocalAddrs {
        let mut local = LocalAddrs::default();
        // The first of each family, as for peers.
        for ip in self.sockets.dial_from.iter().rev() {
            match ip {
                IpAddr::V4(ip) => local.v4 = *ip,
                IpAddr::V6(ip) => local.v6 = *ip,
            }
        }
        local
    }

    /// Where to look for local peers: on every interface, or those of the addresses that the node listens at.
    pub(super) fn lsd(&self) -> LsdConfig {
        let v4: Vec<Ipv4Addr> = self.sockets.dial_from.iter().filter_map(|ip| as_v4(*ip)).collect();
        match self.sockets.dial_from.is_empty() {
            true => LsdConfig::default(),
            false => LsdConfig { v4, v6: Vec::new(), ..LsdConfig::default() },
        }
    }
}

fn as_v4(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

fn distinct(ips: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut distinct: Vec<IpAddr> = Vec::new();
    for ip in ips {
        if !distinct.contains(&ip) {
            distinct.push(ip);
        }
    }
    distinct
}

/// The IP address that a multiaddr begins with.
fn ip_of(multiaddr: &str) -> Option<IpAddr> {
    match multiaddr.parse::<Multiaddr>().ok()?.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

fn any_port(ip: IpAddr) -> String {
    let family = if ip.is_ipv4() { "ip4" } else { "ip6" };
    format!("/{family}/{ip}/tcp/0")
}

fn expected_address(text: &str) -> ApiError {
    usage(format!("expected an address to listen on as a multiaddr (/ip4/127.0.0.1/tcp/0) or IP:PORT, got {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(addrs: &[&str], port: Option<u16>) -> (Vec<String>, Vec<String>, PortInUse) {
        let listen = addrs.iter().map(|addr| (*addr).to_owned()).collect();
        let split = NodeConfig { listen, port, ..NodeConfig::default() }.listen().unwrap();
        let sockets = split.sockets.listen.iter().map(ToString::to_string).collect();
        (split.libp2p, sockets, split.sockets.port_in_use)
    }

    #[test]
    fn both_kinds_listen_at_the_addresses_of_either() {
        let (libp2p, sockets, in_use) = listen(&["127.0.0.9:7000", "[::1]:7000"], None);
        assert_eq!(libp2p, ["/ip4/127.0.0.9/tcp/0", "/ip6/::1/tcp/0"]);
        assert_eq!((sockets, in_use), (vec!["127.0.0.9:7000".to_owned(), "[::1]:7000".to_owned()], PortInUse::Fail));
        let both = ["/ip4/127.0.0.9/tcp/0", "/ip4/127.0.0.9/udp/0/quic-v1"];
        let (libp2p, sockets, in_use) = listen(&both, None);
        assert_eq!((libp2p, sockets), (both.map(str::to_owned).to_vec(), vec!["127.0.0.9:6881".to_owned()]));
        assert!(matches!(in_use, PortInUse::TryNext(_)));
        assert_eq!(listen(&both, Some(7)).1, ["127.0.0.9:7"]);
        assert_eq!(listen(&["127.0.0.9:0", both[0]], Some(7)).1, ["127.0.0.9:7"]);
    }

    #[test]
    fn without_addresses_everything_listens_everywhere() {
        let (libp2p, sockets, in_use) = listen(&[], Some(7));
        assert_eq!((libp2p, sockets), (vec![], vec!["0.0.0.0:7".to_owned(), "[::]:7".to_owned()]));
        assert_eq!(in_use, PortInUse::Fail);
        assert!(NodeConfig { listen: vec!["localhost:1".into()], ..NodeConfig::default() }.listen().is_err());
    }
}
