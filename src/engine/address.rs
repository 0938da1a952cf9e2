//! What IP addresses tell: how far they reach, and which peers are to be preferred (BEP 40).

use core::net::{IpAddr, SocketAddr};

/// From where an address can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Machine,
    Site,
    World,
}

/// How far an address reaches; `None` if nobody can be there.
fn reach(ip: IpAddr) -> Option<Reach> {
    let ip = ip.to_canonical();
    if ip.is_unspecified() || ip.is_multicast() {
        return None;
    }
    if ip.is_loopback() {
        return Some(Reach::Machine);
    }
    match ip {
        IpAddr::V4(ip) if ip.octets()[0] == 0 || ip.octets()[0] >= 240 => None,
        IpAddr::V4(ip) if ip.is_private() || ip.is_link_local() => Some(Reach::Site),
        // Of no use without the name of an interface.
        IpAddr::V6(ip) if ip.is_unicast_link_local() => None,
        IpAddr::V6(ip) if ip.is_unique_local() => Some(Reach::Site),
        _ => Some(Reach::World),
    }
}

/// Whether peers at `peer` (unknown: anywhere) may name `addr` to us, or hear of it: it must reach as far as they do.
/// So nobody out in the world has us dial our own machine or network, or learns of it.
pub(super) fn may_be_named(addr: SocketAddr, peer: Option<IpAddr>) -> bool {
    let to = peer.map_or(Some(Reach::World), reach);
    addr.port() != 0 && to.is_some_and(|to| reach(addr.ip()).is_some_and(|far| far >= to))
}

/// The priority of a connection between two peers, the same at both ends (BEP 40): of too many those of the highest
/// are kept. `None` between different families.
pub(super) fn priority(ours: SocketAddr, theirs: SocketAddr) -> Option<u32> {
    let (a, b) = (ours.ip().to_canonical(), theirs.ip().to_canonical());
    if a == b {
        let (low, high) = (ours.port().min(theirs.port()), ours.port().max(theirs.port()));
        return Some(crc32c(&[low.to_be_bytes(), high.to_be_bytes()].concat()));
    }
    // Masks hide the parts that somebody with many addresses could choose among.
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => Some(hash(a.octets(), b.octets(), &[0xff, 0xff, 0x55, 0x55], 1)),
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let mut mask = [0xff; 16];
            mask[4..8].fill(0x55);
            Some(hash(a.octets(), b.octets(), &mask, 2))
        }
        _ => None,
    }
}

/// The checksum of two masked addresses, the lower one first. Each `step` bytes that they share beyond the first
/// half of the network part are not masked.
fn hash<const N: usize>(mut a: [u8; N], mut b: [u8; N], mask: &[u8; N], step: usize) -> u32 {
    let first = 2 * step;
    let open = [first, first + step].into_iter().take_while(|shared| a[..*shared] == b[..*shared]).last();
    let masked_from = open.map_or(first, |shared| shared + step);
    for octets in [&mut a, &mut b] {
        octets.iter_mut().zip(mask).skip(masked_from).for_each(|(octet, mask)| *octet &= mask);
    }
    crc32c(&if a <= b { [a, b] } else { [b, a] }.concat())
}

/// CRC-32C (Castagnoli), bit by bit: the input is short.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ POLYNOMIAL })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(a: &str, b: &str) -> u32 {
        let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
        assert_eq!(priority(a, b), priority(b, a), "the same at both ends");
        priority(a, b).unwrap()
    }

    #[test]
    fn priorities_are_those_of_bep_40() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(of("123.213.32.10:1", "98.76.54.32:2"), 0xec2d_7224);
        assert_eq!(of("123.213.32.10:1", "123.213.32.234:2"), 0x9956_8189);
    }

    #[test]
    fn masks_widen_with_what_is_shared() {
        assert_eq!(of("230.12.123.3:1234", "230.12.123.3:300"), crc32c(b"\x01\x2c\x04\xd2"));
        assert_eq!(of("230.12.123.1:1", "230.12.123.3:1"), crc32c(b"\xe6\x0c\x7b\x01\xe6\x0c\x7b\x03"));
        assert_eq!(of("230.12.23.1:1", "230.12.123.3:1"), crc32c(b"\xe6\x0c\x17\x01\xe6\x0c\x7b\x01"));
        assert_eq!(of("230.120.23.1:1", "230.12.123.3:1"), crc32c(b"\xe6\x0c\x51\x01\xe6\x78\x15\x01"));
        let v6 = |ip: &str| ip.parse::<core::net::Ipv6Addr>().unwrap().octets();
        let pair = |low, high| crc32c(&[v6(low), v6(high)].concat());
        let world = of("[ffff:ffff:ffff:ffff::1]:1", "[ffff:fff:ffff:ffff::1]:1");
        assert_eq!(world, pair("ffff:fff:5555:5555::1", "ffff:ffff:5555:5555::1"));
        let site = of("[2001:db8:1:ffff::1]:1", "[2001:db8:2:ffff::1]:1");
        assert_eq!(site, pair("2001:db8:1:5555::1", "2001:db8:2:5555::1"));
        assert_eq!(of("[2001:db8:1:2::1]:1", "[2001:db8:1:3::1]:1"), pair("2001:db8:1:2::1", "2001:db8:1:3::1"));
        assert_eq!(priority("[::1]:1".parse().unwrap(), "1.2.3.4:1".parse().unwrap()), None);
    }

    #[test]
    fn nobody_names_addresses_that_reach_less_far_than_its_own() {
        let may = |addr: &str, peer: &str| may_be_named(addr.parse().unwrap(), peer.parse().ok());
        let peers = ["127.0.0.1", "10.0.0.1", "fd00::1", "9.9.9.9", "2001:db8::1", "?"];
        for (addr, to) in [("127.0.0.2:5", 1), ("[::ffff:127.0.0.2]:5", 1), ("192.168.1.1:5", 3), ("1.2.3.4:5", 6)] {
            for (at, peer) in peers.into_iter().enumerate() {
                assert_eq!(may(addr, peer), at < to, "{addr} {peer}");
            }
        }
        for nobody in
            ["0.0.0.0:5", "224.0.0.1:5", "255.255.255.255:5", "0.1.2.3:5", "1.2.3.4:0", "[fe80::1]:5", "[ff02::1]:5"]
        {
            assert!(!may(nobody, "127.0.0.1"), "{nobody}");
        }
    }
}
