//! How many connections strangers may hold.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts accepted connections, in all and by address.
#[derive(Clone)]
pub(super) struct Slots(Arc<Counts>);

struct Counts {
    max: usize,
    max_per_address: usize,
    /// Entries are positive. Their sum is the number of all.
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Slots {
    pub(super) fn new(max: usize, max_per_address: usize) -> Self {
        Self(Arc::new(Counts { max, max_per_address, held: Mutex::default() }))
    }

    /// A place for a connection from `ip`, or why there is none.
    pub(super) fn take(&self, ip: IpAddr) -> Result<Slot, &'static str> {
        let key = owner(ip);
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.total >= self.0.max {
            return Err("too many connections");
        }
        let of_owner = held.by_address.get(&key).copied().unwrap_or(0);
        if of_owner >= self.0.max_per_address {
            return Err("too many connections from this address");
        }
        held.by_address.insert(key, of_owner + 1);
        held.total += 1;
        Ok(Slot { slots: self.clone(), key })
    }
}

/// Who is counted together: an IPv4 address, or the IPv6 network that a single host usually has for itself.
fn owner(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
        ip => ip,
    }
}

/// One place, given back when dropped.
pub(super) struct Slot {
    slots: Slots,
    key: IpAddr,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = self.slots.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.total -= 1;
        match held.by_address.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                held.by_address.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn places_are_counted_by_address_and_in_all() {
        let slots = Slots::new(3, 2);
        let first = slots.take(ip("192.0.2.1")).unwrap();
        let _second = slots.take(ip("::ffff:192.0.2.1")).unwrap();
        assert!(slots.take(ip("192.0.2.1")).is_err_and(|reason| reason.contains("this address")));
        let _third = slots.take(ip("192.0.2.2")).unwrap();
        assert!(slots.take(ip("192.0.2.3")).is_err());
        drop(first);
        assert!(slots.take(ip("192.0.2.1")).is_ok());
    }

    #[test]
    fn an_ipv6_network_is_one_owner() {
        let slots = Slots::new(9, 1);
        let held = slots.take(ip("2001:db8::1")).unwrap();
        assert!(slots.take(ip("2001:db8::2:3")).is_err());
        assert!(slots.take(ip("2001:db8:0:1::1")).is_ok());
        drop(held);
        assert!(slots.take(ip("2001:db8::2:3")).is_ok());
        assert!(slots.0.held.lock().unwrap().by_address.is_empty());
    }
}
