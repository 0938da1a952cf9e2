//! UDP trackers (BEP 15): a connection id first, then announces and scrapes, sent again while no answer comes.

mod packet;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use lru::LruCache;
use tokio::net::UdpSocket;
use tokio::time::timeout;
use url::{Host, Url};

use super::announce::{Announce, Answer, SwarmSize, TrackerError};
use crate::discovery::http::{Family, LocalAddrs, resolve};
use crate::discovery::scope::Scope;
use crate::types::SwarmId;
use packet::{Action, Reply};

/// How long a connection id may be used after it was had.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);
/// Trackers whose connection ids are kept.
const MAX_CONNECTIONS: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// More than any tracker sends in a datagram.
const MAX_DATAGRAM: usize = 16 * 1024;

/// How patient UDP is.
#[derive(Clone, Copy, Debug)]
pub struct UdpPatience {
    /// How long an answer is waited for the first time; doubles from then on.
    pub first_wait: Duration,
    /// How often a request is sent.
    pub tries: u32,
    /// Time for everything.
    pub total: Duration,
}

impl Default for UdpPatience {
    fn default() -> Self {
        // The waits are those of BEP 15; it goes on for an hour, which helps nobody who waits for data.
        Self { first_wait: Duration::from_secs(15), tries: 3, total: Duration::from_secs(60) }
    }
}

/// Why a UDP tracker gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum UdpError {
    /// No address that may be used.
    #[error("found no address for {0}")]
    NoAddress(String),
    /// The system says no.
    #[error("could not reach {host}: {source}")]
    Io {
        /// Whom.
        host: String,
        /// Why.
        source: std::io::Error,
    },
    /// It took too long.
    #[error("got no answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// Too few bytes.
    #[error("expected an answer of {0} bytes or more, got fewer")]
    Short(usize),
}

/// Asks UDP trackers.
pub(super) struct UdpClient {
    patience: UdpPatience,
    local: LocalAddrs,
    connections: Mutex<LruCache<SocketAddr, (u64, Instant)>>,
}

/// One request under way.
struct Exchange<'a> {
    client: &'a UdpClient,
    socket: UdpSocket,
    remote: SocketAddr,
    host: String,
    transaction: u32,
}

impl UdpClient {
    pub(super) fn new(patience: UdpPatience, local: LocalAddrs) -> Self {
        Self { patience, local, connections: Mutex::new(LruCache::new(MAX_CONNECTIONS)) }
    }

    pub(super) async fn announce(
        &self,
        tracker: &Url,
        family: Family,
        announce: &Announce,
    ) -> Result<Answer, TrackerError> {
        let query = tracker.query().map(|query| format!("?{query}")).unwrap_or_default();
        let url_data = format!("{}{query}", tracker.path());
        let request = |connection, transaction| packet::announce_request(connection, transaction, announce, &url_data);
        let (payload, remote) = self.ask(tracker, family, Action::Announce, request).await?;
        let mut answer = packet::read_answer(&payload, family).ok_or(UdpError::Short(20))?;
        let scope = Scope::of(remote.ip());
        answer.peers.retain(|peer| scope.may_name(*peer));
        Ok(answer)
    }

    pub(super) async fn scrape(
        &self,
        tracker: &Url,
        family: Family,
        swarms: &[SwarmId],
    ) -> Result<Vec<Option<SwarmSize>>, TrackerError> {
        let request = |connection, transaction| packet::scrape_request(connection, transaction, swarms);
        let (payload, _) = self.ask(tracker, family, Action::Scrape, request).await?;
        Ok(packet::read_scrape(&payload, swarms.len()))
    }

    /// Asks the first address of the tracker in `family`. Returns the payload of the answer and who gave it.
    async fn ask(
        &self,
        tracker: &Url,
        family: Family,
        action: Action,
        request: impl Fn(u64, u32) -> BytesMut,
    ) -> Result<(Vec<u8>, SocketAddr), TrackerError> {
        let total = self.patience.total;
        let asked = async {
            let exchange = self.open(tracker, family).await?;
            let payload = exchange.run(action, request).await?;
            Ok((payload, exchange.remote))
        };
        timeout(total, asked).await.map_err(|_| UdpError::Timeout(total))?
    }

