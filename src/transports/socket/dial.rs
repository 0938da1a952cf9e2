//! Dialling: over TCP, uTP or whichever is first, encrypted, plain or one after the other.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, Either, select};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpSocket;
use tokio::time::{sleep, timeout};

use super::link::{Carrier, Link};
use super::utp::Endpoint;
use super::{SocketConfig, UtpPolicy};
use crate::transports::mse::{self, CipherStream, Ciphers, Encryption, EncryptionPolicy};
use crate::transports::{ByteStream, DialError, PeerStream, Transport};
use crate::types::{PeerAddr, PeerIdentity, SwarmId};

/// How long a TCP connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(6);
/// How long the encrypted handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(8);
/// How long TCP is tried alone when both race.
const HEAD_START: Duration = Duration::from_millis(500);

/// Dials BitTorrent peers. A dial ends within half a minute: two connections and two handshakes at most.
#[derive(Clone)]
pub struct SocketTransport {
    shared: Arc<Shared>,
}

struct Shared {
    dial_from: Vec<IpAddr>,
    encryption: Encryption,
    utp: UtpPolicy,
    endpoints: Vec<Endpoint>,
}

/// How a connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Utp,
}

impl SocketTransport {
    pub(super) fn new(config: &SocketConfig, endpoints: Vec<Endpoint>) -> Self {
        let shared =
            Shared { dial_from: config.dial_from.clone(), encryption: config.encryption, utp: config.utp, endpoints };
        Self { shared: Arc::new(shared) }
    }

    /// A plain connection over uTP alone.
    #[cfg(test)]
    pub(super) async fn over_utp(&self, addr: SocketAddr) -> Result<Link, String> {
        self.shared.connect_utp(addr).await
    }
}

impl Transport for SocketTransport {
    fn can_dial(&self, addr: &PeerAddr) -> bool {
        matches!(addr, PeerAddr::Socket(_))
    }

    fn dial(&self, addr: PeerAddr, swarm: SwarmId) -> BoxFuture<'static, Result<PeerStream, DialError>> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let opened = match &addr {
                PeerAddr::Socket(socket) => shared.open(*socket, &swarm).await,
                _ => Err("expected an IP address and a port".to_owned()),
            };
            match opened {
                Ok((io, ip)) => Ok(PeerStream { io, addr, identity: PeerIdentity::Ip(ip) }),
                Err(reason) => Err(DialError { addr, reason }),
            }
        })
    }
}

impl Shared {
    async fn open(&self, addr: SocketAddr, swarm: &SwarmId) -> Result<(Box<dyn ByteStream>, IpAddr), String> {
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        if addr.port() == 0 || addr.ip().is_unspecified() || addr.ip().is_multicast() {
            return Err("expected the address and port of a host".to_owned());
        }
        let (link, protocol) = self.connect(addr).await?;
        let Some(offered) = self.encryption.ciphers() else { return Ok((Box::new(link), addr.ip())) };
        let refused = match encrypt(link, swarm, offered).await {
            Ok(stream) => return Ok((Box::new(stream), addr.ip())),
            Err(reason) => reason,
        };
        let required = self.encryption.policy == EncryptionPolicy::Required;
        tracing::debug!(%addr, refused, required, "no encrypted stream");
        let io: Box<dyn ByteStream> = match (required, protocol) {
            (false, Protocol::Tcp) => Box::new(self.connect_tcp(addr).await?),
            (false, Protocol::Utp) => Box::new(self.connect_utp(addr).await?),
            // Clients that are set to uTP only still accept TCP, and close it.
            (true, Protocol::Tcp) if self.utp != UtpPolicy::Off => {
                let link = self.connect_utp(addr).await.map_err(|over_utp| both(&refused, &over_utp))?;
                Box::new(encrypt(link, swarm, offered).await.map_err(|over_utp| both(&refused, &over_utp))?)
            }
            (true, _) => return Err(format!("{refused}; encryption is required, so it is not tried in the clear")),
        };
        Ok((io, addr.ip()))
    }

