//! What stands around `info`: where to find the torrent, and who made it. Neither hashed nor signed.

use super::bencode::Value;
use super::encode::{Pairs, put_bytes, put_int};

/// Trackers, web seeds and nodes that are read, of each; the rest is not.
const MAX_HINTS: usize = 1000;
/// Bytes of the longest URL or host that is read.
const MAX_URL_LEN: usize = 2048;
/// Characters of the longest comment that is read.
const MAX_COMMENT: usize = 4096;

/// Hints of a metainfo. Anyone may have put them there: they are neither hashed nor signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// URLs of trackers in tiers (BEP 12): all of one tier are as good, later tiers are for when these fail.
    pub trackers: Vec<Vec<String>>,
    /// URLs of web seeds (BEP 19).
    pub web_seeds: Vec<String>,
    /// Nodes of the mainline DHT (BEP 5): host and port.
    pub nodes: Vec<(String, u16)>,
    /// What whoever made it says about it.
    pub comment: Option<String>,
    /// The program that made it.
    pub created_by: Option<String>,
}

impl Hints {
    /// Reads what can be read. What is odd is skipped: it is only hints.
    pub(super) fn read(envelope: &Value<'_>) -> Self {
        let prose = |key: &str| {
            let text = envelope.get(&format!("{key}.utf-8")).or_else(|| envelope.get(key))?.as_bytes()?;
            Some(String::from_utf8_lossy(text).chars().take(MAX_COMMENT).collect())
                .filter(|text: &String| !text.is_empty())
        };
        Self {
            trackers: trackers(envelope),
            web_seeds: envelope.get("url-list").map(|list| urls(&list, MAX_HINTS)).unwrap_or_default(),
            nodes: nodes(envelope),
            comment: prose("comment"),
            created_by: prose("created by"),
        }
    }

    /// Puts the hints into an envelope, in place of those that are there.
    pub(super) fn put(&self, pairs: &mut Pairs) {
        let mut set = |key: &str, value: Option<Vec<u8>>| match value {
            Some(value) => pairs.insert(key.into(), value),
            None => pairs.remove(key.as_bytes()),
        };
        let string = |text: &str| {
            let mut out = Vec::new();
            put_bytes(&mut out, text.as_bytes());
            out
        };
        let list = |items: Vec<Vec<u8>>| Some([b"l", &items.concat()[..], b"e"].concat());
        let first = self.trackers.iter().flatten().next();
        set("announce", first.map(|url| string(url)));
        let tier = |tier: &Vec<String>| list(tier.iter().map(|url| string(url)).collect());
        let tiers = || list(self.trackers.iter().filter(|tier| !tier.is_empty()).filter_map(tier).collect());
        set("announce-list", first.and_then(|_| tiers()));
        let seeds = || list(self.web_seeds.iter().map(|url| string(url)).collect());
        set("url-list", self.web_seeds.first().and_then(|_| seeds()));
        let node = |(host, port): &(String, u16)| {
            let mut item = [b"l", &string(host)[..]].concat();
            put_int(&mut item, (*port).into());
            item.push(b'e');
            item
        };
        set("nodes", self.nodes.first().and_then(|_| list(self.nodes.iter().map(node).collect())));
        for (key, text) in [("comment", &self.comment), ("created by", &self.created_by)] {
            set(key, text.as_deref().map(string));
            set(&format!("{key}.utf-8"), None);
        }
    }
}

/// `announce-list` where there is one, else `announce`. Each URL once.
fn trackers(envelope: &Value<'_>) -> Vec<Vec<String>> {
    let mut tiers: Vec<Vec<String>> = Vec::new();
    let mut room = MAX_HINTS;
    for tier in envelope.get("announce-list").iter().flat_map(|list| list.items()).take(MAX_HINTS) {
        let mut tier = urls(&tier, room);
        tier.retain(|url| !tiers.iter().flatten().any(|other| other == url));
        room -= tier.len();
        if !tier.is_empty() {
            tiers.push(tier);
        }
    }
    if tiers.is_empty() {
        tiers.extend(envelope.get("announce").map(|url| urls(&url, 1)).filter(|tier| !tier.is_empty()));
    }
    tiers
}

/// The URLs in a list, or the one that stands in its place; each once.
fn urls(value: &Value<'_>, most: usize) -> Vec<String> {
    let mut urls: Vec<String> = Vec::new();
    let one = (!value.is_list()).then_some(*value);
    for url in one.into_iter().chain(value.items()).take(2 * MAX_HINTS).filter_map(|url| url.as_text()).map(str::trim) {
        let is_url = url.contains("://") && url.len() <= MAX_URL_LEN && !url.contains(|c: char| c.is_control());
        if is_url && urls.len() < most && !urls.iter().any(|other| other == url) {
            urls.push(url.to_owned());
        }
    }
    urls
}

fn nodes(envelope: &Value<'_>) -> Vec<(String, u16)> {
    let list = envelope.get("nodes").into_iter().flat_map(|list| list.items());
    let node = |node: Value<'_>| {
        let mut items = node.items();
        let host = items.next()?.as_text().filter(|host| !host.is_empty() && host.len() <= 255)?;
        let port = items.next()?.as_int().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)?;
        Some((host.to_owned(), port))
    };
    list.filter_map(node).take(MAX_HINTS).collect()
}
