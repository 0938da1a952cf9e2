//! How far away an address is.
//!
//! A stranger must not be able to turn this node against its own host or its own network. So whoever is far away
//! may send it only to addresses that are as far away.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where an address leads, from near to far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    /// To this host.
    Host,
    /// To a network that is not the internet, or to nobody.
    Private,
    /// To the internet.
    Public,
}

impl Scope {
    pub(super) fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => of_v4(ip),
            IpAddr::V6(ip) => of_v6(ip),
        }
    }

    /// Whether a peer that was named by someone at this scope may be dialled: at an address that one host can have,
    /// and at this host only if the name came from it too.
    pub(super) fn may_name(self, peer: SocketAddr) -> bool {
        let ip = peer.ip().to_canonical();
        let is_host_address = match ip {
            IpAddr::V4(ip) => !ip.is_broadcast() && ip.octets()[0] != 0,
            // Link-local addresses need an interface, which nobody can name to another.
            IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_unicast_link_local(),
        };
        peer.port() != 0 && is_host_address && !ip.is_multicast() && (self == Self::Host || Self::of(ip) > Self::Host)
    }
}

fn of_v4(ip: Ipv4Addr) -> Scope {
    let [a, b, c, _] = ip.octets();
    // Connecting to 0.0.0.0 reaches this host.
    if ip.is_loopback() || a == 0 {
        return Scope::Host;
    }
    let carrier_nat = a == 100 && (b & 0xc0) == 64;
    let benchmarks = a == 198 && (b & 0xfe) == 18;
    let protocols = a == 192 && b == 0 && c == 0;
    let is_private = ip.is_private() || ip.is_link_local() || carrier_nat || benchmarks || protocols || a >= 224;
    if is_private { Scope::Private } else { Scope::Public }
}

fn of_v6(ip: Ipv6Addr) -> Scope {
    if ip.is_loopback() || ip.is_unspecified() {
        return Scope::Host;
    }
    let segments = ip.segments();
    let [a, b, c, d, e, f, g, h] = segments;
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        of_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // Mapped, compatible and translated forms lead where the IPv4 address in them leads.
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] => v4(g, h),
        [0x64, 0xff9b, ..] => match (b, c, d, e, f) {
            (0xff9b, 0, 0, 0, 0) => v4(g, h),
            _ => Scope::Private,
        },
        [0x2002, ..] => v4(b, c),
        _ if ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_multicast() || a & 0xffc0 == 0xfec0 => {
            Scope::Private
        }
        _ => Scope::Public,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_their_scope_however_they_are_written() {
        let cases = [
            (
                Scope::Host,
                "127.0.0.1 127.9.9.9 0.0.0.0 ::1 :: ::ffff:127.0.0.1 ::127.0.0.1 64:ff9b::127.0.0.1 2002:7f00:1::",
            ),
            (Scope::Private, "10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 198.18.0.1 192.0.0.1"),
            (Scope::Private, "224.0.0.1 255.255.255.255 fe80::1 fd00::1 fec0::1 ff02::1 ::ffff:10.0.0.1 64:ff9b:1::1"),
            (Scope::Public, "1.1.1.1 172.32.0.1 100.128.0.1 2606:4700::1 ::ffff:1.1.1.1 64:ff9b::1.1.1.1"),
        ];
        for (scope, ips) in cases {
            for ip in ips.split(' ') {
                assert_eq!(Scope::of(ip.parse().unwrap()), scope, "{ip}");
            }
        }
    }

    #[test]
    fn peers_that_may_be_named() {
        for (scope, peer, may) in [
            (Scope::Public, "1.1.1.1:1", true),
            (Scope::Public, "192.168.1.1:1", true),
            (Scope::Public, "127.0.0.1:1", false),
            (Scope::Public, "[::ffff:127.0.0.1]:1", false),
            (Scope::Private, "[::1]:1", false),
            (Scope::Host, "127.0.0.2:1", true),
            (Scope::Host, "1.1.1.1:0", false),
            (Scope::Host, "0.0.0.0:1", false),
            (Scope::Host, "[::]:1", false),
            (Scope::Host, "239.192.152.143:1", false),
            (Scope::Host, "255.255.255.255:1", false),
            (Scope::Host, "[fe80::1]:1", false),
        ] {
            assert_eq!(scope.may_name(peer.parse().unwrap()), may, "{scope:?} {peer}");
        }
    }
}