    async fn connect(&self, addr: SocketAddr) -> Result<(Link, Protocol), String> {
        let tcp = async { Ok((self.connect_tcp(addr).await?, Protocol::Tcp)) };
        let utp = async { Ok((self.connect_utp(addr).await?, Protocol::Utp)) };
        match self.utp {
            UtpPolicy::Off => tcp.await,
            UtpPolicy::AfterTcp => match tcp.await {
                Ok(connected) => Ok(connected),
                Err(over_tcp) => utp.await.map_err(|over_utp: String| both(&over_tcp, &over_utp)),
            },
            UtpPolicy::Race => {
                let later = async {
                    sleep(HEAD_START).await;
                    utp.await
                };
                match select(Box::pin(tcp), Box::pin(later)).await {
                    Either::Left((Ok(connected), _)) | Either::Right((Ok(connected), _)) => Ok(connected),
                    Either::Left((Err(over_tcp), utp)) => utp.await.map_err(|over_utp| both(&over_tcp, &over_utp)),
                    Either::Right((Err(over_utp), tcp)) => {
                        tcp.await.map_err(|over_tcp: String| both(&over_tcp, &over_utp))
                    }
                }
            }
        }
    }

    async fn connect_tcp(&self, addr: SocketAddr) -> Result<Link, String> {
        let connect = async {
            let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            if let Some(ip) = self.dial_from.iter().find(|ip| ip.is_ipv4() == addr.is_ipv4()) {
                socket.bind(SocketAddr::new(*ip, 0))?;
            }
            socket.set_nodelay(true)?;
            socket.connect(addr).await
        };
        match timeout(CONNECT_TIMEOUT, connect).await {
            Ok(Ok(stream)) => Ok(Link::dialled(Carrier::Tcp(stream))),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {CONNECT_TIMEOUT:?}")),
        }
    }

    async fn connect_utp(&self, addr: SocketAddr) -> Result<Link, String> {
        let mut endpoints = self.endpoints.iter().filter(|endpoint| endpoint.addr().is_ipv4() == addr.is_ipv4());
        let first = endpoints.clone().next();
        let endpoint = endpoints
            .find(|endpoint| self.dial_from.contains(&endpoint.addr().ip()))
            .or(first)
            .ok_or("this node has no uTP socket of that address family")?;
        Ok(Link::dialled(Carrier::Utp(endpoint.connect(addr).await?)))
    }
}

async fn encrypt<S>(io: S, swarm: &SwarmId, offered: Ciphers) -> Result<CipherStream<S>, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match timeout(HANDSHAKE_TIMEOUT, mse::initiate(io, swarm, offered)).await {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no encrypted handshake within {HANDSHAKE_TIMEOUT:?}")),
    }
}

fn both(over_tcp: &str, over_utp: &str) -> String {
    format!("over TCP: {over_tcp}; over uTP: {over_utp}")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_keeps_the_encrypted_handshake_waiting_is_given_up() {
        // Says nothing; says one byte a second.
        for talks in [false, true] {
            let (near, far) = duplex(4096);
            let (mut received, mut sent) = tokio::io::split(far);
            let drain = tokio::spawn(async move {
                let mut seen = Vec::new();
                let _ = received.read_to_end(&mut seen).await;
                seen.len()
            });
            let drip = tokio::spawn(async move {
                while talks && sent.write_all(&[7]).await.is_ok() {
                    sleep(Duration::from_secs(1)).await;
                }
                sent
            });
            let refused = encrypt(near, &SwarmId([7; 20]), Ciphers::BOTH).await.err().unwrap();
            assert!(refused.contains("no encrypted handshake within"), "{refused}");
            assert!(drain.await.unwrap() >= 96, "the public key was not sent");
            drip.await.unwrap();
        }
    }
}
