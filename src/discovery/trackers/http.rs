//! HTTP trackers (BEP 3, 7, 23, 24, 31, 48): requests as URLs, answers as bencode.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hyper::StatusCode;
use url::Url;

use super::announce::{
    Announce, Answer, Event, MAX_PEERS, Retry, SwarmSize, TrackerError, compact_v4, compact_v6, text,
};
use crate::types::SwarmId;
use crate::types::bencode::Value;

/// What an answer lacks to make sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpTrackerError {
    /// The server says that it did not do it.
    #[error("expected an answer with status 200, got {0}")]
    Status(StatusCode),
    /// Not what a tracker says.
    #[error("expected {expected} in the answer, got {got:?}")]
    Answer {
        /// What was looked for.
        expected: &'static str,
        /// How the answer begins.
        got: String,
    },
    /// The tracker has no address for scrapes.
    #[error("expected a URL whose last part begins with \"announce\" to scrape")]
    NoScrape,
}

/// The URL of an announce. What the tracker's own URL holds, a passkey perhaps, stays as it is.
pub(super) fn announce_url(tracker: &Url, announce: &Announce) -> Url {
    let mut query = format!("info_hash={}&peer_id={}", escape(&announce.swarm.0), escape(&announce.peer_id.0));
    let Announce { port, uploaded, downloaded, left, want, key, .. } = announce;
    // Writing to a string cannot fail.
    let _ = write!(query, "&port={port}&uploaded={uploaded}&downloaded={downloaded}&left={left}&compact=1");
    let _ = write!(query, "&numwant={want}&key={key:08x}");
    match announce.event {
        Event::Regular => {}
        Event::Started => query.push_str("&event=started"),
        Event::Completed => query.push_str("&event=completed"),
        Event::Stopped => query.push_str("&event=stopped"),
    }
    if let Some(id) = &announce.tracker_id {
        let _ = write!(query, "&trackerid={}", escape(id));
    }
    with_query(tracker, &query)
}

/// The URL of a scrape, where the tracker's URL tells it (BEP 48).
pub(super) fn scrape_url(tracker: &Url, swarms: &[SwarmId]) -> Result<Url, HttpTrackerError> {
    let (parents, last) = tracker.path().rsplit_once('/').ok_or(HttpTrackerError::NoScrape)?;
    let rest = last.strip_prefix("announce").ok_or(HttpTrackerError::NoScrape)?;
    let mut scrape = tracker.clone();
    scrape.set_path(&format!("{parents}/scrape{rest}"));
    let hashes: Vec<_> = swarms.iter().map(|swarm| format!("info_hash={}", escape(&swarm.0))).collect();
    Ok(with_query(&scrape, &hashes.join("&")))
}

fn with_query(url: &Url, query: &str) -> Url {
    let mut url = url.clone();
    let query = match url.query() {
        Some(own) if !own.is_empty() => format!("{own}&{query}"),
        _ => query.to_owned(),
    };
    url.set_query(Some(&query));
    url.set_fragment(None);
    url
}

