//! Magnet links (BEP 9, BEP 53, BEP 52's `btmh`, and knot's own topic).

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::{InfoHash, InfoId, SwarmId};

/// Bytes of the longest link that is read.
const MAX_LINK_LEN: usize = 64 << 10;
/// Trackers, peers, web seeds, sources and ranges of files that are taken from a link, of each.
const MAX_HINTS: usize = 200;
/// What a shell does to links, and what to do about it.
const CUT: &str = "perhaps the link was cut: a shell ends a command at an unquoted &, so put the link in quotes";

/// What a magnet link says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Magnet {
    /// What it names: of several names knot's own (`xt=urn:knot:`), else `v1`, else `v2`.
    pub id: InfoId,
    /// `xt=urn:btih:`, the infohash of a v1 or hybrid torrent; 20 bytes.
    pub v1: Option<InfoHash>,
    /// `xt=urn:btmh:1220`, the infohash of a v2 or hybrid torrent; 32 bytes.
    pub v2: Option<InfoHash>,
    /// `dn`, a name to show until the metainfo is here.
    pub display_name: Option<String>,
    /// `tr`, URLs of trackers.
    pub trackers: Vec<String>,
    /// `x.pe`, peers to try: `host:port`, or multiaddrs.
    pub peers: Vec<String>,
    /// `ws`, URLs of web seeds (BEP 19).
    pub web_seeds: Vec<String>,
    /// `xs` and `as`, URLs at which the torrent file may be.
    pub sources: Vec<String>,
    /// `so`, the files that are wanted, counted as the torrent lists them (BEP 53); all of them if empty.
    pub select_only: Vec<RangeInclusive<u32>>,
    /// The text had nothing but the topic, or ended in the middle of a parameter.
    pub looks_cut: bool,
}

/// Why a text is no magnet link that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MagnetError {
    /// Another kind of text.
    #[error("expected a magnet link (magnet:?xt=urn:btih:…), got {0:?}")]
    Scheme(String),
    /// A very long link.
    #[error("expected a magnet link of at most {MAX_LINK_LEN} bytes, got {0}")]
    TooLong(usize),
    /// No `xt` that names a torrent.
    #[error("expected xt=urn:btih:…, urn:btmh:… or urn:knot:… in the magnet link, got none; {CUT}")]
    NoTopic,
    /// An `xt` that is damaged.
    #[error("expected {expected} in the magnet link's xt, got {got:?}")]
    Topic {
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        got: String,
    },
    /// Two `xt` of one kind, which name two torrents.
    #[error("expected one torrent in a magnet link, got two: {0} and another")]
    Ambiguous(String),
}

impl Magnet {
    /// A link to a native torrent that says nothing else.
    pub fn new(id: InfoId) -> Self {
        Self {
            id,
            v1: None,
            v2: None,
            display_name: None,
            trackers: Vec::new(),
            peers: Vec::new(),
            web_seeds: Vec::new(),
            sources: Vec::new(),
            select_only: Vec::new(),
            looks_cut: false,
        }
    }

    /// A link to an ordinary torrent by its infohashes: that of v1, of v2, or both.
    pub fn ordinary(v1: Option<InfoHash>, v2: Option<InfoHash>) -> Option<Self> {
        Some(Self { v1, v2, ..Self::new(InfoId::Hash(v1.or(v2)?)) })
    }

    /// The names that the link gives the torrent, [`Magnet::id`] first. A hybrid torrent has two.
    pub fn ids(&self) -> impl Iterator<Item = InfoId> {
        let ordinary = self.v1.into_iter().chain(self.v2).map(InfoId::Hash);
        [self.id].into_iter().chain(ordinary.filter(|id| *id != self.id))
    }

    /// The swarms to look into. What is called an ordinary infohash is looked up as one; a `urn:knot:` hash may turn
    /// out to be either.
    pub fn swarm_ids(&self) -> Vec<SwarmId> {
        let mut swarms = match self.is_native() {
            true => self.id.swarm_candidates(),
            false => Vec::new(),
        };
        for swarm in self.v1.iter().chain(&self.v2).map(InfoHash::swarm_id) {
            if !swarms.contains(&swarm) {
                swarms.push(swarm);
            }
        }
        swarms
    }

