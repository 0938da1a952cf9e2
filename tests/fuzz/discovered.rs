//! What trackers and the local network send.

use hyper::StatusCode;
use knot::discovery::http::Family;
use knot::discovery::lsd::{MAX_SWARMS, Search};
use knot::discovery::trackers::{Answer, TrackerError, decode};
use knot::types::SwarmId;

/// Peers of each family that are taken from one answer.
const MAX_PEERS: usize = 1000;

pub(crate) fn http_tracker(input: &[u8]) {
    for status in [StatusCode::OK, StatusCode::BAD_REQUEST] {
        match decode::http_announce(status, input) {
            Ok(answer) => bounded(&answer),
            Err(error) => said(&error),
        }
        let swarms = [SwarmId([0xaa; 20]), SwarmId([0xbb; 20])];
        match decode::http_scrape(status, input, &swarms) {
            Ok(sizes) => assert_eq!(sizes.len(), swarms.len()),
            Err(error) => said(&error),
        }
    }
}

fn bounded(answer: &Answer) {
    assert!(answer.peers.len() <= MAX_PEERS);
    assert!(answer.tracker_id.as_ref().is_none_or(|id| id.len() <= 256));
    assert!(answer.warning.as_ref().is_none_or(|warning| is_fit_to_be_shown(warning)));
}

/// What an error quotes of a stranger cannot do harm to a terminal.
fn said(error: &TrackerError) {
    assert!(is_fit_to_be_shown(&error.to_string()), "{error}");
}

fn is_fit_to_be_shown(text: &str) -> bool {
    text.len() <= 1000 && !text.chars().any(char::is_control)
}

/// The datagram answers the transaction that its bytes name, and no other.
pub(crate) fn udp_tracker(input: &[u8]) {
    let named = input.get(4..8).and_then(|id| Some(u32::from_be_bytes(id.try_into().ok()?)));
    let transaction = named.unwrap_or(7);
    for family in [Family::V4, Family::V6] {
        match decode::udp_announce(input, transaction, family) {
            Ok(answer) => answer.iter().for_each(bounded),
            Err(error) => said(&error),
        }
        assert!(matches!(decode::udp_announce(input, transaction ^ 1, family), Ok(None)));
    }
    if let Ok(Some(sizes)) = decode::udp_scrape(input, transaction, 3) {
        assert_eq!(sizes.len(), 3);
    }
    let _ = decode::udp_connect(input, transaction);
}

pub(crate) fn lsd(input: &[u8]) {
    let Some(search) = Search::read(input) else { return };
    assert!(search.port != 0 && !search.swarms.is_empty() && search.swarms.len() <= 64);
    if search.swarms.len() <= MAX_SWARMS {
        let group = ([239, 192, 152, 143], 6771).into();
        assert_eq!(Search::read(search.write(group).as_bytes()), Some(search));
    }
}
