//! What trackers send, without the exchange around it: bytes in, values out. None of these ever fails but by saying so,
//! whatever the bytes.

use hyper::StatusCode;

use super::{Answer, SwarmSize, TrackerError, http, udp};
use crate::discovery::http::Family;
use crate::types::SwarmId;

/// The answer of an HTTP tracker to an announce: its status, and its body after decompression.
///
/// # Errors
/// When it is a refusal, or no answer.
pub fn http_announce(status: StatusCode, body: &[u8]) -> Result<Answer, TrackerError> {
    http::read_answer(status, body)
}

/// The answer of an HTTP tracker to a scrape of `swarms`, in their order; `None` of those that it left out.
///
/// # Errors
/// When it is a refusal, or no answer.
pub fn http_scrape(
    status: StatusCode,
    body: &[u8],
    swarms: &[SwarmId],
) -> Result<Vec<Option<SwarmSize>>, TrackerError> {
    http::read_scrape(status, body, swarms)
}

/// The connection id in a datagram of a UDP tracker; `None` if it does not answer the connect request `transaction`.
///
/// # Errors
/// When it is a refusal.
pub fn udp_connect(datagram: &[u8], transaction: u32) -> Result<Option<u64>, TrackerError> {
    udp::decode_connect(datagram, transaction)
}

/// The answer of a UDP tracker, asked over `family`, to an announce; `None` if the datagram does not answer the request
/// `transaction`.
///
/// # Errors
/// When it is a refusal.
pub fn udp_announce(datagram: &[u8], transaction: u32, family: Family) -> Result<Option<Answer>, TrackerError> {
    udp::decode_announce(datagram, transaction, family)
}

/// The answer of a UDP tracker to a scrape of `count` swarms; `None` if the datagram does not answer the request
/// `transaction`, and of each swarm that it left out.
///
/// # Errors
/// When it is a refusal.
pub fn udp_scrape(
    datagram: &[u8],
    transaction: u32,
    count: usize,
) -> Result<Option<Vec<Option<SwarmSize>>>, TrackerError> {
    udp::decode_scrape(datagram, transaction, count)
}
