//! The datagrams of local service discovery (BEP 14): the head of an HTTP request.

use std::net::SocketAddr;

use crate::types::SwarmId;

/// Swarms that one datagram names, so that it stays below 1400 bytes.
pub const MAX_SWARMS: usize = 20;
/// Swarms that are read from a datagram.
const MAX_READ: usize = 64;
const MAX_LINES: usize = 128;
const METHOD: &str = "BT-SEARCH * HTTP/1.1";

/// What a peer on the local network says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// The TCP port at which it can be reached.
    pub port: u16,
    /// The swarms that it is in.
    pub swarms: Vec<SwarmId>,
    /// How it knows its own datagrams.
    pub cookie: Option<String>,
}

impl Search {
    /// The datagram to send to `group`. Names at most [`MAX_SWARMS`] swarms.
    pub fn write(&self, group: SocketAddr) -> String {
        let mut text = format!("{METHOD}\r\nHost: {group}\r\nPort: {}\r\n", self.port);
        for swarm in self.swarms.iter().take(MAX_SWARMS) {
            text.push_str(&format!("Infohash: {swarm}\r\n"));
        }
        if let Some(cookie) = &self.cookie {
            text.push_str(&format!("cookie: {cookie}\r\n"));
        }
        text.push_str("\r\n\r\n");
        text
    }

    /// Reads a datagram; `None` if it is no such thing or names no swarm.
    pub fn read(datagram: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(datagram).ok()?;
        let mut lines = text.lines();
        if !lines.next()?.trim_end().eq_ignore_ascii_case(METHOD) {
            return None;
        }
        let mut search = Self { port: 0, swarms: Vec::new(), cookie: None };
        for line in lines.take(MAX_LINES) {
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match name.trim().to_ascii_lowercase().as_str() {
                "port" => search.port = value.parse().ok()?,
                "infohash" if search.swarms.len() < MAX_READ => search.swarms.extend(swarm(value)),
                "cookie" => search.cookie = Some(value.to_owned()),
                _ => {}
            }
        }
        (search.port != 0 && !search.swarms.is_empty()).then_some(search)
    }
}

fn swarm(hex: &str) -> Option<SwarmId> {
    let mut id = [0; 20];
    hex::decode_to_slice(hex, &mut id).ok()?;
    Some(SwarmId(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn group() -> SocketAddr {
        "239.192.152.143:6771".parse().unwrap()
    }

    #[test]
    fn the_datagram_is_that_of_the_bep() {
        let search = Search { port: 6881, swarms: vec![SwarmId([0xab; 20])], cookie: Some("x1".to_owned()) };
        let expected = format!(
            "BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 6881\r\nInfohash: {}\r\ncookie: x1\r\n\r\n\r\n",
            "ab".repeat(20)
        );
        assert_eq!(search.write(group()), expected);
        let full = Search { swarms: vec![SwarmId([0xab; 20]); 100], ..search };
        let v6 = "[ff15::efc0:988f]:6771".parse().unwrap();
        assert!(full.write(v6).len() < 1400);
    }

    #[test]
    fn other_clients_ways_of_writing_are_read() {
        let hash = "AB".repeat(20);
        let text = format!("bt-search * HTTP/1.1\nHOST:x\nINFOHASH:{hash}\nInfohash: zz\nport:  1 \nother\n\n");
        let expected = Search { port: 1, swarms: vec![SwarmId([0xab; 20])], cookie: None };
        assert_eq!(Search::read(text.as_bytes()), Some(expected));
        for bad in [
            "".to_owned(),
            format!("GET / HTTP/1.1\r\nPort: 1\r\nInfohash: {hash}\r\n"),
            format!("BT-SEARCH * HTTP/1.1\r\nPort: 0\r\nInfohash: {hash}\r\n"),
            format!("BT-SEARCH * HTTP/1.1\r\nPort: 99999\r\nInfohash: {hash}\r\n"),
            "BT-SEARCH * HTTP/1.1\r\nPort: 1\r\n".to_owned(),
        ] {
            assert_eq!(Search::read(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(port in 1u16.., ids in prop::collection::vec(any::<[u8; 20]>(), 1..MAX_SWARMS), cookie in prop::option::of("[a-z0-9]{1,16}")) {
            let search = Search { port, swarms: ids.into_iter().map(SwarmId).collect(), cookie };
            prop_assert_eq!(Search::read(search.write(group()).as_bytes()), Some(search));
        }

        #[test]
        fn garbage_never_panics(tail in prop::collection::vec(any::<u8>(), 0..300), fields in "([A-Za-z]{0,8}:? ?[a-z0-9]{0,41}\r?\n){0,20}") {
            let _ = Search::read(&tail);
            let mut datagram = format!("{METHOD}\r\n{fields}").into_bytes();
            let _ = Search::read(&datagram);
            datagram.extend(tail);
            let _ = Search::read(&datagram);
        }
    }
}