    /// Whether [`Magnet::id`] is knot's own, not that of an ordinary torrent.
    pub fn is_native(&self) -> bool {
        self.v1.into_iter().chain(self.v2).all(|hash| InfoId::Hash(hash) != self.id)
    }

    /// What to tell the user where the link looks as if a shell had cut it at an unquoted `&`. A link of nothing but
    /// a topic is legal, but can be found in the DHT alone, and is seldom what was meant.
    pub fn cut_hint(&self) -> Option<&'static str> {
        self.looks_cut.then_some(CUT)
    }
}

impl FromStr for Magnet {
    type Err = MagnetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.len() > MAX_LINK_LEN {
            return Err(MagnetError::TooLong(text.len()));
        }
        let scheme = text.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("magnet:"));
        let Some(scheme) = scheme else { return Err(MagnetError::Scheme(shorten(text))) };
        // Some pages offer links with HTML's &amp; in them.
        let query = text[scheme.len()..].trim_start_matches('?').replace("&amp;", "&");
        let parameters: Vec<_> = query.split('&').filter(|parameter| !parameter.is_empty()).map(parameter).collect();
        let mut topics = Topics::default();
        for (_, topic) in parameters.iter().filter(|(key, _)| key == "xt") {
            topics.take(&percent_decode(topic))?;
        }
        let id = topics.knot.or(topics.v1.or(topics.v2).map(InfoId::Hash)).ok_or(MagnetError::NoTopic)?;
        let mut magnet = Self { v1: topics.v1, v2: topics.v2, ..Self::new(id) };
        parameters.iter().for_each(|(key, value)| magnet.take(key, value));
        magnet.looks_cut = parameters.len() < 2 || parameters.last().is_some_and(|(_, value)| value.is_empty());
        Ok(magnet)
    }
}

/// Key and value; the key in lower case and without a number (`tr.1`, `tr.2`: a form that some write).
fn parameter(text: &str) -> (String, &str) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    let plain = match key.rsplit_once('.') {
        Some((plain, number)) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => plain,
        _ => key,
    };
    (plain.to_ascii_lowercase(), value)
}

impl Magnet {
    fn take(&mut self, key: &str, value: &str) {
        let list = match key {
            "dn" => {
                self.display_name = Some(percent_decode(&value.replace('+', " "))).filter(|name| !name.is_empty());
                return;
            }
            "so" => {
                let room = MAX_HINTS.saturating_sub(self.select_only.len());
                self.select_only.extend(percent_decode(value).split(',').filter_map(range).take(room));
                return;
            }
            "tr" => &mut self.trackers,
            "x.pe" => &mut self.peers,
            "ws" => &mut self.web_seeds,
            "xs" | "as" => &mut self.sources,
            _ => return,
        };
        let text = percent_decode(value);
        if !text.is_empty() && list.len() < MAX_HINTS && !list.contains(&text) {
            list.push(text);
        }
    }
}

/// What the `xt` of a link name.
#[derive(Default)]
struct Topics {
    knot: Option<InfoId>,
    v1: Option<InfoHash>,
    v2: Option<InfoHash>,
}

impl Topics {
    fn take(&mut self, text: &str) -> Result<(), MagnetError> {
        let Some((kind, value)) = text.get(..9).map(str::to_ascii_lowercase).zip(text.get(9..)) else { return Ok(()) };
        let wrong = |expected| MagnetError::Topic { expected, got: shorten(text) };
        match &*kind {
            "urn:btih:" => {
                let hash =
                    hex_or_base32(value).ok_or_else(|| wrong("40 hex digits or 32 of base32 behind urn:btih:"))?;
                set(&mut self.v1, InfoHash(hash.into()))
            }
            "urn:btmh:" => {
                let bytes = hex::decode(value).ok();
                let hash: Option<[u8; 32]> = bytes.and_then(|bytes| bytes.strip_prefix(b"\x12\x20")?.try_into().ok());
                let hash = hash.ok_or_else(|| wrong("1220 and 64 hex digits behind urn:btmh:"))?;
                set(&mut self.v2, InfoHash(hash.into()))
            }
            "urn:knot:" => {
                let id = value.parse().map_err(|_| wrong("40, 64 or 128 hex digits behind urn:knot:"))?;
                set(&mut self.knot, id)
            }
            // Topics of other networks.
            _ => Ok(()),
        }
    }
}