/// Bytes in a query: letters, digits and `-._~` as they are, others escaped.
fn escape(bytes: &[u8]) -> String {
    let mut escaped = String::with_capacity(bytes.len() * 3);
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            escaped.push(char::from(*byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// Reads the answer to an announce.
pub(super) fn read_answer(status: StatusCode, body: &[u8]) -> Result<Answer, TrackerError> {
    let answer = read_dictionary(status, body)?;
    let seconds = |key| answer.get(key).and_then(Value::int).and_then(|int| u64::try_from(int).ok());
    let count = |key| answer.get(key).and_then(Value::int).and_then(|int| u32::try_from(int).ok());
    let mut peers = match answer.get("peers") {
        None => Vec::new(),
        Some(Value::Bytes(bytes)) => compact_v4(bytes).ok_or_else(|| wrong("peers of six bytes each", body))?,
        Some(Value::List(peers)) => peers.iter().take(MAX_PEERS).filter_map(listed_peer).collect(),
        Some(_) => return Err(wrong("a string or a list of peers", body).into()),
    };
    if let Some(bytes) = answer.get("peers6").and_then(Value::bytes) {
        peers.extend(compact_v6(bytes).ok_or_else(|| wrong("IPv6 peers of eighteen bytes each", body))?);
    }
    peers.truncate(MAX_PEERS);
    let answered = answer.get("interval").is_some() || answer.get("peers").is_some() || answer.get("peers6").is_some();
    if !answered {
        return Err(wrong("an interval or peers", body).into());
    }
    Ok(Answer {
        interval: seconds("interval").map(Duration::from_secs),
        min_interval: seconds("min interval").map(Duration::from_secs),
        seeders: count("complete"),
        leechers: count("incomplete"),
        peers,
        tracker_id: answer.get("tracker id").and_then(Value::bytes).filter(|id| id.len() <= 256).map(<[u8]>::to_vec),
        warning: answer.get("warning message").and_then(Value::bytes).map(text),
        external_ip: answer.get("external ip").and_then(Value::bytes).and_then(ip),
    })
}

/// Reads the answer to a scrape, in the order of `swarms`.
pub(super) fn read_scrape(
    status: StatusCode,
    body: &[u8],
    swarms: &[SwarmId],
) -> Result<Vec<Option<SwarmSize>>, TrackerError> {
    let answer = read_dictionary(status, body)?;
    let Some(Value::Dict(files)) = answer.get("files") else {
        return Err(wrong("a dictionary of files", body).into());
    };
    let files: HashMap<_, _> = files.iter().map(|(hash, file)| (*hash, file)).collect();
    let size = |swarm: &SwarmId| {
        let file = files.get(&swarm.0[..])?;
        let count = |key| file.get(key).and_then(Value::int).and_then(|int| u32::try_from(int).ok()).unwrap_or(0);
        Some(SwarmSize { seeders: count("complete"), completed: count("downloaded"), leechers: count("incomplete") })
    };
    Ok(swarms.iter().map(size).collect())
}

/// The dictionary that every answer is, unless it is a refusal.
fn read_dictionary(status: StatusCode, body: &[u8]) -> Result<Value<'_>, TrackerError> {
    let value = Value::read(body).map(|(value, _)| value).filter(|value| matches!(value, Value::Dict(_)));
    // Some trackers refuse with another status, and say why all the same.
    if let Some(reason) = value.as_ref().and_then(|value| value.get("failure reason")).and_then(Value::bytes) {
        let retry = value.as_ref().and_then(|value| value.get("retry in")).and_then(retry);
        return Err(TrackerError::Refused { reason: text(reason), retry });
    }
    if status != StatusCode::OK {
        return Err(HttpTrackerError::Status(status).into());
    }
    value.ok_or_else(|| wrong("a bencoded dictionary", body).into())
}

/// Minutes, as a number or in digits, or "never" (BEP 31).
fn retry(value: &Value<'_>) -> Option<Retry> {
    let minutes = match value {
        Value::Int(minutes) => *minutes,
        Value::Bytes(b"never") => return Some(Retry::Never),
        Value::Bytes(digits) => std::str::from_utf8(digits).ok()?.parse().ok()?,
        _ => return None,
    };
    Some(Retry::After(Duration::from_secs(u64::try_from(minutes).ok()?.saturating_mul(60))))
}

/// A peer as a dictionary. Names instead of addresses are left out: peers do not make this node look up names.
fn listed_peer(peer: &Value<'_>) -> Option<SocketAddr> {
    let ip: IpAddr = std::str::from_utf8(peer.get("ip")?.bytes()?).ok()?.parse().ok()?;
    Some(SocketAddr::new(ip, u16::try_from(peer.get("port")?.int()?).ok()?))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from);
    v4().or_else(v6)
}

fn wrong(expected: &'static str, body: &[u8]) -> HttpTrackerError {
    HttpTrackerError::Answer { expected, got: text(&body[..body.len().min(40)]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::WirePeerId;
    use proptest::prelude::*;

    fn announce() -> Announce {
        Announce {
            swarm: SwarmId(*b"\x00a&=%+ ~\xff\x7f0123456789"),
            peer_id: WirePeerId(*b"-KN0001-abcdefghijkl"),
            key: 0xab,
            port: 6881,
            uploaded: 1,
            downloaded: 2,
            left: 3,
            event: Event::Started,
            want: 50,
            tracker_id: Some(b"a&b".to_vec()),
        }
    }

    fn read(body: &[u8]) -> Result<Answer, String> {
        read_answer(StatusCode::OK, body).map_err(|error| error.to_string())
    }

    #[test]
    fn the_announce_keeps_the_trackers_own_query() {
        let tracker = Url::parse("http://t.example/x/announce?passkey=s%2fx#frag").unwrap();
        assert_eq!(
            announce_url(&tracker, &announce()).as_str(),
            "http://t.example/x/announce?passkey=s%2fx&info_hash=%00a%26%3D%25%2B%20~%FF%7F0123456789\
             &peer_id=-KN0001-abcdefghijkl&port=6881&uploaded=1&downloaded=2&left=3&compact=1&numwant=50\
             &key=000000ab&event=started&trackerid=a%26b"
        );
    }

    #[test]
    fn where_to_scrape() {
        let swarms = [SwarmId(*b"aaaaaaaaaaaaaaaaaaaa"), SwarmId(*b"bbbbbbbbbbbbbbbbbbbb")];
        for (tracker, scrape) in [
            ("http://t.example/announce", Some("http://t.example/scrape?")),
            ("http://t.example/x/announce.php?k=1", Some("http://t.example/x/scrape.php?k=1&")),
            ("http://t.example/a", None),
            ("http://t.example/x%064announce", None),
            ("http://t.example/announce/x", None),
        ] {
            let hashes = "info_hash=aaaaaaaaaaaaaaaaaaaa&info_hash=bbbbbbbbbbbbbbbbbbbb";
            let url = scrape_url(&Url::parse(tracker).unwrap(), &swarms).ok();
            assert_eq!(url.map(String::from), scrape.map(|scrape| format!("{scrape}{hashes}")), "{tracker}");
        }
    }

    #[test]
    fn a_whole_answer() {
        let body = b"d8:completei3e11:external ip4:\x01\x02\x03\x0410:incompletei4e8:intervali1800e12:min intervali60e\
            5:peers6:\x7f\x00\x00\x01\x1a\xe16:peers618:\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x1a\xe1\
            10:tracker id2:ab15:warning message3:huhe";
        let answer = read(body).unwrap();
        let expected = Answer {
            interval: Some(Duration::from_secs(1800)),
            min_interval: Some(Duration::from_secs(60)),
            seeders: Some(3),
            leechers: Some(4),
            peers: vec!["127.0.0.1:6881".parse().unwrap(), "[::1]:6881".parse().unwrap()],
            tracker_id: Some(b"ab".to_vec()),
            warning: Some("huh".to_owned()),
            external_ip: Some("1.2.3.4".parse().unwrap()),
        };
        assert_eq!(answer, expected);
    }

    #[test]
    fn peers_as_dictionaries_in_any_order_of_keys() {
        let body = b"d5:peersld4:porti6881e2:ip9:127.0.0.1ed2:ip3:::17:peer id1:x4:porti1eed2:ip7:badname4:porti1ee\
            d2:ip7:1.2.3.44:porti70000eee8:intervali5ee";
        let answer = read(body).unwrap();
        assert_eq!(answer.peers, ["127.0.0.1:6881".parse().unwrap(), "[::1]:1".parse().unwrap()]);
    }

    #[test]
    fn refusals_and_when_to_ask_again() {
        for (body, expected) in [
            ("d14:failure reason4:gonee", None),
            ("d14:failure reason4:gone8:retry in5:nevere", Some(Retry::Never)),
            ("d14:failure reason4:gone8:retry in1:5e", Some(Retry::After(Duration::from_secs(300)))),
            ("d14:failure reason4:gone8:retry ini5ee", Some(Retry::After(Duration::from_secs(300)))),
            ("d14:failure reason4:gone8:retry in1:xe", None),
            ("d14:failure reason4:gone8:retry ini-5ee", None),
        ] {
            for status in [StatusCode::OK, StatusCode::FORBIDDEN] {
                match read_answer(status, body.as_bytes()) {
                    Err(TrackerError::Refused { reason, retry }) => {
                        assert_eq!((reason.as_str(), retry), ("gone", expected), "{body}");
                    }
                    other => panic!("{body}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn nonsense_is_an_error_that_shows_it() {
        for (body, expected) in [
            (&b"<html>hello</html>"[..], "<html>hello"),
            (b"", "a bencoded dictionary"),
            (b"le", "a bencoded dictionary"),
            (b"de", "an interval or peers"),
            (b"d5:peers7:1234567e", "six bytes each"),
            (b"d6:peers67:1234567e", "eighteen bytes each"),
            (b"d5:peersi1ee", "a string or a list"),
        ] {
            let error = read(body).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let error = read_answer(StatusCode::NOT_FOUND, b"d8:intervali1ee").unwrap_err().to_string();
        assert!(error.contains("404"), "{error}");
    }

    #[test]
    fn scrapes_come_in_the_order_asked() {
        let swarms = [SwarmId(*b"bbbbbbbbbbbbbbbbbbbb"), SwarmId(*b"aaaaaaaaaaaaaaaaaaaa")];
        let body = b"d5:filesd20:aaaaaaaaaaaaaaaaaaaad8:completei1e10:downloadedi2e10:incompletei3eeee";
        let sizes = read_scrape(StatusCode::OK, body, &swarms).unwrap();
        assert_eq!(sizes, [None, Some(SwarmSize { seeders: 1, completed: 2, leechers: 3 })]);
        assert!(read_scrape(StatusCode::OK, b"de", &swarms).is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&body);
            let _ = read_scrape(StatusCode::OK, &body, &[SwarmId([0; 20])]);
        }

        #[test]
        fn a_damaged_answer_never_panics(place in 0usize..80, byte: u8) {
            let mut body = b"d8:completei3e8:intervali1800e5:peers12:abcdefghijkl6:peers60:8:retry in1:3e".to_vec();
            let place = place % body.len();
            body[place] = byte;
            let _ = read(&body);
        }

        #[test]
        fn escapes_are_read_back(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            let url = Url::parse(&format!("http://t/?x={}", escape(&bytes))).unwrap();
            let mut read = Vec::new();
            let mut rest = &url.query().unwrap().as_bytes()[2..];
            while let Some((first, tail)) = rest.split_first() {
                if *first == b'%' {
                    read.push(u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap());
                    rest = &tail[2..];
                } else {
                    read.push(*first);
                    rest = tail;
                }
            }
            prop_assert_eq!(read, bytes);
        }
    }
}