    async fn open(&self, tracker: &Url, family: Family) -> Result<Exchange<'_>, TrackerError> {
        let (Some(host), Some(port)) = (tracker.host_str(), tracker.port()) else {
            return Err(TrackerError::Url("udp without a host or port".to_owned()));
        };
        // Only for the schemes of the web does the parser recognise IPv4 addresses.
        let host = host.parse().map(Host::Ipv4).or_else(|_| Host::parse(host));
        let host = host.map_err(|error| TrackerError::Url(error.to_string()))?;
        let failed = |source| UdpError::Io { host: host.to_string(), source };
        let addrs = resolve(&host, port).await.map_err(failed)?;
        let Some(remote) = addrs.into_iter().find(|addr| family.has(addr)) else {
            return Err(UdpError::NoAddress(host.to_string()).into());
        };
        // A connected socket takes datagrams from the tracker only, and learns at once that nobody is there.
        let socket = UdpSocket::bind(self.local.towards(remote)).await.map_err(failed)?;
        socket.connect(remote).await.map_err(failed)?;
        Ok(Exchange { client: self, socket, remote, host: host.to_string(), transaction: rand::random() })
    }

    fn connection(&self, remote: SocketAddr) -> Option<u64> {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, since) = connections.get(&remote).copied()?;
        (since.elapsed() < CONNECTION_LIFE).then_some(id)
    }

    fn set_connection(&self, remote: SocketAddr, id: Option<u64>) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        match id {
            Some(id) => connections.put(remote, (id, Instant::now())),
            None => connections.pop(&remote),
        };
    }
}

impl Exchange<'_> {
    /// Connects where that is needed, and asks; again after 15·2ⁿ seconds each time.
    async fn run(&self, action: Action, request: impl Fn(u64, u32) -> BytesMut) -> Result<Vec<u8>, TrackerError> {
        let mut is_old = self.client.connection(self.remote).is_some();
        let mut attempt = 0;
        while attempt < self.client.patience.tries {
            let wait = self.client.patience.first_wait * 2u32.saturating_pow(attempt);
            attempt += 1;
            let connection = match self.client.connection(self.remote) {
                Some(connection) => connection,
                None => match self.connect(wait).await? {
                    Some(connection) => connection,
                    None => continue,
                },
            };
            match self.call(&request(connection, self.transaction), action, wait).await {
                Ok(None) => {}
                Ok(Some(payload)) => return Ok(payload),
                // An id that was had earlier may be one that a restarted tracker no longer knows.
                Err(TrackerError::Refused { .. }) if is_old => {
                    is_old = false;
                    attempt -= 1;
                    self.client.set_connection(self.remote, None);
                }
                Err(error) => return Err(error),
            }
        }
        let waited: Duration =
            (0..attempt).map(|attempt| self.client.patience.first_wait * 2u32.saturating_pow(attempt)).sum();
        Err(UdpError::Timeout(waited).into())
    }

    async fn connect(&self, wait: Duration) -> Result<Option<u64>, TrackerError> {
        let request = packet::connect_request(self.transaction);
        let Some(payload) = self.call(&request, Action::Connect, wait).await? else { return Ok(None) };
        let id = packet::read_connection(&payload).ok_or(UdpError::Short(16))?;
        self.client.set_connection(self.remote, Some(id));
        Ok(Some(id))
    }

    /// Sends one datagram and waits for the answer; `None` if none came.
    async fn call(&self, request: &[u8], action: Action, wait: Duration) -> Result<Option<Vec<u8>>, TrackerError> {
        let failed = |source| UdpError::Io { host: self.host.clone(), source };
        self.socket.send(request).await.map_err(failed)?;
        let answer = async {
            let mut buffer = vec![0; MAX_DATAGRAM];
            loop {
                let len = self.socket.recv(&mut buffer).await.map_err(failed)?;
                if let Some(payload) = payload(&buffer[..len], action, self.transaction)? {
                    return Ok(payload.to_vec());
                }
            }
        };
        match timeout(wait, answer).await {
            Ok(answer) => answer.map(Some),
            Err(_) => Ok(None),
        }
    }
}

/// What `datagram` answers to the request `transaction`; `None` if it is something else.
fn payload(datagram: &[u8], action: Action, transaction: u32) -> Result<Option<&[u8]>, TrackerError> {
    match packet::read(datagram, action, transaction) {
        Reply::Answer(payload) => Ok(Some(payload)),
        Reply::Refused(reason) => Err(TrackerError::Refused { reason, retry: None }),
        Reply::Other => Ok(None),
    }
}

/// See [`super::decode::udp_connect`].
pub(super) fn decode_connect(datagram: &[u8], transaction: u32) -> Result<Option<u64>, TrackerError> {
    Ok(payload(datagram, Action::Connect, transaction)?.and_then(packet::read_connection))
}

/// See [`super::decode::udp_announce`].
pub(super) fn decode_announce(
    datagram: &[u8],
    transaction: u32,
    family: Family,
) -> Result<Option<Answer>, TrackerError> {
    Ok(payload(datagram, Action::Announce, transaction)?.and_then(|payload| packet::read_answer(payload, family)))
}

/// See [`super::decode::udp_scrape`].
pub(super) fn decode_scrape(
    datagram: &[u8],
    transaction: u32,
    count: usize,
) -> Result<Option<Vec<Option<SwarmSize>>>, TrackerError> {
    Ok(payload(datagram, Action::Scrape, transaction)?.map(|payload| packet::read_scrape(payload, count)))
}

#[cfg(test)]
mod tests;