fn set<T: PartialEq + fmt::Display>(slot: &mut Option<T>, value: T) -> Result<(), MagnetError> {
    match slot {
        Some(other) if *other != value => Err(MagnetError::Ambiguous(other.to_string())),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

fn hex_or_base32(text: &str) -> Option<[u8; 20]> {
    match text.len() {
        40 => hex::decode(text).ok()?.try_into().ok(),
        32 => base32(text),
        _ => None,
    }
}

/// 20 bytes in RFC 4648's base32, in either case.
fn base32(text: &str) -> Option<[u8; 20]> {
    let mut bytes = [0; 20];
    let (mut bits, mut count, mut at) = (0u32, 0, 0);
    for digit in text.bytes() {
        let value = match digit.to_ascii_uppercase() {
            letter @ b'A'..=b'Z' => letter - b'A',
            digit @ b'2'..=b'7' => digit - b'2' + 26,
            _ => return None,
        };
        bits = bits << 5 | u32::from(value);
        count += 5;
        if count >= 8 {
            count -= 8;
            *bytes.get_mut(at)? = (bits >> count) as u8;
            at += 1;
        }
    }
    (at == bytes.len()).then_some(bytes)
}

fn range(text: &str) -> Option<RangeInclusive<u32>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last).then_some(first..=last)
}

/// What percent-encoding stands for; what is not UTF-8 then is replaced.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = tail.get(..2).filter(|_| *first == b'%').and_then(|pair| hex::decode(pair).ok());
        bytes.push(escaped.as_ref().map_or(*first, |pair| pair[0]));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl fmt::Display for Magnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("magnet:?")?;
        let mut separator = "";
        let mut put = |f: &mut fmt::Formatter<'_>, key: &str, value: &str| {
            write!(f, "{separator}{key}={value}")?;
            separator = "&";
            Ok::<_, fmt::Error>(())
        };
        if self.is_native() {
            put(f, "xt", &format!("urn:knot:{}", self.id))?;
        }
        if let Some(hash) = &self.v1 {
            put(f, "xt", &format!("urn:btih:{hash}"))?;
        }
        if let Some(hash) = &self.v2 {
            put(f, "xt", &format!("urn:btmh:1220{hash}"))?;
        }
        if let Some(name) = &self.display_name {
            put(f, "dn", &percent_encode(name))?;
        }
        for (key, list) in
            [("tr", &self.trackers), ("ws", &self.web_seeds), ("x.pe", &self.peers), ("xs", &self.sources)]
        {
            for value in list {
                put(f, key, &percent_encode(value))?;
            }
        }
        if !self.select_only.is_empty() {
            let one = |range: &RangeInclusive<u32>| match (range.start(), range.end()) {
                (first, last) if first == last => first.to_string(),
                (first, last) => format!("{first}-{last}"),
            };
            put(f, "so", &self.select_only.iter().map(one).collect::<Vec<_>>().join(","))?;
        }
        Ok(())
    }
}

fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The beginning of a text from outside, for an error message.
fn shorten(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "c9e15763f722f23e98a29decdfae341b98d53056";
    const BASE32: &str = "ZHQVOY7XELZD5GFCTXWN7LRUDOMNKMCW";

    fn magnet(text: &str) -> Magnet {
        text.parse().unwrap()
    }

    #[test]
    fn everything_that_a_link_can_say() {
        let link = format!(
            "magnet:?xt=urn:btih:{HEX}&dn=Leaves+of%20Grass&tr=udp%3A%2F%2Ft.example%3A80&tr.1=http://t/a%26b\
             &x.pe=127.0.0.2:6881&x.pe=%5B::1%5D:1&x.pe=host.example:5&ws=https%3A%2F%2Fw%2Ff&so=0,2,4-6,9-8,x&xl=1&kt=a"
        );
        let magnet = magnet(&link);
        assert_eq!(magnet.id.to_string(), HEX);
        assert_eq!(magnet.display_name.as_deref(), Some("Leaves of Grass"));
        assert_eq!(magnet.trackers, ["udp://t.example:80", "http://t/a&b"]);
        assert_eq!(magnet.peers, ["127.0.0.2:6881", "[::1]:1", "host.example:5"]);
        assert_eq!(magnet.web_seeds, ["https://w/f"]);
        assert_eq!(magnet.select_only, [0..=0, 2..=2, 4..=6]);
        assert_eq!(magnet.cut_hint(), None);
        assert_eq!(magnet.swarm_ids(), [magnet.v1.unwrap().swarm_id()]);
        assert_eq!(magnet.to_string().parse::<Magnet>().unwrap(), magnet);
    }

    #[test]
    fn every_form_of_topic() {
        let plain = magnet(&format!("magnet:?xt=urn:btih:{HEX}"));
        for same in [
            format!("MAGNET:?xt=urn:btih:{}", HEX.to_uppercase()),
            format!("magnet:?xt=urn:btih:{BASE32}"),
            format!("magnet:?xt=urn:BTIH:{}", BASE32.to_lowercase()),
            format!("magnet:?xt=urn%3Abtih%3A{HEX}"),
            format!(" magnet:xt.1=urn:btih:{HEX}\n"),
        ] {
            assert_eq!(magnet(&same), plain, "{same}");
        }
        let v2 = "ab".repeat(32);
        let hybrid = magnet(&format!("magnet:?xt=urn:btih:{HEX}&amp;xt=urn:btmh:1220{v2}&xt=urn:ed2k:1"));
        assert_eq!(hybrid.ids().map(|id| id.to_string()).collect::<Vec<_>>(), [HEX, &v2]);
        assert_eq!(hybrid.swarm_ids().len(), 2);
        for digits in [40, 64, 128] {
            let knot = magnet(&format!("magnet:?xt=urn:knot:{}", "ab".repeat(digits / 2)));
            assert_eq!(knot.swarm_ids(), knot.id.swarm_candidates());
        }
    }

    #[test]
    fn a_link_that_a_shell_cut_is_recognised() {
        for cut in [format!("magnet:?xt=urn:btih:{HEX}"), format!("magnet:?dn=a&xt=urn:btih:{HEX}&tr=")] {
            assert!(magnet(&cut).cut_hint().is_some_and(|hint| hint.contains("quotes")), "{cut}");
        }
        assert!("magnet:?dn=name".parse::<Magnet>().unwrap_err().to_string().contains("quotes"));
        assert_eq!(magnet(&format!("magnet:?xt=urn:btih:{HEX}&dn=a")).cut_hint(), None);
    }

    #[test]
    fn other_texts_are_refused_with_what_was_expected() {
        for (text, expected) in [
            ("http://a", "magnet:?xt"),
            ("", "magnet:?xt"),
            ("é", "magnet:?xt"),
            ("magnet:?", "urn:btih"),
            ("magnet:?xt=urn:é", "urn:btih"),
            ("magnet:?xt=urn:btih:abc&dn=a", "40 hex digits"),
            (&format!("magnet:?xt=urn:btih:{}", "é".repeat(20)), "40 hex digits"),
            (&format!("magnet:?xt=urn:btih:{}", "1".repeat(32)), "base32"),
            ("magnet:?xt=urn:btmh:1220ab", "1220 and 64"),
            (&format!("magnet:?xt=urn:btmh:1114{}", "ab".repeat(20)), "1220 and 64"),
            ("magnet:?xt=urn:knot:ab", "40, 64 or 128"),
            (&format!("magnet:?xt=urn:btih:{HEX}&xt=urn:btih:{}", "0".repeat(40)), "one torrent"),
            (&format!("magnet:?xt=urn:btih:{HEX}&dn={}", "a".repeat(MAX_LINK_LEN)), "at most"),
        ] {
            let message = text.parse::<Magnet>().unwrap_err().to_string();
            assert!(message.contains(expected) && message.len() < 300, "{text}: {message}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(tail in "\\PC{0,60}") {
            for text in [tail.clone(), format!("magnet:?{tail}"), format!("magnet:?xt=urn:btih:{HEX}&{tail}")] {
                if let Ok(mut magnet) = text.parse::<Magnet>() {
                    let mut again: Magnet = magnet.to_string().parse().unwrap();
                    (magnet.looks_cut, again.looks_cut) = (false, false);
                    prop_assert_eq!(again, magnet);
                }
            }
        }

        #[test]
        fn names_and_urls_round_trip(name in "\\PC{1,30}", url in "[ -~]{1,40}") {
            let mut magnet = magnet(&format!("magnet:?xt=urn:btih:{HEX}&dn=x"));
            magnet.display_name = Some(name);
            magnet.trackers = vec![url];
            prop_assert_eq!(magnet.to_string().parse::<Magnet>().unwrap(), magnet);
        }
    }
}
