//! What each tracker is doing, for `knot status`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use url::Url;

use super::announce::Answer;
use crate::types::SwarmId;

/// Trackers that are shown.
const MAX_SHOWN: usize = 32;

/// How the last announce went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is under way.
    Asking,
    /// The tracker answered, with so many seeders, leechers and addresses, and perhaps a warning.
    Answered(Option<u32>, Option<u32>, usize, Option<String>),
    /// It failed so many times in a row, the last time like this.
    Failed(u32, String),
}

impl Outcome {
    pub(super) fn of(answer: &Answer) -> Self {
        Self::Answered(answer.seeders, answer.leechers, answer.peers.len(), answer.warning.clone())
    }
}

/// The outcomes of all trackers of all swarms.
#[derive(Debug, Default)]
pub(super) struct Board {
    outcomes: Mutex<BTreeMap<(String, SwarmId), Outcome>>,
    external_ip: Mutex<Option<IpAddr>>,
}

impl Board {
    pub(super) fn set(&self, swarm: SwarmId, tracker: &str, outcome: Outcome) {
        self.lock().insert((tracker.to_owned(), swarm), outcome);
    }

    pub(super) fn remove(&self, swarm: SwarmId, tracker: &str) {
        self.lock().remove(&(tracker.to_owned(), swarm));
    }

    pub(super) fn clear(&self, swarm: SwarmId) {
        self.lock().retain(|(_, of), _| *of != swarm);
    }

    pub(super) fn set_external_ip(&self, ip: IpAddr) {
        *self.external_ip.lock().unwrap_or_else(PoisonError::into_inner) = Some(ip);
    }

    pub(super) fn external_ip(&self) -> Option<IpAddr> {
        *self.external_ip.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One clause a tracker.
    pub(super) fn state(&self) -> String {
        let outcomes = self.lock();
        let mut trackers: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
        for ((tracker, _), outcome) in outcomes.iter() {
            trackers.entry(tracker).or_default().push(outcome);
        }
        if trackers.is_empty() {
            return "no trackers asked".to_owned();
        }
        let mut clauses: Vec<_> =
            trackers.iter().take(MAX_SHOWN).map(|(name, of)| format!("{name}: {}", clause(of))).collect();
        if trackers.len() > MAX_SHOWN {
            clauses.push(format!("and {} more", trackers.len() - MAX_SHOWN));
        }
        clauses.join("; ")
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, SwarmId), Outcome>> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a tracker serves its swarms.
fn clause(outcomes: &[&Outcome]) -> String {
    let (mut working, mut asking, mut failing, mut peers) = (0, 0, 0, 0);
    let (mut seeders, mut leechers, mut error, mut warning) = (0u64, 0u64, None, None);
    for outcome in outcomes {
        match outcome {
            Outcome::Asking => asking += 1,
            Outcome::Answered(s, l, p, w) => {
                working += 1;
                peers += p;
                seeders += u64::from(s.unwrap_or(0));
                leechers += u64::from(l.unwrap_or(0));
                warning = warning.or(w.as_ref());
            }
            Outcome::Failed(times, text) => {
                failing += 1;
                error = error.max(Some((times, text)));
            }
        }
    }
    let mut parts = Vec::new();
    if working > 0 {
        let swarms = if outcomes.len() > 1 { format!(" for {working} swarms") } else { String::new() };
        parts.push(format!("working{swarms}, {seeders} seeders, {leechers} leechers, {peers} addresses"));
    }
    if let Some(warning) = warning {
        parts.push(format!("it says {warning:?}"));
    }
    if let Some((times, text)) = error {
        let swarms = if outcomes.len() > 1 { format!(" for {failing} swarms") } else { String::new() };
        parts.push(format!("failed{swarms} ({times} in a row): {text}"));
    }
    if asking > 0 && working + failing == 0 {
        parts.push("asking".to_owned());
    }
    parts.join(", ")
}

/// A tracker's URL as people may see it: without path and query, where passkeys are.
pub(super) fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}", url.scheme())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passkeys_are_not_shown() {
        for (url, expected) in [
            ("https://user:pass@t.example:8443/secret/announce?passkey=secret", "https://t.example:8443"),
            ("udp://[::1]:80/secret", "udp://[::1]:80"),
        ] {
            assert_eq!(shown(&Url::parse(url).unwrap()), expected);
        }
    }

    #[test]
    fn each_tracker_has_its_clause() {
        let board = Board::default();
        assert_eq!(board.state(), "no trackers asked");
        let (one, two) = (SwarmId([1; 20]), SwarmId([2; 20]));
        board.set(one, "udp://a:1", Outcome::Asking);
        board.set(one, "udp://b:1", Outcome::Answered(Some(1), Some(2), 3, Some("huh".to_owned())));
        board.set(two, "udp://b:1", Outcome::Failed(4, "gone".to_owned()));
        assert_eq!(
            board.state(),
            "udp://a:1: asking; udp://b:1: working for 1 swarms, 1 seeders, 2 leechers, 3 addresses, it says \"huh\", \
             failed for 1 swarms (4 in a row): gone"
        );
        board.clear(one);
        assert_eq!(board.state(), "udp://b:1: failed (4 in a row): gone");
        board.remove(two, "udp://b:1");
        assert_eq!(board.state(), "no trackers asked");
    }
}
